//! SIGKILL at every durable step: each fail point in turn, twice in a row where a run comes to it again,
//! with writers on the source all the while. Then the pipeline must come through by itself, and both
//! sides be equal, with nothing left over.
//!
//! A point that no run comes to fails its case, so the table below cannot pass by doing nothing, and
//! a point that has no case fails as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::process::Signal;
use tidemark_core::failpoint::{self, FailPoint};
use tidemark_lab::server::PostgresServer;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::asks::text;
use crate::stage::{Running, Stage};
use crate::writers::Writers;
use crate::{oracle, writers};

/// Cases at a time: most of one is waiting.
const AT_ONCE: usize = 4;

const REPAIR: [&str; 6] = [
    "verify",
    "FILE",
    "--table",
    writers::DAMAGED,
    "--repair",
    "--yes",
];

const RECONCILE: [&str; 3] = ["reconcile", "FILE", "--yes"];

/// What is going on when the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A run from the beginning, which goes on into the stream.
    Run,
    /// A start that finds what a killed one has left.
    Leftover,
    /// A table is loaded anew beside the old one.
    Swap,
    /// A table is loaded anew in its place.
    Truncate,
    /// A table appears on the source.
    NewTable,
    /// A table gets a column on the source.
    NewColumn,
    /// A run is told to stop.
    Stop,
    /// Rows that differ are repaired; the run is killed.
    Repair,
    /// The same; who asked for it is killed.
    RepairAsked,
    /// A verification is killed.
    Verify,
    /// A row that the target refuses goes into quarantine.
    Row,
    /// It is applied again.
    Release,
    /// All of a pipeline that nobody runs is to be loaded anew; who asked is killed.
    Anew,
    /// The slot is lost, and the gap is to be bridged; who does it is killed, and it is done once more.
    Gap,
    /// The same, and a run goes on with it.
    GapBegun,
}

/// Whether a run that follows comes to the same point again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

/// Whether a run ends at the point of its case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    Yes,
    No,
}

/// Points that need a target which stands still for long, killed at in `relay.rs`, or a slot that cannot
/// be decoded, in `poisoned.rs`, or a large transaction in progress, in `rows.rs`.
const ELSEWHERE: &[FailPoint] = &[
    failpoint::RELAY_RECORDED,
    failpoint::RELAYED,
    failpoint::RELAY_REMOVED,
    failpoint::RELEASE_RECORDED,
    failpoint::UNDONE,
];

#[derive(Clone, Copy, Debug)]
struct Case(FailPoint, u32, Scene, Again);

const CASES: &[Case] = &[
    Case(failpoint::HELD, 1, Scene::Verify, Again::Yes),
    Case(failpoint::SCHEMA_MADE, 1, Scene::Run, Again::Yes),
    Case(failpoint::OWNER_RECORDED, 1, Scene::Run, Again::Yes),
    Case(failpoint::SLOT_REMOVED, 1, Scene::Leftover, Again::No),
    Case(failpoint::LEFTOVER_REMOVED, 1, Scene::Leftover, Again::No),
    Case(failpoint::PUBLICATION_MADE, 1, Scene::Run, Again::No),
    Case(failpoint::ANNOUNCED, 1, Scene::Run, Again::Yes),
    Case(failpoint::SLOT_MADE, 1, Scene::Run, Again::Yes),
    Case(failpoint::SNAPSHOT_OPENED, 1, Scene::Run, Again::Yes),
    Case(failpoint::START_RECORDED, 1, Scene::Run, Again::No),
    Case(failpoint::OBJECTS_MADE, 1, Scene::Run, Again::Yes),
    Case(failpoint::TABLE_PREPARED, 3, Scene::Run, Again::Yes),
    Case(failpoint::TABLE_PREPARED, 1, Scene::Swap, Again::Yes),
    Case(failpoint::TABLE_PREPARED, 1, Scene::Truncate, Again::Yes),
    Case(failpoint::UNIT_WRITTEN, 4, Scene::Run, Again::Yes),
    Case(failpoint::UNIT_WRITTEN, 1, Scene::Truncate, Again::Yes),
    Case(failpoint::UNIT_COMMITTED, 2, Scene::Run, Again::Yes),
    Case(failpoint::UNIT_COMMITTED, 1, Scene::Truncate, Again::Yes),
    Case(failpoint::INDEX_MADE, 3, Scene::Run, Again::Yes),
    Case(failpoint::INDEX_MADE, 1, Scene::Swap, Again::Yes),
    Case(failpoint::TABLE_FINISHED, 2, Scene::Run, Again::Yes),
    Case(failpoint::TABLES_RECORDED, 1, Scene::Run, Again::Yes),
    Case(failpoint::FINISHING_RECORDED, 1, Scene::Run, Again::No),
    Case(failpoint::FOREIGN_KEY_MADE, 1, Scene::Run, Again::Yes),
    Case(
        failpoint::FOREIGN_KEY_MADE_AGAIN,
        1,
        Scene::Truncate,
        Again::Yes,
    ),
    Case(failpoint::FOREIGN_KEYS_MADE, 1, Scene::Run, Again::Yes),
    Case(failpoint::SEQUENCES_SET, 1, Scene::Run, Again::Yes),
    Case(failpoint::LOAD_RECORDED, 1, Scene::Run, Again::No),
    Case(failpoint::STREAM_OPENED, 1, Scene::Run, Again::Yes),
    Case(failpoint::SPOOLED, 2, Scene::Run, Again::Yes),
    Case(failpoint::REPLAY_BEGUN, 1, Scene::Run, Again::Yes),
    Case(failpoint::APPLY_BEGUN, 5, Scene::Run, Again::Yes),
    Case(failpoint::PART_APPLIED, 2, Scene::Run, Again::Yes),
    Case(failpoint::PARKED, 2, Scene::Swap, Again::Yes),
    Case(failpoint::ROW_ASIDE, 1, Scene::Row, Again::Yes),
    Case(failpoint::COMMITTED, 1, Scene::Row, Again::Yes),
    Case(failpoint::RELEASE_DUE, 1, Scene::Release, Again::Yes),
    Case(failpoint::RELEASED, 1, Scene::Release, Again::Yes),
    Case(failpoint::RESHAPED, 1, Scene::NewColumn, Again::Yes),
    Case(failpoint::COMMIT_DUE, 4, Scene::Run, Again::Yes),
    Case(failpoint::COMMIT_SENT, 7, Scene::Run, Again::Yes),
    Case(failpoint::COMMIT_SENT, 3, Scene::Swap, Again::Yes),
    Case(failpoint::COMMITTED, 6, Scene::Run, Again::Yes),
    Case(failpoint::FLUSHED, 1, Scene::Stop, Again::Yes),
    Case(failpoint::STATE_COMMITTED, 1, Scene::Truncate, Again::Yes),
    Case(failpoint::STATE_COMMITTED, 2, Scene::Swap, Again::No),
    Case(failpoint::ACKNOWLEDGE_DUE, 2, Scene::Run, Again::Yes),
    Case(failpoint::ACKNOWLEDGED, 1, Scene::Run, Again::Yes),
    Case(failpoint::TABLE_ANNOUNCED, 1, Scene::NewTable, Again::Yes),
    Case(failpoint::ROWS_LOADED, 1, Scene::NewTable, Again::Yes),
    Case(failpoint::ROWS_LOADED, 1, Scene::Swap, Again::Yes),
    Case(failpoint::ROWS_LOADED, 1, Scene::Repair, Again::Yes),
    Case(failpoint::SWAP_DUE, 1, Scene::Swap, Again::Yes),
    Case(failpoint::SWAPPED, 1, Scene::Swap, Again::Yes),
    Case(failpoint::DRAIN_DUE, 1, Scene::Swap, Again::Yes),
    Case(failpoint::DRAINED, 1, Scene::Truncate, Again::Yes),
    Case(failpoint::RECONCILE_RECORDED, 1, Scene::Gap, Again::Yes),
    Case(failpoint::RECONCILE_RELEASED, 1, Scene::Gap, Again::Yes),
    Case(failpoint::RECONCILE_OPENED, 1, Scene::Gap, Again::Yes),
    Case(failpoint::RECONCILE_BEGUN, 1, Scene::GapBegun, Again::No),
    Case(failpoint::RECONCILE_COMPARED, 1, Scene::GapBegun, Again::No),
    Case(failpoint::UNIT_COMMITTED, 1, Scene::Gap, Again::Yes),
    Case(failpoint::DRAINED, 1, Scene::GapBegun, Again::No),
    Case(failpoint::STREAM_DONE, 1, Scene::Stop, Again::Yes),
    Case(failpoint::STREAM_CLOSED, 1, Scene::Stop, Again::Yes),
    Case(failpoint::REPAIR_ASKED, 1, Scene::RepairAsked, Again::No),
    Case(failpoint::FORGOTTEN, 1, Scene::Anew, Again::No),
];

#[test]
fn every_fail_point_has_a_case() {
    let names = |points: &mut dyn Iterator<Item = FailPoint>| -> BTreeSet<&str> {
        points.map(FailPoint::name).collect()
    };
    assert_eq!(
        names(
            &mut CASES
                .iter()
                .map(|case| case.0)
                .chain(ELSEWHERE.iter().copied())
        ),
        names(&mut failpoint::ALL.iter().copied())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_durable_step_costs_nothing() {
    let (source, target) = tokio::join!(server(), server());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    for (number, case) in CASES.iter().enumerate() {
        let places = Arc::clone(&places);
        cases.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            let stage = Stage::on(source, target, &format!("kill_{number}")).await;
            // A task of its own, so that its panic leaves the others going.
            let ended = tokio::spawn(case.run(stage)).await;
            ended.map_err(|_| format!("{case:?}"))
        });
    }
    let ended = cases.join_all().await;
    let failed: Vec<&String> = ended.iter().filter_map(|one| one.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let moved: u64 = ended.iter().flatten().sum();
    assert!(moved > CASES.len() as u64, "the bank was busy: {moved}");
}

/// Small pieces, so that transactions in progress are sent before they commit.
async fn server() -> &'static PostgresServer {
    let builder = PostgresServer::builder()
        .setting("logical_decoding_work_mem", "64kB")
        .setting("max_connections", "400")
        .setting("max_replication_slots", "100")
        .setting("max_wal_senders", "100");
    Box::leak(Box::new(builder.start().await.unwrap()))
}

impl Case {
    async fn run(&self, stage: Stage) -> u64 {
        let Case(point, _, scene, again) = *self;
        oracle::write_file(&stage);
        let writers = Writers::start(&stage).await;
        // What a gap has hidden comes row by row.
        let is_whole = !matches!(scene, Scene::Anew | Scene::Gap | Scene::GapBegun);
        let mut reader = is_whole.then(|| oracle::watch_the_bank(&stage));
        self.set_up(&stage).await;

        self.kill(&stage).await;
        if again == Again::Yes {
            self.kill(&stage).await;
        }

        if scene == Scene::Gap {
            stage.run(&RECONCILE).await.expect(0);
        }
        let reader = reader
            .take()
            .unwrap_or_else(|| oracle::watch_the_bank(&stage));
        let existing = ["run", "FILE", "--set", "target.existing=truncate"];
        let arguments = match scene {
            Scene::Anew => &existing[..],
            _ => &existing[..2],
        };
        let run = stage.start(arguments);
        oracle::comes_through(&stage).await;
        oracle::something_new_arrives(&stage).await;
        if matches!(scene, Scene::Row | Scene::Release) {
            oracle::row_is_released(&stage).await;
        }
        writers.stop().await;
        oracle::ends_well(&stage, run, reader.await.unwrap(), point.name()).await
    }

    /// What there has to be before the first kill.
    async fn set_up(&self, stage: &Stage) {
        match self.2 {
            Scene::Run | Scene::NewColumn | Scene::Stop => return,
            Scene::Leftover => {
                let before = Case(failpoint::SLOT_MADE, 1, Scene::Run, Again::No);
                return before.kill(stage).await;
            }
            _ => {}
        }
        // The first load passes some of the points as well.
        let run = stage.start(&["run", "FILE"]);
        oracle::comes_through(stage).await;
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        match self.2 {
            Scene::NewTable => stage.source_sql(writers::NEW_TABLE).await,
            Scene::Repair | Scene::RepairAsked => stage.target_sql(writers::DAMAGE).await,
            Scene::Gap | Scene::GapBegun => {
                stage.clear().await;
                stage.target_sql(writers::DAMAGE).await;
            }
            Scene::Row => stage.target_sql(writers::STRICT).await,
            Scene::Release => {
                stage.target_sql(writers::STRICT).await;
                stage.source_sql(writers::REFUSED).await;
                let run = stage.start(&["run", "FILE"]);
                oracle::row_is_aside(stage).await;
                assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
                stage.target_sql(writers::MENDED).await;
            }
            _ => {}
        }
    }

    /// One run that ends at the point.
    async fn kill(&self, stage: &Stage) {
        let resync = |strategy| {
            let table = writers::RESYNCED;
            [
                "resync",
                "FILE",
                "--table",
                table,
                "--strategy",
                strategy,
                "--yes",
                "--no-wait",
            ]
        };
        match self.2 {
            Scene::Run | Scene::Leftover | Scene::NewTable => {
                self.dies(stage, &["run", "FILE"]).await;
            }
            Scene::Swap => self.dies_asked(stage, &resync("swap")).await,
            Scene::Truncate => self.dies_asked(stage, &resync("truncate")).await,
            Scene::Repair => {
                self.dies_asked(stage, &REPAIR).await;
            }
            Scene::NewColumn => {
                let run = self.follows_the_log(stage, Armed::Yes).await;
                stage.source_sql(writers::NEW_COLUMN).await;
                self.is_killed(run).await;
            }
            Scene::Row => {
                if oracle::has_refused_row(stage).await {
                    return self.dies(stage, &["run", "FILE"]).await;
                }
                let run = self.follows_the_log(stage, Armed::Yes).await;
                stage.source_sql(writers::REFUSED).await;
                self.is_killed(run).await;
            }
            Scene::Release => {
                let run = self.follows_the_log(stage, Armed::Yes).await;
                // Its answer may never come.
                drop(stage.run(&["retry", "FILE"]).await);
                self.is_killed(run).await;
            }
            Scene::Stop => {
                let run = self.follows_the_log(stage, Armed::Yes).await;
                oracle::something_new_arrives(stage).await;
                run.signal(Signal::TERM);
                self.is_killed(run).await;
            }
            Scene::Verify => {
                let run = self.follows_the_log(stage, Armed::No).await;
                self.dies(stage, &["verify", "FILE"]).await;
                // The hold ends by itself, and stands in nobody's way.
                oracle::something_new_arrives(stage).await;
                stage.run(&["verify", "FILE"]).await.expect(0);
                assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
            }
            Scene::RepairAsked => {
                let run = self.follows_the_log(stage, Armed::No).await;
                self.dies(stage, &REPAIR).await;
                assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
            }
            Scene::Gap | Scene::GapBegun => self.dies(stage, &RECONCILE).await,
            Scene::Anew => self.dies(stage, &["resync", "FILE", "--yes"]).await,
        }
    }

    fn armed(&self, stage: &Stage, arguments: &[&str]) -> Running {
        let Case(point, nth, ..) = *self;
        let mut command = stage.command(arguments);
        command.env("TIDEMARK_FAILPOINT", format!("{}:{nth}", point.name()));
        stage.spawn(command)
    }

    /// A run that has come to the stream.
    async fn follows_the_log(&self, stage: &Stage, armed: Armed) -> Running {
        let before = oracle::begun(stage);
        let run = match armed {
            Armed::Yes => self.armed(stage, &["run", "FILE"]),
            Armed::No => stage.start(&["run", "FILE"]),
        };
        oracle::follows_the_log(stage, before).await;
        run
    }

    async fn dies(&self, stage: &Stage, arguments: &[&str]) {
        self.is_killed(self.armed(stage, arguments)).await;
    }

    /// A run that is asked for something once it streams. One that was killed at it before goes on
    /// with it by itself.
    async fn dies_asked(&self, stage: &Stage, request: &[&str]) {
        let is_asked = oracle::is_resyncing(stage).await.unwrap();
        if is_asked {
            return self.dies(stage, &["run", "FILE"]).await;
        }
        let run = self.follows_the_log(stage, Armed::Yes).await;
        // Its answer may never come.
        drop(stage.run(request).await);
        self.is_killed(run).await;
    }

    async fn is_killed(&self, mut run: Running) {
        let signal = run.killed_by().await;
        assert_eq!(signal, Some(9), "{self:?} is never reached\n{}", run.log());
    }
}

/// Nothing is loaded, and yet there is something to be made before the stream: the tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_load_goes_on_where_it_was_killed() {
    let points = [failpoint::START_RECORDED, failpoint::OBJECTS_MADE];
    for (number, point) in points.into_iter().enumerate() {
        let stage = Stage::new(&format!("kill_cdc_{number}")).await;
        stage.write("mode = \"cdc_only\"\nstart = \"now\"\n");
        stage
            .source_sql(
                "CREATE TYPE mood AS ENUM ('calm', 'wild');
                 CREATE TABLE t (id serial PRIMARY KEY, mood mood NOT NULL DEFAULT 'calm')",
            )
            .await;
        Case(point, 1, Scene::Run, Again::No).kill(&stage).await;
        stage
            .source_sql("INSERT INTO t (mood) VALUES ('wild'), ('calm')")
            .await;
        let run = stage.start(&["run", "FILE"]);
        stage.wait_for_equal(stage.comparison()).await;
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        let keys =
            "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid = 't'::regclass";
        assert_eq!(text(&stage.target, keys).await.unwrap(), "1", "{point:?}");
        stage.clear().await;
    }
}
