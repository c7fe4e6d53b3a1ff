//! Told to stop, once, while a server keeps it waiting: somebody has an open transaction that holds what
//! comes next, on the source or on the target. It ends in time all the same, leaves nobody waiting on
//! either server, and what was not committed comes again, once.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidemark_core::failpoint::{self, FailPoint};
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::own_server;
use crate::asks::{Locked, text};
use crate::stage::{PATIENCE, Running, Stage};
use crate::writing;

/// How long a run may take that is to end in order, and how long any other verb.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(18);
const VERB_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Within which a server notices that nobody waits for its answer.
const SERVER_NOTICES_WITHIN: Duration = Duration::from_secs(10);

/// A table that refers to another, and changes that may come more than once. A row of `lines` that came
/// twice would show: it has no key.
const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY, note int REFERENCES notes);
    INSERT INTO parts SELECT i, i FROM generate_series(1, 50) i;";
const MORE: &str =
    "UPDATE notes SET v = v || '+' WHERE id % 7 = 0; INSERT INTO lines VALUES ('more');
    INSERT INTO parts SELECT max(id) + 1, 1 FROM parts";

/// A pipeline with `notes`, `lines` and `parts`, which refers to `notes`, not begun.
async fn stage(server: &'static PostgresServer, name: &str) -> Stage {
    let stage = Stage::on(server, server, name).await;
    stage.source_sql(writing::TABLES).await;
    stage.source_sql(PARTS).await;
    stage
}

/// SIGTERM, once, while somebody is waited for.
async fn stops(stage: &Stage, mut run: Running, locked: Locked<'_>) {
    locked.wait_for_waiter().await;
    let began = Instant::now();
    run.signal(Signal::TERM);
    let code = run.ended().await;
    let took = began.elapsed();
    let log = run.log();
    assert!(took < RUN_ENDS_WITHIN, "{took:?}\n{log}");
    assert_eq!(code, Some(0), "{log}");
    nobody_is_left(stage).await;
    locked.release().await;
}

/// No session of the pipeline on either server, whatever it would wait for.
async fn nobody_is_left(stage: &Stage) {
    let sessions = "SELECT string_agg(application_name || ': ' || query, '; ') FROM pg_stat_activity \
                    WHERE application_name LIKE 'tidemark %' AND datname = current_database()";
    for (side, client) in [("source", &stage.source), ("target", &stage.target)] {
        let gone = wait_for(SERVER_NOTICES_WITHIN, "sessions to be gone", || async {
            let left = text(client, sessions).await?;
            anyhow::ensure!(left == "NULL", "left on the {side}: {left}");
            Ok(Some(()))
        });
        gone.await
            .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    }
}

/// Nothing is missing, nothing came twice; and it follows what comes now.
async fn goes_on(stage: &Stage) {
    stage.source_sql(MORE).await;
    stage.catch_up().await;
    stage.assert_identical().await;
}

/// Runs until it is killed at this point.
async fn killed_at(stage: &Stage, point: FailPoint) {
    let mut command = stage.command(&["run", "FILE"]);
    command.env("TIDEMARK_FAILPOINT", point.name());
    let mut run = stage.spawn(command);
    assert_eq!(run.killed_by().await, Some(9), "{}", run.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_comes_in_time_while_a_start_waits_for_the_source() {
    let stage = stage(own_server(&[]).await, "waits_start").await;
    // It cannot even look at the table.
    let locked = Locked::on_source(&stage, "notes").await;
    stops(&stage, stage.start(&["run", "FILE"]), locked).await;
    goes_on(&stage).await;
    // A table that has to be announced again, and cannot be while it is vacuumed, or gets an index.
    let publication = "ALTER PUBLICATION tidemark_waits_start DROP TABLE notes";
    stage.source_sql(publication).await;
    let locked = Locked::on_source(&stage, "notes IN SHARE UPDATE EXCLUSIVE MODE").await;
    stops(&stage, stage.start(&["run", "FILE"]), locked).await;
    goes_on(&stage).await;
    stage.clear().await;
}

/// A table that is written to in another shape, and changes again: what it is now cannot be read, and the
/// stream cannot go on without.
#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_comes_in_time_while_the_stream_waits_for_the_source() {
    let stage = stage(own_server(&[]).await, "waits_stream").await;
    let run = stage.start_streaming().await;
    stage.run(&["pause", "FILE"]).await.expect(0);
    let reshaped = "ALTER TABLE notes ADD COLUMN more int DEFAULT 7";
    stage.source_sql(reshaped).await;
    stage
        .source_sql("INSERT INTO notes VALUES (20000, 'new', 1)")
        .await;
    let locked = Locked::on_source(&stage, "notes").await;
    stage.run(&["resume", "FILE"]).await.expect(0);
    stops(&stage, run, locked).await;
    goes_on(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_stop_comes_in_time_while_the_target_is_waited_for() {
    let server = own_server(&[]).await;
    // Foreign keys, at the end of a load and beside the stream.
    for (point, name) in [
        (failpoint::TABLES_RECORDED, "waits_load"),
        (failpoint::FINISHING_RECORDED, "waits_keys"),
    ] {
        let stage = stage(server, name).await;
        killed_at(&stage, point).await;
        let locked = Locked::table(&stage, "notes IN ROW EXCLUSIVE MODE").await;
        stops(&stage, stage.start(&["run", "FILE"]), locked).await;
        goes_on(&stage).await;
        let keys =
            "SELECT count(*) FROM pg_constraint WHERE conname = 'parts_note_fkey' AND convalidated";
        assert_eq!(text(&stage.target, keys).await.unwrap(), "1");
        stage.clear().await;
    }
    // What it records, before it begins and while it streams.
    let stage = stage(server, "waits_record").await;
    stage.catch_up().await;
    let locked = Locked::table(&stage, "tidemark.checkpoint").await;
    stops(&stage, stage.start(&["run", "FILE"]), locked).await;
    let run = stage.start_streaming().await;
    let locked = Locked::table(&stage, "tidemark.checkpoint").await;
    stage.source_sql("INSERT INTO lines VALUES ('new')").await;
    stops(&stage, run, locked).await;
    goes_on(&stage).await;
    stage.clear().await;
}

/// A verb is cut off while it waits for a lock.
async fn is_cut_off(stage: &Stage, arguments: &[&str], locked: &Locked<'_>, signal: Signal) {
    let mut run = stage.start(arguments);
    locked.wait_for_waiter().await;
    let began = Instant::now();
    run.signal(signal);
    let code = run.ended().await;
    let took = began.elapsed();
    let expected = if signal == Signal::INT { 130 } else { 143 };
    assert_eq!(code, Some(expected), "{arguments:?}");
    assert!(took < VERB_ENDS_WITHIN, "{arguments:?}: {took:?}");
    nobody_is_left(stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_whoever_looks_and_is_made_to_wait_ends_at_once() {
    let stage = stage(own_server(&[]).await, "waits_verbs").await;
    stage.catch_up().await;
    let locked = Locked::on_source(&stage, "notes").await;
    for (signal, arguments) in [
        (Signal::INT, &["check", "FILE"][..]),
        (Signal::TERM, &["plan", "FILE"]),
        (Signal::INT, &["verify", "FILE", "--deep"]),
        (Signal::TERM, &["reconcile", "FILE", "--dry-run"]),
        (Signal::TERM, &["cutover", "FILE", "--dry-run"]),
    ] {
        is_cut_off(&stage, arguments, &locked, signal).await;
    }
    locked.release().await;
    let ours = "tidemark.checkpoint, tidemark.status, tidemark.command";
    let locked = Locked::table(&stage, ours).await;
    for (signal, arguments) in [
        (Signal::INT, &["status", "FILE"][..]),
        (
            Signal::TERM,
            &["resync", "FILE", "--table", "public.notes", "--yes"],
        ),
    ] {
        is_cut_off(&stage, arguments, &locked, signal).await;
    }
    locked.release().await;
    goes_on(&stage).await;
    stage.clear().await;
}

/// A person who is asked whether to go on, and does not want to.
#[tokio::test(flavor = "multi_thread")]
async fn f56_ctrl_c_is_heard_at_a_question() {
    let stage = stage(own_server(&[]).await, "waits_person").await;
    stage.catch_up().await;
    let log = stage.directory().join("terminal");
    let file = stage.file();
    let line = format!(
        "exec {} reconcile {}",
        env!("CARGO_BIN_EXE_tidemark"),
        file.display()
    );
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .expect("script is part of every Debian");
    wait_for(PATIENCE, "the question", || async {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        anyhow::ensure!(said.contains("Type the pipeline's name"), "{said}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    let began = Instant::now();
    let mut keys = terminal.stdin.take().unwrap();
    keys.write_all(b"\x03").await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, terminal.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(130));
    assert!(began.elapsed() < VERB_ENDS_WITHIN, "{:?}", began.elapsed());
    stage.clear().await;
}
