//! Words of sentences and of commands that several crates say.

use crate::schema::TableName;

/// `1 table`, `6 tables`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// A word as a shell reads it.
#[must_use]
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A table as `--table` reads it, as one word of a shell: anything may be in its name.
#[must_use]
pub fn table_word(table: &TableName) -> String {
    shell_word(&table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_pasted_into_a_shell() {
        for (text, word) in [
            ("/etc/shop-1.toml", "/etc/shop-1.toml"),
            ("my shop.toml", "'my shop.toml'"),
            ("it's $HOME", "'it'\\''s $HOME'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
        for (name, word) in [
            ("orders", "public.orders"),
            ("a.b", "'public.\"a.b\"'"),
            ("x; y '$HOME", "'public.x; y '\\''$HOME'"),
        ] {
            assert_eq!(table_word(&TableName::new("public", name)), word);
        }
    }
}
