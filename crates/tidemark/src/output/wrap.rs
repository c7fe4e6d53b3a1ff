//! Text broken into lines that fit, with the continuation indented.

use super::table::display_width;

/// Width of text where the width is not known.
const WIDTH_DEFAULT: usize = 100;
/// Text is not squeezed below this many characters a line, however narrow the terminal.
const BODY_MIN: usize = 24;

/// `  What      the sentence, broken into lines that begin below its first word`.
///
/// A single word that is longer than a line is not broken: it may be a path or a statement to copy.
pub(crate) fn labelled(
    label: &str,
    body: &str,
    indent: usize,
    label_width: usize,
    width: Option<usize>,
) -> String {
    let start = indent + label_width;
    let room = width
        .unwrap_or(WIDTH_DEFAULT)
        .saturating_sub(start)
        .max(BODY_MIN);
    let mut out = format!("{}{label:label_width$}", " ".repeat(indent));
    for (index, line) in lines(body, room).iter().enumerate() {
        if index > 0 {
            out.push('\n');
            out.push_str(&" ".repeat(start));
        }
        out.push_str(line);
    }
    out
}

/// The text in lines of at most `room` columns; line breaks and runs of spaces of the text stay.
pub(crate) fn lines(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .flat_map(|paragraph| broken(paragraph, room))
        .collect();
    if lines.is_empty() {
        lines.push(String::new());
    }
    lines
}

fn broken(paragraph: &str, room: usize) -> Vec<String> {
    let body = paragraph.trim_start_matches(' ');
    let lead = " ".repeat(paragraph.len() - body.len());
    let mut lines = Vec::new();
    let mut line = lead.clone();
    // Pieces that are empty stand for further spaces in a run of them.
    for (index, word) in body.split(' ').enumerate() {
        if index > 0 && display_width(&line) + 1 + display_width(word) > room {
            lines.push(
                std::mem::replace(&mut line, lead.clone())
                    .trim_end()
                    .to_owned(),
            );
        } else if index > 0 && line.len() > lead.len() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line.trim_end().to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_breaks_of_the_text_stay() {
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(
            lines("first:\n    ALTER TABLE a", 40),
            ["first:", "    ALTER TABLE a"]
        );
        assert_eq!(lines("averyverylongword b", 5), ["averyverylongword", "b"]);
        assert_eq!(lines("", 5), [""]);
        assert_eq!(lines("0/1A   (here)", 40), ["0/1A   (here)"]);
        assert_eq!(lines("one   two", 5), ["one", "two"]);
    }

    #[test]
    fn labels_stand_in_a_column() {
        assert_eq!(
            labelled("What", "the quick brown fox jumps over it", 2, 6, Some(34)),
            "  What  the quick brown fox jumps\n        over it"
        );
    }
}
