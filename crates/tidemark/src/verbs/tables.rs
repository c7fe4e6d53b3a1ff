//! `tables NAME`: every table, those that need a person first.

use clap::Args;
use serde_json::json;
use tidemark_core::status::TableStatus;

use crate::invocation::Invocation;
use crate::output::numbers::{counted, grouped, short};
use crate::output::style::of_table;
use crate::output::table::{Cell, Column, Table};
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::standing::Life;
use crate::watching::{self, Watch};

#[derive(Args, Clone, Debug)]
pub(crate) struct TablesArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    pub(crate) watch: Watch,
}

pub(crate) async fn run(invocation: &Invocation, arguments: &TablesArgs) -> Outcome {
    watching::repeat(invocation, arguments.watch, None, async || {
        let opened = Opened::open(invocation, &arguments.which)?;
        let standing = super::status::look(&opened).await?;
        if standing.life == Life::Draft {
            return Ok(Answer::new(
                format!("{} never ran against this target", opened.name()),
                json!({ "pipeline": opened.name(), "state": "draft", "tables": [] }),
            )
            .notice(format!(
                "what it would copy: tidemark plan {}",
                opened.word()
            )));
        }
        let data = json!({
            "pipeline": opened.name(),
            "state": standing.state(),
            "measured_at": standing.status.measured_at,
            "tables": standing.status.tables,
        });
        Ok(Answer::new(text(&standing.status.tables, invocation), data))
    })
    .await
}

fn text(tables: &[TableStatus], invocation: &Invocation) -> String {
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Name, "→ TARGET"),
        (Column::Left, "STATE"),
        (Column::Right, "ROWS LOADED"),
        (Column::Right, "CHUNKS"),
        (Column::Right, "CHANGES"),
        (Column::Right, "PARKED"),
        (Column::Text, "NOTES"),
    ]);
    for table in tables {
        let (glyph, word, tone) = of_table(table.state);
        let rows = match table.rows_estimated {
            Some(all) if all > table.rows_loaded => {
                format!("{} / {}", grouped(table.rows_loaded), short(all))
            }
            _ => grouped(table.rows_loaded),
        };
        let mut notes: Vec<String> = table.reason.iter().cloned().collect();
        if table.conflicts > 0 {
            notes.push(format!("{} conflicts", grouped(table.conflicts)));
        }
        if table.quarantined > 0 {
            notes.push(format!(
                "{} in quarantine",
                counted(table.quarantined, "row")
            ));
        }
        shown.row([
            table.source.as_str().into(),
            format!("→ {}", table.target).into(),
            Cell::toned(format!("{glyph} {word}"), tone),
            rows.into(),
            format!("{}/{}", table.chunks_loaded, table.chunks).into(),
            grouped(table.changes).into(),
            grouped(table.parked).into(),
            notes.join("; ").into(),
        ]);
    }
    shown
        .lines(invocation.talk.out, invocation.talk.out_width())
        .join("\n")
}
