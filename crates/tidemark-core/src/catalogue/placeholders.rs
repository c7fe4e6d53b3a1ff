//! Names in the place of `NAME` and `TABLE`, which stand for them in the commands of an entry.

/// A first action with what is known of the case: how the pipeline is named on a command line, and the table
/// of the source. Only commands have placeholders; what is not known stays as it is.
pub fn named(action: &str, pipeline: Option<&str>, table: Option<&str>) -> String {
    // Where it has to be quoted, whoever types it knows better.
    let table = table.filter(|table| is_plain(table));
    let mut is_command = false;
    let words = action.split(' ').map(|word| {
        let bare = word.trim_end_matches([';', ',', '.', ':', ')']);
        let end = word.strip_prefix(bare).unwrap_or_default();
        is_command |= bare.trim_start_matches('(') == "tidemark";
        let known = match bare {
            "NAME" => pipeline,
            "TABLE" => table,
            _ => None,
        };
        let known = known.filter(|_| is_command);
        is_command &= end.is_empty();
        known.map_or_else(|| word.to_owned(), |known| format!("{known}{end}"))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `schema.table` as a shell and `--table` read it without quotes.
fn is_plain(table: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    table
        .split_once('.')
        .is_some_and(|(schema, name)| part(schema) && part(name))
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
        for odd in [
            "public.two words",
            "public.\"T\"",
            "a.b.c",
            "public.x;y",
            "t",
        ] {
            let said = named(action, Some("shop"), Some(odd));
            assert_eq!(said, "tidemark resync shop --table TABLE", "{odd}");
        }
    }
}
