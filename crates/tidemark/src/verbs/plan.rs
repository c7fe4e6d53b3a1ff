//! `plan NAME`: what would happen. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::finding::{Finding, Side, Verdict};
use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::mask::Mask;
use tidemark_core::pipeline::going_on::GoingOn;
use tidemark_core::schema::{ColumnDefault, NotCarried, ObjectKind, ReplicaIdentity, SourceSchema};

use crate::invocation::Invocation;
use crate::output::numbers::{about, bytes, counted, grouped};
use crate::output::style::{Style, Tone};
use crate::output::table::{Column, Table};
use crate::output::{Answer, Outcome, put, wrap};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::scheduled;
use crate::seen::Seen;
use crate::verbs::check;

#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    which: Which,
}

/// Rates at which tables came in where this was measured: two raw COPY pipes between servers on one
/// small machine at best, a slow network and many indexes at worst.
const BYTES_PER_SECOND_BEST: u64 = 150_000_000;
const BYTES_PER_SECOND_WORST: u64 = 15_000_000;
/// How long the source's log is watched to see how quickly it grows.
const LOG_WATCHED_MS: u64 = 500;

/// What would happen, as it is said here or by a server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pipeline: String,
    mode: String,
    /// Where a start goes on; nowhere where it would be refused.
    checkpoint: Option<Value>,
    tables: Vec<PlannedTable>,
    findings: Vec<Found>,
    not_carried: Vec<NotCarried>,
    estimate: Option<Estimate>,
    schedule: Value,
    creates: Creates,
}

/// One table of the plan.
#[derive(Debug, Serialize, Deserialize)]
struct PlannedTable {
    source: String,
    target: String,
    rows_estimated: Option<u64>,
    size_bytes: u64,
    key: Vec<String>,
    notes: Vec<String>,
}

/// What a check warns of or fails at, briefly: `check` says more.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    code: String,
    verdict: Verdict,
    side: Side,
    found: String,
}

/// What it will take.
#[derive(Debug, Serialize, Deserialize)]
struct Estimate {
    load_seconds_best: u64,
    load_seconds_worst: u64,
    log_bytes_per_second: Option<u64>,
    log_bytes_during_load: Option<u64>,
}

/// What would happen.
pub(crate) async fn of(opened: &Opened) -> Result<Plan, Failure> {
    let config = &opened.config;
    let schema = opened.source.describe(config.rules.selection()).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let begun = checkpoint.as_ref().filter(|_| config.mode.streams());
    let mappings = GoingOn::of(&config.rules, &schema, begun)?.mappings;
    let checked = check::look(opened).await?;
    let tables: Vec<PlannedTable> = mappings.iter().map(planned).collect();
    let estimate = estimate(opened, &tables).await?;
    let goes_on = checkpoint.filter(|_| !checked.is_refused);
    Ok(Plan {
        pipeline: config.name.clone(),
        mode: config.mode.name().to_owned(),
        checkpoint: goes_on.map(|checkpoint| json!(checkpoint.position)),
        tables,
        findings: checked.findings.into_iter().filter_map(Found::of).collect(),
        creates: creates(opened, &schema, &mappings),
        not_carried: schema.not_carried,
        estimate: config.mode.loads().then_some(estimate),
        schedule: scheduled::data(config),
    })
}

pub(crate) async fn run(invocation: &Invocation, arguments: &PlanArgs) -> Outcome {
    let seen = Seen::open(invocation, &arguments.which)?;
    let plan = match &seen {
        Seen::Here(opened) => of(opened).await?,
        Seen::There(there) => {
            let said = serde_json::from_value(there.get("/plan").await?);
            said.map_err(|err| there.server.strange(&err))?
        }
    };
    let mut lines = vec![format!("{}   {}", plan.mode, plan.pipeline)];
    if let Some(position) = plan.checkpoint.as_ref().and_then(Value::as_str) {
        lines.push(format!(
            "The target has a checkpoint at {position}: a start goes on there, and what is loaded stays."
        ));
    }
    lines.extend(table_lines(&plan.tables, invocation));
    let (style, width) = (invocation.talk.out, invocation.talk.out_width());
    lines.extend(finding_lines(&plan.findings, style, width));
    lines.extend(not_carried_lines(&plan.not_carried, width));
    if let Some(estimate) = &plan.estimate {
        let text = estimate_text(estimate);
        lines.push(wrap::labelled("Estimated", &text, 0, 11, width));
    }
    lines.extend(scheduled::line_of(&plan.schedule, width));
    let creates = &plan.creates;
    lines.push(wrap::labelled("Creates", &creates.source, 0, 11, width));
    lines.push(wrap::labelled("", &creates.target, 0, 11, width));
    lines.push("Nothing was changed.".to_owned());

    let failed = plan.findings.iter();
    let failed = failed
        .filter(|found| found.verdict == Verdict::Failed)
        .count();
    let answer = Answer::new(lines.join("\n"), &plan);
    Ok(match failed {
        0 => answer,
        1 => answer.notice(format!(
            "1 check fails; what to do about it: tidemark check {}",
            seen.word()
        )),
        _ => answer.notice(format!(
            "{failed} checks fail; what to do about them: tidemark check {}",
            seen.word()
        )),
    })
}

impl Found {
    fn of(finding: Finding) -> Option<Found> {
        (finding.verdict >= Verdict::Note).then(|| Found {
            code: finding.code.to_string(),
            verdict: finding.verdict,
            side: finding.side,
            found: finding.found,
        })
    }
}

fn planned(mapping: &TableMapping) -> PlannedTable {
    let key = mapping
        .key
        .iter()
        .map(|at| mapping.columns[*at].target.clone())
        .collect();
    PlannedTable {
        source: mapping.source().to_string(),
        target: mapping.target.to_string(),
        rows_estimated: mapping.schema.rows,
        size_bytes: mapping.schema.bytes,
        key,
        notes: notes(mapping),
    }
}

/// Everything about a table that is not as plain as a copy.
fn notes(mapping: &TableMapping) -> Vec<String> {
    let schema = &mapping.schema;
    let mut notes = Vec::new();
    if schema.is_partitioned {
        notes.push("partitioned: leaves into the target's root".to_owned());
    }
    if schema.primary_key.is_empty() {
        notes.push(match schema.identity {
            ReplicaIdentity::Full => "no primary key, replica identity full".to_owned(),
            ReplicaIdentity::Key(_) => "no primary key, identified by a unique index".to_owned(),
            ReplicaIdentity::Nothing => {
                "no replica identity: the source refuses updates and deletes".to_owned()
            }
        });
    }
    let renamed: Vec<String> = mapping
        .columns
        .iter()
        .filter(|column| mapping.source_column(column) != column.target)
        .map(|column| format!("{} → {}", mapping.source_column(column), column.target))
        .collect();
    if !renamed.is_empty() {
        notes.push(format!("renamed: {}", renamed.join(", ")));
    }
    notes.extend(left_out(mapping));
    for column in &mapping.columns {
        notes.extend(column_note(mapping, column));
    }
    if mapping.filter.is_some() {
        notes.push("filtered: only some rows".to_owned());
    }
    notes
}

fn left_out(mapping: &TableMapping) -> Vec<String> {
    let (mut generated, mut dropped) = (Vec::new(), Vec::new());
    for column in &mapping.schema.columns {
        if mapping.target_column(&column.name).is_some() {
            continue;
        }
        match column.default {
            ColumnDefault::Generated(_) => generated.push(column.name.as_str()),
            _ => dropped.push(column.name.as_str()),
        }
    }
    let mut notes = Vec::new();
    if !generated.is_empty() {
        notes.push(format!("computed by the target: {}", generated.join(", ")));
    }
    if !dropped.is_empty() {
        notes.push(format!("left out: {}", dropped.join(", ")));
    }
    notes
}

fn column_note(mapping: &TableMapping, column: &ColumnMapping) -> Option<String> {
    let name = &column.target;
    if let Some(mask) = &column.mask {
        let how = match mask {
            Mask::Hash { .. } => "hash",
            Mask::Redact { .. } => "redact",
            Mask::Null => "null",
            Mask::Partial => "partial",
            Mask::Fixed { .. } => "fixed",
        };
        return Some(format!("{name} masked ({how})"));
    }
    let type_name = &mapping.schema.columns[column.source].type_name;
    match column.target_type {
        TargetType::Text => Some(format!("{name} {type_name} becomes text")),
        TargetType::AsSource => None,
    }
}

fn table_lines(tables: &[PlannedTable], invocation: &Invocation) -> Vec<String> {
    let mut shown = Table::new([
        (Column::Name, "TABLE"),
        (Column::Name, "→ TARGET"),
        (Column::Right, "ROWS"),
        (Column::Right, "SIZE"),
        (Column::Left, "KEY"),
        (Column::Text, "NOTES"),
    ]);
    for table in tables {
        let key = if table.key.is_empty() {
            "none".to_owned()
        } else {
            table.key.join(", ")
        };
        shown.row([
            table.source.as_str().into(),
            format!("→ {}", table.target).into(),
            table
                .rows_estimated
                .map_or_else(|| "unknown".to_owned(), grouped)
                .into(),
            bytes(table.size_bytes).into(),
            key.into(),
            table.notes.join("; ").into(),
        ]);
    }
    shown.lines(invocation.talk.out, invocation.talk.out_width())
}

fn finding_lines(findings: &[Found], style: Style, width: Option<usize>) -> Vec<String> {
    let line = |finding: &Found| {
        let (glyph, tone) = crate::output::style::of_verdict(finding.verdict);
        let text = format!("{} {}: {}", finding.code, finding.side, finding.found);
        let line = wrap::labelled(&glyph.to_string(), &text, 0, 2, width);
        match tone {
            Tone::Faint => line,
            _ => style.paint(tone, &line),
        }
    };
    findings.iter().map(line).collect()
}

/// By kind, with names as far as a line goes; never silent.
fn not_carried_lines(all: &[NotCarried], width: Option<usize>) -> Vec<String> {
    const NAMES_MAX: usize = 6;
    let mut by_kind: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for one in all {
        by_kind
            .entry((&one.kind, &one.note))
            .or_default()
            .push(&one.name);
    }
    by_kind
        .iter()
        .map(|((kind, note), names)| {
            let more = names.len().saturating_sub(NAMES_MAX);
            let mut shown = names[..names.len().min(NAMES_MAX)].join(", ");
            if more > 0 {
                put!(shown, " and {more} more");
            }
            let text = format!("{kind}: {shown} ({note})");
            wrap::labelled("Not carried", &text, 0, 13, width)
        })
        .collect()
}

async fn estimate(
    opened: &Opened,
    tables: &[PlannedTable],
) -> Result<Estimate, tidemark_core::Error> {
    let size: u64 = tables.iter().map(|table| table.size_bytes).sum();
    let (best, worst) = load_seconds(size);
    let mut growth = None;
    if opened.config.mode.streams() {
        let before = opened.source.head().await?;
        tokio::time::sleep(Duration::from_millis(LOG_WATCHED_MS)).await;
        let after = opened.source.head().await?;
        let grown = after.bytes_since(before);
        growth = grown.map(|grown| grown * 1_000 / LOG_WATCHED_MS);
    }
    Ok(Estimate {
        load_seconds_best: best,
        load_seconds_worst: worst,
        log_bytes_per_second: growth,
        log_bytes_during_load: growth.map(|growth| growth * worst),
    })
}

/// How long so many bytes take to load, at best and at worst.
pub(crate) fn load_seconds(size_bytes: u64) -> (u64, u64) {
    let best = size_bytes.div_ceil(BYTES_PER_SECOND_BEST).max(1);
    (
        best,
        size_bytes.div_ceil(BYTES_PER_SECOND_WORST).max(best + 1),
    )
}

fn estimate_text(estimate: &Estimate) -> String {
    let time = |seconds| about(Duration::from_secs(seconds));
    let mut text = format!(
        "load {} to {}, at {} to {} a second",
        time(estimate.load_seconds_best),
        time(estimate.load_seconds_worst),
        bytes(BYTES_PER_SECOND_WORST),
        bytes(BYTES_PER_SECOND_BEST),
    );
    match estimate.log_bytes_during_load {
        None => {}
        Some(0) => text.push_str(" · nothing is written on the source now"),
        Some(log) => put!(
            text,
            " · log kept on the source meanwhile up to {}, as it grows now",
            bytes(log)
        ),
    }
    text
}

/// What a start makes on either side.
#[derive(Debug, Serialize, Deserialize)]
struct Creates {
    source: String,
    target: String,
}

fn creates(opened: &Opened, schema: &SourceSchema, mappings: &[TableMapping]) -> Creates {
    let config = &opened.config;
    let postgres = &config.source.postgres;
    let source = match (config.mode.streams(), postgres.create) {
        (false, _) => "on the source: nothing".to_owned(),
        (true, tidemark_core::config::Create::Never) => format!(
            "on the source: nothing; publication \"{}\" and slot \"{}\" must be there",
            postgres.publication, postgres.slot
        ),
        (true, tidemark_core::config::Create::IfMissing) => format!(
            "on the source: publication \"{}\" and slot \"{}\", where they are missing",
            postgres.publication, postgres.slot
        ),
    };
    let mut made = vec!["schema \"tidemark\" (checkpoints)".to_owned()];
    if config.target.create_tables {
        made.push(format!(
            "{} where they are missing",
            counted(mappings.len() as u64, "table")
        ));
        for (kind, name) in [
            (ObjectKind::Extension, "extension"),
            (ObjectKind::Enum, "enum type"),
            (ObjectKind::Domain, "domain"),
            (ObjectKind::Composite, "composite type"),
            (ObjectKind::Range, "range type"),
            (ObjectKind::Sequence, "sequence"),
        ] {
            match schema
                .objects
                .iter()
                .filter(|object| object.kind == kind)
                .count()
            {
                0 => {}
                count => made.push(counted(count as u64, name)),
            }
        }
    }
    Creates {
        source,
        target: format!("on the target: {}", made.join(", ")),
    }
}
