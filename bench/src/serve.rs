//! What a server costs the line a row travels: the same backlog by `tidemark run`, by `tidemark serve`, and
//! by a server that many pages look at, in turn.
//!
//! A backlog is made while the program is frozen, its stream open, so that no start is in the figures. It
//! is thawed, and is done when the target shows the last transaction. Ratios are of runs that followed
//! each other.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tidemark_lab::wait::wait_until;

use crate::load::{stop_tidemark, tidemark_run, tidemark_said};
use crate::meter::{Cost, Meter, peak_rss_bytes};
use crate::pipeline_file::PipelineFile;
use crate::report::{Contest, Contestant};
use crate::served::Served;
use crate::settings::Settings;
use crate::stage::{Database, Stage, begin};

const NAME: &str = "bench_serve";
const PATIENCE: Duration = Duration::from_mins(10);
/// Pages that look on.
const PAGES: usize = 200;

const TABLES: &str = "CREATE TABLE entry (id bigint PRIMARY KEY, customer integer NOT NULL,
    amount numeric(12,2) NOT NULL, note text NOT NULL, at timestamptz NOT NULL);
  CREATE TABLE bench_marker (id integer PRIMARY KEY, n integer NOT NULL);
  INSERT INTO bench_marker VALUES (1, 0)";
const DIGEST: &str = "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM entry t";

/// Measures all three in turn.
pub(crate) async fn measure(stage: &Stage, settings: &Settings) -> Result<Contest> {
    let mut contest = Contest::new("serve");
    let drain = Drain {
        stage,
        settings,
        source: stage.on_source(NAME),
        target: stage.on_target(NAME),
    };
    for _ in 0..settings.runs {
        contest.add(Contestant::CommandLine, drain.command_line().await);
        contest.add(Contestant::Tidemark, drain.served(0).await);
        contest.add(Contestant::Watched, drain.served(PAGES).await);
    }
    drain.source.drop().await?;
    drain.target.drop().await?;
    Ok(contest)
}

struct Drain<'a> {
    stage: &'a Stage,
    settings: &'a Settings,
    source: Database<'a>,
    target: Database<'a>,
}

impl Drain<'_> {
    async fn prepare(&self) -> Result<()> {
        self.source.make(None).await?;
        self.target.make(None).await?;
        self.source.execute(TABLES).await
    }

    async fn command_line(&self) -> Result<Cost> {
        self.prepare().await?;
        let file = PipelineFile {
            name: NAME,
            mode: "full_load_and_cdc",
            source: &self.source,
            target: &self.target,
        };
        let path = file.write(self.stage)?;
        let log = self.stage.file("tidemark.log");
        let mut child = begin(&mut tidemark_run(self.stage, &path, &[]), &log)?;
        let drained = async {
            self.streams(&log, &mut child).await?;
            self.drained(child.id()).await
        };
        let drained = drained.await;
        stop_tidemark(&mut child)?;
        drained.with_context(|| format!("Tidemark said: {}", tidemark_said(self.stage)))
    }

    /// Until it says so.
    async fn streams(&self, log: &Path, child: &mut Child) -> Result<()> {
        wait_until(PATIENCE, "the run to stream", || {
            let has_ended = matches!(child.try_wait(), Ok(Some(_)));
            async move {
                let said = std::fs::read_to_string(log)?;
                Ok(has_ended || said.contains("state streaming"))
            }
        })
        .await?;
        match child.try_wait()? {
            Some(status) => bail!("tidemark ended with {status}"),
            None => Ok(()),
        }
    }

    async fn served(&self, pages: usize) -> Result<Cost> {
        self.prepare().await?;
        let served = Served::start(self.stage).await?;
        let sides = [&self.source, &self.target];
        served
            .begin(NAME, "full_load_and_cdc", sides, "public")
            .await?;
        served.all_are(&["streaming"], 1).await?;
        let watching = served.watch(pages).await?;
        let cost = self.drained(served.child.id()).await?;
        if watching.len() != pages {
            bail!("pages were not followed to the end");
        }
        drop(watching);
        served.stop()?;
        Ok(cost)
    }

    /// What a backlog costs a process that streams.
    async fn drained(&self, pid: u32) -> Result<Cost> {
        send(pid, Signal::STOP)?;
        let made = self.make_backlog().await;
        let settled = self.stage.settle().await;
        let meter = Meter::start(self.stage);
        send(pid, Signal::CONT)?;
        made?;
        settled?;
        let client = self.target.server.client_to(self.target.name).await?;
        wait_until(PATIENCE, "the end of the backlog", || async {
            let row = client.query_one("SELECT n FROM bench_marker", &[]).await?;
            Ok(row.get::<_, i32>(0) == 1)
        })
        .await?;
        let cost = meter.read(peak_rss_bytes(pid));
        let (here, there) = (
            self.source.value(DIGEST).await?,
            self.target.value(DIGEST).await?,
        );
        if here != there {
            bail!("it differs: {here} on the source, {there} on the target");
        }
        Ok(cost)
    }

    async fn make_backlog(&self) -> Result<()> {
        let count = self.settings.scaled(1_000_000);
        let sql = format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP INSERT INTO entry VALUES (i, i % 1000, \
             (i % 100000) / 100.0, 'entry number ' || i, now()); COMMIT; END LOOP; END $$"
        );
        self.source.make_backlog(&sql).await
    }
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("no process")?;
    kill_process(pid, signal).context("signal tidemark")
}
