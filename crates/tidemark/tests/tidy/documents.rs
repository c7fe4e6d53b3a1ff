//! Documents: what they name exists.

use std::path::Path;

use super::{Source, none, root, sources};

/// Where paths of ours begin.
const TOP: [&str; 8] = [
    "crates/",
    "docs/",
    "scripts/",
    "examples/",
    "bench/",
    "packaging/",
    "web/",
    ".ci/",
];

/// Standing for something else, not a path.
const PLACEHOLDERS: [char; 8] = ['*', '<', '{', '$', ' ', '\u{2026}', ':', '('];

/// Named before they came; the last one to come ends this list.
const COMING: [&str; 2] = [
    "docs/reference/config.md",
    "docs/explanation/performance.md",
];

#[test]
fn paths_named_in_documents_exist() {
    let root = root();
    let mut found = Vec::new();
    let mut seen = 0;
    for source in sources().iter().filter(|source| source.is_markdown()) {
        for (number, path) in named_paths(source) {
            seen += 1;
            if !root.join(path.trim_end_matches('/')).exists() && !COMING.contains(&path.as_str()) {
                found.push(format!("{}:{number}: {path}", source.path));
            }
        }
    }
    assert!(seen > 0, "no path was found in any document");
    none("documents name what is not there", &found);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_markdown()) {
        let folder = root.join(&source.path).parent().unwrap().to_owned();
        for (number, line) in source.lines() {
            for link in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                let path = link.split('#').next().unwrap_or_default();
                let is_ours =
                    !path.is_empty() && !path.contains("://") && !path.contains("mailto:");
                if is_ours && !COMING.contains(&path) && !Path::new(&folder).join(path).exists() {
                    found.push(format!("{}:{number}: {link}", source.path));
                }
            }
        }
    }
    none("links that lead nowhere", &found);
}

#[test]
fn documents_name_no_line_numbers() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_markdown()) {
        for (number, line) in source.lines() {
            let cites = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            if line.split(".rs:").skip(1).any(cites) {
                found.push(format!("{}:{number}", source.path));
            }
        }
    }
    none(
        "a line number is wrong after the next commit; name the function",
        &found,
    );
}

#[test]
fn make_targets_named_in_documents_exist() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let is_target = |name: &str| {
        makefile
            .lines()
            .any(|line| line.starts_with(&format!("{name}:")))
    };
    assert!(is_target("test") && is_target("demo"));
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_markdown()) {
        for (number, line) in source.lines() {
            let line = line.trim_start_matches([' ', '$']);
            let spans = line.split('`').skip(1).step_by(2).chain([line]);
            for target in spans.filter_map(|span| span.strip_prefix("make ")) {
                let target = target.split_whitespace().next().unwrap_or_default();
                let is_word = !target.is_empty() && target.chars().all(|c| c.is_ascii_lowercase());
                // At the beginning of a line it may be prose; in a code block it is indented.
                let is_command = is_word
                    && (line.contains('`') || source.text.contains(&format!("    make {target}")));
                if is_command && !is_target(target) {
                    found.push(format!("{}:{number}: make {target}", source.path));
                }
            }
        }
    }
    none("there is no such target", &found);
}

/// Paths of the repository in code spans, with their lines.
fn named_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (number, line) in source.lines() {
        for span in line.split('`').skip(1).step_by(2) {
            let is_ours = TOP.iter().any(|top| span.starts_with(top));
            if is_ours && !span.contains(PLACEHOLDERS) {
                paths.push((number, span.to_owned()));
            }
        }
    }
    paths
}
