//! Every verb: help, exit codes, the envelope, and no escape sequences when piped.

use tempfile::tempdir;

use crate::program::{Ran, command_in, ran, tidemark, tidemark_in};

/// The verbs, from the first screen's own subcommand list.
pub(crate) fn verbs() -> Vec<String> {
    let completions = tidemark(&["completions", "bash"]);
    let line = completions
        .out
        .lines()
        .find(|line| line.trim_start().starts_with("opts=\"") && line.contains("explain"))
        .expect("the first word list of the completions holds the verbs");
    let words = line
        .trim()
        .trim_start_matches("opts=\"")
        .trim_end_matches('"')
        .split_whitespace();
    words
        .filter(|word| !word.starts_with('-') && *word != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_has_help_that_leads_with_examples() {
    let verbs = verbs();
    assert!(verbs.len() >= 4, "{verbs:?}");
    for verb in &verbs {
        for arguments in [vec![verb.as_str(), "--help"], vec!["help", verb.as_str()]] {
            let ran = tidemark(&arguments);
            assert_eq!(ran.code, 0, "{ran:?}");
            let examples = ran.out.find("\nExamples:\n  tidemark ").expect("examples");
            let usage = ran.out.find("\nUsage: tidemark ").expect("usage");
            assert!(examples < usage, "{verb}: examples come first");
            assert!(
                ran.out.lines().all(|line| line.chars().count() <= 120),
                "{}",
                ran.out
            );
            ran.assert_no_ansi();
        }
    }
}

#[test]
fn the_first_screen_names_all_verbs() {
    for arguments in [&[][..], &["--help"], &["help"]] {
        let ran = tidemark(arguments);
        assert_eq!(ran.code, 0);
        assert!(
            ran.out
                .starts_with("Tidemark copies a database and keeps the copy current.")
        );
        for verb in verbs() {
            assert!(ran.out.contains(&verb), "{verb} in {}", ran.out);
        }
    }
    assert!(!tidemark(&["--version"]).out.trim().is_empty());
}

#[test]
fn what_is_not_understood_ends_in_2_with_the_nearest_match() {
    for (arguments, nearest) in [
        (&["explian"][..], "explain"),
        (&["explain", "--jsno"], "--json"),
        (&["completions", "bahs"], "bash"),
        (&["man", "--directry", "x"], "--directory"),
    ] {
        let ran = tidemark(arguments);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(nearest), "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        ran.assert_no_ansi();
    }
}

#[test]
fn a_variable_that_makes_no_sense_is_named() {
    let directory = tempdir().unwrap();
    for (variable, arguments) in [
        ("TIDEMARK_LISTEN", &["serve"][..]),
        ("TIDEMARK_TIMEOUT", &["version"]),
        ("TIDEMARK_LOG_FORMAT", &["version"]),
    ] {
        let mut command = command_in(directory.path(), arguments);
        command.env(variable, "5x");
        let given = ran(command);
        assert_eq!(given.code, 2, "{given:?}");
        let from = format!("(from {variable})");
        assert!(given.err.contains(&from), "{given:?}");
    }
    let mut command = command_in(directory.path(), &["serve", "--listen", "here"]);
    command.env("TIDEMARK_LISTEN", "127.0.0.1:0");
    let written = ran(command);
    assert_eq!(written.code, 2, "{written:?}");
    assert!(!written.err.contains("TIDEMARK_LISTEN"), "{written:?}");
}

#[test]
fn usage_errors_have_an_envelope_too() {
    for (arguments, command) in [
        (&["explian", "--json"][..], "tidemark"),
        (&["explain", "--bogus", "--json"], "explain"),
        (&["--json", "explain", "TM0001"], "explain"),
        (&["completions", "--json"], "completions"),
    ] {
        let ran = tidemark(arguments);
        assert_eq!(ran.code, 2, "{ran:?}");
        let envelope = ran.envelope();
        assert_eq!(envelope["command"], command);
        assert_eq!(envelope["error"]["code"], "TM7040");
    }
    let after_dashes = tidemark(&["explain", "--", "--json"]);
    assert_eq!(after_dashes.code, 2);
    assert!(
        after_dashes.out.is_empty(),
        "--json after -- is no flag: {after_dashes:?}"
    );
}

#[test]
fn verbs_without_a_database_answer_in_both_forms() {
    let directory = tempdir().unwrap();
    let answers: &[&[&str]] = &[
        &["explain"],
        &["explain", "TM1001"],
        &["completions", "zsh"],
        &["man"],
        &["man", "explain"],
        &["version"],
    ];
    for arguments in answers {
        let plain = tidemark_in(directory.path(), arguments);
        assert_eq!(plain.code, 0, "{plain:?}");
        assert!(!plain.out.is_empty() && plain.err.is_empty(), "{plain:?}");
        plain.assert_no_ansi();
        let json = tidemark_in(directory.path(), &[arguments, &["--json"][..]].concat());
        assert_eq!(json.code, 0, "{json:?}");
        assert_eq!(json.envelope()["command"], arguments[0]);
    }
}

#[test]
fn the_environment_can_ask_for_json_and_colour() {
    let directory = tempdir().unwrap();
    let with = |name: &str, value: &str, arguments: &[&str]| -> Ran {
        let mut command = crate::program::command_in(directory.path(), arguments);
        let output = command.env(name, value).output().unwrap();
        Ran {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    };
    assert_eq!(
        with("TIDEMARK_JSON", "1", &["version"]).envelope()["command"],
        "version"
    );
    let coloured = with("CLICOLOR_FORCE", "1", &["explain", "TM0001"]);
    assert!(coloured.err.contains('\u{1b}'), "{coloured:?}");
    with("CLICOLOR_FORCE", "1", &["--no-color", "explain", "TM0001"]).assert_no_ansi();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::process::Stdio;
    let directory = tempdir().unwrap();
    let mut child = crate::program::command_in(directory.path(), &["explain", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_result_that_a_full_disk_does_not_take_is_a_failure() {
    let directory = tempdir().unwrap();
    for arguments in [&["explain"][..], &["version", "--json"], &["help"]] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = crate::program::command_in(directory.path(), arguments)
            .stdout(full)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(
            said.contains("TM7044") && said.contains("No space left"),
            "{said}"
        );
    }
}

#[test]
fn every_code_explains_itself() {
    let all = tidemark(&["explain", "--json"]).envelope();
    let codes = all["data"]["codes"].as_array().unwrap();
    assert!(codes.len() > 50);
    for entry in codes {
        let code = entry["code"].as_str().unwrap();
        for member in ["title", "cause", "effect", "first_action"] {
            assert!(
                !entry[member].as_str().unwrap().is_empty(),
                "{code}: {member}"
            );
        }
    }
    // One process for each code would cost seconds and show nothing more.
    for code in [codes.first(), codes.last()].into_iter().flatten() {
        let code = code["code"].as_str().unwrap();
        let ran = tidemark(&["explain", code.trim_start_matches("TM")]);
        assert_eq!(ran.code, 0);
        for label in ["  Cause     ", "  Effect    ", "  Do first  "] {
            assert!(ran.out.contains(label), "{ran:?}");
        }
    }
}
