//! Imports follow Cargo.toml: no system knows another, the server has a client of one for its store, core
//! knows nobody.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{none, root};

/// What a crate of ours may depend on among ours, and among its tests.
const LAYERS: &[(&str, &[&str], &[&str])] = &[
    ("tidemark-core", &[], &[]),
    ("tidemark-postgres", &["tidemark-core"], &["tidemark-lab"]),
    ("tidemark-mysql", &["tidemark-core"], &["tidemark-lab"]),
    ("tidemark-sqlserver", &["tidemark-core"], &["tidemark-lab"]),
    ("tidemark-oracle", &["tidemark-core"], &["tidemark-lab"]),
    ("tidemark-s3", &["tidemark-core"], &["tidemark-lab"]),
    ("tidemark-kafka", &["tidemark-core"], &["tidemark-lab"]),
    (
        "tidemark-server",
        &["tidemark-core", "tidemark-postgres"],
        &["tidemark-lab"],
    ),
    ("tidemark-lab", &["tidemark-core"], &[]),
];

/// What core must do without: drivers, sockets, HTTP.
const NOT_IN_CORE: [&str; 8] = [
    "anyhow",
    "axum",
    "hyper",
    "postgres-protocol",
    "reqwest",
    "rustls",
    "tokio-postgres",
    "tokio-rustls",
];

fn manifests() -> BTreeMap<String, Table> {
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let manifests = crates.map(|entry| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
        (
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            text.parse::<Table>().unwrap(),
        )
    });
    manifests.collect()
}

fn dependencies<'a>(manifest: &'a Table, section: &str) -> Vec<(&'a str, &'a Value)> {
    let section = manifest.get(section).and_then(Value::as_table);
    section
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

#[test]
fn crates_import_only_what_their_layer_may() {
    let manifests = manifests();
    assert!(manifests.contains_key("tidemark-core") && manifests.contains_key("tidemark"));
    let mut found = Vec::new();
    for (name, manifest) in &manifests {
        if name == "tidemark" {
            continue;
        }
        let Some((_, normal, in_tests)) = LAYERS.iter().find(|(crate_name, ..)| crate_name == name)
        else {
            found.push(format!("{name} is in no layer"));
            continue;
        };
        for (section, more) in [
            ("dependencies", [].as_slice()),
            ("dev-dependencies", in_tests),
        ] {
            let ours = dependencies(manifest, section)
                .into_iter()
                .map(|(name, _)| name);
            let ours = ours.filter(|dependency| dependency.starts_with("tidemark"));
            let forbidden = ours.filter(|d| !normal.contains(d) && !more.contains(d));
            found.extend(forbidden.map(|d| format!("{name} has {d} in [{section}]")));
        }
    }
    none("a crate imports what its layer must not know", &found);
}

#[test]
fn core_does_no_io_of_its_own() {
    let manifests = manifests();
    let names = dependencies(&manifests["tidemark-core"], "dependencies").into_iter();
    let found = names
        .map(|(name, _)| name.to_owned())
        .filter(|n| NOT_IN_CORE.contains(&n.as_str()));
    none("core depends on a driver", &found.collect::<Vec<_>>());
}

#[test]
fn versions_are_declared_once() {
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, manifest) in manifests() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (dependency, value) in dependencies(&manifest, section) {
                seen += 1;
                if value.get("workspace").and_then(Value::as_bool) != Some(true) {
                    found.push(format!("{name}: {dependency}"));
                }
            }
        }
    }
    assert!(seen > 20);
    none("a version belongs into [workspace.dependencies]", &found);
}

/// The program speaks to PostgreSQL through our own client alone.
#[test]
fn the_oracles_client_is_in_the_lab_only() {
    let mut found = Vec::new();
    for (name, manifest) in manifests() {
        let in_lab = name == "tidemark-lab";
        let mut names = dependencies(&manifest, "dependencies").into_iter();
        if !in_lab && names.any(|(dependency, _)| dependency == "tokio-postgres") {
            found.push(name);
        }
    }
    none("tokio-postgres is the oracle's", &found);
}

/// The oracle shares no code with what it judges.
#[test]
fn the_lab_knows_none_of_our_drivers() {
    let manifests = manifests();
    let names: Vec<&str> = dependencies(&manifests["tidemark-lab"], "dependencies")
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert!(names.contains(&"tokio-postgres") && !names.contains(&"postgres-protocol"));
}
