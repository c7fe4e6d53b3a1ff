//! Comparisons: both sides of a copy read and compared, and a gap bridged by what differs.
//!
//! The copy is made once, by way of a proxy that counts what the source sends. Beside `tidemark
//! verify` stand the least that any comparison must do, a scan of every table on both sides at once,
//! and what people do by hand, a checksum over the dumps of both sides. Then the slot is lost, one row
//! in a thousand of every large table changes, and `tidemark reconcile` bridges the gap.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidemark_lab::proxy::Proxy;
use tidemark_lab::wait::wait_until;

use crate::data::TPCH;
use crate::load::{run_tidemark, stop_tidemark, tidemark_run};
use crate::meter::{Cost, Meter};
use crate::pipeline_file::PipelineFile;
use crate::report::{Contest, Contestant};
use crate::settings::{Peers, Settings};
use crate::stage::{Database, Stage, begin, complete, last_lines, pipe, program};

const SOURCE: &str = "compare_source";
const TARGET: &str = "compare_target";
const TEN_MINUTES: Duration = Duration::from_mins(10);
const NAME: &str = "bench_compare";

/// Tables whose rows change during the gap, with a column and a number of which one in a thousand is
/// taken.
const CHANGED: [(&str, &str, &str); 4] = [
    ("lineitem", "l_quantity", "l_orderkey"),
    ("orders", "o_totalprice", "o_orderkey"),
    ("partsupp", "ps_availqty", "ps_partkey"),
    ("customer", "c_acctbal", "c_custkey"),
];

/// Measures the comparison, then the gap.
pub(crate) async fn measure(stage: &Stage, settings: &Settings) -> Result<[Contest; 2]> {
    let (source, target) = (stage.on_source(SOURCE), stage.on_target(TARGET));
    TPCH.fill(&source, settings).await?;
    target.make(None).await?;
    let proxy = Proxy::start(stage.source.port()).await?;
    let file = PipelineFile {
        name: NAME,
        mode: "full_load_and_cdc",
        source: &source,
        target: &target,
    };
    let path = file.write_through(stage, proxy.address())?;

    let mut gap = Contest::new("reconcile");
    let load = counted(stage, &proxy, || {
        run_tidemark(stage, &path, &["--until", "caught-up"])
    })?;
    gap.add(Contestant::FullLoad, Ok(load));
    let mut comparison = Contest::new("verify");
    let mut run = begin(&mut tidemark_run(stage, &path, &[]), &stage.file("run.log"))?;
    let streams = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = '{}'",
        file.slot()
    );
    wait_until(TEN_MINUTES, "the stream", || async {
        Ok(source.value(&streams).await? == "1")
    })
    .await?;
    for _ in 0..settings.runs {
        if settings.peers == Peers::Measured {
            comparison.add(Contestant::Scan, scan(stage, &source, &target));
            comparison.add(Contestant::DumpMd5, dump_md5(stage, &source, &target));
        }
        let meter = Meter::start(stage);
        let verified = tidemark(stage, &["verify"], &path);
        comparison.add(Contestant::Tidemark, verified.map(|peak| meter.read(peak)));
    }
    let (ended, _) = stop_tidemark(&mut run)?;
    if !ended.success() {
        bail!(
            "the run ended with {ended}: {}",
            last_lines(&stage.file("run.log"))
        );
    }
    for round in 0..settings.runs {
        open_a_gap(&source, &file.slot(), round).await?;
        stage.settle().await?;
        let reconciled = counted(stage, &proxy, || {
            tidemark(stage, &["reconcile", "--yes"], &path)
        });
        gap.add(Contestant::Tidemark, reconciled);
    }
    // What has been reconciled is identical, or the figures are of no use.
    run_tidemark(stage, &path, &["--until", "verified"]).context("after reconcile")?;
    target.drop().await?;
    source.drop().await?;
    Ok([comparison, gap])
}

/// Runs something that tells its peak memory, and counts what the source sends meanwhile.
fn counted(stage: &Stage, proxy: &Proxy, run: impl FnOnce() -> Result<u64>) -> Result<Cost> {
    let before = proxy.counters().to_client_bytes;
    let meter = Meter::start(stage);
    let peak = run()?;
    let mut cost = meter.read(peak);
    cost.from_source_bytes = proxy.counters().to_client_bytes - before;
    Ok(cost)
}

fn tidemark(stage: &Stage, verb: &[&str], file: &Path) -> Result<u64> {
    let mut command = program(&stage.tidemark);
    command.args(verb).arg(file).arg("--no-progress");
    complete(&mut command, &stage.file("tidemark.log"))
}

/// Every row of every table is visited, on both sides at once.
fn scan(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    let counts = TPCH
        .keys
        .iter()
        .map(|(table, _)| format!("SELECT count(*) FROM {table};"));
    let counts: String = counts.collect();
    let meter = Meter::start(stage);
    on_both(source, target, |side| {
        complete(
            &mut side.psql(&counts),
            &stage.file(&format!("{}.log", side.name)),
        )
    })?;
    Ok(meter.read(0))
}

/// `pg_dump | md5sum`, on both sides at once.
fn dump_md5(stage: &Stage, source: &Database<'_>, target: &Database<'_>) -> Result<Cost> {
    let meter = Meter::start(stage);
    on_both(source, target, |side| {
        let mut dump = program("pg_dump");
        dump.args(["--data-only", "--schema=public", "-d", &side.url()]);
        pipe(&mut dump, &mut Command::new("md5sum"))
    })?;
    Ok(meter.read(0))
}

fn on_both<T: Send>(
    source: &Database<'_>,
    target: &Database<'_>,
    each: impl Fn(&Database<'_>) -> Result<T> + Sync,
) -> Result<()> {
    let each = &each;
    std::thread::scope(|scope| {
        let sides = [source, target].map(|side| scope.spawn(move || each(side)));
        for side in sides {
            side.join()
                .map_err(|_| anyhow::anyhow!("a side panicked"))??;
        }
        Ok(())
    })
}

/// The slot is lost, and one row in a thousand changes without it.
async fn open_a_gap(source: &Database<'_>, slot: &str, round: usize) -> Result<()> {
    let dropped = source
        .value(&format!(
            "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots \
             WHERE slot_name = '{slot}'"
        ))
        .await?;
    if dropped != "1" {
        bail!("there is no slot {slot} to lose");
    }
    for (table, column, key) in CHANGED {
        let sql =
            format!("UPDATE {table} SET {column} = {column} + 1 WHERE {key} % 1000 = {round}");
        source.execute(&sql).await?;
    }
    Ok(())
}
