//! Words: one noun for one thing, no leftovers, nothing about the machine it was written on.

use super::{Source, none, sources};

/// Never, in any file.
const BANNED: &[(&str, &str)] = &[
    ("TODO", "do it or leave it"),
    ("FIXME", "do it or leave it"),
    ("XXX", "do it or leave it"),
    ("todo!(", "do it or leave it"),
    ("unimplemented!(", "do it or leave it"),
    (
        "#[ignore",
        "a test that does not run says `skipped: NAME: why`",
    ),
    ("/work/", "a path of one machine"),
    ("/root/", "a path of one machine"),
    ("/home/", "a path of one machine"),
    ("repo.maven", "the address of a registry"),
    ("index.crates.io", "the address of a registry"),
    ("static.crates.io", "the address of a registry"),
    ("Claude", "how it was written is told nowhere"),
    ("Anthropic", "how it was written is told nowhere"),
    ("OpenAI", "how it was written is told nowhere"),
    ("ChatGPT", "how it was written is told nowhere"),
    ("Copilot", "how it was written is told nowhere"),
    ("language model", "how it was written is told nowhere"),
];

/// Words for the reader of documents and messages that the house has another word for.
const PROSE: &[(&str, &str)] = &[
    ("simply", "say what to do"),
    ("obviously", "say what to do"),
    ("synchronise", "load, apply, resync"),
    ("synchronize", "load, apply, resync"),
    ("synced", "loaded, applied, caught up"),
    ("syncing", "loading, applying"),
    ("watermarks", "tidemarks, positions"),
    ("dead letter", "quarantine"),
    ("dead-letter", "quarantine"),
    ("high-water", "position"),
    ("re-sync", "resync"),
    ("full-load", "full load"),
];

/// Names of functions that say nothing; also as a beginning, followed by `_`.
const VERBS: [&str; 5] = ["sync", "process", "handle", "manage", "do"];

/// Endings of type names that say nothing.
const ENDINGS: [&str; 6] = ["Manager", "Helper", "Helpers", "Util", "Utils", "Processor"];

/// Modules whose name is a domain here, and which.
const DOMAINS: &[(&str, &str)] = &[
    (
        "crates/tidemark-postgres/src/schema/types",
        "the types of a database",
    ),
    (
        "crates/tidemark/tests/e2e/types.rs",
        "the types of a database",
    ),
    (
        "crates/tidemark-postgres/tests/it/apply/types.rs",
        "the types of a database",
    ),
];

/// Names of functions that are a word of somebody else's.
const FOREIGN: &[(&str, &str, &str)] = &[(
    "crates/tidemark-postgres/src/target/apply/session.rs",
    "sync",
    "a message of PostgreSQL's protocol",
)];

/// Modules by domain.
const MODULES: [&str; 8] = [
    "utils", "util", "common", "types", "helpers", "helper", "manager", "misc",
];

#[test]
fn banned_words_are_nowhere() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.lines() {
            for (word, why) in BANNED.iter().filter(|(word, _)| contains_word(line, word)) {
                found.push(format!("{}:{number}: {word} ({why})", source.path));
            }
        }
    }
    none("banned words", &found);
}

#[test]
fn readers_meet_one_word_for_one_thing() {
    let mut found = Vec::new();
    let mut seen = 0;
    let prose = |s: &Source| s.is_markdown() || s.path.contains("/catalogue/");
    for source in sources().iter().filter(|source| prose(source)) {
        seen += 1;
        for (number, line) in source.lines() {
            let line = line.to_lowercase();
            for (word, instead) in PROSE.iter().filter(|(word, _)| contains_word(&line, word)) {
                found.push(format!(
                    "{}:{number}: {word} (rather: {instead})",
                    source.path
                ));
            }
        }
    }
    assert!(
        seen > 100,
        "only {seen} documents and catalogue entries were found"
    );
    none("words the house has another word for", &found);
}

#[test]
fn names_say_what_they_are() {
    let mut found = Vec::new();
    let mut seen = 0;
    for source in sources().iter().filter(|source| source.is_rust()) {
        let stem = source
            .path
            .rsplit('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs");
        let folder = source.path.rsplit('/').nth(1).unwrap();
        let is_domain = DOMAINS
            .iter()
            .any(|(path, _)| source.path.starts_with(path));
        if !is_domain
            && [stem, folder]
                .iter()
                .any(|name| MODULES.contains(name) || name.ends_with("_impl"))
        {
            found.push(format!("{}: name of the module", source.path));
        }
        for (number, line) in source.lines() {
            let Some(name) = defined_name(line) else {
                continue;
            };
            seen += 1;
            let verb = VERBS.iter().any(|verb| {
                name == *verb
                    || name
                        .strip_prefix(verb)
                        .is_some_and(|rest| rest.starts_with('_'))
            });
            let is_foreign = FOREIGN
                .iter()
                .any(|(path, word, _)| *path == source.path && *word == name);
            if is_foreign {
                continue;
            }
            if verb || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                found.push(format!("{}:{number}: {name}", source.path));
            }
        }
    }
    assert!(seen > 500, "only {seen} names were found");
    none("names that say nothing", &found);
}

/// The name that a line defines, if it defines a function or a type.
fn defined_name(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words
        .iter()
        .position(|w| ["fn", "struct", "enum", "trait"].contains(w))?;
    let is_definition = words
        .iter()
        .take(at)
        .all(|word| ["pub", "async", "const", "unsafe"].contains(word) || word.starts_with("pub("));
    let name = words
        .get(at + 1)?
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()?;
    is_definition.then_some(name)
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let starts_word = word.starts_with(|c: char| c.is_alphanumeric());
    let ends_word = word.ends_with(|c: char| c.is_alphanumeric());
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (
            line.get(..at).unwrap(),
            line.get(at + word.len()..).unwrap(),
        );
        let is_before = starts_word && is_part(before.chars().next_back());
        let is_after = ends_word && is_part(after.chars().next());
        !is_before && !is_after
    })
}

#[test]
fn the_rules_see_what_they_look_for() {
    assert_eq!(
        defined_name("    pub(crate) async fn handle_row(&self) {"),
        Some("handle_row")
    );
    assert_eq!(
        defined_name("pub struct TableManager<T> {"),
        Some("TableManager")
    );
    assert_eq!(defined_name("// fn in a comment"), None);
    assert!(contains_word("it is synced now", "synced") && !contains_word("unsynced_", "synced"));
}
