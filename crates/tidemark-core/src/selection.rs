//! Which tables a pipeline copies: patterns over `schema.table`.
//!
//! Either part may hold `*` (any run of characters) and `?` (one character); matching minds case. A
//! part in double quotes is taken as it stands, dots and stars included.

use std::borrow::Cow;
use std::fmt;

use crate::schema::TableName;

/// Patterns to include and to exclude.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// A table must match one of these.
    pub include: Vec<Pattern>,
    /// And none of these.
    pub exclude: Vec<Pattern>,
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// For the schema.
    pub schema: Glob,
    /// For the table.
    pub table: Glob,
}

/// One part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    /// This very name.
    Name(String),
    /// `*` and `?` stand for other characters.
    Wild(String),
}

impl Selection {
    /// One table.
    pub fn of(name: &TableName) -> Selection {
        Selection {
            include: vec![Pattern::of(name)],
            exclude: Vec::new(),
        }
    }

    /// Whether a table is named in full, and not only matched by a pattern.
    pub fn names(&self, name: &TableName) -> bool {
        let mut include = self.include.iter();
        include.any(|pattern| pattern.exact().as_ref() == Some(name))
    }

    /// Whether a table is selected.
    pub fn selects(&self, name: &TableName) -> bool {
        self.include.iter().any(|pattern| pattern.matches(name))
            && !self.exclude.iter().any(|pattern| pattern.matches(name))
    }
}

impl Pattern {
    /// For this very table.
    pub fn of(name: &TableName) -> Pattern {
        Pattern {
            schema: Glob::Name(name.schema.clone()),
            table: Glob::Name(name.name.clone()),
        }
    }

    /// Reads `schema.table`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let parts = split(text)?;
        match <[Glob; 2]>::try_from(parts) {
            Ok([schema, table]) => Ok(Pattern { schema, table }),
            Err(parts) => Err(wrong_count(parts.len(), 2, "schema.table")),
        }
    }

    /// Whether the pattern is for this table.
    pub fn matches(&self, name: &TableName) -> bool {
        self.schema.matches(&name.schema) && self.table.matches(&name.name)
    }

    /// The one table that it can match, if there are no wildcards in it.
    pub fn exact(&self) -> Option<TableName> {
        match (&self.schema, &self.table) {
            (Glob::Name(schema), Glob::Name(table)) => Some(TableName::new(schema, table)),
            _ => None,
        }
    }
}

impl Glob {
    /// Reads a part without quotes.
    fn plain(text: &str) -> Glob {
        if text.contains(['*', '?']) {
            Glob::Wild(text.to_owned())
        } else {
            Glob::Name(text.to_owned())
        }
    }

    /// Whether a name fits.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Glob::Name(exact) => exact == name,
            Glob::Wild(pattern) => glob(pattern, name),
        }
    }
}

/// As [`Pattern::parse`] reads it.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Glob::Name(name) => f.write_str(&quoted(name)),
            Glob::Wild(text) => f.write_str(text),
        }
    }
}

/// A name as a part of a pattern, in double quotes where it would mean something else without.
pub(crate) fn quoted(name: &str) -> Cow<'_, str> {
    if name.contains(['.', '*', '?', '"']) || name.trim().is_empty() {
        Cow::Owned(format!("\"{}\"", name.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(name)
    }
}

/// Cuts a dotted pattern into its parts, minding quotes; the error says what is wrong.
pub(crate) fn split(text: &str) -> Result<Vec<Glob>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (name, after) = unquote(quoted).ok_or("a double quote is not closed")?;
            (Glob::Name(name), after)
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            let (part, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            if part.contains('"') {
                return Err("a double quote goes around a whole part".to_owned());
            }
            (Glob::plain(part), after)
        };
        // A name of blanks alone is one, in quotes.
        let is_empty = match &part {
            Glob::Name(name) if rest.starts_with('"') => name.is_empty(),
            Glob::Name(name) => name.trim().is_empty(),
            Glob::Wild(_) => false,
        };
        if is_empty {
            return Err("a part of the name is empty".to_owned());
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(parts),
            None => return Err("a dot goes between the parts".to_owned()),
        }
    }
}

/// Reads to the closing quote; a doubled one stands for one.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// What to say of a name with too few or too many parts.
pub(crate) fn wrong_count(found: usize, wanted: usize, form: &str) -> String {
    if found < wanted {
        format!("write it as {form}")
    } else {
        format!("write it as {form}; a part that holds a dot goes in double quotes")
    }
}

/// Matches `*` and `?`. Backtracks to the last `*` only, so it is linear in practice and quadratic
/// at worst.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_runs_and_question_marks_one() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("tmp_*", "tmp_a", true),
            ("tmp_*", "tmp", false),
            ("*_log", "audit_log", true),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("Users", "users", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_are_read_with_quotes() {
        for (text, name, expected) in [
            ("public.*", ("public", "orders"), true),
            ("public.orders", ("public", "orders"), true),
            ("*.audit_?", ("x", "audit_1"), true),
            ("\"my.schema\".\"a\"\"b\"", ("my.schema", "a\"b"), true),
            ("public.\"*\"", ("public", "orders"), false),
            ("public.\"*\"", ("public", "*"), true),
        ] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(
                pattern.matches(&TableName::new(name.0, name.1)),
                expected,
                "{text}"
            );
            assert_eq!(Pattern::parse(&pattern.to_string()), Ok(pattern), "{text}");
        }
        for (text, why) in [
            ("orders", "write it as schema.table"),
            ("a.b.c", "double quotes"),
            ("", "empty"),
            ("public.", "empty"),
            ("public. ", "empty"),
            ("public.\"\"", "empty"),
            (".orders", "empty"),
            ("\"public.orders", "not closed"),
            ("pub\"lic\".orders", "whole part"),
            ("\"public\"x.orders", "dot goes between"),
        ] {
            let message = Pattern::parse(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn a_table_is_shown_as_a_pattern_names_it() {
        for (schema, name, shown) in [
            ("public", "orders", "public.orders"),
            ("Sales 2", "a/b %s 🦀", "Sales 2.a/b %s 🦀"),
            ("a.b", "c.d", "\"a.b\".\"c.d\""),
            ("a", "b.c.d", "a.\"b.c.d\""),
            ("public", "q\"uote", "public.\"q\"\"uote\""),
            ("public", "tmp_*", "public.\"tmp_*\""),
            ("public", " ", "public.\" \""),
        ] {
            let table = TableName::new(schema, name);
            assert_eq!(table.to_string(), shown);
            let read = Pattern::parse(shown).unwrap();
            assert_eq!((read.exact(), Pattern::of(&table)), (Some(table), read));
        }
    }

    #[test]
    fn a_pattern_without_wildcards_is_for_one_table() {
        let exact = |text: &str| Pattern::parse(text).unwrap().exact();
        assert_eq!(
            exact("public.orders"),
            Some(TableName::new("public", "orders"))
        );
        assert_eq!(exact("public.\"*\""), Some(TableName::new("public", "*")));
        assert_eq!(exact("public.*"), None);
    }
}
