//! The pipeline file: its errors with carets, overrides, layout, schema.

use std::path::Path;

use tempfile::tempdir;

use crate::program::{command_in, tidemark, tidemark_in};

const GOOD: &str = "version = 1\n\n[pipeline]\nname = \"shop\"\nmode = \"full_load_and_cdc\"\n\n\
                    [source]\nurl = \"postgres://tidemark@localhost/orders\"\n\
                    password = \"${env:ORDERS_PASSWORD}\"\n\n\
                    [target]\nurl = \"postgres://loader@localhost/dw\"\n\n\
                    [tables]\ninclude = [\"public.*\"]\n";

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

#[test]
fn all_problems_are_shown_at_once_each_with_a_caret() {
    let directory = tempdir().unwrap();
    let text = GOOD
        .replace("mode =", "modee =")
        .replace("[\"public.*\"]", "\"public.*\"")
        .replace("localhost/dw\"\n", "localhost/dw\"\nexisting = \"drp\"\n");
    write(directory.path(), "shop.toml", &text);
    let ran = tidemark_in(directory.path(), &["config", "lint", "shop.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.out.is_empty(), "{ran:?}");
    ran.assert_no_ansi();
    for expected in [
        "error[TM7003]: unknown key `modee`\n  ┌ shop.toml:5:1\n5 │ modee = \"full_load_and_cdc\"\n  \
         │ ^^^^^ did you mean `mode`?",
        "error[TM7004]: `tables.include` must be a list of texts\n   ┌ shop.toml:16:11\n",
        "did you mean \"drop\"?",
        "error[TM7007]: ",
    ] {
        assert!(ran.err.contains(expected), "{expected}\n---\n{}", ran.err);
    }

    let json = tidemark_in(directory.path(), &["config", "lint", "shop.toml", "--json"]);
    let envelope = json.envelope();
    let faults = envelope["error"]["errors"].as_array().unwrap();
    assert_eq!(faults.len(), 4, "{envelope:#}");
    assert_eq!(faults[0]["pointer"], "shop.toml:5:1");
}

#[test]
fn a_schedule_is_shown_with_its_next_five_runs() {
    let directory = tempdir().unwrap();
    let text =
        format!("{GOOD}\n[schedule]\nfull_load = \"0 12 29 2 *\"\ntimezone = \"Europe/Berlin\"\n");
    write(directory.path(), "shop.toml", &text);
    let lint = ["config", "lint", "shop.toml", "--json"];
    let ran = command_in(directory.path(), &lint)
        .env("ORDERS_PASSWORD", "x")
        .output()
        .unwrap();
    let envelope: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    let schedule = &envelope["data"]["schedule"];
    let next = schedule["next"].as_array().unwrap();
    assert_eq!(next.len(), 5, "{envelope:#}");
    for time in next {
        let time = time.as_str().unwrap();
        assert!(time.ends_with("-02-29T12:00:00+01:00"), "{time}");
    }
    assert_eq!(schedule["overlap"], "skip");
    assert_eq!(schedule["missed"], "run_once");

    let typo = text.replace("Europe/Berlin", "Berlin");
    write(directory.path(), "shop.toml", &typo);
    let ran = tidemark_in(directory.path(), &["config", "lint", "shop.toml"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let caret = "│            ^^^^^^^^ did you mean \"Europe/Berlin\"?";
    assert!(ran.err.contains(caret), "{}", ran.err);
}

#[test]
fn a_good_file_says_where_every_value_comes_from_and_shows_no_secret() {
    let directory = tempdir().unwrap();
    write(directory.path(), "shop.toml", GOOD);
    let lint = [
        "config",
        "lint",
        "shop",
        "--show-origin",
        "--set",
        "load.parallel_tables=4",
    ];
    let output = command_in(directory.path(), &lint)
        .env("ORDERS_PASSWORD", "hunter2")
        .env("TIDEMARK_STREAM_BATCH_ROWS", "777")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!text.contains("hunter2"), "{text}");
    let line = |key: &str| {
        let found = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key));
        found
            .unwrap_or_else(|| panic!("no {key} in {text}"))
            .to_owned()
    };
    assert!(line("pipeline.name").ends_with("shop.toml:4"));
    assert!(line("stream.batch_rows").contains("777"));
    assert!(line("stream.batch_rows").ends_with("TIDEMARK_STREAM_BATCH_ROWS"));
    assert!(line("load.parallel_tables").contains('4'));
    assert!(line("load.parallel_tables").contains("--set"));
    assert!(line("load.parallel_chunks").ends_with("default"));
    assert!(line("source.password").contains("***"));
}

#[test]
fn a_pipeline_is_found_by_name_here_and_in_pipelines_d() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("pipelines.d")).unwrap();
    let text = GOOD.replace("password = \"${env:ORDERS_PASSWORD}\"\n", "");
    write(directory.path(), "shop.toml", &text);
    write(
        directory.path(),
        "pipelines.d/billing.toml",
        &text.replace("shop", "billing"),
    );
    for (word, name) in [
        ("shop", "shop"),
        ("billing", "billing"),
        ("./shop.toml", "shop"),
    ] {
        let ran = tidemark_in(directory.path(), &["config", "lint", word, "--json"]);
        assert_eq!(ran.envelope()["data"]["pipeline"], name);
    }
    let by_flag = [
        "config",
        "lint",
        "--config",
        "pipelines.d/billing.toml",
        "--json",
    ];
    let by_flag = tidemark_in(directory.path(), &by_flag);
    assert_eq!(by_flag.envelope()["data"]["pipeline"], "billing");

    let near = tidemark_in(directory.path(), &["config", "lint", "bililng"]);
    assert_eq!(near.code, 2);
    assert!(near.err.contains("did you mean billing?"), "{near:?}");
    let none = tidemark_in(directory.path(), &["config", "lint"]);
    assert_eq!(none.code, 2);
    assert!(
        none.err.contains("name one of these: billing, shop"),
        "{none:?}"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("latin.toml"), b"# \xe4\n").unwrap();
    for (file, why) in [
        ("missing.toml", "No such file"),
        (".", "Is a directory"),
        ("latin.toml", "not UTF-8"),
    ] {
        let ran = tidemark_in(directory.path(), &["status", file]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.err.contains("TM7014") && ran.err.contains(why),
            "{ran:?}"
        );
    }
}

#[test]
fn a_url_that_makes_no_sense_is_shown_where_it_stands_without_its_password() {
    let directory = tempdir().unwrap();
    let text = GOOD
        .replace("password = \"${env:ORDERS_PASSWORD}\"\n", "")
        .replace(
            "postgres://tidemark@localhost/orders",
            "postgres://me:hunter2@localhost:port/orders",
        );
    write(directory.path(), "shop.toml", &text);
    for verb in [&["check", "shop"][..], &["config", "lint", "shop"]] {
        let ran = tidemark_in(directory.path(), verb);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.err.contains("TM7010") && ran.err.contains("shop.toml:8:"),
            "{ran:?}"
        );
        assert!(!ran.err.contains("hunter2"), "{ran:?}");
    }
    // Of both sides at once.
    let text = text.replace("loader@localhost", "loader:hunter3@localhost:x");
    write(directory.path(), "shop.toml", &text);
    let ran = tidemark_in(directory.path(), &["config", "lint", "shop"]);
    assert_eq!(ran.err.matches("TM7010").count(), 2, "{ran:?}");
    assert!(!ran.err.contains("hunter"), "{ran:?}");
}

#[test]
fn the_layout_is_checked_and_made() {
    let directory = tempdir().unwrap();
    let untidy = GOOD.replace("version = 1", "version=1   # always");
    write(directory.path(), "shop.toml", &untidy);
    let check = tidemark_in(directory.path(), &["config", "fmt", "shop.toml", "--check"]);
    assert_eq!(
        (check.code, check.out.trim()),
        (3, "shop.toml"),
        "{check:?}"
    );
    let made = tidemark_in(directory.path(), &["config", "fmt", "shop.toml", "--json"]);
    assert_eq!(made.envelope()["data"]["changed"][0], "shop.toml");
    let text = std::fs::read_to_string(directory.path().join("shop.toml")).unwrap();
    assert!(
        text.starts_with("version = 1") && text.contains("# always"),
        "{text}"
    );
    let again = tidemark_in(directory.path(), &["config", "fmt", "shop.toml", "--check"]);
    assert_eq!(again.code, 0, "{again:?}");

    write(directory.path(), "broken.toml", "version = \n");
    let broken = tidemark_in(directory.path(), &["config", "fmt", "broken.toml"]);
    assert_eq!(broken.code, 2);
    assert!(broken.err.contains("broken.toml:1:"), "{broken:?}");
}

#[test]
fn both_schemas_are_published() {
    for (arguments, member) in [
        (&["config", "schema"][..], "properties"),
        (&["config", "schema", "--of", "answer"], "$defs"),
    ] {
        let ran = tidemark(arguments);
        assert_eq!(ran.code, 0);
        let schema: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert!(schema.get(member).is_some(), "{}", ran.out);
        assert_eq!(
            tidemark(&[arguments, &["--json"]].concat()).envelope()["data"],
            schema
        );
    }
}
