//! What is shown when something fails: the four lines for a person, the problem object for a program.
//!
//! Both are made from core's [`Error`] and its catalogue entry: what happened, what it means for the
//! data, what to do first, where to read more. Problems of a pipeline file keep their own look, with
//! a caret under each place.

use serde::Serialize;
use tidemark_core::catalogue::{Code, Severity, codes};
use tidemark_core::config::Problems;
use tidemark_core::{Error, ErrorKind};

use crate::exit::Exit;
use crate::output::style::{Style, Tone};
use crate::output::wrap;
use crate::signals::SignalName;

/// Why a verb could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine, a database, or this machine.
    Error(Error),
    /// The pipeline file, all its problems at once.
    Config(Problems),
    /// A signal ended it; what that means, in a sentence.
    Signalled(Exit, String),
}

impl From<Error> for Failure {
    fn from(err: Error) -> Failure {
        let source = std::error::Error::source(&err);
        match source.and_then(|source| source.downcast_ref::<Problems>()) {
            Some(problems) => Failure::Config(problems.clone()),
            None => Failure::Error(err),
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::Config(problems)
    }
}

impl Failure {
    /// Something about the command line that clap cannot know.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::Error(Error::definite(codes::CLI_USAGE, message))
    }

    /// A signal ended something that changes nothing.
    pub(crate) fn interrupted(name: SignalName) -> Failure {
        Failure::Signalled(name.exit(), "interrupted; nothing was changed".to_owned())
    }

    /// The same, with this pipeline's name in what to do first.
    pub(crate) fn of_pipeline(self, word: &str) -> Failure {
        match self {
            Failure::Error(err) => Failure::Error(err.of_pipeline(word)),
            other => other,
        }
    }

    /// Its catalogue code.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Failure::Error(err) => Some(err.code()),
            Failure::Config(problems) => problems.iter().next().map(|problem| problem.code),
            Failure::Signalled(..) => None,
        }
    }

    /// How it ends the invocation.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::Error(err) => Exit::of(err),
            Failure::Config(_) => Exit::Usage,
            Failure::Signalled(exit, _) => *exit,
        }
    }

    /// For a person, without a newline at the end.
    pub(crate) fn text(&self, style: Style, width: Option<usize>) -> String {
        match self {
            Failure::Error(err) => four_lines(err, style, width),
            Failure::Config(problems) => {
                let text = problems.to_string();
                let lines = text.lines().map(|line| {
                    if line.starts_with("error[") {
                        style.paint(Tone::Bad, line)
                    } else {
                        line.to_owned()
                    }
                });
                lines.collect::<Vec<_>>().join("\n")
            }
            Failure::Signalled(_, text) => text.clone(),
        }
    }

    /// For a log, or for whoever asked by way of the target.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Failure::Error(err) => err.to_string(),
            other => other.text(Style::PLAIN, None),
        }
    }

    /// For a program; `None` where the exit code says it all.
    pub(crate) fn problem(&self) -> Option<Problem> {
        match self {
            Failure::Error(err) => Some(Problem::of_error(err)),
            Failure::Config(problems) => Some(Problem::of_config(problems)),
            Failure::Signalled(..) => None,
        }
    }
}

/// Law 4: What, Effect, Do first, Read more.
fn four_lines(err: &Error, style: Style, width: Option<usize>) -> String {
    let code = err.code();
    let entry = code.entry();
    let about = err
        .table_name()
        .map_or_else(String::new, |table| format!("{table}: "));
    let mut text = format!(
        "{} {}  {about}{}",
        style.paint(Tone::Bad, "✗"),
        style.paint(Tone::Strong, &code.to_string()),
        entry.title
    );
    let mut line = |label: &str, body: &str| {
        text.push('\n');
        text.push_str(&wrap::labelled(label, body, 2, 10, width));
    };
    line("What", &err.to_string());
    line("Effect", &entry.effect);
    line("Do first", &err.action());
    line("Read more", &format!("tidemark explain {code}"));
    text
}

/// A problem object in the manner of RFC 9457.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    code: String,
    severity: &'static str,
    effect: String,
    fix: Vec<ProblemFix>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
}

/// One way out.
#[derive(Debug, Serialize)]
struct ProblemFix {
    kind: &'static str,
    on: &'static str,
    text: String,
}

/// One of several faults, with its place.
#[derive(Debug, Serialize)]
struct Fault {
    pointer: Option<String>,
    code: String,
    detail: String,
}

impl Problem {
    fn of_error(err: &Error) -> Problem {
        let mut problem = Problem::of_code(
            err.code(),
            err.to_string(),
            Exit::of(err).http_status(),
            err.action(),
        );
        problem.retryable = err.kind() == ErrorKind::Transient;
        problem.table = err.table_name().map(str::to_owned);
        problem.sqlstate = err.sqlstate_code().map(str::to_owned);
        problem
    }

    fn of_config(problems: &Problems) -> Problem {
        let faults: Vec<Fault> = problems
            .iter()
            .map(|problem| Fault {
                pointer: problem.position(),
                code: problem.code.to_string(),
                detail: problem.detail(),
            })
            .collect();
        let code = problems
            .iter()
            .next()
            .map_or(codes::CONFIG_SYNTAX, |first| first.code);
        let detail = match faults.as_slice() {
            [only] => only.detail.clone(),
            all => format!("{} problems in the configuration", all.len()),
        };
        let action = code.entry().first_action.clone();
        let mut problem = Problem::of_code(code, detail, Exit::Usage.http_status(), action);
        problem.errors = faults;
        problem
    }

    fn of_code(code: Code, detail: String, status: u16, action: String) -> Problem {
        let entry = code.entry();
        Problem {
            r#type: format!("/problems/{code}"),
            title: entry.title.clone(),
            status,
            detail,
            code: code.to_string(),
            severity: severity(entry.severity),
            effect: entry.effect.clone(),
            fix: vec![ProblemFix {
                kind: kind_of(&action),
                on: side_of(code),
                text: action,
            }],
            retryable: false,
            table: None,
            sqlstate: None,
            errors: Vec::new(),
        }
    }
}

/// The word of a severity.
pub(crate) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// A first action is a statement, a command, or a sentence.
fn kind_of(action: &str) -> &'static str {
    let first = action.split_whitespace().next().unwrap_or_default();
    match first {
        "tidemark" => "command",
        "ALTER" | "CREATE" | "DROP" | "GRANT" | "SELECT" | "UPDATE" | "DELETE" | "SET" => "sql",
        _ => "text",
    }
}

/// Where the first action of a code is to be done.
fn side_of(code: Code) -> &'static str {
    match code.to_string().as_bytes().get(2) {
        Some(b'1' | b'4') => "source",
        Some(b'2') => "target",
        _ => "host",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_looks_as_promised() {
        let err = Error::definite(codes::TARGET_VALUE, "numeric field overflow")
            .context("apply batch 7")
            .table("public.prices")
            .first_action("ALTER TABLE dw.prices ALTER COLUMN price TYPE numeric(12,3)")
            .sqlstate("22003");
        let text = Failure::from(err).text(Style::PLAIN, Some(80));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("✗ TM2041  public.prices: "), "{text}");
        assert_eq!(
            lines[1],
            "  What      apply batch 7: numeric field overflow"
        );
        assert!(lines[2].starts_with("  Effect    "), "{text}");
        assert!(
            text.contains("\n  Do first  ALTER TABLE dw.prices"),
            "{text}"
        );
        assert!(
            text.ends_with("\n  Read more tidemark explain TM2041"),
            "{text}"
        );
    }

    #[test]
    fn the_problem_object_has_code_effect_and_fix() {
        let err = Error::transient(codes::SOURCE_UNREACHABLE, "connection refused");
        let problem = Failure::from(err)
            .problem()
            .expect("an error has a problem object");
        let value = serde_json::to_value(problem).expect("plain data serialises");
        assert_eq!(value["type"], "/problems/TM1001");
        assert_eq!(value["status"], 503);
        assert_eq!(value["retryable"], true);
        assert_eq!(value["fix"][0]["on"], "source");
    }
}
