//! Told to stop in the middle of something that takes its time: a load, a transaction, a change of a
//! table's shape, a comparison, a reconcile. The first signal ends it in order and in time, the second
//! at once; whatever was cut off comes again, and once. (Of a cutover: `cutover::given_up`.)

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use super::{Rig, own_server};
use crate::asks::{Locked, text};
use crate::oracle;
use crate::stage::{PATIENCE, Running, Stage};

/// How long an orderly end may take, whatever stands in its way.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// How long one may take that nobody wants to wait for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What a shell is told of a process that a signal ended.
const INTERRUPTED: Option<i32> = Some(130);
const TERMINATED: Option<i32> = Some(143);

/// Sends the signals one after the other and gives the exit code.
async fn ends(mut run: Running, signals: &[Signal]) -> Option<i32> {
    let limit = if signals.len() > 1 {
        AT_ONCE
    } else {
        ENDS_WITHIN
    };
    let said = || run.log().matches("Ctrl-C again stops at once").count();
    let before = said();
    run.signal(signals[0]);
    let mut began = Instant::now();
    for signal in &signals[1..] {
        wait_for(PATIENCE, "the first signal to be taken", || async {
            Ok((said() > before).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", run.log()));
        began = Instant::now();
        run.signal(*signal);
    }
    let code = run.ended().await;
    assert!(
        began.elapsed() < limit,
        "{:?}\n{}",
        began.elapsed(),
        run.log()
    );
    code
}

/// What is locked on a server keeps snapshots of all its databases waiting: the target is another one.
async fn source() -> &'static PostgresServer {
    PostgresServer::shared().await.unwrap()
}

/// A target that does not take what it was given: somebody holds a lock that the next change needs.
#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_while_the_target_hangs_comes_in_time_and_loses_nothing() {
    let rig = Rig::on(source().await, own_server(&[]).await, "stop_stream").await;
    let cases: [(&[Signal], Option<i32>); 3] = [
        (&[Signal::TERM], Some(0)),
        (&[Signal::INT, Signal::INT], INTERRUPTED),
        (&[Signal::TERM, Signal::TERM], TERMINATED),
    ];
    for (signals, code) in cases {
        let run = rig.streams().await;
        let locked = Locked::table(&rig.stage, "bank_transfers").await;
        locked.wait_for_waiter().await;
        assert_eq!(ends(run, signals).await, code, "{}", rig.stage.log());
        locked.release().await;
    }
    // In a transaction that changes the shape of a table.
    for (column, signals, code) in [
        ("one", &[Signal::INT][..], Some(0)),
        ("two", &[Signal::INT, Signal::INT][..], INTERRUPTED),
    ] {
        let run = rig.streams().await;
        let locked = Locked::table(&rig.stage, "mixed_scratch").await;
        let change = format!("ALTER TABLE mixed_scratch ADD COLUMN {column} int DEFAULT 7");
        rig.stage.source_sql(&change).await;
        locked.wait_for_waiter().await;
        assert_eq!(ends(run, signals).await, code, "{}", rig.stage.log());
        locked.release().await;
    }
    let run = rig.streams().await;
    rig.ends_well(run).await;
}

const LARGE: &str = "CREATE TABLE large (id int PRIMARY KEY, v text);
    INSERT INTO large SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 30000) i; ANALYZE large";

/// How many ranges of `large` are in.
async fn loaded(stage: &Stage) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM tidemark.unit WHERE source_name = 'large' AND is_loaded";
    Ok(stage.target.query_one(sql, &[]).await?.get(0))
}

/// Which transactions wrote the copy of `large`, and how many rows each.
async fn written(stage: &Stage) -> Vec<(String, i64)> {
    let sql = "SELECT xmin::text, count(*) FROM large GROUP BY 1";
    let rows = stage.target.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_in_a_load_repeats_nothing_that_was_in() {
    let rig = Rig::new("stop_load").await;
    let stage = &rig.stage;
    stage.source_sql(LARGE).await;
    let slow = "[load]\nmax_source_rows_per_second = 20000\n\
                [[table]]\nsource = \"public.large\"\nchunk_rows = 1000\n";
    stage.write(&format!("{}{slow}", oracle::strict_file(stage)));
    let (mut kept, mut ranges) = (Vec::new(), 0);
    let cases: [(&[Signal], Option<i32>); 3] = [
        (&[Signal::INT, Signal::INT], INTERRUPTED),
        (&[Signal::TERM], Some(0)),
        (&[Signal::INT], Some(0)),
    ];
    for (signals, code) in cases {
        let run = stage.start(&["run", "FILE"]);
        wait_for(PATIENCE, "more to be loaded", || async {
            Ok((loaded(stage).await? > ranges + 2).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
        let ended = ends(run, signals).await;
        // A load that stops in order is over before anybody could ask a second time.
        let is_as_told = ended == code || (signals.len() > 1 && ended == Some(0));
        assert!(is_as_told, "{ended:?} {}", stage.log());
        let now = written(stage).await;
        assert!(
            kept.iter().all(|part| now.contains(part)),
            "{kept:?} {now:?}"
        );
        (kept, ranges) = (now, loaded(stage).await.unwrap());
        assert!((1..30).contains(&ranges), "it was in the middle of it");
    }
    let run = rig.streams().await;
    let now = written(stage).await;
    assert!(
        kept.iter().all(|part| now.contains(part)),
        "{kept:?} {now:?}"
    );
    rig.ends_well(run).await;
}

/// A pipeline that has loaded, and whose slot is gone.
async fn with_a_gap(target: &'static PostgresServer, name: &str) -> Stage {
    let stage = Stage::on(source().await, target, name).await;
    stage.source_sql(crate::writing::TABLES).await;
    stage.catch_up().await;
    stage.clear().await;
    stage.source_sql(crate::writing::CHANGES).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_in_a_reconcile_is_gone_on_with_by_the_next_run() {
    let cases: [(&[Signal], Option<i32>); 2] = [
        (&[Signal::TERM], Some(3)),
        (&[Signal::INT, Signal::INT], INTERRUPTED),
    ];
    let target = own_server(&[]).await;
    for (number, (signals, code)) in cases.into_iter().enumerate() {
        let stage = with_a_gap(target, &format!("stop_reconcile_{number}")).await;
        // It can compare, and not mend what differs.
        let locked = Locked::table(&stage, "notes IN SHARE MODE").await;
        let run = stage.start(&["reconcile", "FILE", "--yes"]);
        locked.wait_for_waiter().await;
        let ended = ends(run, signals).await;
        // One that stops in order is over before anybody could ask a second time.
        let is_as_told = ended == code || (signals.len() > 1 && ended == Some(3));
        assert!(is_as_told, "{ended:?} {}", stage.log());
        locked.release().await;
        let notes = stage.table("public.notes").await;
        assert_eq!(notes["state"], "resyncing", "{notes}");
        stage.catch_up().await;
        stage.assert_identical().await;
        stage.clear().await;
    }
}

/// Nothing that was not compared is said to be reconciled.
#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_before_anything_is_reconciled_is_no_success() {
    let stage = with_a_gap(own_server(&[]).await, "stop_before").await;
    let locked = Locked::table(&stage, "notes").await;
    let run = stage.start(&["reconcile", "FILE", "--yes"]);
    locked.wait_for_waiter().await;
    let ended = ends(run, &[Signal::TERM]).await;
    assert_eq!(ended, Some(3), "{}", stage.log());
    locked.release().await;
    stage.run(&["reconcile", "FILE", "--yes"]).await.expect(0);
    stage.assert_identical().await;
    stage.clear().await;
}

/// Whoever compares holds nobody up after it is told to end.
#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_in_a_comparison_leaves_nothing_and_the_pipeline_goes_on() {
    let rig = Rig::on(source().await, own_server(&[]).await, "stop_verify").await;
    let stage = &rig.stage;
    let mut run = rig.streams().await;
    for (signal, code) in [(Signal::INT, INTERRUPTED), (Signal::TERM, TERMINATED)] {
        // The comparison has to wait for a table, of which it can read nothing.
        let locked = Locked::table(stage, "keyed").await;
        let mut verify = stage.command(&["verify", "FILE"]).spawn().unwrap();
        locked.wait_for_waiter().await;
        let pid = i32::try_from(verify.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let began = Instant::now();
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = tokio::time::timeout(PATIENCE, verify.wait()).await;
        assert_eq!(ended.unwrap().unwrap().code(), code);
        assert!(began.elapsed() < ENDS_WITHIN, "{:?}", began.elapsed());
        locked.release().await;
        let slots = "SELECT count(*) FROM pg_replication_slots \
                     WHERE temporary AND database = current_database()";
        wait_for(PATIENCE, "the comparison's slot to be gone", || async {
            Ok((text(&stage.source, slots).await? == "0").then_some(()))
        })
        .await
        .unwrap();
        rig.something_new_arrives().await;
        assert!(run.is_running(), "{}", stage.log());
    }
    stage.verify_identical().await;
    rig.ends_well(run).await;
}
