//! Verbs that need databases, beside the demo: ends of a run, signals, `init`, and what is said when
//! a side cannot be reached or refuses.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait::wait_for;

use crate::program::{Ran, command_in};
use crate::stage::{PATIENCE, Stage, ended, signal};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_it_was_told_to() {
    let stage = Stage::new("ends", "full_load_and_cdc").await;
    assert_eq!(stage.json(&["status", "ends"], 0)["data"]["state"], "draft");
    assert_eq!(
        stage.json(&["tables", "ends"], 0)["data"]["tables"],
        Value::Array(Vec::new())
    );

    let verified = stage.json(&["run", "ends", "--until", "verified"], 0);
    assert_eq!(verified["data"]["verified"]["result"], "identical");
    assert_eq!(verified["data"]["verified"]["rows"], 1_000);
    assert_eq!(verified["data"]["state"], "stopped");
    // The target's server needs a moment to see that the run is gone.
    let gone = wait_for(PATIENCE, "nobody to run it", || async {
        let status = stage.json(&["status", "ends"], 0)["data"].clone();
        Ok(status["running"].is_null().then_some(status))
    });
    let status = gone.await.unwrap();
    assert_eq!(status["state"], "stopped");
    assert!(
        status["full_load_lsn"].is_string() && status["latency_seconds"].is_null(),
        "{status:#}"
    );

    stage.json(&["run", "ends", "--until", "caught-up"], 0);
    let position = status["processed_lsn"].as_str().unwrap();
    stage.json(&["run", "ends", "--until", &format!("lsn:{position}")], 0);
    stage.json(&["run", "ends", "--until", "time:1s"], 0);
    stage.json(&["run", "ends", "--timeout", "2s"], 0);

    let mut child = stage.start(&["run", "ends", "--until", "eof"]);
    stage.wait_for_state("streaming").await;
    assert_eq!(
        stage.json(&["run", "ends"], 6)["error"]["code"],
        "TM2031",
        "two owners"
    );
    stage.json(&["pause", "ends"], 0);
    assert_eq!(
        stage.json(&["status", "ends"], 0)["data"]["state"],
        "paused"
    );
    stage.json(&["resume", "ends"], 0);
    drop(child.stdin.take());
    assert_eq!(ended(&mut child), Some(0), "{}", stage.log());

    let mut child = stage.start(&["run", "ends"]);
    stage.wait_for_state("streaming").await;
    stage.json(&["stop", "ends"], 0);
    assert_eq!(ended(&mut child), Some(0));
    for line in stage.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(line["ts"].is_string() && line["level"].is_string() && line["msg"].is_string());
        assert_eq!(line["pipeline"], "ends", "{line}");
    }
    let steps = stage.log().matches("\"msg\":\"step ").count();
    assert!(
        steps >= 3,
        "the steps of a start are in the log: {}",
        stage.log()
    );
    assert_eq!(
        stage.json(&["stop", "ends"], 0)["data"]["answer"],
        "ends runs nowhere: nothing to stop"
    );
    assert_eq!(stage.json(&["pause", "ends"], 6)["error"]["code"], "TM7042");
    assert_eq!(
        stage.json(&["verify", "ends"], 6)["error"]["code"],
        "TM7042"
    );
    stage.json(&["slots", "drop", "ends", "--yes"], 0);
}

/// A change that a frozen target cannot take, so that there is a batch to finish.
async fn change(stage: &Stage) {
    let sql = "UPDATE t SET v = v || '+' WHERE id <= 10";
    let changed = stage.server.execute_in(&stage.source, sql).await;
    changed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_the_first_signal_ends_in_order_and_the_second_at_once() {
    let stage = Stage::new("signals", "full_load_and_cdc").await;
    let target = PostgresServer::builder().start().await.unwrap();
    stage.write("full_load_and_cdc", &stage.source_url(), &target.url());
    let heard = ["env", "--default-signal=HUP"];
    for name in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = stage.start_by(&heard, &["run", "signals"]);
        stage.wait_for_state("streaming").await;
        signal(&child, name);
        assert_eq!(ended(&mut child), Some(0), "{}", stage.log());
    }
    for (name, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child = stage.start_by(&heard, &["run", "signals"]);
        stage.wait_for_state("streaming").await;
        target.freeze().unwrap();
        change(&stage).await;
        // The log is that of all runs so far.
        let told = "finishing the batch";
        let before = stage.log().matches(told).count();
        signal(&child, name);
        wait_for(PATIENCE, told, || async {
            Ok((stage.log().matches(told).count() > before).then_some(()))
        })
        .await
        .unwrap();
        signal(&child, name);
        let began = Instant::now();
        assert_eq!(ended(&mut child), Some(code), "{}", stage.log());
        assert!(began.elapsed() < Duration::from_secs(5), "at once");
        assert!(
            stage.log().contains("goes on from the checkpoint"),
            "{}",
            stage.log()
        );
        target.thaw().unwrap();
    }
    // A closed terminal is nothing to what was started to outlive it: the signal after it is the first.
    let mut child = stage.start_by(&["nohup"], &["run", "signals"]);
    stage.wait_for_state("streaming").await;
    target.freeze().unwrap();
    change(&stage).await;
    signal(&child, Signal::HUP);
    signal(&child, Signal::TERM);
    wait_for(PATIENCE, "it to be asked to stop", || async {
        Ok(stage.log().contains("finishing the batch").then_some(()))
    })
    .await
    .unwrap();
    target.thaw().unwrap();
    assert_eq!(ended(&mut child), Some(0), "{}", stage.log());

    let verified = stage.json(&["run", "signals", "--until", "verified"], 0);
    assert_eq!(
        verified["data"]["verified"]["result"], "identical",
        "nothing is lost by it"
    );
    stage.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_found_and_mended_with_consent() {
    let stage = Stage::new("differs", "full_load_and_cdc").await;
    let mut child = stage.start(&["run", "differs"]);
    stage.wait_for_state("streaming").await;
    let plant = "UPDATE t SET v = 'planted' WHERE id = 500; DELETE FROM t WHERE id = 7; \
                 INSERT INTO t VALUES (-1, 'extra')";
    stage.server.execute_in(&stage.target, plant).await.unwrap();

    let found = stage.json(&["verify", "differs"], 3)["data"].clone();
    assert_eq!(
        (&found["result"], &found["tables"][0]["different"]),
        (&"different".into(), &3.into())
    );
    assert_eq!(
        stage.json(&["verify", "differs", "--counts"], 0)["data"]["result"],
        "identical"
    );
    let refused = stage.tidemark(&["verify", "differs", "--repair"]);
    assert_eq!(refused.code, 6);
    assert!(
        refused.err.contains("3 rows of 1 000 are copied anew"),
        "{refused:?}"
    );
    let mended = stage.json(&["verify", "differs", "--repair", "--yes"], 0);
    assert_eq!(mended["data"]["result"], "identical");

    for strategy in ["swap", "truncate"] {
        let resync = [
            "resync",
            "differs",
            "--table",
            "t",
            "--yes",
            "--strategy",
            strategy,
        ];
        assert_eq!(stage.json(&resync, 0)["data"]["rows"], 1_000);
    }
    assert_eq!(stage.json(&["verify", "differs"], 0)["data"]["rows"], 1_000);
    signal(&child, Signal::TERM);
    assert_eq!(ended(&mut child), Some(0));
    stage.drop_slot().await;
}

/// The way out that the message names leads out.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_lost_its_slot_is_loaded_anew() {
    let stage = Stage::new("lostslot", "full_load_and_cdc").await;
    stage.json(&["run", "lostslot", "--until", "verified"], 0);
    stage.drop_slot().await;
    let change = "DELETE FROM t WHERE id <= 100; UPDATE t SET v = 'unseen' WHERE id = 500";
    stage
        .server
        .execute_in(&stage.source, change)
        .await
        .unwrap();
    let refused = stage.json(&["run", "lostslot"], 6);
    assert_eq!(refused["error"]["code"], "TM4010");
    let action = refused["error"]["fix"][0]["text"].as_str().unwrap();
    assert!(action.contains("tidemark reconcile"), "{action}");

    let asked = stage.tidemark(&["resync", "lostslot"]);
    assert_eq!(asked.code, 6, "{asked:?}");
    assert!(
        asked.err.contains("the rows stay until the next run"),
        "{asked:?}"
    );
    let still = stage.json(&["run", "lostslot"], 6);
    assert_eq!(
        still["error"]["code"], "TM4010",
        "nothing was done without consent"
    );
    let one = stage.json(&["resync", "lostslot", "--table", "t", "--yes"], 6);
    assert_eq!(
        one["error"]["code"], "TM7042",
        "a single table needs a pipeline that runs"
    );

    let forgotten = stage.json(&["resync", "lostslot", "--yes"], 0);
    let next = forgotten["notices"][0]["text"].as_str().unwrap();
    let next = next.split_once("tidemark ").unwrap().1;
    assert_eq!(
        stage.json(&["status", "lostslot"], 0)["data"]["state"],
        "draft"
    );
    let words: Vec<&str> = next.split(' ').chain(["--until", "verified"]).collect();
    let verified = stage.json(&words, 0)["data"]["verified"].clone();
    assert_eq!(
        (&verified["result"], &verified["rows"]),
        (&"identical".into(), &900.into())
    );
    stage.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_a_file_without_passwords_that_works() {
    let stage = Stage::new("unused", "full_load_only").await;
    let server = PostgresServer::builder()
        .scram("hunter2")
        .start()
        .await
        .unwrap();
    let with_password = server.url();
    assert!(with_password.contains("hunter2"));
    let made = stage.json(
        &[
            "init",
            &stage.source_url(),
            &with_password,
            "--name",
            "made",
        ],
        0,
    );
    assert_eq!(made["data"]["file"], "made.toml");
    let text = std::fs::read_to_string(stage.directory.path().join("made.toml")).unwrap();
    assert!(
        !text.contains("hunter2") && text.contains("${env:TARGET_PASSWORD}"),
        "{text}"
    );
    assert_eq!(
        stage
            .tidemark(&["config", "fmt", "--check", "made.toml"])
            .code,
        0
    );
    let again = stage.json(
        &[
            "init",
            &stage.source_url(),
            &with_password,
            "--name",
            "made",
        ],
        6,
    );
    assert!(
        again["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("not overwritten")
    );

    let run = |password: &str| {
        let output = command_in(stage.directory.path(), &["check", "made", "--json"])
            .env("TARGET_PASSWORD", password)
            .output()
            .unwrap();
        Ran {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    };
    let right = run("hunter2");
    assert_eq!(right.code, 0, "{right:?}");
    let wrong = run("hunter3");
    assert!([3, 4].contains(&wrong.code), "{wrong:?}");
    assert!(
        wrong.out.contains("TM2005") && !wrong.out.contains("hunter3"),
        "{wrong:?}"
    );
}

/// Once such a table is published the source refuses updates of it in every application.
#[tokio::test(flavor = "multi_thread")]
async fn init_does_not_call_ready_what_a_check_warns_of() {
    let stage = Stage::new("unused", "full_load_only").await;
    let (source, target) = (stage.source_url(), stage.target_url());
    let init = |name| stage.tidemark(&["init", &source, &target, "--name", name]);
    let said = init("well").err;
    assert!(said.contains("ready: tidemark run well.toml"), "{said}");
    let keyless = "CREATE TABLE keyless (v text)";
    let made = stage.server.execute_in(&stage.source, keyless).await;
    made.unwrap();
    let said = init("warned").err;
    assert!(!said.contains("ready"), "{said}");
    assert!(said.contains("tidemark check warned.toml"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_said_with_its_code() {
    let stage = Stage::new("reach", "full_load_and_cdc").await;
    let good = stage.source_url();
    let nowhere = "postgres://me@127.0.0.1:1/db";
    for (source, target, codes) in [
        (nowhere, good.as_str(), ["TM1001", "TM1004"]),
        (good.as_str(), nowhere, ["TM2001", "TM2004"]),
    ] {
        stage.write("full_load_and_cdc", source, target);
        let check = stage.tidemark(&["check", "reach", "--json"]);
        assert!([3, 5].contains(&check.code), "{check:?}");
        assert!(
            codes.iter().any(|code| check.out.contains(code)),
            "{check:?}"
        );
        let plan = stage.tidemark(&["plan", "reach"]);
        assert!([3, 5].contains(&plan.code), "{plan:?}");
    }
    // The target's word counts even where the source is silent: state known, gap not.
    stage.write("full_load_and_cdc", nowhere, &stage.target_url());
    let lag = stage.json(&["lag", "reach"], 0)["data"].clone();
    assert_eq!(
        (&lag["gap_bytes"], &lag["state"]),
        (&Value::Null, &"draft".into())
    );
    let all = stage.json(&["status"], 0)["data"]["pipelines"].clone();
    assert_eq!(all[0]["pipeline"], "reach");
}
