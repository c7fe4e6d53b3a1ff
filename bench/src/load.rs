//! Full loads: raw pipes (the limit), what a user would take instead, and Tidemark.
//!
//! Every contestant gets an empty database and the primary keys count for all. The raw pipes are two
//! workers with one list of pieces, the largest table in two halves; then two workers make the keys.
//! Nothing that copies through a client can be faster than that by much.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tidemark_lab::wait::wait_until;

use crate::data::Tables;
use crate::meter::{Cost, Meter, wait_and_watch};
use crate::pipeline_file::PipelineFile;
use crate::report::{Contest, Contestant};
use crate::settings::{Peers, Settings};
use crate::stage::{Database, Stage, complete, last_lines, pipe, program, version_of};

const SOURCE: &str = "load_source";
const TARGET: &str = "load_target";

/// Whether everybody takes part or only the raw pipes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Against {
    Everybody,
    RawPipes,
}

/// Measures one set of tables.
pub(crate) async fn measure(
    stage: &Stage,
    settings: &Settings,
    tables: &Tables,
    against: Against,
) -> Result<Contest> {
    let (source, target) = (stage.on_source(SOURCE), stage.on_target(TARGET));
    tables.fill(&source, settings).await?;
    let mut contest = Contest::new(tables.name);
    let mut taking_part = vec![Contestant::RawPipes];
    if against == Against::Everybody {
        taking_part.extend([Contestant::PgDump, Contestant::Pgcopydb, Contestant::Native]);
    }
    if settings.peers == Peers::LeftOut {
        taking_part.clear();
    }
    taking_part.push(Contestant::Tidemark);
    if taking_part.contains(&Contestant::Pgcopydb) && version_of("pgcopydb").is_none() {
        contest.leave_out(Contestant::Pgcopydb, "it is not on this machine");
        taking_part.retain(|c| *c != Contestant::Pgcopydb);
    }
    for _ in 0..settings.runs {
        for contestant in &taking_part {
            if contest.is_left_out(*contestant) {
                continue;
            }
            target.make(None).await?;
            stage.settle().await?;
            let ran = match contestant {
                Contestant::RawPipes => raw_pipes(stage, tables, &source, &target).await,
                Contestant::PgDump => pg_dump(stage, &source, &target),
                Contestant::Pgcopydb => pgcopydb(stage, &source, &target),
                Contestant::Native => native(stage, &source, &target).await,
                _ => tidemark(stage, &source, &target),
            };
            let ran = match ran {
                Ok(cost) => same_rows(tables, &source, &target).await.map(|()| cost),
                Err(error) => Err(error),
            };
            contest.add(*contestant, ran);
            remove_subscription(&target).await?;
        }
    }
    target.drop().await?;
    source.drop().await?;
    Ok(contest)
}

async fn raw_pipes(
    stage: &Stage,
    tables: &Tables,
    source: &Database<'_>,
    target: &Database<'_>,
) -> Result<Cost> {
    let mut pieces = Vec::new();
    for (table, _) in tables.keys {
        if !tables.halved.contains(table) {
            pieces.push((*table, format!("COPY {table} TO STDOUT (FORMAT binary)")));
            continue;
        }
        let pages = format!("pg_relation_size('{table}') / current_setting('block_size')::int");
        let half = source.value(&pages).await?.parse::<u64>()? / 2;
        for side in ["<", ">="] {
            let rows = format!("SELECT * FROM {table} WHERE ctid {side} '({half},0)'::tid");
            pieces.push((*table, format!("COPY ({rows}) TO STDOUT (FORMAT binary)")));
        }
    }
    let meter = Meter::start(stage);
    target.execute(tables.create).await?;
    two_workers(pieces, |(table, read)| {
        let write = format!("COPY {table} FROM STDIN (FORMAT binary)");
        pipe(&mut source.psql(&read), &mut target.psql(&write))
    })?;
    let keys = tables.keys.iter().map(|(table, _)| tables.key_of(table));
    two_workers(keys.collect(), |sql: String| {
        let status = target.psql(&sql).status()?;
        if status.success() {
            Ok(())
        } else {
            bail!("{sql}: {status}")
        }
    })?;
    Ok(meter.read(0))
}

/// Takes one list of work down with two threads.
fn two_workers<T: Send>(work: Vec<T>, each: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let list = Mutex::new(VecDeque::from(work));
    let next = || {
        list.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let worker = || -> Result<()> {
        while let Some(item) = next() {
            each(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })
}

fn pg_dump(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    let mut dump = program("pg_dump");
    dump.args(["-d", &source.url()]);
    let mut restore = program("psql");
    restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &target.url()]);
    let meter = Meter::start(stage);
    pipe(&mut dump, &mut restore)?;
    Ok(meter.read(0))
}

fn pgcopydb(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    let directory = stage.file("pgcopydb");
    let mut command = program("pgcopydb");
    command
        .arg("clone")
        .args(["--source", &source.url(), "--target", &target.url()]);
    command
        .args(["--table-jobs", "2", "--index-jobs", "2", "--dir"])
        .arg(&directory);
    let meter = Meter::start(stage);
    let peak = complete(&mut command, &stage.file("pgcopydb.log"))?;
    let cost = meter.read(peak);
    std::fs::remove_dir_all(&directory).context("remove what pgcopydb leaves")?;
    Ok(cost)
}

/// A user copies the schema, keys included, since a subscription needs the tables.
async fn native(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    source
        .execute(
            "DROP PUBLICATION IF EXISTS bench_load; CREATE PUBLICATION bench_load FOR ALL TABLES",
        )
        .await?;
    let meter = Meter::start(stage);
    copy_schema(source, target)?;
    let sql = format!(
        "CREATE SUBSCRIPTION bench_load CONNECTION '{}' PUBLICATION bench_load",
        source.conninfo()
    );
    target.execute(&sql).await?;
    let ready = "SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel";
    wait_until(Duration::from_mins(30), "the initial copy", || async {
        Ok(target.value(ready).await? == "true")
    })
    .await?;
    Ok(meter.read(0))
}

/// Tables, keys and the rest, no rows.
pub(crate) fn copy_schema(source: &Database<'_>, target: &Database<'_>) -> Result<()> {
    let mut dump = program("pg_dump");
    dump.args(["--schema-only", "--no-publications", "-d", &source.url()]);
    let mut restore = program("psql");
    restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &target.url()]);
    pipe(&mut dump, &mut restore)
}

/// Removes the target's subscriptions with their slots, so that the database can be dropped.
pub(crate) async fn remove_subscription(target: &Database<'_>) -> Result<()> {
    let client = target.server.client_to(target.name).await?;
    let names = "SELECT subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid \
                 WHERE datname = current_database()";
    for row in client.query(names, &[]).await? {
        let name: String = row.get(0);
        // Not in one string: DROP SUBSCRIPTION that drops a slot must be alone.
        for sql in [
            format!("ALTER SUBSCRIPTION {name} DISABLE"),
            format!("DROP SUBSCRIPTION {name}"),
        ] {
            client.batch_execute(&sql).await?;
        }
    }
    Ok(())
}

fn tidemark(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    let file = PipelineFile {
        name: "bench_load",
        mode: "full_load_only",
        source,
        target,
    };
    let path = file.write(stage)?;
    let meter = Meter::start(stage);
    let peak = run_tidemark(stage, &path, &[])?;
    Ok(meter.read(peak))
}

/// `tidemark run FILE`, to its end.
pub(crate) fn run_tidemark(stage: &Stage, file: &Path, more: &[&str]) -> Result<u64> {
    complete(
        &mut tidemark_run(stage, file, more),
        &stage.file("tidemark.log"),
    )
}

/// The command of a run; what it logs goes where its starter says.
pub(crate) fn tidemark_run(stage: &Stage, file: &Path, more: &[&str]) -> Command {
    let mut command = program(&stage.tidemark);
    command.arg("run").arg(file).args(more).arg("--no-progress");
    command
}

/// Asks a run to end in order and waits for it.
pub(crate) fn stop_tidemark(child: &mut Child) -> Result<(ExitStatus, u64)> {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed())
        && child.try_wait()?.is_none()
    {
        kill_process(pid, Signal::TERM).context("stop tidemark")?;
    }
    wait_and_watch(child)
}

/// What Tidemark last said, for an error.
pub(crate) fn tidemark_said(stage: &Stage) -> String {
    last_lines(&stage.file("tidemark.log"))
}

async fn same_rows(tables: &Tables, source: &Database<'_>, target: &Database<'_>) -> Result<()> {
    for (table, _) in tables.keys {
        let count = format!("SELECT count(*) FROM {table}");
        let (here, there) = (source.value(&count).await?, target.value(&count).await?);
        if here != there {
            bail!("{table} has {there} rows, not {here}");
        }
        let key = format!(
            "SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass AND indisprimary"
        );
        if target.value(&key).await? != "1" {
            bail!("{table} has no primary key");
        }
    }
    Ok(())
}
