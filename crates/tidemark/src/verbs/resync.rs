//! `resync NAME --table T`: copy tables anew while the others stream. Shows the effect first.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::json;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{Checkpoint, TableState};
use tidemark_core::control::{Command, ResyncStrategy};
use tidemark_core::failpoint;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;

use crate::invocation::Invocation;
use crate::output::numbers::{about, bytes, counted, duration, grouped};
use crate::output::waiting::during;
use crate::output::{Answer, Outcome};
use crate::pipeline_file::{Opened, Which};
use crate::problem::Failure;
use crate::verbs::control::{answered, ask, no_table, parse_table};
use crate::verbs::plan::load_seconds;

#[derive(Args, Clone, Debug)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    which: Which,
    /// A table of the source, as schema.table (may be repeated); without it all of them
    #[arg(long = "table", value_name = "TABLE", value_parser = parse_table)]
    tables: Vec<TableName>,
    /// Load beside the old table and switch, or empty the old table first
    #[arg(long, value_enum, default_value = "swap")]
    strategy: Strategy,
    /// Return as soon as the pipeline has agreed
    #[arg(long)]
    no_wait: bool,
}

/// How a table is copied anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strategy {
    Swap,
    Truncate,
}

/// How often the tables are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(invocation: &Invocation, arguments: &ResyncArgs) -> Outcome {
    let opened = Opened::open(invocation, &arguments.which)?;
    let tables = chosen(&opened, &arguments.tables).await?;
    let checkpoint = opened.target.checkpoint().await?;
    let is_still = opened.target.control().await?.owner().await?.is_none();
    if is_still && checkpoint.is_some() && arguments.tables.is_empty() {
        return anew(invocation, &opened, &tables).await;
    }
    let word = match tables.as_slice() {
        [only] => only.source().to_string(),
        _ => opened.name().to_owned(),
    };
    let effect = effect(&opened, &tables, arguments.strategy, checkpoint.as_ref());
    let what = if tables.len() == 1 {
        "table"
    } else {
        "pipeline's"
    };
    let prompt = format!("Type the {what} name to continue:");
    invocation.talk.confirm(&effect, &prompt, &word)?;
    let began = Instant::now();
    let names: Vec<TableName> = tables.iter().map(|table| table.source().clone()).collect();
    let command = Command::Resync {
        tables: names.clone(),
        strategy: match arguments.strategy {
            Strategy::Swap => ResyncStrategy::Swap,
            Strategy::Truncate => ResyncStrategy::Truncate,
        },
    };
    let agreed = ask(&opened, &command).await?;
    let agreed = answered(&opened, &agreed)?;
    if arguments.no_wait {
        return Ok(agreed);
    }
    let rows = during(&invocation.talk, "copying", wait(&opened, &names)).await?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let text = format!(
        "✓ resynced {} in {}: {}",
        names.join(", "),
        duration(began.elapsed()),
        counted(rows, "row")
    );
    let data = json!({
        "pipeline": opened.name(), "tables": names, "rows": rows,
        "seconds": began.elapsed().as_secs_f64(),
    });
    Ok(Answer::new(text, data))
}

/// Nobody runs it, and perhaps nobody can: a slot that is gone keeps the next run from going on. The
/// checkpoint is forgotten, so that the next run begins from the beginning.
async fn anew(invocation: &Invocation, opened: &Opened, tables: &[TableMapping]) -> Outcome {
    let (name, word) = (opened.name(), opened.word());
    let size: u64 = tables.iter().map(|table| table.schema.bytes).sum();
    let next = format!("tidemark run {word} --set target.existing=truncate");
    let effect = format!(
        "Resync of {name}, which nobody runs now: {}, {} on the source\n  \
         its checkpoint on the target is forgotten; the rows stay until the next run\n  \
         that run makes a new slot, empties the tables and copies them: {next}",
        counted(tables.len() as u64, "table"),
        bytes(size),
    );
    let prompt = "Type the pipeline's name to continue:";
    invocation.talk.confirm(&effect, prompt, name)?;
    // Whoever starts it at this moment has it, or comes after us.
    opened.target.acquire(&super::run::owner()).await?;
    opened.target.forget().await?;
    failpoint::reached(failpoint::FORGOTTEN);
    let text = format!("✓ the checkpoint of {name} is forgotten; nothing is copied yet");
    let data = json!({ "pipeline": name, "answer": text });
    Ok(Answer::new(text, data).notice(format!("copy the tables anew: {next}")))
}

async fn chosen(opened: &Opened, wanted: &[TableName]) -> Result<Vec<TableMapping>, Failure> {
    let schema = opened
        .source
        .describe(opened.config.rules.selection())
        .await?;
    let mut tables = opened.config.rules.map(&schema)?;
    let unknown = wanted
        .iter()
        .find(|name| !tables.iter().any(|table| table.source() == *name));
    if let Some(name) = unknown {
        let known = tables.iter().map(TableMapping::source);
        return Err(no_table(opened, name, known).into());
    }
    tables.retain(|table| wanted.is_empty() || wanted.contains(table.source()));
    Ok(tables)
}

/// What will happen, with objects, rows, minutes and who will notice.
fn effect(
    opened: &Opened,
    tables: &[TableMapping],
    strategy: Strategy,
    checkpoint: Option<&Checkpoint>,
) -> String {
    const SHOWN_MAX: usize = 12;
    let count = tables.len();
    let mut lines = vec![match tables {
        [only] => format!("Resync of 1 table: {} → {}", only.source(), only.target),
        _ => format!("Resync of {count} tables of {}:", opened.name()),
    }];
    for table in tables.iter().take(SHOWN_MAX) {
        let on_source = table.schema.rows.map_or("unknown".to_owned(), grouped);
        let loaded = checkpoint
            .and_then(|checkpoint| {
                checkpoint
                    .tables
                    .iter()
                    .find(|t| t.source == *table.source())
            })
            .map(|table| table.units.iter().map(|unit| unit.rows).sum());
        let loaded = loaded.map_or("unknown".to_owned(), grouped);
        let name = if count == 1 {
            "rows now".to_owned()
        } else {
            table.source().to_string()
        };
        lines.push(format!(
            "  {name:<12} source about {on_source} · loaded last time {loaded}"
        ));
    }
    if count > SHOWN_MAX {
        lines.push(format!("  … and {} more", count - SHOWN_MAX));
    }
    let size: u64 = tables.iter().map(|table| table.schema.bytes).sum();
    let (best, worst) = load_seconds(size);
    let time = |seconds| about(Duration::from_secs(seconds));
    match strategy {
        Strategy::Swap => {
            lines.push(
                "  strategy     swap: load beside the old table, then switch. Readers see the old \
                 rows until then."
                    .to_owned(),
            );
            lines.push(format!("  takes        {} to {}", time(best), time(worst)));
            lines.push(format!(
                "  needs        about {} free on the target",
                bytes(size)
            ));
        }
        Strategy::Truncate => {
            lines.push(
                "  strategy     truncate: the old rows go first. Readers see an empty, then a \
                 growing table."
                    .to_owned(),
            );
            lines.push(format!("  takes        {} to {}", time(best), time(worst)));
        }
    }
    lines.push("  other tables keep streaming; the position does not move back".to_owned());
    lines.join("\n")
}

/// Until all of them stream again, or one was set aside. Rows that were copied.
pub(crate) async fn wait(opened: &Opened, tables: &[TableName]) -> Result<u64, Failure> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(checkpoint) = opened.target.checkpoint().await? else {
            continue;
        };
        let ours: Vec<_> = checkpoint
            .tables
            .iter()
            .filter(|table| tables.contains(&table.source))
            .collect();
        if let Some(aside) = ours
            .iter()
            .find(|table| matches!(table.state, TableState::Quarantined | TableState::Unloaded))
        {
            let reason = aside
                .reason
                .clone()
                .unwrap_or_else(|| "no reason recorded".to_owned());
            let code = reason
                .split(':')
                .next()
                .and_then(tidemark_core::catalogue::Code::parse);
            return Err(Error::data(code.unwrap_or(codes::CLI_REFUSED), reason)
                .table(aside.source.to_string())
                .into());
        }
        if ours
            .iter()
            .all(|table| table.state != TableState::Resyncing)
        {
            return Ok(ours
                .iter()
                .flat_map(|table| &table.units)
                .map(|unit| unit.rows)
                .sum());
        }
        if opened.target.control().await?.owner().await?.is_none() {
            return Err(Error::definite(
                codes::CLI_NOT_RUNNING,
                format!(
                    "{} has stopped; its next run begins again with this",
                    opened.name()
                ),
            )
            .into());
        }
    }
}
