//! Which tables a pipeline copies: patterns over `schema.table`.

use crate::schema::TableName;

/// Patterns to include and to exclude. A pattern is `schema.table` where either part may hold `*`
/// (any run of characters) and `?` (one character); matching minds case.
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
    pub schema: String,
    /// For the table.
    pub table: String,
}

impl Selection {
    /// Whether a table is selected.
    pub fn selects(&self, name: &TableName) -> bool {
        self.include.iter().any(|pattern| pattern.matches(name))
            && !self.exclude.iter().any(|pattern| pattern.matches(name))
    }
}

impl Pattern {
    /// Whether the pattern is for this table.
    pub fn matches(&self, name: &TableName) -> bool {
        glob(&self.schema, &name.schema) && glob(&self.table, &name.name)
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
}
