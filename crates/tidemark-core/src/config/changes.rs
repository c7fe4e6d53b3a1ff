//! What changes from one pipeline file to another, line by line, as a unified diff has it.
//!
//! Lines are compared as they are and shown as [`masked`](super::masked) has them: a secret that is another
//! now shows as a change of `***` into `***`, and neither of the two can be read from it.

use super::hide::{MASK, masked};

/// Unchanged lines that are shown around a change.
const CONTEXT: usize = 3;
/// Comparisons of two lines: where two texts would need more, all that lies between their common ends counts
/// as changed.
const COMPARISONS_MAX: usize = 4_000_000;

/// One line of two texts put beside each other, with its number in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Kept(usize, usize),
    Removed(usize),
    Added(usize),
}

/// The lines of a unified diff from `old` to `new`, without a head; none where the two are the same.
pub fn changes(old: &str, new: &str) -> Vec<String> {
    let (a, b) = (lines(old), lines(new));
    let beside = beside(&a, &b);
    let (a, b) = (masked(old), masked(new));
    let (a, b) = (lines(&a), lines(&b));
    let shown = |line: &Line| match *line {
        Line::Kept(at, _) => format!(" {}", a.get(at).unwrap_or(&MASK)),
        Line::Removed(at) => format!("-{}", a.get(at).unwrap_or(&MASK)),
        Line::Added(at) => format!("+{}", b.get(at).unwrap_or(&MASK)),
    };
    let mut out = Vec::new();
    for (from, to) in hunks(&beside) {
        let hunk = beside.get(from..to).unwrap_or_default();
        out.push(head(hunk, beside.get(..from).unwrap_or_default()));
        out.extend(hunk.iter().map(shown));
    }
    out
}

/// A text that was shown and comes back, with the old lines where they are as they were shown.
pub fn put_back(text: &str, old: &str) -> String {
    let shown = masked(old);
    let (old, new) = (lines(old), lines(text));
    let beside = beside(&lines(&shown), &new);
    let line = |line: &Line| match *line {
        Line::Kept(at, to) => old.get(at).or(new.get(to)).copied(),
        Line::Added(to) => new.get(to).copied(),
        Line::Removed(_) => None,
    };
    let back: Vec<&str> = beside.iter().filter_map(line).collect();
    let end = if text.ends_with('\n') { "\n" } else { "" };
    format!("{}{end}", back.join("\n"))
}

/// The lines of a text; the last one may have no end.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').collect();
    if lines.last() == Some(&"") {
        lines.pop();
    }
    lines
}

fn beside(a: &[&str], b: &[&str]) -> Vec<Line> {
    let first = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a_rest, b_rest) = (&a[first..], &b[first..]);
    let ends = a_rest.iter().rev().zip(b_rest.iter().rev());
    let last = ends.take_while(|(a, b)| a == b).count();
    let (a_rest, b_rest) = (
        &a_rest[..a_rest.len() - last],
        &b_rest[..b_rest.len() - last],
    );
    let mut out: Vec<Line> = (0..first).map(|at| Line::Kept(at, at)).collect();
    between(a_rest, b_rest, first, &mut out);
    let (a_end, b_end) = (a.len() - last, b.len() - last);
    out.extend((0..last).map(|at| Line::Kept(a_end + at, b_end + at)));
    out
}

/// The longest common subsequence, by the table of its lengths.
fn between(a: &[&str], b: &[&str], first: usize, out: &mut Vec<Line>) {
    if a.len().saturating_mul(b.len()) > COMPARISONS_MAX {
        out.extend((0..a.len()).map(|at| Line::Removed(first + at)));
        out.extend((0..b.len()).map(|at| Line::Added(first + at)));
        return;
    }
    let width = b.len() + 1;
    let mut common = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(Line::Kept(first + i, first + j));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len()
            || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            out.push(Line::Removed(first + i));
            i += 1;
        } else {
            out.push(Line::Added(first + j));
            j += 1;
        }
    }
}

/// Ranges of lines with a change in them, and what is around it.
fn hunks(lines: &[Line]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if matches!(line, Line::Kept(..)) {
            continue;
        }
        let from = at.saturating_sub(CONTEXT);
        let to = (at + 1 + CONTEXT).min(lines.len());
        match found.last_mut() {
            Some(last) if last.1 >= from => last.1 = to,
            _ => found.push((from, to)),
        }
    }
    found
}

/// `@@ -3,7 +3,8 @@`: where a hunk begins, and how many lines it has on both sides.
fn head(hunk: &[Line], before: &[Line]) -> String {
    let side = |is_there: fn(&Line) -> bool| {
        let count = hunk.iter().filter(|line| is_there(line)).count();
        let passed = before.iter().filter(|line| is_there(line)).count();
        // Of nothing, the line before it is named.
        format!("{},{count}", if count == 0 { passed } else { passed + 1 })
    };
    let old = side(|line| !matches!(line, Line::Added(_)));
    let new = side(|line| !matches!(line, Line::Removed(_)));
    format!("@@ -{old} +{new} @@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_has_no_changes() {
        for text in ["", "a\n", "a\nb"] {
            assert!(changes(text, text).is_empty());
        }
    }

    #[test]
    fn changes_are_shown_as_diff_shows_them() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n11\n12\n13\n";
        assert_eq!(
            changes(old, new),
            [
                "@@ -2,7 +2,7 @@",
                " 2",
                " 3",
                " 4",
                "-5",
                "+five",
                " 6",
                " 7",
                " 8",
                "@@ -10,3 +10,4 @@",
                " 10",
                " 11",
                " 12",
                "+13",
            ]
        );
        // Where the surroundings of two changes meet, the two are one hunk.
        let near = changes(old, &new.replace("\n8\n", "\n"));
        assert_eq!(
            near.first().map(String::as_str),
            Some("@@ -2,11 +2,11 @@"),
            "{near:?}"
        );
        assert_eq!(changes("", "a\n"), ["@@ -0,0 +1,1 @@", "+a"]);
        assert_eq!(changes("a\nb\n", ""), ["@@ -1,2 +0,0 @@", "-a", "-b"]);
    }

    /// The changes applied to the old text give the new one, whatever the two are.
    #[test]
    fn from_old_and_changes_comes_new() {
        let texts = [
            "",
            "a",
            "a\nb",
            "b\na",
            "a\nb\nc\nd",
            "d\nc\nb\na",
            "a\na\nb\na",
            "x\na\ny\nb",
        ];
        for old in texts {
            for new in texts {
                let (a, b) = (lines(old), lines(new));
                let (mut from, mut to) = (Vec::new(), Vec::new());
                for line in beside(&a, &b) {
                    match line {
                        Line::Kept(i, j) => {
                            assert_eq!(a[i], b[j]);
                            from.push(a[i]);
                            to.push(b[j]);
                        }
                        Line::Removed(i) => from.push(a[i]),
                        Line::Added(j) => to.push(b[j]),
                    }
                }
                assert_eq!((from, to), (a, b), "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn s06_a_text_that_comes_back_has_its_secrets_again() {
        let old = "# why\n[source]\npassword = \"hunter2\" # kept\nuser = \"me\"\n";
        assert_eq!(put_back(&masked(old), old), old);
        let changed = masked(old).replace("user = \"me\"", "user = \"you\"");
        assert_eq!(put_back(&changed, old), old.replace("\"me\"", "\"you\""));
        assert_eq!(put_back("a = 1", old), "a = 1");
    }

    #[test]
    fn s06_a_secret_that_changes_is_a_change_and_is_not_shown() {
        let text = |word: &str| format!("version = 1\n[source]\npassword = \"{word}\"\n");
        let found = changes(&text("hunter2"), &text("hunter3"));
        assert_eq!(
            found,
            [
                "@@ -1,3 +1,3 @@",
                " version = 1",
                " [source]",
                "-password = \"***\"",
                "+password = \"***\""
            ]
        );
        // One of several lines keeps its place, so that the lines behind it are shown as they are.
        let several = |word: &str| {
            format!(
                "[source]\npassword = '''{word}\nsecond {word}\n'''\n[target]\nschema = \"{word}\"\n"
            )
        };
        let found = changes(&several("one"), &several("two")).join("\n");
        assert!(
            !found.contains("second") && !found.contains("'''one"),
            "{found}"
        );
        assert!(
            found.contains("-schema = \"one\"\n+schema = \"two\""),
            "{found}"
        );
    }
}
