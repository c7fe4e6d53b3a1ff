//! Keeps the house: what a reviewer would otherwise have to remember.
//!
//! Each rule reads the repository as it lies there, and each exception stands in a list with its
//! reason; an exception that nothing needs any more is a failure too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing it did not expect"
)]

mod catalogue;
mod documents;
mod failpoints;
mod faults;
mod files;
mod layers;
mod security;
mod words;

use std::path::{Path, PathBuf};

/// A text file of the repository.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    fn is_markdown(&self) -> bool {
        self.has_extension("md")
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|e| e == extension)
    }

    /// Tests alone, as opposed to code with tests at its end.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// The lines with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .zip(1..)
            .map(|(line, number)| (number, line))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Every text file that is ours, except this test, which has to name what it forbids.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            let is_foreign = name.ends_with("node_modules") || name == "Cargo.lock";
            if [".git", "target", "bench/results"].contains(&name.as_str()) || is_foreign {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                sources.push(Source { path: name, text });
            }
        }
    }
    sources.retain(|source| !source.path.starts_with("crates/tidemark/tests/tidy/"));
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        sources.len() > 50,
        "only {} files were found",
        sources.len()
    );
    sources
}

/// Fails with all of them at once.
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
