//! What a person sees: the same commands on a pseudo terminal of a given width.
//!
//! `script` of util-linux gives the terminal (package `bsdutils`, which Debian always has).

use std::process::{Command, Stdio};

use tempfile::tempdir;

/// Runs a command line on a terminal with so many columns.
fn on_terminal(columns: u16, line: &str, variables: &[(&str, &str)]) -> (String, i32) {
    let directory = tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tidemark");
    let script = format!("stty cols {columns} rows 40; exec {program} {line}");
    let mut command = Command::new("script");
    command
        .args(["-qec", &script, "/dev/null"])
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm-256color")
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    let output = command.output().expect("script is part of every Debian");
    let text = String::from_utf8(output.stdout)
        .unwrap()
        .replace("\r\n", "\n");
    (text, output.status.code().unwrap())
}

#[test]
fn errors_have_colour_on_a_terminal_and_fit_its_width() {
    for columns in [60_u16, 80, 140] {
        let (text, code) = on_terminal(columns, "explain TM0001", &[]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("\u{1b}[31m✗\u{1b}[0m"), "{text:?}");
        let plain = text
            .replace("\u{1b}[31m", "")
            .replace("\u{1b}[1m", "")
            .replace("\u{1b}[0m", "");
        for line in plain.lines() {
            assert!(
                line.chars().count() <= usize::from(columns),
                "{columns}: {line}"
            );
        }
    }
}

#[test]
fn no_color_and_dumb_terminals_get_none() {
    for variables in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
        let (text, _) = on_terminal(80, "explain TM0001", variables);
        assert!(
            text.contains("✗ TM7040") && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }
    let (text, _) = on_terminal(80, "--no-color explain TM0001", &[]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
