//! The machine and the program itself: few file descriptors, a panic.

use super::{Rig, limited};
use crate::oracle;
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn f57_few_file_descriptors_do_or_are_an_error_and_never_a_halt() {
    let rig = Rig::new("fault_files").await;
    for few in [8, 10, 12, 14] {
        let mut run = rig
            .stage
            .spawn(limited(&rig.stage, &format!("ulimit -n {few}")));
        let said = tokio::select! {
            code = run.ended() => format!("{code:?}"),
            () = oracle::comes_through(&rig.stage) => "streams".to_owned(),
            () = says(&rig.stage, "Too many open files") => "says".to_owned(),
        };
        assert_ne!(said, "Some(0)", "{}", rig.stage.log());
        if run.is_running() {
            run.kill9().await;
        }
    }
    let log = rig.stage.log();
    assert!(log.contains("Too many open files"), "{log}");
    let run = rig.stage.spawn(limited(&rig.stage, "ulimit -n 64"));
    oracle::comes_through(&rig.stage).await;
    rig.something_new_arrives().await;
    rig.ends_well(run).await;
}

/// Waits for a text in what all runs have logged.
async fn says(stage: &Stage, words: &str) {
    let before = stage.log().matches(words).count();
    tidemark_lab::wait_for(crate::stage::PATIENCE, words, || async {
        Ok((stage.log().matches(words).count() > before).then_some(()))
    })
    .await
    .unwrap();
}

/// A defect of ours: it ends the run with its words, and costs no row.
#[tokio::test(flavor = "multi_thread")]
async fn f58_a_panic_ends_the_run_with_its_words_and_costs_nothing() {
    let rig = Rig::new("fault_panic").await;
    for point in [
        "load.unit_written",
        "stream.opened",
        "apply.begun",
        "apply.commit_sent",
        "stream.acknowledge_due",
    ] {
        let mut command = rig.stage.command(&["run", "FILE"]);
        command.env("TIDEMARK_FAILPOINT", format!("{point}:2:panic"));
        if point == "stream.opened" {
            command.env("TIDEMARK_FAILPOINT", format!("{point}:1:panic"));
        }
        let mut run = rig.stage.spawn(command);
        let code = run.ended().await;
        let log = rig.stage.log();
        let words = "a defect that TIDEMARK_FAILPOINT asked for";
        let told = log.lines().rfind(|line| line.contains("state failed"));
        assert!(told.is_some_and(|line| line.contains(words)), "{log}");
        assert_eq!(code, Some(1), "{point}: {log}");
        let state = rig.stage.status().await["state"].clone();
        assert_eq!(state, "failed", "{point}: {log}");
    }
    let run = rig.streams().await;
    rig.ends_well(run).await;
}
