//! `logs NAME`: the last log lines that a server has of a pipeline, and those that come.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::invocation::Invocation;
use crate::output::style::Tone;
use crate::output::{Answer, Form, Outcome};
use crate::problem::Failure;
use crate::remote::{Remote, There};

#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// A pipeline of the server
    #[arg(value_name = "NAME")]
    name: String,
    /// This level and what is worse
    #[arg(long, value_enum, default_value = "info")]
    level: Level,
    /// At most so many of the last lines
    #[arg(long, value_name = "LINES", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=500))]
    lines: u16,
    /// Go on with those that come, until Ctrl-C
    #[arg(long)]
    follow: bool,
}

impl LogsArgs {
    pub(crate) fn follows(&self) -> bool {
        self.follow
    }
}

/// From which level on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Info,
    Warn,
    Error,
}

/// How often it is asked for more.
const EVERY: Duration = Duration::from_secs(1);
/// Lines of one answer.
const PAGE: u16 = 500;

/// A line as the server has it.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    id: u64,
    at: String,
    level: String,
    text: String,
    count: u64,
    fields: Map<String, Value>,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &LogsArgs) -> Outcome {
    let there = Remote::named(invocation)?.pipeline(&arguments.name);
    let mut lines = page(&there, arguments.level, arguments.lines).await?;
    if !arguments.follow {
        return Ok(answer(invocation, &there, &lines));
    }
    let mut last = 0;
    loop {
        if let Some(newest) = lines.last() {
            last = newest.id;
            let said = answer(invocation, &there, &lines);
            invocation.talk.answer(&said);
        }
        tokio::time::sleep(EVERY).await;
        lines = page(&there, arguments.level, PAGE).await?;
        lines.retain(|line| line.id > last);
    }
}

/// The last lines, oldest first.
async fn page(there: &There, level: Level, lines: u16) -> Result<Vec<Line>, Failure> {
    #[derive(Deserialize)]
    struct Page {
        lines: Vec<Line>,
    }
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let route = format!("/logs?level={level}&limit={lines}");
    let said = there.get(&route);
    let page = serde_json::from_value(said.await?);
    let mut page: Page = page.map_err(|err| there.server.strange(&err))?;
    page.lines.reverse();
    Ok(page.lines)
}

fn answer(invocation: &Invocation, there: &There, lines: &[Line]) -> Answer {
    let text = match invocation.talk.form {
        Form::Json => String::new(),
        Form::Human => {
            let shown = lines.iter().map(|line| shown(invocation, line));
            shown.collect::<Vec<_>>().join("\n")
        }
    };
    Answer::new(text, json!({ "pipeline": there.name, "lines": lines }))
}

/// `2026-11-29T14:00:00Z warn  what happened (3 times)   code=TM1002`.
fn shown(invocation: &Invocation, line: &Line) -> String {
    let tone = match line.level.as_str() {
        "error" => Tone::Bad,
        "warn" => Tone::Caution,
        _ => Tone::Faint,
    };
    let level = format!("{:<5}", line.level);
    let level = invocation.talk.out.paint(tone, &level);
    let count = match line.count {
        0 | 1 => String::new(),
        count => format!(" ({count} times)"),
    };
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    let fields: Vec<String> = line.fields.iter().map(field).collect();
    let fields = match fields.as_slice() {
        [] => String::new(),
        fields => format!("   {}", fields.join(" ")),
    };
    format!("{} {level} {}{count}{fields}", line.at, line.text)
}
