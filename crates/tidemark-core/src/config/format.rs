//! The canonical form of a pipeline file: one space around `=`, an empty line before each section,
//! comments behind values in one column per paragraph, nothing at the ends of lines.
//!
//! It works line by line and keeps everything it does not know the place of (comments, order, the
//! inside of values that span lines). The result must say the very same as the text did; where it
//! would not, the text is given back as it is.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A file in canonical form; `None` where it is not well-formed TOML.
pub fn format(text: &str) -> Option<String> {
    let tree = DeTable::parse(text).ok()?;
    let mut values = Vec::new();
    collect(tree.get_ref(), &mut values);
    let mut output: Vec<Line> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        push(&mut output, parse_line(body, start, &values));
        start += line.len();
    }
    while matches!(output.last(), Some(Line::Empty)) {
        output.pop();
    }
    let formatted = render(&output);
    let is_same = says(&formatted).is_some_and(|after| Some(after) == says(text));
    Some(if is_same { formatted } else { text.to_owned() })
}

/// One line of the file, taken apart.
enum Line {
    Empty,
    /// A comment alone, or a line within a value that spans several.
    Verbatim(String),
    Header(String),
    Pair {
        pair: String,
        comment: Option<String>,
    },
}

/// Where each key with its value stands: from the key's begin to the value's.
struct Entry {
    key: Range<usize>,
    value: Range<usize>,
}

/// Keys of plain tables; what stands inside of inline tables and lists belongs to its line.
fn collect(table: &DeTable<'_>, found: &mut Vec<Entry>) {
    for (name, value) in table {
        match value.get_ref() {
            DeValue::Table(inner) if is_section(&value.span(), inner) => collect(inner, found),
            DeValue::Array(items)
                if items
                    .iter()
                    .any(|item| matches!(item.get_ref(), DeValue::Table(_))) =>
            {
                for item in items {
                    if let DeValue::Table(inner) = item.get_ref() {
                        collect(inner, found);
                    }
                }
            }
            _ => found.push(Entry {
                key: name.span(),
                value: value.span(),
            }),
        }
    }
}

/// A section's span is its header; an inline table's holds its entries.
fn is_section(span: &Range<usize>, inner: &DeTable<'_>) -> bool {
    !inner.keys().any(|key| span.contains(&key.span().start))
}

fn parse_line(body: &str, start: usize, entries: &[Entry]) -> Line {
    let end = start + body.len();
    let is_inside = |entry: &&Entry| entry.value.start < start && start < entry.value.end;
    if entries.iter().any(|entry| is_inside(&entry)) {
        return Line::Verbatim(body.to_owned());
    }
    let trimmed = body.trim();
    if trimmed.is_empty() {
        return Line::Empty;
    }
    let on_line = entries
        .iter()
        .find(|entry| (start..end).contains(&entry.key.start));
    let Some(entry) = on_line else {
        let is_header = trimmed.starts_with('[') && !trimmed.contains('#');
        return if is_header {
            Line::Header(trimmed.to_owned())
        } else {
            Line::Verbatim(trimmed.to_owned())
        };
    };
    let part = |from: usize, to: usize| {
        body.get(from.saturating_sub(start)..to.saturating_sub(start).min(body.len()))
    };
    let key = part(start, entry.value.start).unwrap_or_default();
    let key = key.trim().strip_suffix('=').unwrap_or(key).trim();
    let value = part(entry.value.start, entry.value.end).unwrap_or_default();
    let rest = part(entry.value.end, end).unwrap_or_default().trim();
    Line::Pair {
        pair: format!("{key} = {value}").trim_end().to_owned(),
        comment: (!rest.is_empty()).then(|| rest.to_owned()),
    }
}

/// Adds a line; sections get one empty line before them, above the comments that belong to them.
fn push(output: &mut Vec<Line>, line: Line) {
    match line {
        Line::Empty if matches!(output.last(), None | Some(Line::Empty | Line::Header(_))) => {}
        Line::Header(header) => {
            let is_comment =
                |line: &Line| matches!(line, Line::Verbatim(text) if text.starts_with('#'));
            let comments = output
                .iter()
                .rev()
                .take_while(|line| is_comment(line))
                .count();
            let at = output.len() - comments;
            let needs_gap = at > 0 && !matches!(output.get(at - 1), Some(Line::Empty));
            if needs_gap {
                output.insert(at, Line::Empty);
            }
            output.push(Line::Header(header));
        }
        other => output.push(other),
    }
}

fn render(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        match line {
            Line::Empty => text.push('\n'),
            Line::Verbatim(line) | Line::Header(line) => {
                text.push_str(line);
                text.push('\n');
            }
            Line::Pair { .. } => {
                let run = lines
                    .iter()
                    .skip(index)
                    .take_while(|line| matches!(line, Line::Pair { .. }))
                    .count();
                render_pairs(&lines[index..index + run], &mut text);
                index += run;
                continue;
            }
        }
        index += 1;
    }
    text
}

/// Pairs that stand together have their comments in one column.
fn render_pairs(lines: &[Line], text: &mut String) {
    let width = lines
        .iter()
        .filter_map(|line| match line {
            Line::Pair {
                pair,
                comment: Some(_),
            } => Some(pair.chars().count()),
            _ => None,
        })
        .max()
        .unwrap_or_default();
    for line in lines {
        let Line::Pair { pair, comment } = line else {
            continue;
        };
        text.push_str(pair);
        if let Some(comment) = comment {
            let gap = width.saturating_sub(pair.chars().count()) + 2;
            text.push_str(&" ".repeat(gap));
            text.push_str(comment);
        }
        text.push('\n');
    }
}

/// What a text says, without how it says it.
fn says(text: &str) -> Option<toml::Table> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_is_put_in_order_and_its_comments_stay() {
        let text = "\n\nversion=1   \n# the shop\n[pipeline]\n\n  name   =\"shop\" # its name\nmode = \"cdc_only\"# what\n\n\n\n[ tables ]\ninclude = [\n    \"a.b\",  # one\n    \"c.d\",\n  ] # all\n[[table]]\nrename = {a=\"b\"}\nwhere = '''\nx = 1\n  AND y = 2'''\n\n";
        let expected = "version = 1\n\n# the shop\n[pipeline]\nname = \"shop\"      # its name\nmode = \"cdc_only\"  # what\n\n[ tables ]\ninclude = [\n    \"a.b\",  # one\n    \"c.d\",\n  ] # all\n\n[[table]]\nrename = {a=\"b\"}\nwhere = '''\nx = 1\n  AND y = 2'''\n";
        assert_eq!(format(text).as_deref(), Some(expected));
        assert_eq!(
            format(expected).as_deref(),
            Some(expected),
            "once is enough"
        );
    }

    #[test]
    fn what_is_not_toml_is_refused() {
        assert_eq!(format("a = \n"), None);
    }

    #[test]
    fn the_full_file_is_in_order() {
        let full = include_str!("tests/full.toml");
        assert_eq!(format(full).as_deref(), Some(full));
    }

    proptest! {
        #[test]
        fn formatting_changes_nothing_and_once_is_enough(
            text in "((#[a-z]{0,4}|\\[[a-c]\\]|\\[\\[[d-f]\\]\\]| ?[g-z]{1,2}(\\.[a-z])? ?= ?([0-9]|\"[a-z#=]{0,3}\"|\\[1, \n 2\\]|\\{a = 1\\}|\"\"\"\n x = 1\n\"\"\") ?(#[ a-z]{0,3})?)?\n){0,12}"
        ) {
            if let Some(formatted) = format(&text) {
                prop_assert_eq!(says(&formatted), says(&text));
                let again = format(&formatted);
                prop_assert_eq!(again.as_deref(), Some(formatted.as_str()));
            }
        }
    }
}
