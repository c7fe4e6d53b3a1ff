//! `explain CODE`: the catalogue's entry, offline. Without a code, all of them.

use clap::Args;
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::{Code, codes};

use crate::output::style::Style;
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome, wrap};
use crate::problem::severity;

#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// A code, as TM1010 or 1010; without one all codes are listed
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

pub(crate) fn run(arguments: &ExplainArgs) -> Outcome {
    let Some(text) = &arguments.code else {
        return Ok(list());
    };
    match Code::parse(text) {
        Some(code) => Ok(explain(code)),
        None => Err(Error::definite(
            codes::CLI_USAGE,
            format!("`{text}` is no code of the catalogue"),
        )
        .first_action("tidemark explain, which lists all codes")
        .into()),
    }
}

fn explain(code: Code) -> Answer {
    let entry = code.entry();
    let mut lines = vec![format!(
        "{code}  {}  ({})",
        entry.title,
        severity(entry.severity)
    )];
    for (label, body) in [
        ("Cause", &entry.cause),
        ("Effect", &entry.effect),
        ("Do first", &entry.first_action),
    ] {
        lines.push(wrap::labelled(label, body, 2, 10, None));
    }
    for statement in &entry.sql {
        lines.push(format!("            {statement}"));
    }
    Answer::new(lines.join("\n"), entry_data(code))
}

fn list() -> Answer {
    let mut table = Table::new([
        (Column::Left, "CODE"),
        (Column::Left, "LEVEL"),
        (Column::Text, "TITLE"),
    ]);
    for code in Code::all() {
        let entry = code.entry();
        table.row([
            code.to_string().into(),
            severity(entry.severity).into(),
            entry.title.as_str().into(),
        ]);
    }
    let codes: Vec<_> = Code::all().map(entry_data).collect();
    Answer::new(
        table.lines(Style::PLAIN, None).join("\n"),
        json!({ "codes": codes }),
    )
}

fn entry_data(code: Code) -> serde_json::Value {
    let entry = code.entry();
    json!({
        "code": code.to_string(),
        "title": entry.title,
        "severity": severity(entry.severity),
        "cause": entry.cause,
        "effect": entry.effect,
        "first_action": entry.first_action,
        "sql": entry.sql,
    })
}
