//! Two owners of one pipeline: the second is refused and told who the first is, and a first one that
//! lost its lock while it was frozen cannot write when it wakes up.
//!
//! A test run has one stand still until the source has given it up; `STAND_STILL=120` for two minutes.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};

const BANK: Bank = Bank { accounts: 200 };

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_second_run_is_refused_and_told_who_owns_the_pipeline() {
    let stage = Stage::new("fence_second").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9)";
    stage.source.batch_execute(table).await.unwrap();
    let mut first = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;

    let second = stage.run(&["run", "FILE"]).await.expect(6);
    let owner = format!("pid {}", first.pid());
    for word in ["TM2031", &owner, "Effect", "Do first"] {
        assert!(second.stderr.contains(word), "{word} in\n{}", second.stderr);
    }
    assert!(first.is_running(), "the owner is not disturbed");
    let more = "INSERT INTO t SELECT generate_series(10, 19)";
    stage.source.batch_execute(more).await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(first.terminate().await, Some(0));
    stage.clear().await;
}

/// Ends the sessions that say this about themselves, and waits until they are gone.
async fn end_sessions(client: &tokio_postgres::Client, query: &str, name: &str) {
    let end = format!("SELECT pg_terminate_backend(pid) FROM ({query}) s");
    assert!(
        client.execute(&end, &[&name]).await.unwrap() > 0,
        "there was one"
    );
    wait_for(PATIENCE, "the sessions to end", || async {
        Ok(client
            .query(query, &[&name])
            .await?
            .is_empty()
            .then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_frozen_owner_that_lost_its_lock_cannot_write_when_it_wakes_up() {
    let stage = Stage::new("fence_zombie").await;
    let config = stage.source_config();
    let mixed = Mixed {
        truncates: Truncates::Never,
        ..Mixed::default()
    };
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let mut zombie = stage.start(&["run", "FILE"]);
    stage.wait_for_state("streaming").await;
    let bank = Traffic::start(&config, &BANK, Pace::at(150.0, 11));
    let changes = Traffic::start(&config, &mixed, Pace::at(150.0, 12));
    let reader = BankReader::start(&stage.target_config(), "public", BANK)
        .await
        .unwrap();
    wait_for(PATIENCE, "changes to arrive", || async {
        let arrived = "SELECT count(*) FROM bank_transfers";
        let arrived: i64 = stage.target.query_one(arrived, &[]).await?.get(0);
        Ok((arrived > 100).then_some(()))
    })
    .await
    .unwrap();

    freeze_between_commits(&stage, &zombie).await;
    let lock = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) \
                WHERE locktype = 'advisory' AND granted AND application_name = $1 \
                AND datname = current_database()";
    end_sessions(&stage.target, lock, "tidemark fence_zombie").await;
    let walsender = "SELECT active_pid AS pid FROM pg_replication_slots \
                     WHERE slot_name = $1 AND active";
    end_sessions(&stage.source, walsender, "tidemark_fence_zombie").await;

    let log = tempfile::NamedTempFile::new().unwrap();
    let mut owner = stage
        .command(&["run", "FILE"])
        .stdout(std::process::Stdio::null())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let new_pid = i64::from(owner.id().unwrap());
    wait_for(PATIENCE, "the new owner to write", || async {
        let sql = "SELECT position FROM tidemark.checkpoint WHERE owner_pid = $1";
        let rows = stage.target.query(sql, &[&new_pid]).await?;
        let log = std::fs::read_to_string(log.path())?;
        Ok((rows.len() == 1 && log.contains("step 5/5")).then_some(()))
    })
    .await
    .unwrap();
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.ended().await, Some(6), "{}", zombie.log());
    let said = zombie.log();
    assert!(
        ["TM2031", "TM2032"].iter().any(|code| said.contains(code)),
        "{said}"
    );

    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;
    let seen = reader.stop().await.unwrap();
    assert!(seen.violations.is_empty(), "{seen:?}");
    let pid = i32::try_from(new_pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(owner.wait().await.unwrap().code(), Some(0));
    stage.assert_identical().await;
    stage.clear().await;
}

/// The lock is held by a session that does nothing else; whoever ends it ends nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn f42_a_lock_whose_session_was_ended_is_taken_again_while_changes_go_on() {
    let stage = Stage::new("fence_lock").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9)";
    stage.source.batch_execute(table).await.unwrap();
    let first = stage.start_streaming().await;
    let generation = "SELECT generation FROM tidemark.checkpoint";
    let before = text(&stage.target, generation).await.unwrap();

    let lock = "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) \
                WHERE locktype = 'advisory' AND granted AND application_name = $1 \
                AND datname = current_database()";
    let held = format!(
        "SELECT count(*) FROM ({}) s",
        lock.replace("$1", "'tidemark fence_lock'")
    );
    end_sessions(&stage.target, lock, "tidemark fence_lock").await;
    stage.wait_for_target(&held, "1").await;

    let second = stage.run(&["run", "FILE"]).await.expect(6);
    assert!(second.stderr.contains("TM2031"), "{}", second.stderr);
    stage.wait_for_state("streaming").await;
    let more = "INSERT INTO t SELECT generate_series(10, 19)";
    stage.source.batch_execute(more).await.unwrap();
    stage.wait_until_identical().await;
    let after = text(&stage.target, generation).await.unwrap();
    assert_eq!(after, before, "it has not begun again");
    assert!(first.log().contains("TM2033"), "{}", first.log());
    assert_eq!(first.terminate().await, Some(0));
    stage.clear().await;
}

/// Stops the process where it holds no transaction open on the target: a frozen owner within one
/// keeps its rows locked, and whoever comes next waits for it.
async fn freeze_between_commits(stage: &Stage, zombie: &crate::stage::Running) {
    let open = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 \
                AND datname = current_database() AND xact_start IS NOT NULL";
    let name = format!("tidemark {}", stage.name);
    wait_for(PATIENCE, "a moment between two commits", || async {
        zombie.signal(Signal::STOP);
        if stage.target.query(open, &[&name]).await?.is_empty() {
            return Ok(Some(()));
        }
        zombie.signal(Signal::CONT);
        Ok(None)
    })
    .await
    .unwrap();
}

/// Lets a run stand still until neither side knows it any more, starts a second one, and lets the first
/// go on. The source gives up by itself; a target gives up a machine that does not answer, which this
/// one's kernel does.
async fn is_replaced(stage: &Stage, mut zombie: Running, locked: Option<Locked<'_>>) -> Running {
    zombie.signal(Signal::STOP);
    let began = Instant::now();
    let length = std::env::var_os("STAND_STILL").and_then(|it| it.to_str()?.parse().ok());
    let length = Duration::from_secs(length.unwrap_or(0));
    let reads = format!(
        "SELECT active FROM pg_replication_slots WHERE slot_name = 'tidemark_{}'",
        stage.name
    );
    wait_for(PATIENCE * 2, "the source to give it up", || async {
        let is_given_up = text(&stage.source, &reads).await? == "f";
        let is_over = began.elapsed() >= length;
        Ok((is_given_up && is_over).then_some(()))
    })
    .await
    .unwrap();
    let sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 \
                    AND datname = current_database()";
    let name = format!("tidemark {}", stage.name);
    end_sessions(&stage.target, sessions, &name).await;
    if let Some(locked) = locked {
        locked.release().await;
    }
    let second = stage.start(&["run", "FILE"]);
    let owner = "SELECT owner_pid FROM tidemark.checkpoint";
    stage
        .wait_for_target(owner, &second.pid().to_string())
        .await;
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.ended().await, Some(6), "{}", zombie.log());
    let said = zombie.log();
    let is_told = ["TM2031", "TM2032"].iter().any(|code| said.contains(code));
    assert!(is_told, "{said}");
    second
}

/// The second owns it, has written all of it, and has everything once.
async fn is_whole(stage: &Stage, second: Running) {
    stage.wait_for_state("streaming").await;
    stage
        .source_sql("INSERT INTO t VALUES (0, 'after'); INSERT INTO lines VALUES ('after')")
        .await;
    stage.wait_until_identical().await;
    let owner = "SELECT owner_pid || ' ' || (generation = written_by) FROM tidemark.checkpoint";
    let wanted = format!("{} true", second.pid());
    assert_eq!(text(&stage.target, owner).await.unwrap(), wanted);
    assert_eq!(second.terminate().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_an_owner_that_stood_still_in_the_middle_of_something_writes_no_more() {
    let builder = PostgresServer::builder().setting("wal_sender_timeout", "2s");
    let source = Box::leak(Box::new(builder.start().await.unwrap()));
    let target = PostgresServer::shared().await.unwrap();
    let slow = "[load]\nparallel_chunks = 1\nmax_source_rows_per_second = 4000\n\
                [[table]]\nsource = \"public.t\"\nchunk_rows = 1000\n[verify]\nafter_load = \"off\"\n";
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 12000) i;
        CREATE TABLE lines (v text); ALTER TABLE lines REPLICA IDENTITY FULL; ANALYZE";

    let stage = Stage::on(source, target, "fence_load").await;
    stage.write(slow);
    stage.source_sql(tables).await;
    let zombie = stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "some of it to be loaded", || async {
        let loaded = "SELECT count(*) BETWEEN 2 AND 9 FROM tidemark.unit \
                      WHERE is_loaded AND source_name = 't'";
        Ok((text(&stage.target, loaded).await? == "t").then_some(()))
    })
    .await
    .unwrap();
    let second = is_replaced(&stage, zombie, None).await;
    is_whole(&stage, second).await;

    // Within a transaction, whose next statement waits for somebody else.
    let stage = Stage::on(source, target, "fence_within").await;
    stage.source_sql(tables).await;
    let zombie = stage.start_streaming().await;
    let locked = Locked::table(&stage, "t").await;
    let both =
        "BEGIN; INSERT INTO lines VALUES ('both'); INSERT INTO t VALUES (-1, 'both'); COMMIT";
    stage.source_sql(both).await;
    locked.wait_for_waiter().await;
    let second = is_replaced(&stage, zombie, Some(locked)).await;
    is_whole(&stage, second).await;
}
