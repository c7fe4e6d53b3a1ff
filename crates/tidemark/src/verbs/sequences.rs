//! `sequences NAME`: set the target's sequences to the source's present values.
//!
//! The stream carries rows, not sequences (PostgreSQL does not write them to logical decoding), so
//! they are set after the load and whenever this is asked: before readers become writers.

use clap::Args;
use serde_json::{Value, json};

use crate::invocation::Invocation;
use crate::output::numbers::grouped;
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};

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

pub(crate) async fn run(invocation: &Invocation, arguments: &SequencesArgs) -> Outcome {
    let opened = Opened::open(invocation, &arguments.which)?;
    let rules = &opened.config.rules;
    let schema = opened.source.describe(rules.selection()).await?;
    let mappings = rules.map(&schema)?;
    let names: Vec<_> = mappings
        .iter()
        .map(|mapping| mapping.source().clone())
        .collect();
    let values = opened.source.sequences(&names).await?;
    if !arguments.dry_run && !values.is_empty() {
        opened.target.set_sequences(&values, &mappings).await?;
    }
    let mut table = Table::new([
        (Column::Name, "SEQUENCE"),
        (Column::Name, "OWNED BY"),
        (Column::Right, "LAST"),
    ]);
    for value in &values {
        let owner = value.owner.as_ref();
        let owner = owner.map_or_else(String::new, |(table, column)| format!("{table}.{column}"));
        let last = if value.is_called {
            u64::try_from(value.last_value).map_or(value.last_value.to_string(), grouped)
        } else {
            "not used".to_owned()
        };
        table.row([value.name.to_string().into(), owner.into(), last.into()]);
    }
    let talk = &invocation.talk;
    let mut lines = table.lines(talk.out, talk.out_width());
    let count = values.len();
    lines.push(match (count, arguments.dry_run) {
        (0, _) => "the selected tables have no sequences".to_owned(),
        (_, true) => "Nothing was changed.".to_owned(),
        (1, false) => "✓ 1 sequence set on the target".to_owned(),
        (_, false) => format!("✓ {count} sequences set on the target"),
    });
    let sequences: Vec<Value> = values
        .iter()
        .map(|value| {
            json!({
                "name": value.name.to_string(),
                "owned_by": value.owner.as_ref().map(|(table, column)| format!("{table}.{column}")),
                "last_value": value.last_value,
                "is_called": value.is_called,
            })
        })
        .collect();
    let data = json!({
        "pipeline": opened.name(), "set": !arguments.dry_run, "sequences": sequences,
    });
    Ok(Answer::new(
        if count == 0 {
            lines.remove(lines.len() - 1)
        } else {
            lines.join("\n")
        },
        data,
    ))
}
