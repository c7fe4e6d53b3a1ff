//! The table of keys as a page: `docs/reference/config.md`.

use std::fmt::Write as _;

use super::keys::{CONNECTION_KEYS, KEYS, Key, Kind, LATER, LATER_VALUES, SERVER_KEYS};
use super::unit::{show_bytes, show_duration};
use super::value::grouped;

const HEAD: &str = "\
# The pipeline file

<!-- Made from the table of keys in tidemark-core; a test compares the two. -->

One file describes one pipeline, in [TOML](https://toml.io). `version = 1` is its first line. A key
that Tidemark does not know is an error, with a suggestion; all errors of a file are shown at once:
`tidemark config lint FILE`. `tidemark config schema` prints the same rules as a JSON Schema for
editors.

Each value comes from the first of: a flag, a variable, the file, the default. The variable of a key
is its path in upper case with underscores behind `TIDEMARK_`: `TIDEMARK_STREAM_BATCH_ROWS` is
`stream.batch_rows` (keys of `[[table]]`, `[[mask]]` and `[[alert]]` have none).
`tidemark config lint FILE --show-origin` tells where each value came from.

Sizes are written with a unit, `\"20 GB\"` (powers of 1000) or `\"16 MiB\"` (powers of 1024); durations
too: `\"200 ms\"`, `\"1h 30m\"`. In keys of the type *reference*, `${env:NAME}` is an environment
variable, `${file:path}` a file (relative to the pipeline file), `${cred:NAME}` a systemd credential,
and `$${` a plain `${`. Secrets are never shown.
";

const CONNECTIONS_HEAD: &str = "
## connections.toml

Databases that several pipelines use stand in `connections.toml` beside the pipeline files, each in a
section `[[connection]]`, and are used by name: `[source]` with `connection = \"orders\"`. A pipeline that was made through
the API finds them in the server's state directory, and then among [those of the server](api.md) (`POST /api/v1/connections`): the
file wins.
";

const SERVER_HEAD: &str = "
## The server's file

`tidemark serve --server-file FILE`, or `server.toml` where it is started: how the server starts, who is told of
[alerts](../how-to/alerts.md), and where databases may be that definitions name which come through the API. References in
it are relative to it. It is read at the start; what the command line or the environment says goes before it.
";

/// The reference page of the pipeline file.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    write_keys(&mut page, &KEYS);
    page.push_str(CONNECTIONS_HEAD);
    write_keys(&mut page, &CONNECTION_KEYS);
    page.push_str(SERVER_HEAD);
    write_keys(&mut page, &SERVER_KEYS);
    page.push_str("\n## Not in this version\n\nThese are known and refused, because going on without them would not be what was asked for.\n\n");
    for (path, why) in LATER {
        line(
            &mut page,
            format_args!("- `{}`: {why}", path.replace("[]", "")),
        );
    }
    for (path, minded, why) in LATER_VALUES {
        let other = match *minded {
            "" => String::new(),
            minded => format!(" other than `{minded}`"),
        };
        line(&mut page, format_args!("- `{path}`{other}: {why}"));
    }
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String can be written to");
    page.push('\n');
}

fn write_keys(page: &mut String, keys: &[Key]) {
    let mut last = None;
    for key in keys {
        let section = key.path.rsplit_once('.').map_or("", |(section, _)| section);
        if last != Some(section) {
            last = Some(section);
            let heading = match section.strip_suffix("[]") {
                Some(list) => format!("`[[{list}]]`"),
                None if section.is_empty() => "First line".to_owned(),
                None => format!("`[{section}]`"),
            };
            line(page, format_args!("\n### {heading}\n"));
            line(page, format_args!("| key | type | default | meaning |"));
            line(page, format_args!("|--|--|--|--|"));
        }
        let default = match (key.default, key.is_required) {
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "required".to_owned(),
            (None, false) => String::new(),
        };
        let doc = key.doc.replace('|', "\\|");
        line(
            page,
            format_args!(
                "| `{}` | {} | {default} | {doc} |",
                key.name(),
                kind(&key.kind)
            ),
        );
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Version => "1".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Reference => "text, reference".to_owned(),
        Kind::Secret => "secret, reference".to_owned(),
        Kind::Name(rule) => format!("name, `{}`", rule.pattern()),
        Kind::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(", ")
        }
        Kind::Flag => "`true`, `false`".to_owned(),
        Kind::Count { min, max } => format!("{} to {}", grouped(*min), grouped(*max)),
        Kind::Bytes { min, max } => format!("size, {} to {}", show_bytes(*min), show_bytes(*max)),
        Kind::Time { min, max } => format!(
            "duration, {} to {}",
            show_duration(*min),
            show_duration(*max)
        ),
        Kind::List => "list of texts".to_owned(),
        Kind::Map => "texts by name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::schema;

    #[test]
    fn the_reference_is_current() {
        let page = include_str!("../../../../docs/reference/config.md");
        let made = reference();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let path = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../docs/reference/config.md"
            );
            std::fs::write(path, &made).unwrap();
        }
        for (written, made) in page.lines().zip(made.lines()) {
            assert_eq!(
                written, made,
                "docs/reference/config.md is not what the keys say"
            );
        }
        assert_eq!(page.lines().count(), made.lines().count());
    }

    #[test]
    fn the_schema_knows_every_key() {
        let schema = schema();
        for key in KEYS.iter() {
            let pointer = format!(
                "/properties/{}",
                key.path
                    .replace("[].", "/items/properties/")
                    .replace('.', "/properties/")
            );
            let property = schema
                .pointer(&pointer)
                .unwrap_or_else(|| panic!("{pointer}"));
            assert_eq!(property["description"], key.doc);
        }
        assert_eq!(
            schema["required"],
            serde_json::json!(["version", "pipeline", "source", "target", "tables"])
        );
        assert_eq!(
            schema["properties"]["mask"]["items"]["required"],
            serde_json::json!(["columns", "with"])
        );
        assert_eq!(
            schema["properties"]["stream"]["properties"]["batch_rows"]["default"],
            5000
        );
        assert_eq!(
            schema["properties"]["load"]["properties"]["chunk_size"]["default"],
            "64 MB"
        );
    }
}
