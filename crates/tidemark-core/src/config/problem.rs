//! Problems of configuration: where, what was expected, what may have been meant; and how they look.
//!
//! All problems of a document are collected and shown at once, in the order of the text:
//!
//! ```text
//! error[TM7003]: unknown key `modee`
//!   ┌ shop.toml:6:1
//! 6 │ modee = "full_load_and_cdc"
//!   │ ^^^^^ did you mean `mode`?
//! ```
//!
//! A shown line never shows a secret: the reader of a document says which ranges hold one
//! ([`Document::hide`]), and each character there is shown as `*`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::catalogue::Code;
use crate::error::Error;

/// A text that was read, under the name by which messages speak of it.
pub struct Document {
    path: String,
    text: String,
    hidden: Vec<Range<usize>>,
}

/// The text may hold secrets, so it does not show.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl Document {
    /// A document.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Document {
        Document {
            path: path.into(),
            text: text.into(),
            hidden: Vec::new(),
        }
    }

    /// Its name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its text. May hold secrets.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Says that this range of bytes must never be shown.
    pub(crate) fn hide(&mut self, range: Range<usize>) {
        self.hidden.push(range);
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub(crate) fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The text with `***` in the place of each range that must not be shown.
    pub(crate) fn masked(&self) -> String {
        let mut hidden: Vec<&Range<usize>> = self.hidden.iter().collect();
        hidden.sort_by_key(|range| (range.start, range.end));
        let (mut masked, mut at) = (String::new(), 0);
        for range in hidden.into_iter().filter(|range| !range.is_empty()) {
            if range.end <= at {
                continue;
            }
            if range.start >= at {
                masked.push_str(self.text.get(at..range.start).unwrap_or_default());
                masked.push_str(super::hide::MASK);
            }
            // Lines keep their numbers.
            let hidden = self.text.get(range.start.max(at)..range.end);
            let ends = hidden.unwrap_or_default().matches('\n').count();
            masked.push_str(&"\n".repeat(ends));
            at = range.end;
        }
        masked.push_str(self.text.get(at..).unwrap_or_default());
        masked
    }

    /// Whether a byte is within a range that must not be shown.
    fn hides(&self, at: usize) -> bool {
        self.hidden.iter().any(|range| range.contains(&at))
    }
}

/// A range of bytes in a document.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where.
    pub document: Arc<Document>,
    /// Which bytes.
    pub span: Range<usize>,
}

impl Place {
    /// A place within this one: `inner` counts from where this one begins.
    #[must_use]
    pub fn within(&self, inner: Range<usize>) -> Place {
        Place {
            document: Arc::clone(&self.document),
            span: self.span.start + inner.start..self.span.start + inner.end,
        }
    }
}

/// A value and where it was written; no place for what was not written in a file.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Option<Place>,
}

impl<T> Located<T> {
    /// A value from nowhere in particular: a flag, a test.
    pub fn nowhere(value: T) -> Located<T> {
        Located { value, place: None }
    }
}

impl Located<String> {
    /// The place of a range of its bytes, where text and file agree letter by letter (no escapes), else
    /// that of the whole text.
    pub(crate) fn within(&self, span: &Range<usize>) -> Option<Place> {
        let place = self.place.as_ref()?;
        let written = place.document.text().get(place.span.clone());
        let written = written.unwrap_or_default();
        let quote = written.find(|c| c != '"' && c != '\'').unwrap_or(0);
        let inner = written.get(quote..).unwrap_or_default();
        Some(if inner.starts_with(&self.value) {
            place.within(span.start + quote..span.end + quote)
        } else {
            place.clone()
        })
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Catalogue entry.
    pub code: Code,
    /// What is wrong, in a short sentence without the place.
    pub message: String,
    /// Where, if it is in a document.
    pub place: Option<Place>,
    /// What stands under the caret: what was expected or meant; may be empty.
    pub label: String,
    /// A further sentence; may be empty.
    pub help: String,
}

impl Problem {
    /// A problem without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Problem {
        Problem {
            code,
            message: message.into(),
            place: None,
            label: String::new(),
            help: String::new(),
        }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Problem {
        self.place = place.into();
        self
    }

    /// Says what stands under the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    /// Says more.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = help.into();
        self
    }

    /// In a line: `shop.toml:6:1: unknown key `modee`; did you mean `mode`?`.
    fn sentence(&self) -> String {
        let position = self.position().map(|position| format!("{position}: "));
        format!("{}{}", position.unwrap_or_default(), self.detail())
    }

    /// What it says, without its place.
    pub fn detail(&self) -> String {
        let parts = [&self.message, &self.label, &self.help];
        let said = parts.into_iter().filter(|part| !part.is_empty());
        said.cloned().collect::<Vec<_>>().join("; ")
    }

    /// `shop.toml:6:1`, where it is in a document.
    pub fn position(&self) -> Option<String> {
        let place = self.place.as_ref()?;
        let (line, column) = place.document.line_and_column(place.span.start);
        Some(format!("{}:{line}:{column}", place.document.path))
    }
}

/// As a person sees it, without colour and without a newline at the end.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, Printable(&self.message))?;
        match &self.place {
            Some(place) => self.show_place(f, place)?,
            None if !self.label.is_empty() => write!(f, "\n  = {}", Printable(&self.label))?,
            None => {}
        }
        if !self.help.is_empty() {
            write!(f, "\n  = help: {}", Printable(&self.help))?;
        }
        Ok(())
    }
}

/// Most characters of a line that are shown; a longer one is cut around the place.
const SHOWN_CHARS_MAX: usize = 100;

impl Problem {
    fn show_place(&self, f: &mut fmt::Formatter<'_>, place: &Place) -> fmt::Result {
        let document = &place.document;
        let (line, column) = document.line_and_column(place.span.start);
        let gutter = line.to_string().len();
        let (shown, before, carets) = shown_line(document, &place.span);
        write!(
            f,
            "\n{:gutter$} ┌ {}:{line}:{column}\n{line} │ {shown}\n{:gutter$} │ {}{}",
            "",
            document.path,
            "",
            " ".repeat(before),
            "^".repeat(carets.max(1)),
        )?;
        if !self.label.is_empty() {
            write!(f, " {}", Printable(&self.label))?;
        }
        Ok(())
    }
}

/// The line of a place as it may be shown, how many characters stand before the place in it, and
/// how many characters of it belong to the place.
fn shown_line(document: &Document, span: &Range<usize>) -> (String, usize, usize) {
    let text = &document.text;
    let start = span.start.min(text.len());
    let line_start = text
        .get(..start)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |newline| newline + 1);
    let line = text.get(line_start..).unwrap_or_default();
    let line = line.split('\n').next().unwrap_or_default();
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut shown: Vec<char> = Vec::new();
    let (mut before, mut carets) = (0, 0);
    for (offset, character) in line.char_indices() {
        let at = line_start + offset;
        if at < start {
            before += 1;
        } else if at < span.end {
            carets += 1;
        }
        shown.push(match character {
            _ if document.hides(at) => '*',
            '\t' => ' ',
            c if is_unprintable(c) => '\u{FFFD}',
            c => c,
        });
    }
    if shown.len() <= SHOWN_CHARS_MAX {
        return (shown.into_iter().collect(), before, carets);
    }
    let from = before.saturating_sub(SHOWN_CHARS_MAX / 3);
    let to = (from + SHOWN_CHARS_MAX).min(shown.len());
    let lead = if from > 0 { "…" } else { "" };
    let trail = if to < shown.len() { "…" } else { "" };
    let cut: String = shown[from..to].iter().collect();
    (
        format!("{lead}{cut}{trail}"),
        before - from + lead.chars().count(),
        carets.min(to - before),
    )
}

/// A text whose control characters are shown as escapes, so that a file cannot steer a terminal.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_unprintable(character) {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// Control characters and those that change the direction of text (Unicode 15, table 23-3).
fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// All problems of one reading.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    /// None yet.
    pub fn new() -> Problems {
        Problems::default()
    }

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// Adds several.
    pub fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.list.extend(problems);
    }

    /// Adds all of another list.
    pub fn append(&mut self, other: Problems) {
        self.list.extend(other.list);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The value if there were no problems, else the problems in the order of the text.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self.sorted())
        }
    }

    /// In the order of the text; those without a place last.
    #[must_use]
    pub fn sorted(mut self) -> Problems {
        let key = |problem: &Problem| match &problem.place {
            Some(place) => (false, place.document.path.clone(), place.span.start),
            None => (true, String::new(), 0),
        };
        self.list.sort_by_cached_key(key);
        self
    }

    /// As one [`Error`]: the code of the first, a sentence for each. Its source are the problems, for
    /// who has room to show them in their file.
    pub fn into_error(self) -> Error {
        let sorted = self.sorted();
        let code = sorted
            .list
            .first()
            .map_or(crate::catalogue::codes::INTERNAL, |problem| problem.code);
        let sentences: Vec<String> = sorted.list.iter().map(Problem::sentence).collect();
        Error::definite(code, sentences.join("; ")).caused_by(sorted)
    }
}

impl std::error::Error for Problems {}

/// One under the other, with an empty line between them.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// ` did you mean …?` for a name that is close to one of the known ones.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many insertions, deletions, replacements and swaps of neighbours lead from one text to the
/// other; a difference in case alone counts as nothing, so that it always is the nearest.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(older[j - 2] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::codes;

    fn place(text: &str, span: Range<usize>, hidden: &[Range<usize>]) -> Place {
        let mut document = Document::new("shop.toml", text);
        for range in hidden {
            document.hide(range.clone());
        }
        Place {
            document: Arc::new(document),
            span,
        }
    }

    fn problem(place: Place) -> Problem {
        Problem::new(codes::CONFIG_UNKNOWN_KEY, "unknown key `modee`")
            .at(place)
            .label("did you mean `mode`?")
    }

    #[test]
    fn a_problem_looks_as_promised() {
        let text = "version = 1\n\n# words\n[pipeline]\nname = \"shop\"\nmodee = \"cdc\"\n";
        let at = text.find("modee").unwrap();
        assert_eq!(
            problem(place(text, at..at + 5, &[])).to_string(),
            "error[TM7003]: unknown key `modee`\n  \
             ┌ shop.toml:6:1\n\
             6 │ modee = \"cdc\"\n  \
             │ ^^^^^ did you mean `mode`?"
        );
    }

    #[test]
    fn columns_count_characters_and_secrets_are_hidden() {
        let text = "ä = \"🐘\", password = \"hunter2\"";
        let at = text.find("password").unwrap();
        let secret = text.find("hunter2").unwrap();
        let shown = problem(place(
            text,
            at..at + 8,
            std::slice::from_ref(&(secret..secret + 7)),
        ))
        .to_string();
        assert!(shown.contains("shop.toml:1:10"), "{shown}");
        assert!(shown.contains("password = \"*******\""), "{shown}");
        assert!(shown.contains("\n  │          ^^^^^^^^ did"), "{shown}");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let shown = problem(place(&text, 500..504, &[])).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[2].chars().count() < 110);
        let caret = lines[3].chars().position(|c| c == '^').unwrap();
        let here: String = lines[2].chars().skip(caret).take(4).collect();
        assert_eq!(here, "HERE");
    }

    #[test]
    fn the_end_of_a_text_can_be_a_place() {
        let shown = problem(place("", 0..0, &[])).to_string();
        assert!(shown.contains("┌ shop.toml:1:1"), "{shown}");
        let shown = problem(place("a = 1\n", 6..6, &[])).to_string();
        assert!(shown.contains("┌ shop.toml:2:1"), "{shown}");
    }

    #[test]
    fn s25_control_characters_of_a_file_do_not_reach_the_terminal() {
        let text = "a\u{1b}[31m = \u{202e}1";
        let shown = Problem::new(codes::CONFIG_UNKNOWN_KEY, "unknown key `a\u{1b}[31m`")
            .at(place(text, 0..1, &[]))
            .to_string();
        assert!(
            !shown.contains('\u{1b}') && !shown.contains('\u{202e}'),
            "{shown:?}"
        );
    }

    #[test]
    fn suggestions_are_near_and_the_nearest_wins() {
        for (name, known, expected) in [
            ("modee", vec!["mode", "name"], Some("mode")),
            ("souce", vec!["source", "target"], Some("source")),
            ("users", vec!["orders", "Users"], Some("Users")),
            ("nmae", vec!["mode", "name"], Some("name")),
            ("xyz", vec!["mode", "name"], None),
            ("", vec!["mode"], None),
        ] {
            assert_eq!(suggestion(name, known.clone()), expected, "{name}");
        }
    }
}
