//! What the target remembers of a pipeline is written in ASCII, so that a database of any encoding
//! holds it: reasons quote servers that speak any language, and keys hold any character.
//!
//! A character beyond ASCII becomes `\u{2026}`, and the beginning of what already looks so becomes
//! `\u{5c}u{`. Within JSON a backslash is written twice, outside it once.

/// How a backslash is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Text,
    Json,
}

impl Within {
    fn mark(self) -> &'static str {
        match self {
            Within::Text => r"\u{",
            Within::Json => r"\\u{",
        }
    }
}

pub(super) fn write(text: &str, within: Within) -> String {
    let mark = within.mark();
    let mut out = String::with_capacity(text.len());
    for (number, part) in text.split(mark).enumerate() {
        if number > 0 {
            out.push_str(mark);
            out.push_str("5c}u{");
        }
        for c in part.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                out.push_str(mark.trim_end_matches(r"\u{"));
                out.extend(c.escape_unicode());
            }
        }
    }
    out
}

/// What was written; what nobody wrote so stays as it stands.
pub(super) fn read(text: &str, within: Within) -> String {
    let mark = within.mark();
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let written = part.split_once('}').and_then(|(code, rest)| {
            let code = u32::from_str_radix(code, 16).ok()?;
            Some((char::from_u32(code)?, rest))
        });
        match written {
            Some(('\\', rest)) => {
                out.push_str(mark.trim_end_matches("u{"));
                out.push_str(rest);
            }
            Some((c, rest)) => {
                out.push(c);
                out.push_str(rest);
            }
            None => {
                out.push_str(mark);
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_is_ascii_meanwhile() {
        for text in [
            "",
            "plain \\ text",
            "…",
            "ä🌊b",
            r"\u{e4} \u{5c}u{ \\u{41} \\\u{ \u \u{",
            "\\…",
            "\\u{…}",
            "…u{41}",
        ] {
            let written = write(text, Within::Text);
            assert!(written.is_ascii(), "{written}");
            assert_eq!(read(&written, Within::Text), text);
            let json = serde_json::to_string(text).unwrap();
            let written = write(&json, Within::Json);
            assert!(written.is_ascii(), "{written}");
            assert!(
                serde_json::from_str::<String>(&written).is_ok(),
                "{written}"
            );
            assert_eq!(read(&written, Within::Json), json);
        }
        assert_eq!(write("a…", Within::Text), r"a\u{2026}");
        assert_eq!(read(r"\u{x} \u{d800}", Within::Text), r"\u{x} \u{d800}");
    }
}
