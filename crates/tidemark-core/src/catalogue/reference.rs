//! The catalogue as a page, `docs/reference/errors.md`; made anew by `UPDATE_DOCS=1 cargo test
//! catalogue`.

use std::fmt::Write as _;

use super::{Code, Severity};

const HEAD: &str = "\
# Errors and checks

<!-- Made from the catalogue of tidemark-core; a test compares the two. -->

Every error and every check has a code. `tidemark explain CODE` prints the same as this page, offline; with `--json` a
failure carries its code in `error.code`. Where a first action has statements, `{...}` stands for what the message
fills in.

| level | meaning |
|--|--|
| error | does not work until a person acts, or until the cause goes away by itself |
| warning | works, but a person should look |
| notice | nothing to do |
";

/// What the first digit of a code stands for.
const CHAPTERS: [(u16, &str); 8] = [
    (1, "Source"),
    (2, "Target"),
    (3, "Load"),
    (4, "Stream and slot"),
    (6, "Verification and cutover"),
    (7, "Pipeline file and command line"),
    (8, "Server"),
    (9, "Internal"),
];

/// The page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut codes: Vec<Code> = Code::all().collect();
    codes.sort();
    for (digit, name) in CHAPTERS {
        write!(page, "\n## {name}\n").expect("a String can be written to");
        for code in codes.iter().filter(|code| code.0 / 1_000 == digit) {
            let entry = code.entry();
            let level = match entry.severity {
                Severity::Notice => "notice",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            write!(
                page,
                "\n### {code}: {}\n\n{level}\n\n- Cause: {}\n- Effect: {}\n- Do first: {}\n",
                entry.title, entry.cause, entry.effect, entry.first_action
            )
            .expect("a String can be written to");
            for statement in &entry.sql {
                write!(page, "\n      {statement};\n").expect("a String can be written to");
            }
        }
    }
    page
}

#[test]
fn the_page_of_errors_is_current() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/errors.md"
    );
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "docs/reference/errors.md is not what the catalogue says"
    );
    assert_eq!(written.len(), page.len());
    let entries = page.matches("\n### TM").count();
    assert_eq!(entries, Code::all().count(), "each code is in a chapter");
}
