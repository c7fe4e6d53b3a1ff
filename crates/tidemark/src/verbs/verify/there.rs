//! A comparison that a server makes. It keeps what came of it without keys: those are shown where the
//! databases themselves are asked.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::status::Status;
use tidemark_core::verify::compare::{Outcome as Compared, Report, TableReport};
use tidemark_core::verify::difference;

use super::{
    COMPARING, REPAIRING, Subject, VerifyArgs, answer, confirm_repair, note_kept, only_what_differs,
};
use crate::invocation::Invocation;
use crate::output::Outcome;
use crate::output::waiting::during;
use crate::problem::Failure;
use crate::remote::{Done, There};
use crate::verbs::control::parse_table;

/// As the server keeps it.
#[derive(Deserialize)]
struct Kept {
    lsn: String,
    seconds: f64,
    tables: Vec<KeptTable>,
}

#[derive(Deserialize)]
struct KeptTable {
    source: String,
    target: String,
    lsn: String,
    result: String,
    reason: Option<String>,
    source_rows: u64,
    target_rows: u64,
    different: u64,
    is_counted: bool,
}

pub(super) async fn run(
    invocation: &Invocation,
    pipeline: &There,
    arguments: &VerifyArgs,
) -> Outcome {
    tokio::select! {
        outcome = verify(invocation, pipeline, arguments) => outcome,
        late = invocation.late() => Err(late),
        name = invocation.signals.stop() => Err(Failure::Signalled(
            name.exit(),
            "not waited for; the server compares, and copies what was agreed to, to the end".to_owned(),
        )),
    }
}

async fn verify(invocation: &Invocation, pipeline: &There, arguments: &VerifyArgs) -> Outcome {
    let tables: Vec<String> = arguments.tables.iter().map(ToString::to_string).collect();
    let depth = if arguments.counts { "counts" } else { "deep" };
    let asked = json!({ "tables": tables, "depth": depth });
    let compared = during(&invocation.talk, COMPARING, pipeline.act("verify", &asked));
    let mut found = Found::of(pipeline, &compared.await?).await?;
    if arguments.repair
        && difference::to_repair(&found.report, &found.aside)
            .next()
            .is_some()
    {
        confirm_repair(invocation, &pipeline.name, &found.report, &found.aside).await?;
        let asked = json!({ "verification": found.number });
        let repaired = during(&invocation.talk, REPAIRING, pipeline.act("repair", &asked));
        let took = found.took;
        found = Found::of(pipeline, &repaired.await?).await?;
        found.took += took;
    }
    let Found {
        report,
        took,
        status,
        aside,
        ..
    } = found;
    let streams = status.mode != "full_load_only";
    let subject = Subject {
        name: pipeline.name.clone(),
        streams,
        remedy: streams.then(|| only_what_differs(&pipeline.name)),
    };
    let depth = arguments.depth();
    let mut answer = answer(invocation, &subject, &report, depth, took, &aside);
    for table in &status.tables {
        let is_it = |one: &&TableReport| one.source.to_string() == table.source;
        if let Some(compared) = report.tables.iter().find(is_it) {
            let (name, rows) = (&compared.source, table.quarantined);
            let which = "which may be all that differs";
            answer = note_kept(answer, &pipeline.name, name, rows, which);
        }
    }
    Ok(answer)
}

/// A comparison that the server keeps, and how the pipeline stands after it.
struct Found {
    number: i64,
    report: Report,
    took: Duration,
    status: Status,
    /// Tables of which rows are in quarantine.
    aside: Vec<TableName>,
}

impl Found {
    async fn of(pipeline: &There, said: &Done) -> Result<Found, Failure> {
        let strange = || pipeline.server.strange(&format!("it says `{}`", said.text));
        let number = said.data["verification"].as_i64().ok_or_else(strange)?;
        let kept = pipeline.get(&format!("/verifications/{number}")).await?;
        let kept = serde_json::from_value(kept);
        let kept: Kept = kept.map_err(|err| pipeline.server.strange(&err))?;
        let status = pipeline.look().await?.status;
        let took = Duration::from_secs_f64(kept.seconds.max(0.0));
        let with_rows_aside = status.tables.iter().filter(|table| table.quarantined > 0);
        let aside = with_rows_aside.filter_map(|table| parse_table(&table.source).ok());
        Ok(Found {
            number,
            report: report(kept, &status).ok_or_else(strange)?,
            took,
            aside: aside.collect(),
            status,
        })
    }
}

fn report(kept: Kept, status: &Status) -> Option<Report> {
    let kind = status.position_type.as_deref().unwrap_or("pg_lsn");
    let position = |text: &str| Position::parse(kind, text).ok();
    let tables = kept.tables.into_iter().map(|table| {
        let reason = table.reason.unwrap_or_default();
        Some(TableReport {
            source: parse_table(&table.source).ok()?,
            target: parse_table(&table.target).ok()?,
            position: position(&table.lsn)?,
            outcome: match table.result.as_str() {
                "identical" => Compared::Identical,
                "different" => Compared::Different,
                _ => Compared::NotCompared(reason),
            },
            source_rows: table.source_rows,
            target_rows: table.target_rows,
            different: table.different,
            is_counted: table.is_counted,
            differences: Vec::new(),
        })
    });
    Some(Report {
        position: position(&kept.lsn)?,
        tables: tables.collect::<Option<_>>()?,
    })
}
