//! What we are made of, and what we never ask of a server.

use toml::{Table, Value};

use super::{none, root, sources};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const NPM: &str = "https://registry.npmjs.org/";

/// What is not exactly one version of one registry, by a lock file of cargo's.
fn unlocked(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    let lock: Table = text.parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    assert!(packages.len() > 20, "{path}");
    let word = |package: &Value, key: &str| {
        let value = package.get(key).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let is_wrong = |package: &&Value| {
        let (source, checksum) = (word(package, "source"), word(package, "checksum"));
        let is_ours = source.is_empty() && word(package, "name").starts_with("tidemark");
        !(is_ours || source == REGISTRY && checksum.len() == 64)
    };
    let wrong = packages.iter().filter(is_wrong);
    wrong.map(|package| word(package, "name")).collect()
}

#[test]
fn s26_every_dependency_is_locked_with_its_checksum_and_from_one_registry() {
    let mut found = unlocked("Cargo.lock");
    found.extend(unlocked("fuzz/Cargo.lock"));
    let lock = std::fs::read_to_string(root().join("web/package-lock.json")).unwrap();
    let lock: serde_json::Value = serde_json::from_str(&lock).unwrap();
    let packages = lock["packages"].as_object().unwrap();
    assert!(packages.len() > 5);
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        let word = |key: &str| package[key].as_str();
        let is_there = word("resolved").is_none_or(|place| place.starts_with(NPM));
        let is_checked = word("integrity").is_some_and(|sum| sum.starts_with("sha512-"));
        if !(is_there && is_checked) {
            found.push(name.clone());
        }
    }
    none("a dependency that is not locked", &found);
    // Who adds another registry, or a repository, is refused where this is asked.
    let rules = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let rules: Table = rules.parse().unwrap();
    assert_eq!(rules["sources"]["unknown-registry"].as_str(), Some("deny"));
    assert_eq!(rules["sources"]["unknown-git"].as_str(), Some("deny"));
}

#[test]
fn s27_no_crate_of_ours_can_have_unsafe_code() {
    let manifest = |path: &str| -> Table {
        let text = std::fs::read_to_string(root().join(path).join("Cargo.toml"));
        text.unwrap().parse().unwrap()
    };
    let workspace = manifest("");
    let lints = &workspace["workspace"]["lints"]["rust"];
    assert_eq!(lints["unsafe_code"].as_str(), Some("forbid"));
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let mut paths: Vec<String> = crates
        .map(|entry| format!("crates/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    paths.push("bench".to_owned());
    assert!(paths.len() > 4);
    paths.retain(|path| {
        let lints = manifest(path).get("lints").cloned();
        lints.and_then(|lints| lints.get("workspace")?.as_bool()) != Some(true)
    });
    none("a crate without the lints of all", &paths);
}

/// By which a server runs programs, or reads and writes files of its machine.
const NEVER_SENT: [&str; 11] = [
    "from program",
    "to program",
    "load data local",
    "load data infile",
    "xp_cmdshell",
    "pg_read_file",
    "pg_read_binary_file",
    "pg_ls_dir",
    "lo_import",
    "lo_export",
    "adminpack",
];

#[test]
fn s30_no_statement_runs_a_program_or_reads_a_file_of_a_server() {
    let mut found = Vec::new();
    let mut looked = 0;
    for source in sources() {
        let is_ours = source.path.starts_with("crates/") && source.path.contains("/src/");
        let is_lab = source.path.starts_with("crates/tidemark-lab/");
        if !is_ours || is_lab || !source.is_rust() {
            continue;
        }
        looked += 1;
        for (number, line) in source.lines() {
            let line = line.to_lowercase();
            let said = NEVER_SENT.iter().filter(|word| line.contains(**word));
            found.extend(said.map(|word| format!("{}:{number}: {word}", source.path)));
        }
    }
    assert!(looked > 200, "only {looked} files");
    none("a statement that reaches beyond the database", &found);
}
