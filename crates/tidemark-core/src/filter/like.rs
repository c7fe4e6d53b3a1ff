//! `LIKE`: `%` is any run of characters, `_` one character, a backslash takes away the meaning of
//! what follows it (PostgreSQL 15, 9.7.1). Characters are those of UTF-8.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikePattern {
    /// As written.
    pub text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `%`
    Run,
    /// `_`
    One,
    /// These very bytes.
    Bytes(Vec<u8>),
}

impl LikePattern {
    /// Compiles a pattern; `None` where it ends with a backslash, which is an error in SQL too.
    pub(super) fn new(text: &str) -> Option<LikePattern> {
        let mut parts: Vec<Part> = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let literal = match character {
                '%' => {
                    if parts.last() != Some(&Part::Run) {
                        parts.push(Part::Run);
                    }
                    continue;
                }
                '_' => {
                    parts.push(Part::One);
                    continue;
                }
                '\\' => characters.next()?,
                other => other,
            };
            let mut buffer = [0; 4];
            let bytes = literal.encode_utf8(&mut buffer).as_bytes();
            match parts.last_mut() {
                Some(Part::Bytes(run)) => run.extend_from_slice(bytes),
                _ => parts.push(Part::Bytes(bytes.to_vec())),
            }
        }
        Some(LikePattern {
            text: text.to_owned(),
            parts,
        })
    }

    /// Whether the whole text fits. Goes back to the last `%` only, which is enough since an earlier
    /// one could not do better; at worst quadratic.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        let mut last_run: Option<(usize, usize)> = None;
        loop {
            match self.parts.get(part) {
                None if at == text.len() => return true,
                Some(Part::Run) => {
                    part += 1;
                    last_run = Some((part, at));
                    continue;
                }
                Some(Part::One) if at < text.len() => {
                    at += character_length(&text[at..]);
                    part += 1;
                    continue;
                }
                Some(Part::Bytes(bytes)) if text[at..].starts_with(bytes) => {
                    at += bytes.len();
                    part += 1;
                    continue;
                }
                _ => {}
            }
            // The run takes one character more.
            match last_run {
                Some((after, from)) if from < text.len() => {
                    let from = from + character_length(&text[from..]);
                    last_run = Some((after, from));
                    (part, at) = (after, from);
                }
                _ => return false,
            }
        }
    }
}

/// Bytes of the first character, at least one.
fn character_length(text: &[u8]) -> usize {
    let following = text
        .iter()
        .skip(1)
        .take_while(|byte| *byte & 0b1100_0000 == 0b1000_0000);
    1 + following.count().min(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_sql() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("a%", "abc", true),
            ("%c", "abc", true),
            ("%b%", "abc", true),
            ("%d%", "abc", false),
            ("_", "🐘", true),
            ("__", "🐘", false),
            ("_b_", "äbö", true),
            ("a\\%", "a%", true),
            ("a\\%", "ab", false),
            ("a\\_c", "abc", false),
            ("\\\\", "\\", true),
            ("%_%_%", "a", false),
            ("%aab", "aaaaab", true),
            ("ABC", "abc", false),
            ("a", "a ", false),
        ] {
            let compiled = LikePattern::new(pattern).unwrap();
            assert_eq!(
                compiled.matches(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
        assert_eq!(LikePattern::new("a\\"), None);
    }

    /// The textbook definition, exponential and obviously right.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
            Some(('_', rest)) => !text.is_empty() && model(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab%_ä]{0,8}", text in "[abä]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            let expected = model(&chars(&pattern), &chars(&text));
            prop_assert_eq!(LikePattern::new(&pattern).unwrap().matches(text.as_bytes()), expected);
        }
    }
}
