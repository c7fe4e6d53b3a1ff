//! The documents: the README's pipeline file is one, its commands exist, and documents name only
//! verbs and keys that there are; the walk of `examples/ome` is walked.

use std::path::{Path, PathBuf};

use crate::stage::{PATIENCE, Stage};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Indented lines of a document: its commands and files.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line.strip_prefix("    ") {
            Some(code) if inside => {
                let block = blocks.last_mut().expect("inside of one");
                block.push('\n');
                block.push_str(code);
            }
            Some(code) => blocks.push(code.to_owned()),
            None if line.is_empty() && inside => {
                blocks.last_mut().expect("inside of one").push('\n');
                continue;
            }
            None => {}
        }
        inside = line.starts_with("    ");
    }
    blocks
}

/// `tidemark ...` at the beginning of a line of code, without what follows `#`.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
    let commands = lines.filter(|line| line.starts_with("tidemark "));
    let bare = commands.map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    bare.collect()
}

/// README, and all of `docs` and `examples`.
fn documents() -> Vec<(String, String)> {
    let mut found = vec![("README.md".to_owned(), read("README.md"))];
    let mut folders = vec![root().join("docs"), root().join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_pipeline_file_of_the_readme_is_one() {
    let stage = Stage::new("readme").await;
    let readme = read("README.md");
    let file = blocks(&readme)
        .into_iter()
        .find(|block| block.starts_with("version = 1"));
    std::fs::write(stage.file(), file.expect("a pipeline file")).unwrap();
    let mut lint = stage.command(&["config", "lint", "FILE"]);
    lint.env("ORDERS_PASSWORD", "a").env("DW_PASSWORD", "b");
    let output = lint.output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn commands_of_the_documents_exist_with_their_flags() {
    let stage = Stage::new("documents").await;
    let mut seen = 0;
    for (path, text) in documents() {
        for command in commands(&text) {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let Some(verb) = words.first().filter(|verb| **verb != "help") else {
                continue;
            };
            let mut arguments = vec![*verb];
            if ["slots", "config"].contains(verb) {
                arguments.push(words[1]);
            }
            arguments.push("--help");
            let help = stage.run(&arguments).await.expect(0).stdout;
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(
                    help.contains(flag),
                    "{path}: {command}: no {flag} in\n{help}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 4, "only {seen} commands");
}

#[tokio::test]
async fn pipeline_files_of_the_examples_are_valid() {
    let stage = Stage::new("examples").await;
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        let file = folder.join("pipeline.toml");
        if !file.exists() {
            continue;
        }
        let path = file.display().to_string();
        let mut lint = stage.command(&["config", "lint", &path]);
        lint.env("SOURCE_URL", "postgres://a@127.0.0.1/a")
            .env("TARGET_URL", "postgres://a@127.0.0.1/b")
            .env("MASK_SALT", "pepper");
        let output = lint.output().await.unwrap();
        assert!(
            output.status.success(),
            "{path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    assert!(seen > 2, "only {seen} examples");
}

/// The page's commands, in their order, as one script: the addresses are the test's own.
#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_the_device_inventory_is_walked() {
    let stage = Stage::new("ome").await;
    let text = read("examples/ome/README.md");
    let steps: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.starts_with("export "))
        .collect();
    assert!(steps.len() > 9, "{steps:?}");
    let program = Path::new(env!("CARGO_BIN_EXE_tidemark"));
    let psql = stage.source_server.installation().client_program("psql");
    let folders = [
        program.parent().unwrap(),
        psql.as_ref().unwrap().parent().unwrap(),
    ];
    let path = folders.map(|folder| folder.display().to_string()).join(":");
    let path = format!(
        "{path}:{}",
        std::env::var_os("PATH").unwrap_or_default().display()
    );
    let script = tokio::process::Command::new("bash")
        .args([
            "-c",
            &format!("set -euo pipefail\n{}\nwait", steps.join("\n")),
        ])
        .current_dir(root().join("examples/ome"))
        .env("PATH", path)
        .env("SOURCE_URL", stage.source_url())
        .env("TARGET_URL", stage.target_url())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, script).await;
    let output = output.expect("the walk ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("fan 2 stands still"), "{shown}");
    let outcome = stage.comparison().run().await.unwrap();
    assert!(outcome.is_identical(), "{outcome}");
    assert_eq!(outcome.tables.len(), 13);
    assert!(
        (8_000..9_500).contains(&outcome.rows()),
        "{}",
        outcome.rows()
    );
    assert!(stage.slots().await.is_empty(), "the slot is dropped");
}
