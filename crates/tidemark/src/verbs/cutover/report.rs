//! One page: what was done, what it took, and what is left to do.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::position::Position;

use crate::output::numbers::duration;
use crate::output::{Answer, Verdict, put};

/// What stays behind on the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    pub(super) kind: String,
    pub(super) name: String,
    /// What to do about it, where there is no statement.
    pub(super) note: Option<String>,
    /// Makes it on the target.
    pub(super) sql: Option<String>,
}

#[derive(Clone, Debug)]
struct Step {
    name: String,
    /// `None` while it is not done.
    done: Option<(String, Duration)>,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pipeline: String,
    is_rehearsal: bool,
    steps: Vec<Step>,
    pub(super) left: Vec<Left>,
    pub(super) position: Option<Position>,
    pub(super) downtime: Option<Duration>,
    pub(super) rows: Option<u64>,
    pub(super) sequences: Option<usize>,
    /// The pipeline that copies back: its file, or its name on the server that has it.
    pub(super) back: Option<String>,
    /// What was taken back.
    pub(super) undone: Vec<String>,
}

/// The same as a server tells it.
#[derive(Deserialize)]
struct Told {
    pipeline: String,
    result: String,
    reason: Option<Reason>,
    lsn: Option<Position>,
    write_downtime_seconds: Option<f64>,
    rows: Option<u64>,
    sequences: Option<usize>,
    reverse: Option<String>,
    steps: Vec<ToldStep>,
    undone: Vec<String>,
    left_behind: Vec<Left>,
}

#[derive(Deserialize)]
struct ToldStep {
    name: String,
    text: Option<String>,
    seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    message: String,
}

const REHEARSED: &str = "rehearsed";

/// A statement is shown to its end by the file and `--json`; on a terminal its first line will do.
const STATEMENT_MAX: usize = 100;

impl Report {
    pub(super) fn new(pipeline: &str, is_rehearsal: bool) -> Report {
        Report {
            pipeline: pipeline.to_owned(),
            is_rehearsal,
            steps: Vec::new(),
            left: Vec::new(),
            position: None,
            downtime: None,
            rows: None,
            sequences: None,
            back: None,
            undone: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, name: &str) {
        self.steps.push(Step {
            name: name.to_owned(),
            done: None,
        });
    }

    /// Marks the present step as done; its line.
    pub(super) fn tick(&mut self, text: String, took: Duration) -> String {
        if let Some(step) = self.steps.last_mut() {
            step.done = Some((text, took));
        }
        self.lines(self.steps.len().saturating_sub(1)).concat()
    }

    /// The step that is not done yet.
    pub(super) fn under_way(&self) -> Option<&str> {
        let last = self.steps.last().filter(|step| step.done.is_none());
        last.map(|step| step.name.as_str())
    }

    /// Whether a step of this name is done.
    pub(super) fn is_done(&self, name: &str) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| step.name == name && step.done.is_some())
    }

    /// The lines of steps that are done, after so many.
    pub(super) fn lines(&self, after: usize) -> Vec<String> {
        let steps = self.steps.iter().enumerate().skip(after);
        let line = |(index, step): (usize, &Step)| {
            let (text, took) = step.done.as_ref()?;
            let (number, time) = (index + 1, duration(*took));
            Some(format!(
                "✓ {number:>2}  {:<12} {text}   ({time})",
                step.name
            ))
        };
        steps.filter_map(line).collect()
    }

    /// From what a server tells of it, with why it was given up, if it was.
    pub(super) fn of_data(data: Value) -> serde_json::Result<(Report, Option<Error>)> {
        let told: Told = serde_json::from_value(data)?;
        let step = |step: ToldStep| {
            let took = Duration::from_secs_f64(step.seconds.unwrap_or_default().max(0.0));
            Step {
                name: step.name,
                done: step.text.map(|text| (text, took)),
            }
        };
        let report = Report {
            pipeline: told.pipeline,
            is_rehearsal: told.result == REHEARSED,
            steps: told.steps.into_iter().map(step).collect(),
            left: told.left_behind,
            position: told.lsn,
            downtime: told
                .write_downtime_seconds
                .map(|seconds| Duration::from_secs_f64(seconds.max(0.0))),
            rows: told.rows,
            sequences: told.sequences,
            back: told.reverse,
            undone: told.undone,
        };
        let refusal = told.reason.map(|reason| {
            let code = Code::parse(&reason.code).unwrap_or(codes::CLI_REFUSED);
            Error::definite(code, reason.message)
        });
        Ok((report, refusal))
    }

    /// Notes what stays behind. Where a statement is known it takes the place of a note on the same
    /// kind of thing.
    pub(super) fn note_left(&mut self, found: impl Iterator<Item = Left>) {
        let found: Vec<Left> = found.collect();
        let kinds: BTreeSet<String> = found
            .iter()
            .filter(|left| left.sql.is_some())
            .map(|left| left.kind.clone())
            .collect();
        self.left
            .retain(|left| left.sql.is_some() || !kinds.contains(&left.kind));
        self.left.extend(found);
    }

    /// `cut_over`, `rehearsed` or `given_up`.
    fn result(&self, refusal: Option<&Error>) -> &'static str {
        match refusal {
            Some(_) => "given_up",
            None if self.is_rehearsal => REHEARSED,
            None => "cut_over",
        }
    }

    /// `begins`: the verb by which a way back is begun where it is kept.
    pub(super) fn answer(&self, refusal: Option<&Error>, begins: &str) -> Answer {
        let answer = Answer::new(self.text(refusal), self.data(refusal));
        match refusal {
            None => match &self.back {
                Some(kept) if !self.is_rehearsal => answer.notice(format!(
                    "carries back what is written now: tidemark {begins} {kept}"
                )),
                _ => answer,
            },
            Some(err) => answer.verdict(Verdict::Negative).notice(err.action()),
        }
    }

    fn first_line(&self, refusal: Option<&Error>) -> String {
        let name = &self.pipeline;
        match (refusal, self.is_rehearsal) {
            (Some(err), _) => format!("✗ {name} is not cut over: {err} ({})", err.code()),
            (None, true) => format!("{name} could be cut over. Nothing was changed."),
            (None, false) => {
                let downtime = self.downtime.unwrap_or_default();
                format!(
                    "✓ {name} is cut over: the target may be written to. Writes stood still for {}.",
                    duration(downtime)
                )
            }
        }
    }

    fn text(&self, refusal: Option<&Error>) -> String {
        let mut text = self.first_line(refusal);
        for (number, step) in self.steps.iter().enumerate() {
            let number = number + 1;
            match &step.done {
                Some((said, _)) => put!(text, "\n  ✓ {number:>2}  {:<12} {said}", step.name),
                None => put!(text, "\n  ✗ {number:>2}  {}", step.name),
            }
        }
        for sentence in &self.undone {
            put!(text, "\n  {sentence}");
        }
        if !self.left.is_empty() {
            text.push_str("\nStays behind on the source:");
        }
        for left in &self.left {
            put!(text, "\n  {} {}", left.kind, left.name);
            if let Some(note) = &left.note {
                put!(text, ": {note}");
            }
            if let Some(sql) = &left.sql {
                let first: String = sql
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(STATEMENT_MAX)
                    .collect();
                put!(text, "\n      {first}");
            }
        }
        text
    }

    /// The page.
    pub(super) fn markdown(&self, refusal: Option<&Error>) -> String {
        let mut text = format!(
            "# Cutover of {}\n\n{}\n\n",
            self.pipeline,
            self.first_line(refusal)
        );
        if let Some(position) = self.position {
            put!(text, "- Position on the old primary: {position}\n");
        }
        if let Some(downtime) = self.downtime {
            put!(
                text,
                "- Writes stood still for {:.1} s\n",
                downtime.as_secs_f64()
            );
        }
        if let Some(rows) = self.rows {
            put!(text, "- Rows compared, every value: {rows}\n");
        }
        text.push_str("\n| | Step | | Took |\n|--|--|--|--|\n");
        for (number, step) in self.steps.iter().enumerate() {
            let number = number + 1;
            match &step.done {
                Some((said, took)) => {
                    put!(
                        text,
                        "| {number} ✓ | {} | {said} | {} |\n",
                        step.name,
                        duration(*took)
                    );
                }
                None => put!(text, "| {number} ✗ | {} | not done | |\n", step.name),
            }
        }
        for sentence in &self.undone {
            put!(text, "\n- {sentence}");
        }
        if self.left.is_empty() {
            return text;
        }
        text.push_str("\n## Stays behind on the source\n\n");
        for left in &self.left {
            let note = left
                .note
                .as_deref()
                .map_or_else(String::new, |note| format!(": {note}"));
            put!(text, "- {} {}{note}\n", left.kind, left.name);
        }
        let statements: Vec<&str> = self
            .left
            .iter()
            .filter_map(|left| left.sql.as_deref())
            .collect();
        if !statements.is_empty() {
            put!(text, "\n```sql\n{};\n```\n", statements.join(";\n"));
        }
        text
    }

    pub(crate) fn data(&self, refusal: Option<&Error>) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| {
                let (text, took) = step.done.as_ref().map(|(text, took)| (text, took.as_secs_f64())).unzip();
                json!({ "name": step.name, "done": step.done.is_some(), "text": text, "seconds": took })
            })
            .collect();
        let left: Vec<Value> = self
            .left
            .iter()
            .map(|left| {
                json!({ "kind": left.kind, "name": left.name, "note": left.note, "sql": left.sql })
            })
            .collect();
        json!({
            "pipeline": self.pipeline,
            "result": self.result(refusal),
            "reason": refusal.map(|err| {
                json!({ "code": err.code().to_string(), "message": err.to_string() })
            }),
            "lsn": self.position,
            "write_downtime_seconds": self.downtime.map(|downtime| downtime.as_secs_f64()),
            "rows": self.rows,
            "sequences": self.sequences,
            "reverse": self.back,
            "steps": steps,
            "undone": self.undone,
            "left_behind": left,
        })
    }
}
