//! Latency: from a commit on the source to the row being visible on the target.
//!
//! A writer commits one row every millisecond; the row carries `clock_timestamp()` of the source,
//! taken just before its commit. A reader asks the target for rows that it has not seen, pauses 300
//! microseconds, and asks again; it notes the time of each answer. Both servers and both clients
//! read the clock of this machine. The reader's rhythm is in the figures of both contestants alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tidemark_lab::wait::wait_until;
use tokio_postgres::{Config, NoTls};

use crate::load::{copy_schema, remove_subscription, stop_tidemark, tidemark_run, tidemark_said};
use crate::meter::{Cost, Meter};
use crate::pipeline_file::PipelineFile;
use crate::report::{Contest, Contestant, Latency};
use crate::settings::{Peers, Settings};
use crate::stage::{Database, Stage, begin};

const SOURCE: &str = "latency_source";
const TARGET: &str = "latency_target";
const PER_SECOND: u64 = 1_000;
/// Rows with which a stream warms up; their latency does not count.
const WARM_UP: i64 = 1_000;
const PATIENCE: Duration = Duration::from_mins(1);

/// Measures both contestants in turn.
pub(crate) async fn measure(stage: &Stage, settings: &Settings) -> Result<Contest> {
    let mut contest = Contest::new("latency");
    for _ in 0..settings.runs {
        if settings.peers == Peers::Measured {
            contest.add(Contestant::Native, native(stage, settings).await);
            remove_subscription(&stage.on_target(TARGET)).await?;
        }
        contest.add(Contestant::Tidemark, tidemark(stage, settings).await);
    }
    stage.on_target(TARGET).drop().await?;
    stage.on_source(SOURCE).drop().await?;
    Ok(contest)
}

async fn prepare(stage: &Stage) -> Result<()> {
    let source = stage.on_source(SOURCE);
    source.make(None).await?;
    source
        .execute("CREATE TABLE tick (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")
        .await?;
    stage.on_target(TARGET).make(None).await?;
    stage.settle().await
}

async fn native(stage: &Stage, settings: &Settings) -> Result<Cost> {
    prepare(stage).await?;
    let (source, target) = (stage.on_source(SOURCE), stage.on_target(TARGET));
    copy_schema(&source, &target)?;
    source
        .execute("CREATE PUBLICATION bench_latency FOR ALL TABLES")
        .await?;
    let sql = format!(
        "CREATE SUBSCRIPTION bench_latency CONNECTION '{}' PUBLICATION bench_latency",
        source.conninfo()
    );
    target.execute(&sql).await?;
    let meter = Meter::start(stage);
    let latency = tick(&source, &target, settings).await?;
    Ok(Cost {
        latency: Some(latency),
        ..meter.read(0)
    })
}

async fn tidemark(stage: &Stage, settings: &Settings) -> Result<Cost> {
    prepare(stage).await?;
    let (source, target) = (stage.on_source(SOURCE), stage.on_target(TARGET));
    let file = PipelineFile {
        name: "bench_latency",
        mode: "full_load_and_cdc",
        source: &source,
        target: &target,
    };
    let path = file.write(stage)?;
    let meter = Meter::start(stage);
    let mut child = begin(
        &mut tidemark_run(stage, &path, &[]),
        &stage.file("tidemark.log"),
    )?;
    let there = "SELECT to_regclass('public.tick') IS NOT NULL";
    let began = wait_until(PATIENCE, "Tidemark to make the table", || {
        let has_ended = matches!(child.try_wait(), Ok(Some(_)));
        async move { Ok(has_ended || target.value(there).await? == "true") }
    })
    .await;
    let began = match child.try_wait()? {
        Some(status) => Err(anyhow::anyhow!("tidemark ended with {status}")),
        None => began,
    };
    let latency = match began {
        Ok(()) => tick(&source, &target, settings).await,
        Err(error) => Err(error),
    };
    let (_, peak) = stop_tidemark(&mut child)?;
    let latency = latency.with_context(|| format!("Tidemark said: {}", tidemark_said(stage)))?;
    Ok(Cost {
        latency: Some(latency),
        ..meter.read(peak)
    })
}

/// Writes, watches, and puts the two together.
async fn tick(
    source: &Database<'_>,
    target: &Database<'_>,
    settings: &Settings,
) -> Result<Latency> {
    let seconds = settings.scaled(60).max(3);
    let last = i64::try_from(seconds * PER_SECOND)? + WARM_UP;
    let config = target.server.config_to(target.name);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || watch(&config, last, &stopped));
    let written = write(source, target, last).await;
    let give_up = if written.is_ok() {
        PATIENCE
    } else {
        Duration::ZERO
    };
    let ended = wait_until(give_up, "the last row", || async {
        Ok(reader.is_finished())
    })
    .await;
    stop.store(true, Ordering::Release);
    let seen = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    written?;
    ended?;
    let stamps = stamps(source).await?;
    let mut micros: Vec<i64> = stamps
        .iter()
        .filter(|(id, _)| *id > WARM_UP)
        .filter_map(|(id, at)| Some(seen.get(id)? - at))
        .collect();
    if micros.len() as u64 != seconds * PER_SECOND {
        bail!(
            "{} rows of {} were seen",
            micros.len(),
            seconds * PER_SECOND
        );
    }
    micros.sort_unstable();
    let at = |share: usize| micros[(micros.len() - 1) * share / 100] as f64 / 1000.0;
    Ok(Latency {
        p50_ms: at(50),
        p99_ms: at(99),
        worst_ms: at(100),
    })
}

/// One row every millisecond by the clock, so that a slow commit is followed by faster ones.
async fn write(source: &Database<'_>, target: &Database<'_>, last: i64) -> Result<()> {
    let client = source.server.client_to(source.name).await?;
    let insert = client.prepare("INSERT INTO tick (id) VALUES ($1)").await?;
    // The first row tells that the stream runs.
    client.execute(&insert, &[&1_i64]).await?;
    let first = "SELECT count(*) FROM tick";
    wait_until(PATIENCE, "the first row", || async {
        Ok(target.value(first).await? == "1")
    })
    .await?;
    let began = tokio::time::Instant::now();
    for id in 2..=last {
        let after = Duration::from_secs_f64((id - 2) as f64 / PER_SECOND as f64);
        tokio::time::sleep_until(began + after).await;
        client.execute(&insert, &[&id]).await?;
    }
    Ok(())
}

/// Notes when each row is first seen, in microseconds since 1970.
fn watch(config: &Config, last: i64, stop: &AtomicBool) -> Result<HashMap<i64, i64>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        client
            .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            .await?;
        let query = "SELECT id FROM tick WHERE id > $1 ORDER BY id LIMIT 10000";
        let query = client.prepare(query).await?;
        let mut seen = HashMap::new();
        let mut newest = 0_i64;
        while newest < last && !stop.load(Ordering::Acquire) {
            let rows = client.query(&query, &[&newest]).await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
            let now = i64::try_from(now)?;
            for row in rows {
                newest = row.get(0);
                seen.insert(newest, now);
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        drop(client);
        connection.await??;
        Ok(seen)
    })
}

/// When each row was written, in microseconds since 1970.
async fn stamps(source: &Database<'_>) -> Result<Vec<(i64, i64)>> {
    let client = source.server.client_to(source.name).await?;
    let query = "SELECT id, (extract(epoch FROM at) * 1000000)::bigint FROM tick";
    let rows = client.query(query, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
