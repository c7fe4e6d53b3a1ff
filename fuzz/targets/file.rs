//! What a person writes: a pipeline file, the filters in it, positions, snapshots.
#![no_main]

use tidemark_core::config::{Document, Input, Surroundings, format, read};
use tidemark_core::filter::Filter;
use tidemark_core::position::Position;
use tidemark_core::tidemark::PgSnapshot;

/// No variable is set and no file is there.
struct Nothing;

impl Surroundings for Nothing {
    fn env(&self, _name: &str) -> Option<String> {
        None
    }

    fn file(&self, _path: &str) -> Result<String, String> {
        Err("No such file or directory".to_owned())
    }

    fn credential(&self, _name: &str) -> Result<String, String> {
        Err("CREDENTIALS_DIRECTORY is not set".to_owned())
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let problems = read(Input {
        file: Document::new("fuzz.toml", text),
        connections: None,
        overrides: &[],
        surroundings: &Nothing,
    });
    if let Err(problems) = problems {
        assert!(!problems.to_string().is_empty());
    }
    if let Some(formatted) = format(text) {
        assert_eq!(format(&formatted).as_deref(), Some(formatted.as_str()), "once is enough");
    }
    drop(Filter::check_syntax(text));
    drop(PgSnapshot::parse(text));
    drop(Position::parse("pg_lsn", text));
});
