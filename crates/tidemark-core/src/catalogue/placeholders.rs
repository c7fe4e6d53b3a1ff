//! Names in the place of `NAME` and `TABLE`, which stand for them in the commands of an entry.

use crate::words::shell_word;

/// A first action with what is known of the case: how the pipeline is named on a command line, and the table
/// of the source, as it prints itself. Only commands have placeholders; what is not known stays as it is, and
/// so does a name that was put in before.
pub fn named(action: &str, pipeline: Option<&str>, table: Option<&str>) -> String {
    let table = table.map(shell_word);
    let (mut is_command, mut is_quoted) = (false, false);
    let words = action.split(' ').map(|word| {
        let bare = word.trim_end_matches([';', ',', '.', ':', ')']);
        let end = word.strip_prefix(bare).unwrap_or_default();
        let was_quoted = is_quoted;
        // In a quoted word `'\''` is a quote of its own.
        let quotes = word.replace("'\\''", "").matches('\'').count();
        is_quoted = is_command && (was_quoted ^ (quotes % 2 == 1));
        if was_quoted {
            return word.to_owned();
        }
        is_command |= bare.trim_start_matches('(') == "tidemark";
        let known = match bare {
            "NAME" => pipeline,
            "TABLE" => table.as_deref(),
            _ => None,
        };
        let known = known.filter(|_| is_command);
        is_command &= end.is_empty() || is_quoted;
        known.map_or_else(|| word.to_owned(), |known| format!("{known}{end}"))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_the_place_of_placeholders_in_commands_alone() {
        for (action, expected) in [
            (
                "tidemark resync NAME --table TABLE",
                "tidemark resync shop --table public.t",
            ),
            (
                "ALTER TABLE … on the source, then tidemark resync NAME --table TABLE; then TABLE NAME",
                "ALTER TABLE … on the source, then tidemark resync shop --table public.t; then TABLE NAME",
            ),
            (
                "wait (tidemark status NAME), then getent hosts NAME",
                "wait (tidemark status shop), then getent hosts NAME",
            ),
            ("start with --host NAME", "start with --host NAME"),
        ] {
            assert_eq!(named(action, Some("shop"), Some("public.t")), expected);
        }
        let action = "tidemark resync NAME --table TABLE";
        assert_eq!(named(action, None, None), action);
        for (odd, word) in [
            ("public.two words", "'public.two words'"),
            ("public.\"a.b\"", "'public.\"a.b\"'"),
            ("public.x; NAME, y", "'public.x; NAME, y'"),
            ("public.it's NAME 'x", "'public.it'\\''s NAME '\\''x'"),
        ] {
            let said = named(action, Some("shop"), Some(odd));
            assert_eq!(said, format!("tidemark resync shop --table {word}"));
            let again = "tidemark verify --table TABLE NAME";
            let said = named(again, None, Some(odd));
            assert_eq!(said, format!("tidemark verify --table {word} NAME"));
            let said = named(&said, Some("shop"), Some("other"));
            assert_eq!(said, format!("tidemark verify --table {word} shop"));
        }
    }
}
