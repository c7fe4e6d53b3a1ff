//! Two owners of one pipeline: the second is refused and told who the first is, and a first one that
//! lost its lock while it was frozen cannot write when it wakes up.

use rustix::process::Signal;
use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use crate::stage::{PATIENCE, Stage};

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
