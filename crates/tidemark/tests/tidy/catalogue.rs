//! The catalogue of errors: every code is in the list, and every code can happen.

use std::collections::BTreeSet;

use super::{none, root, sources};

/// Number and name of each code in the list.
fn listed() -> Vec<(String, String)> {
    let text =
        std::fs::read_to_string(root().join("crates/tidemark-core/src/catalogue.rs")).unwrap();
    let (_, list) = text.split_once("\ncatalogue! {\n").unwrap();
    let (list, _) = list.split_once("\n}").unwrap();
    let lines = list.lines().filter_map(|line| line.trim().split_once(' '));
    lines
        .map(|(number, name)| (number.to_owned(), name.to_owned()))
        .collect()
}

#[test]
fn every_entry_is_in_the_list() {
    let listed: BTreeSet<String> = listed()
        .into_iter()
        .map(|(number, _)| format!("TM{number}.toml"))
        .collect();
    assert!(listed.len() > 100);
    let entries = std::fs::read_dir(root().join("crates/tidemark-core/catalogue")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    none(
        "entries without a code",
        &names.filter(|n| !listed.contains(n)).collect::<Vec<_>>(),
    );
}

#[test]
fn every_code_can_happen() {
    let sources = sources();
    // That a code is told apart, as for exit codes, or expected by a test, is no way for it to happen.
    let not_a_cause = [
        "crates/tidemark-core/src/catalogue.rs",
        "crates/tidemark/src/exit.rs",
    ];
    let code: Vec<&str> = sources
        .iter()
        .filter(|s| s.is_rust() && !s.is_test() && !not_a_cause.contains(&s.path.as_str()))
        .map(|s| s.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap())
        .collect();
    let is_used = |name: &str| code.iter().any(|text| uses(text, name));
    let unused = listed().into_iter().map(|(_, name)| name);
    let unused: Vec<String> = unused.filter(|name| !is_used(name)).collect();
    none("codes that never happen", &unused);
}

/// Whether the name stands there as a word.
fn uses(text: &str, name: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (
            text.get(..at).unwrap(),
            text.get(at + name.len()..).unwrap(),
        );
        !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    })
}
