//! Backlogs: changes that are in the source's log already, applied as fast as it goes.
//!
//! The backlog is made once. Both contestants' slots were saved before it as copies, and their
//! targets as template databases, so every run begins at the same place: a copy of the slot and a
//! copy of the target. Native replication is done when the target shows the last transaction, a
//! marker; Tidemark when `tidemark run --until caught-up` has ended, start and stop included.

use std::time::Duration;

use anyhow::{Result, bail};
use tidemark_lab::wait::wait_until;

use crate::load::{copy_schema, remove_subscription, run_tidemark, tidemark_said};
use crate::meter::{Cost, Meter};
use crate::pipeline_file::PipelineFile;
use crate::report::{Contest, Contestant};
use crate::settings::{Peers, Settings};
use crate::stage::{Database, Stage, complete, pipe, program};

const SOURCE: &str = "drain_source";
const NATIVE: &str = "drain_native";
const TIDEMARK: &str = "drain_tidemark";
const NAME: &str = "bench_drain";
const TEN_MINUTES: Duration = Duration::from_mins(10);

/// What the backlog holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backlog {
    Inserts,
    Updates,
    TpcB,
    BulkInsert,
    BulkUpdate,
    BulkDelete,
}

impl Backlog {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backlog::Inserts => "inserts",
            Backlog::Updates => "updates",
            Backlog::TpcB => "tpcb",
            Backlog::BulkInsert => "bulk insert",
            Backlog::BulkUpdate => "bulk update",
            Backlog::BulkDelete => "bulk delete",
        }
    }

    fn tables(self) -> &'static [&'static str] {
        match self {
            Backlog::TpcB => &[
                "pgbench_accounts",
                "pgbench_branches",
                "pgbench_tellers",
                "pgbench_history",
            ],
            _ => &["entry"],
        }
    }

    /// Tables and rows as they are before the backlog.
    async fn prepare(
        self,
        stage: &Stage,
        source: &Database<'_>,
        settings: &Settings,
    ) -> Result<()> {
        source.make(None).await?;
        if self == Backlog::TpcB {
            let scale = settings.scaled(10).to_string();
            let mut pgbench = program("pgbench");
            pgbench.args(["-i", "-q", "-s", &scale, &source.conninfo()]);
            complete(&mut pgbench, &stage.file("pgbench.log"))?;
        } else {
            source.execute(ENTRY).await?;
            if !matches!(self, Backlog::Inserts | Backlog::BulkInsert) {
                source.execute(&entries(settings)).await?;
            }
        }
        source.execute(MARKER).await?;
        source.execute("VACUUM ANALYZE").await
    }

    /// Makes the changes, with the marker as their end.
    async fn make(self, stage: &Stage, source: &Database<'_>, settings: &Settings) -> Result<()> {
        let count = settings.scaled(1_000_000);
        let insert = "INSERT INTO entry VALUES (i, i % 1000, (i % 100000) / 100.0, 'entry number ' || i, now())";
        let update = format!(
            "UPDATE entry SET amount = amount + 1, at = now() WHERE id = 1 + (i * 7919::bigint) % {count}"
        );
        let each = |statement: &str| {
            format!("DO $$ BEGIN FOR i IN 1..{count} LOOP {statement}; COMMIT; END LOOP; END $$")
        };
        let sql = match self {
            Backlog::TpcB => {
                // Four changes a transaction, two clients.
                let transactions = settings.scaled(125_000).to_string();
                let place = format!("{} options='-c synchronous_commit=off'", source.conninfo());
                let mut pgbench = program("pgbench");
                pgbench.args([
                    "-n",
                    "-M",
                    "prepared",
                    "-c",
                    "2",
                    "-j",
                    "2",
                    "-t",
                    &transactions,
                ]);
                complete(pgbench.arg(place), &stage.file("pgbench.log"))?;
                return source.execute("UPDATE bench_marker SET n = 1").await;
            }
            Backlog::Inserts => each(insert),
            Backlog::Updates => each(&update),
            Backlog::BulkInsert => entries(settings),
            Backlog::BulkUpdate => "UPDATE entry SET amount = amount + 1, at = now()".to_owned(),
            Backlog::BulkDelete => "DELETE FROM entry".to_owned(),
        };
        source.make_backlog(&sql).await
    }
}

const ENTRY: &str = "CREATE TABLE entry (id bigint PRIMARY KEY, customer integer NOT NULL,
  amount numeric(12,2) NOT NULL, note text NOT NULL, at timestamptz NOT NULL)";
const MARKER: &str = "CREATE TABLE bench_marker (id integer PRIMARY KEY, n integer NOT NULL);
  INSERT INTO bench_marker VALUES (1, 0)";

fn entries(settings: &Settings) -> String {
    let count = settings.scaled(1_000_000);
    format!(
        "INSERT INTO entry SELECT i, i % 1000, (i % 100000) / 100.0, 'entry number ' || i, now()
           FROM generate_series(1, {count}) i"
    )
}

/// Measures one kind of backlog.
pub(crate) async fn measure(
    stage: &Stage,
    settings: &Settings,
    backlog: Backlog,
) -> Result<Contest> {
    let mut contest = Contest::new(backlog.name());
    let source = stage.on_source(SOURCE);
    let drain = Drain {
        stage,
        source,
        backlog,
    };
    backlog.prepare(stage, &source, settings).await?;
    if settings.peers == Peers::Measured {
        drain.save_native().await?;
    }
    let saved = drain.save_tidemark().await;
    if let Err(error) = saved {
        contest.leave_out(Contestant::Tidemark, &format!("{error:#}"));
    }
    backlog.make(stage, &source, settings).await?;
    for _ in 0..settings.runs {
        if settings.peers == Peers::Measured {
            contest.add(Contestant::Native, drain.native().await);
        }
        if !contest.is_left_out(Contestant::Tidemark) {
            contest.add(Contestant::Tidemark, drain.tidemark().await);
        }
    }
    for name in [NATIVE, TIDEMARK, &base(NATIVE), &base(TIDEMARK)] {
        stage.on_target(name).drop().await?;
    }
    source.drop().await?;
    Ok(contest)
}

fn base(name: &str) -> String {
    format!("{name}_base")
}

struct Drain<'a> {
    stage: &'a Stage,
    source: Database<'a>,
    backlog: Backlog,
}

impl Drain<'_> {
    /// A target as it was before the backlog, and the slot that goes with it.
    async fn save_native(&self) -> Result<()> {
        let name = base(NATIVE);
        let base = self.stage.on_target(&name);
        base.make(None).await?;
        copy_schema(&self.source, &base)?;
        for table in self.backlog.tables().iter().chain(&["bench_marker"]) {
            let read = format!("COPY {table} TO STDOUT (FORMAT binary)");
            let write = format!("COPY {table} FROM STDIN (FORMAT binary)");
            pipe(&mut self.source.psql(&read), &mut base.psql(&write))?;
        }
        base.execute("VACUUM ANALYZE").await?;
        self.source
            .execute("CREATE PUBLICATION bench_native FOR ALL TABLES")
            .await?;
        let slot = "SELECT pg_create_logical_replication_slot('bench_saved', 'pgoutput')";
        self.source.execute(slot).await
    }

    async fn save_tidemark(&self) -> Result<()> {
        let target = self.stage.on_target(TIDEMARK);
        target.make(None).await?;
        let path = self.file(&target).write(self.stage)?;
        run_tidemark(self.stage, &path, &["--until", "caught-up"])?;
        target.execute("VACUUM ANALYZE").await?;
        self.stage
            .on_target(&base(TIDEMARK))
            .make(Some(TIDEMARK))
            .await?;
        let slot = self.file(&target).slot();
        let sql =
            format!("SELECT pg_copy_logical_replication_slot('{slot}', 'bench_saved_tidemark')");
        self.source.execute(&sql).await
    }

    fn file<'b>(&'b self, target: &'b Database<'b>) -> PipelineFile<'b> {
        PipelineFile {
            name: NAME,
            mode: "full_load_and_cdc",
            source: &self.source,
            target,
        }
    }

    async fn native(&self) -> Result<Cost> {
        let target = self.stage.on_target(NATIVE);
        target.make(Some(&base(NATIVE))).await?;
        self.source
            .execute("SELECT pg_copy_logical_replication_slot('bench_saved', 'bench_native')")
            .await?;
        let sql = format!(
            "CREATE SUBSCRIPTION bench_drain CONNECTION '{}' PUBLICATION bench_native WITH \
             (create_slot = false, slot_name = bench_native, copy_data = false, enabled = false)",
            self.source.conninfo()
        );
        target.execute(&sql).await?;
        self.stage.settle().await?;
        let meter = Meter::start(self.stage);
        target
            .execute("ALTER SUBSCRIPTION bench_drain ENABLE")
            .await?;
        let client = target.server.client_to(target.name).await?;
        wait_until(TEN_MINUTES, "the end of the backlog", || async {
            let row = client.query_one("SELECT n FROM bench_marker", &[]).await?;
            Ok(row.get::<_, i32>(0) == 1)
        })
        .await?;
        let cost = meter.read(0);
        self.compare(&target).await?;
        remove_subscription(&target).await?;
        Ok(cost)
    }

    async fn tidemark(&self) -> Result<Cost> {
        let target = self.stage.on_target(TIDEMARK);
        target.make(Some(&base(TIDEMARK))).await?;
        let file = self.file(&target);
        let slot = file.slot();
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        self.source.execute(&drop).await?;
        let copy =
            format!("SELECT pg_copy_logical_replication_slot('bench_saved_tidemark', '{slot}')");
        self.source.execute(&copy).await?;
        let path = file.write(self.stage)?;
        self.stage.settle().await?;
        let meter = Meter::start(self.stage);
        let peak = run_tidemark(self.stage, &path, &["--until", "caught-up"])?;
        let cost = meter.read(peak);
        if let Err(error) = self.compare(&target).await {
            return Err(error.context(format!("Tidemark said: {}", tidemark_said(self.stage))));
        }
        Ok(cost)
    }

    /// A fast answer that is wrong does not count.
    async fn compare(&self, target: &Database<'_>) -> Result<()> {
        for table in self.backlog.tables() {
            let digest = format!(
                "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {table} t"
            );
            let (here, there) = (
                self.source.value(&digest).await?,
                target.value(&digest).await?,
            );
            if here != there {
                bail!("{table} differs: {here} on the source, {there} on the target");
            }
        }
        Ok(())
    }
}
