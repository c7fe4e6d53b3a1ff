//! A cutover that is given up: the source takes writes, the pipeline streams on, and it is said so.

use std::process::Stdio;

use rustix::process::Signal;
use tidemark_lab::wait_for;
use tokio::process::{Child, Command};

use super::handed_over::stage_clear;
use super::{shop, step};
use crate::asks::text;
use crate::stage::{PATIENCE, Ran, Running, Stage};

/// A cutover under way, as a person would start it.
pub(super) struct Going {
    child: Child,
    log: std::path::PathBuf,
}

impl Going {
    pub(super) fn start(stage: &Stage, more: &[&str]) -> Going {
        let mut arguments = vec!["cutover", "FILE", "--yes"];
        arguments.extend(more);
        let log = stage.directory().join("cutover.log");
        let file = std::fs::File::create(&log).unwrap();
        let plain = stage.command(&arguments);
        let plain = plain.as_std();
        // Whoever runs the tests may have been started by nohup.
        // Nor is there a terminal.
        let child = Command::new("setsid")
            .args(["env", "--default-signal=HUP"])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(stage.directory())
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Going { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until a step is done.
    pub(super) async fn wait_for(&self, step: &str) {
        wait_for(PATIENCE, &format!("step {step}"), || async {
            Ok(self.said().contains(step).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err}\n{}", self.said()));
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; its exit code and what it said.
    pub(super) async fn ended(mut self) -> (Option<i32>, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let code = ended.expect("it ends").unwrap().code();
        (code, self.said())
    }
}

/// Everything is as it was before.
async fn goes_on(stage: &Stage, run: &mut Running) {
    assert!(stage.takes_writes().await, "the source takes writes");
    stage.assert_equal().await;
    assert!(run.is_running(), "{}", run.log());
    wait_for(PATIENCE, "nothing to be left", || async {
        Ok((stage.temporary_slots().await? == 0).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_interrupted_at_any_step_the_source_takes_writes_and_the_pipeline_streams_on() {
    let stage = Stage::new("cutover_interrupted").await;
    stage.write("[verify]\nafter_load = \"off\"\n");
    let traffic = shop(&stage, 15).await;
    let mut run = stage.start_streaming().await;

    // Before anybody is stopped: the pipeline does not answer.
    run.signal(Signal::STOP);
    let going = Going::start(&stage, &["--fence"]);
    going.wait_for(" streaming ").await;
    going.signal(Signal::INT);
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("takes writes as before; the pipeline streams on"),
        "{said}"
    );
    run.signal(Signal::CONT);
    goes_on(&stage, &mut run).await;

    // While the command stops the writers: all that it has started ends with it.
    let hook = "sleep 600 & echo $! > child; kill -TERM $PPID; wait";
    let started = stage.directory().join("started");
    let going = Going::start(
        &stage,
        &[
            "--stop-writers",
            hook,
            "--start-writers",
            "echo yes > started",
        ],
    );
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("the writers were started again"), "{said}");
    assert!(
        said.contains("killed with all that it had started"),
        "{said}"
    );
    assert!(started.exists());
    let child = std::fs::read_to_string(stage.directory().join("child")).unwrap();
    let child = format!("/proc/{}/cmdline", child.trim());
    wait_for(PATIENCE, "what the command has started to end", || async {
        // Of one that nobody has waited for yet it is empty.
        let is_over = std::fs::read(&child).map_or(true, |line| line.is_empty());
        Ok(is_over.then_some(()))
    })
    .await
    .unwrap();
    goes_on(&stage, &mut run).await;

    // While silence is waited for, behind a fence. The second time the terminal is closed.
    for (signal, expected) in [(Signal::INT, 130), (Signal::HUP, 129)] {
        let going = Going::start(&stage, &["--fence", "--silence", "10m"]);
        going.wait_for(" writers ").await;
        assert!(!stage.takes_writes().await, "fenced");
        going.signal(signal);
        let (code, said) = going.ended().await;
        assert_eq!(code, Some(expected), "{said}");
        assert!(
            said.contains("takes writes again; the pipeline streams on"),
            "{said}"
        );
        goes_on(&stage, &mut run).await;
    }

    // The source does not take the fence down: somebody's transaction has it locked.
    let going = Going::start(&stage, &["--fence", "--silence", "10m"]);
    going.wait_for(" writers ").await;
    let holder = stage.on_source().await;
    let alter = format!("ALTER DATABASE {} SET work_mem = '8MB'", stage.source_name);
    let lock = format!("BEGIN READ WRITE; {alter}");
    holder.batch_execute(&lock).await.unwrap();
    going.signal(Signal::INT);
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(130), "{said}");
    let is_told = said.contains("may still refuse writes: tidemark cutover ");
    assert!(is_told && said.contains("--abort"), "{said}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    stage.cutover(&["--abort"]).await.expect(0);
    goes_on(&stage, &mut run).await;

    // While the target is drained: the pipeline does not answer any more.
    let going = Going::start(&stage, &["--fence", "--silence", "3s"]);
    going.wait_for(" writers ").await;
    run.signal(Signal::STOP);
    going.wait_for(" silence ").await;
    going.signal(Signal::INT);
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(130), "{said}");
    run.signal(Signal::CONT);
    goes_on(&stage, &mut run).await;

    stands_still_no_longer_than_it_may(&stage).await;
    goes_on(&stage, &mut run).await;

    // By a time limit, which on a busy machine may be over before there is a fence.
    let ran = stage
        .cutover(&["--fence", "--silence", "10m", "--timeout", "10s"])
        .await
        .expect(5);
    let said = &ran.stdout;
    let is_undone = ["takes writes again; ", "takes writes as before; "]
        .iter()
        .any(|words| said.contains(&format!("{words}the pipeline streams on")));
    assert!(is_undone, "{said}");
    assert!(stage.takes_writes().await, "{said}");
    traffic.stop().await.unwrap();
    goes_on(&stage, &mut run).await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

/// The proof takes longer than writers may stand still: both sides are read at one position, which waits for a
/// transaction elsewhere on the source's server.
async fn stands_still_no_longer_than_it_may(stage: &Stage) {
    let page = stage.directory().join("page.md");
    let page = page.to_str().unwrap();
    let bound = ["--fence", "--silence", "2s", "--max-downtime", "10s"];
    let going = Going::start(stage, &[&bound[..], &["--report", page]].concat());
    going.wait_for(" writers ").await;
    // What watches silence waits for such a transaction as well, until it can begin.
    let watches = "SELECT count(*) > 0 FROM pg_replication_slots WHERE temporary \
                   AND database = current_database() AND confirmed_flush_lsn IS NOT NULL";
    wait_for(PATIENCE, "silence to be watched", || async {
        let source = stage.on_source().await;
        Ok((text(&source, watches).await? == "t").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", going.said()));
    let server = stage.source_server;
    let elsewhere = server.client_to("postgres").await.unwrap();
    let open = "BEGIN; SELECT pg_current_xact_id()";
    elsewhere.batch_execute(open).await.unwrap();
    let (code, said) = going.ended().await;
    assert_eq!(code, Some(3), "{said}");
    let page = std::fs::read_to_string(page).unwrap();
    for words in [
        "`compared` is not done (comparing both sides: 0 of ",
        "the source takes writes again",
        "the pipeline streams on",
    ] {
        assert!(page.contains(words), "{words} in {page}");
    }
    elsewhere.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_that_is_killed_leaves_its_fence_and_abort_takes_it_down() {
    let stage = Stage::new("cutover_killed").await;
    let traffic = shop(&stage, 16).await;
    let mut run = stage.start_streaming().await;
    let mut going = Going::start(&stage, &["--fence", "--silence", "10m"]);
    going.wait_for(" writers ").await;
    going.child.kill().await.unwrap();
    assert!(!stage.takes_writes().await, "nobody was left to undo it");

    // A second one says that it found it, and does not take down what it did not raise.
    let second = Going::start(&stage, &["--fence", "--silence", "10m"]);
    second.wait_for(" writers ").await;
    second.signal(Signal::INT);
    let (_, said) = second.ended().await;
    assert!(said.contains("was read-only before this began"), "{said}");
    assert!(said.contains("--abort"), "{said}");

    let told = |checked: &Ran| checked.stdout.contains("TM7063");
    let check = ["check", "FILE", "--json"];
    assert!(told(&stage.run(&check).await), "check tells of the fence");
    stage.cutover(&["--abort"]).await.expect(0);
    assert!(!told(&stage.run(&check).await), "there is none any more");
    let again = stage.cutover(&["--abort"]).await.expect(0);
    assert_eq!(again.json()["data"]["lowered"], false);
    goes_on(&stage, &mut run).await;
    traffic.stop().await.unwrap();
    stage.assert_equal().await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_go_on_are_named_and_nothing_is_handed_over() {
    let stage = Stage::new("cutover_noisy").await;
    let traffic = shop(&stage, 17).await;
    let mut run = stage.start_streaming().await;
    let quick = ["--silence", "500ms", "--patience", "2s"];
    let ran = stage.cutover(&quick).await.expect(3);
    let answer = ran.json();
    assert_eq!(answer["data"]["result"], "given_up");
    let reason = &answer["data"]["reason"];
    assert_eq!(reason["code"], "TM6071", "{reason}");
    assert!(reason.to_string().contains("bank_transfers"), "{reason}");
    assert_eq!(step(&answer, "silence")["done"], false);
    traffic.stop().await.unwrap();
    goes_on(&stage, &mut run).await;

    // Nobody commits anything, but somebody could.
    let writer = stage.on_source().await;
    writer
        .batch_execute("BEGIN; INSERT INTO orders (what) VALUES ('not yet')")
        .await
        .unwrap();
    let ran = stage.cutover(&quick).await.expect(3);
    let reason = ran.json()["data"]["reason"].clone();
    assert_eq!(reason["code"], "TM6071", "{reason}");
    assert!(reason.to_string().contains("open: pid"), "{reason}");
    writer.batch_execute("COMMIT").await.unwrap();
    goes_on(&stage, &mut run).await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_differs_is_not_handed_over() {
    let stage = Stage::new("cutover_differs").await;
    stage.write("[verify]\nafter_load = \"counts\"\n");
    let traffic = shop(&stage, 18).await;
    let mut run = stage.start_streaming().await;
    stage.assert_equal().await;
    wait_for(PATIENCE, "rows to be counted", || async {
        Ok((!stage.status().await["verified"].is_null()).then_some(()))
    })
    .await
    .unwrap();
    // That says nothing of their values.
    let rehearsed = stage.cutover(&["--dry-run"]).await.expect(0).json();
    let verified = step(&rehearsed, "verified").to_string();
    assert!(verified.contains("would be compared first"), "{verified}");
    stage.run(&["pause", "FILE"]).await.expect(0);
    let paused = stage.cutover(&[]).await.expect(3);
    assert_eq!(paused.json()["data"]["reason"]["code"], "TM6070");
    let what_to_do = paused.json()["notices"].to_string();
    let command = "tidemark tables cutover_differs tells";
    assert!(what_to_do.contains(command), "{what_to_do}");
    assert!(!paused.stdout.contains("streams on"), "{}", paused.stdout);
    stage.run(&["resume", "FILE"]).await.expect(0);

    stage
        .target_sql("UPDATE orders SET what = 'other' WHERE id = 7")
        .await;
    let ran = stage
        .cutover(&["--fence", "--silence", "500ms"])
        .await
        .expect(3);
    let answer = ran.json();
    let reason = &answer["data"]["reason"];
    assert_eq!(reason["code"], "TM6072", "{reason}");
    assert!(reason.to_string().contains("public.orders"), "{reason}");
    assert!(stage.takes_writes().await);
    stage
        .target_sql("UPDATE orders SET what = md5('7') WHERE id = 7")
        .await;
    traffic.stop().await.unwrap();
    goes_on(&stage, &mut run).await;

    // A command that fails stops nobody.
    let ran = stage.cutover(&["--stop-writers", "exit 7"]).await.expect(6);
    assert_eq!(ran.json()["error"]["code"], "TM6074");
    goes_on(&stage, &mut run).await;
    assert_eq!(run.terminate().await, Some(0));
    stage_clear(&stage).await;
}
