//! Fail points: each is passed at exactly one place, so that its name tells where a process dies.

use super::{none, root, sources};

/// Constants and names of the list.
pub(super) fn listed() -> Vec<(String, String)> {
    let text =
        std::fs::read_to_string(root().join("crates/tidemark-core/src/failpoint.rs")).unwrap();
    let (_, list) = text.split_once("\nfail_points! {\n").unwrap();
    let (list, _) = list.split_once("\n}").unwrap();
    list.lines()
        .filter_map(|line| line.trim().strip_suffix('"')?.split_once(" \""))
        .map(|(constant, name)| (constant.to_owned(), name.to_owned()))
        .collect()
}

#[test]
fn every_fail_point_is_passed_at_one_place() {
    let sources = sources();
    let code: Vec<&str> = sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
        .map(|source| source.text.as_str())
        .collect();
    let listed = listed();
    assert!(listed.len() > 40, "only {} were found", listed.len());
    let mut found = Vec::new();
    for (constant, name) in &listed {
        let passed = format!("failpoint::reached(failpoint::{constant})");
        let places: usize = code.iter().map(|text| text.matches(&passed).count()).sum();
        if places != 1 {
            found.push(format!("{constant} ({name}): passed at {places} places"));
        }
    }
    let passed: usize = code
        .iter()
        .map(|text| text.matches("failpoint::reached(").count())
        .sum();
    assert_eq!(passed, listed.len(), "something else is passed");
    none("fail points that tell no place", &found);
}

#[test]
fn fail_points_have_names_of_their_own() {
    let mut names: Vec<String> = listed().into_iter().map(|(_, name)| name).collect();
    names.sort();
    let repeated: Vec<String> = names
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0].clone())
        .collect();
    none("names that stand for two fail points", &repeated);
}
