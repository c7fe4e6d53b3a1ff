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

/// The text in lines of at most `room` columns; line breaks of the text stay.
pub(crate) fn lines(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let lead: String = paragraph.chars().take_while(|c| *c == ' ').collect();
        let mut line = lead.clone();
        let mut is_fresh = true;
        for word in paragraph.split_whitespace() {
            let needed = usize::from(!is_fresh) + display_width(word);
            if !is_fresh && display_width(&line) + needed > room {
                lines.push(std::mem::replace(&mut line, lead.clone()));
                is_fresh = true;
            }
            if !is_fresh {
                line.push(' ');
            }
            line.push_str(word);
            is_fresh = false;
        }
        lines.push(line);
    }
    if lines.is_empty() {
        lines.push(String::new());
    }
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
    }

    #[test]
    fn labels_stand_in_a_column() {
        assert_eq!(
            labelled("What", "the quick brown fox jumps over it", 2, 6, Some(34)),
            "  What  the quick brown fox jumps\n        over it"
        );
    }
}
