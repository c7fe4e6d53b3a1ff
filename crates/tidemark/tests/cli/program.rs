//! Runs the program the way a script does: no terminal, an empty directory, a known environment.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::schema;

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// The program with these arguments in a directory.
pub(crate) fn tidemark_in(directory: &Path, arguments: &[&str]) -> Ran {
    ran(command_in(directory, arguments))
}

/// A command, run to its end.
pub(crate) fn ran(mut command: Command) -> Ran {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program was built for this test");
    Ran {
        out: String::from_utf8(output.stdout).expect("output is UTF-8"),
        err: String::from_utf8(output.stderr).expect("output is UTF-8"),
        code: output.status.code().expect("it was not killed"),
    }
}

/// The program with these arguments in a directory of its own.
pub(crate) fn tidemark(arguments: &[&str]) -> Ran {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    tidemark_in(directory.path(), arguments)
}

/// The command, not started yet.
pub(crate) fn command_in(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TMPDIR", directory);
    command
}

impl Ran {
    /// The one envelope on stdout, after it was checked against the published schema.
    pub(crate) fn envelope(&self) -> Value {
        let lines: Vec<&str> = self.out.lines().collect();
        assert_eq!(
            lines.len(),
            1,
            "one object and nothing else on stdout: {self:?}"
        );
        let value: Value = serde_json::from_str(lines[0]).expect("a JSON object");
        schema::check(&value);
        let ok = value["ok"].as_bool().expect("checked by the schema");
        let has_error = !value["error"].is_null();
        match self.code {
            0 => assert!(ok && !has_error, "{value}"),
            3 => assert!(!ok && !has_error, "{value}"),
            _ => assert!(!ok && has_error, "{value}"),
        }
        value
    }

    /// No escape sequence anywhere.
    pub(crate) fn assert_no_ansi(&self) {
        assert!(
            !self.out.contains('\u{1b}') && !self.err.contains('\u{1b}'),
            "{self:?}"
        );
    }
}
