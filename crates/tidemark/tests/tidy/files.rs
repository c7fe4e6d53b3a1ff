//! Files: how long they may be, how they open, and that nobody sleeps.

use super::{Source, none, sources};

/// Near 500 lines look for two ideas; here there are two.
const LINES_MAX: usize = 900;

/// What one reads in ten minutes to know the way of a row, without comments and empty lines.
const PATH: [&str; 6] = [
    "mod.rs",
    "plan.rs",
    "full_load.rs",
    "load.rs",
    "stream.rs",
    "stream/outcome.rs",
];
const PATH_LINES_MAX: usize = 2300;

/// Where a thread may sleep, or a test wait for time to pass, and why.
const SLEEPS: &[(&str, &str)] = &[
    (
        "crates/tidemark-postgres/src/source/publication.rs",
        "a server tells nobody when a transaction ends: it is asked again, with a deadline",
    ),
    (
        "crates/tidemark-postgres/src/source/slot.rs",
        "a server tells nobody when a slot is let go: it is asked again, with a deadline",
    ),
    (
        "crates/tidemark-postgres/tests/it/source/",
        "polls of a stream that goes on meanwhile, each with a deadline",
    ),
    ("bench/src/", "a meter samples by the clock"),
    (
        "crates/tidemark/tests/e2e/hand_over.rs",
        "kills come at moments that nothing announces",
    ),
    (
        "crates/tidemark/tests/e2e/verify/interrupted.rs",
        "kills come at moments that nothing announces",
    ),
    (
        "crates/tidemark/tests/e2e/faults/soak.rs",
        "faults come at moments that nothing announces",
    ),
    (
        "crates/tidemark-postgres/src/wire/replication/reader.rs",
        "a thread of its own naps so that the walsender fills its buffer",
    ),
    (
        "crates/tidemark-core/tests/sim/",
        "the clock is stopped: it sleeps no real time",
    ),
];

#[test]
fn files_hold_one_idea() {
    let sources = sources();
    let rust = sources.iter().filter(|source| source.is_rust());
    let long = rust.filter(|source| source.text.lines().count() > LINES_MAX);
    let found: Vec<String> = long
        .map(|s| format!("{}: {} lines", s.path, s.text.lines().count()))
        .collect();
    none("files that hold more than one idea", &found);
}

#[test]
fn the_way_of_a_row_is_read_in_ten_minutes() {
    let sources = sources();
    let is_on_path = |source: &&Source| {
        let name = source
            .path
            .strip_prefix("crates/tidemark-core/src/pipeline/");
        name.is_some_and(|name| PATH.contains(&name))
    };
    let path: Vec<&Source> = sources.iter().filter(is_on_path).collect();
    assert_eq!(path.len(), PATH.len());
    let lines: usize = path.into_iter().map(code_lines).sum();
    assert!(
        lines <= PATH_LINES_MAX,
        "{lines} lines, {PATH_LINES_MAX} can be read in ten minutes"
    );
}

fn code_lines(source: &Source) -> usize {
    let code = source
        .text
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"));
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    code.filter(is_code).count()
}

#[test]
fn modules_open_with_what_they_are_for() {
    let sources = sources();
    let modules = sources
        .iter()
        .filter(|s| s.is_rust() && s.path.contains("/src/") && !s.is_test());
    let bare = modules.filter(|source| !source.text.starts_with("//!"));
    none(
        "modules without a word",
        &bare.map(|s| s.path.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn nobody_sleeps() {
    let mut found = Vec::new();
    let mut needed = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let sleeping = sleeping_lines(source);
        if SLEEPS.iter().any(|(path, _)| source.path.starts_with(path)) {
            needed.push((source.path.clone(), sleeping.len()));
            continue;
        }
        found.extend(
            sleeping
                .into_iter()
                .map(|number| format!("{}:{number}", source.path)),
        );
    }
    none(
        "wait for an event, or poll with a deadline (tidemark_lab::wait)",
        &found,
    );
    for (path, _) in SLEEPS {
        // A file that is gone takes its exception with it once the list is looked at.
        let mut those = needed
            .iter()
            .filter(|(needed, _)| needed.starts_with(path))
            .peekable();
        let is_needed = those.peek().is_none() || those.any(|(_, sleeps)| *sleeps > 0);
        assert!(is_needed, "{path} needs no exception any more");
    }
}

/// A server may sleep within a statement; that is part of the traffic.
fn waits(line: &str) -> bool {
    line.replace("pg_sleep(", "").contains("sleep(")
}

/// A thread that sleeps anywhere, or a test that lets time pass.
fn sleeping_lines(source: &Source) -> Vec<usize> {
    let mut in_tests = source.is_test();
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        in_tests |= line.starts_with("#[cfg(test)]");
        let sleeps = line.contains("thread::sleep(") || (in_tests && waits(line));
        if sleeps && !line.trim_start().starts_with("//") {
            found.push(number);
        }
    }
    found
}

#[test]
fn a_sleeping_test_is_seen() {
    let of = |path: &str, text: &str| {
        sleeping_lines(&Source {
            path: path.to_owned(),
            text: text.to_owned(),
        })
        .len()
    };
    assert_eq!(of("crates/x/src/a.rs", "tokio::time::sleep(x).await;"), 0);
    assert_eq!(of("crates/x/src/a.rs", "std::thread::sleep(x);"), 1);
    assert_eq!(
        of("crates/x/src/a.rs", "a();\n#[cfg(test)]\nsleep(x).await;"),
        1
    );
    assert_eq!(
        of("crates/x/tests/it/a.rs", "tokio::time::sleep(x).await;"),
        1
    );
}
