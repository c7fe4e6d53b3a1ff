//! `sequences NAME`: set the target's sequences to the source's present values.
//!
//! The stream carries rows, not sequences (PostgreSQL does not write them to logical decoding), so
//! they are set after the load and whenever this is asked: before readers become writers.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::source::SequenceValue;
use tidemark_core::target::all_set;

use crate::invocation::Invocation;
use crate::output::numbers::grouped;
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::remote::There;
use crate::seen::Seen;

#[derive(Args, Clone, Debug)]
pub(crate) struct SequencesArgs {
    #[command(flatten)]
    which: Which,
    /// Show the source's values, set nothing
    #[arg(long)]
    dry_run: bool,
}

impl SequencesArgs {
    /// Whether it changes the target.
    pub(crate) fn sets(&self) -> bool {
        !self.dry_run
    }
}

/// What becomes of the target's sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sets {
    /// They are set.
    Yes,
    /// Nothing: the source's values are looked at.
    No,
}

/// What is said of it, here or by a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pipeline: String,
    set: bool,
    sequences: Vec<Sequence>,
}

/// A sequence of the source.
#[derive(Debug, Serialize, Deserialize)]
struct Sequence {
    name: String,
    owned_by: Option<String>,
    last_value: i64,
    is_called: bool,
}

impl Sequence {
    fn of(value: &SequenceValue) -> Sequence {
        let owner = value.owner.as_ref();
        Sequence {
            name: value.name.to_string(),
            owned_by: owner.map(|(table, column)| format!("{table}.{column}")),
            last_value: value.last_value,
            is_called: value.is_called,
        }
    }
}

pub(crate) async fn run(invocation: &Invocation, arguments: &SequencesArgs) -> Outcome {
    let sets = if arguments.dry_run {
        Sets::No
    } else {
        Sets::Yes
    };
    let report = match Seen::open(invocation, &arguments.which)? {
        Seen::Here(opened) => of(&opened, sets).await?,
        Seen::There(there) if arguments.dry_run => {
            let told = there.tell("sequences", &json!({ "dry_run": true })).await?;
            read(&there, told)?
        }
        Seen::There(there) => read(&there, there.act("sequences", &json!({})).await?.data)?,
    };
    Ok(answer(invocation, &report))
}

fn read(there: &There, said: Value) -> Result<Report, Failure> {
    let report = serde_json::from_value(said);
    Ok(report.map_err(|err| there.server.strange(&err))?)
}

/// Looks at the source's values, and sets the target's.
pub(crate) async fn of(opened: &Opened, sets: Sets) -> Result<Report, Failure> {
    let mappings = opened.going_on().await?.mappings;
    let names: Vec<_> = mappings
        .iter()
        .map(|mapping| mapping.source().clone())
        .collect();
    let values = opened.source.sequences(&names).await?;
    if sets == Sets::Yes && !values.is_empty() {
        all_set(opened.target.set_sequences(&values, &mappings).await?)?;
    }
    Ok(Report {
        pipeline: opened.name().to_owned(),
        set: sets == Sets::Yes,
        sequences: values.iter().map(Sequence::of).collect(),
    })
}

fn answer(invocation: &Invocation, report: &Report) -> Answer {
    let mut table = Table::new([
        (Column::Name, "SEQUENCE"),
        (Column::Name, "OWNED BY"),
        (Column::Right, "LAST"),
    ]);
    for sequence in &report.sequences {
        let owner = sequence.owned_by.clone().unwrap_or_default();
        let last = if sequence.is_called {
            u64::try_from(sequence.last_value).map_or(sequence.last_value.to_string(), grouped)
        } else {
            "not used".to_owned()
        };
        table.row([sequence.name.as_str().into(), owner.into(), last.into()]);
    }
    let count = report.sequences.len();
    let said = match (count, report.set) {
        (0, _) => "the selected tables have no sequences".to_owned(),
        (_, false) => "Nothing was changed.".to_owned(),
        (1, true) => "✓ 1 sequence set on the target".to_owned(),
        (_, true) => format!("✓ {count} sequences set on the target"),
    };
    let talk = &invocation.talk;
    let mut lines = Vec::new();
    if count > 0 {
        lines = table.lines(talk.out, talk.out_width());
    }
    lines.push(said);
    Answer::new(lines.join("\n"), report)
}
