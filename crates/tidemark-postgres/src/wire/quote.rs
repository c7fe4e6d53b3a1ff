//! Names and literals as SQL text. The one place where text becomes part of a statement.

/// `na"me` as `"na""me"`. Always quoted: a list of reserved words would age.
pub fn quote_ident(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for c in name.chars() {
        if c == '"' {
            quoted.push('"');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// `schema.name`, each quoted.
pub fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_ident(schema), quote_ident(name))
}

/// `it's` as `'it''s'`; with a backslash as `E'…'`, so that the meaning does not hang on
/// `standard_conforming_strings`. A zero byte cannot be said in SQL; sending it is refused later.
pub fn quote_literal(text: &str) -> String {
    let escaped = text.contains('\\');
    let mut quoted = String::with_capacity(text.len() + 4);
    // A blank in front, as libpq does: the text before may end in a letter.
    quoted.push_str(if escaped { " E'" } else { "'" });
    for c in text.chars() {
        if c == '\'' || c == '\\' {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s01_names_are_quoted_whatever_they_hold() {
        assert_eq!(quote_ident("Order \"1\""), "\"Order \"\"1\"\"\"");
        assert_eq!(quote_qualified("a.b", "c"), "\"a.b\".\"c\"");
    }

    #[test]
    fn s02_literals_are_quoted_whatever_they_hold() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), " E'a\\\\''b'");
    }
}
