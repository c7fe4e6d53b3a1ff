//! No false alarm, whatever the source is doing; and nothing is called identical that was not compared.

use std::time::Duration;

use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::mixed::Mixed;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use super::table;
use crate::asks::text;
use crate::stage::{PATIENCE, Ran, Stage};

const BANK: Bank = Bank { accounts: 300 };

/// Fails unless the two sides were found identical.
#[track_caller]
fn assert_quiet(ran: Ran) -> Ran {
    let ran = ran.expect(0);
    assert_eq!(ran.json()["data"]["result"], "identical", "{}", ran.stdout);
    ran
}

/// The same beside writers that empty `mixed_scratch` many times a second: it may not come to be compared,
/// and nothing but that may be said of it.
#[track_caller]
fn assert_no_alarm(ran: &Ran) {
    let data = &ran.json()["data"];
    let tables = data["tables"].as_array();
    let tables = tables.unwrap_or_else(|| panic!("{}\n{}", ran.stdout, ran.stderr));
    for table in tables {
        let is_emptied = table["source"] == "public.mixed_scratch"
            && table["result"] == "not_compared"
            && table["reason"].to_string().contains("emptied");
        assert!(table["result"] == "identical" || is_emptied, "{table}");
    }
}

struct Hammer {
    bank: Traffic,
    changes: Traffic,
}

impl Hammer {
    /// As fast as the source can, TRUNCATE included.
    async fn start(stage: &Stage, seed: u64) -> Hammer {
        let config = stage.source_config();
        let mixed = Mixed::default();
        Traffic::set_up(&config, &BANK).await.unwrap();
        Traffic::set_up(&config, &mixed).await.unwrap();
        let pace = |seed| Pace {
            writers: 2,
            ..Pace::flat_out(seed)
        };
        Hammer {
            bank: Traffic::start(&config, &BANK, pace(seed)),
            changes: Traffic::start(&config, &mixed, pace(seed + 1)),
        }
    }

    async fn stop(self) {
        let bank = self.bank.stop().await.unwrap();
        assert!(bank.committed > 100, "the bank was busy: {bank:?}");
        self.changes.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_alarm_is_false_while_the_source_is_hammered() {
    let stage = Stage::new("verify_hammer").await;
    let hammer = Hammer::start(&stage, 81).await;
    let run = stage.start(&["run", "FILE"]);
    run_streams(&stage).await;
    // One that was emptied before it was read comes later, and is not compared until it has.
    stage
        .wait_for_table("public.mixed_scratch", "streaming")
        .await;
    let mut positions = Vec::new();
    for round in 0..6 {
        let more: &[&str] = if round % 3 == 2 { &["--counts"] } else { &[] };
        let ran = stage.verify(more).await;
        assert_no_alarm(&ran);
        positions.push(ran.json()["data"]["lsn"].to_string());
    }
    // Several at once do not let each other's hold go.
    for _ in 0..2 {
        let three = tokio::join!(
            stage.verify(&[]),
            stage.verify(&[]),
            stage.verify(&["--counts"])
        );
        for ran in [three.0, three.1, three.2] {
            assert_no_alarm(&ran);
        }
    }
    positions.dedup();
    assert!(
        positions.len() > 3,
        "the source moved between them: {positions:?}"
    );
    hammer.stop().await;
    stage.wait_until_identical().await;
    assert_quiet(stage.verify(&[]).await);
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Catching up for the first time may take longer than the state is worth waiting for: what counts is
/// that the load is through.
async fn run_streams(stage: &Stage) {
    wait_for(PATIENCE, "the load to be through", || async {
        Ok(stage.log().contains("step 5/5").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_source_is_verified_again_and_again() {
    let stage = Stage::new("verify_quiet").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)",
        )
        .await;
    let run = stage.start_streaming().await;
    for _ in 0..3 {
        assert_quiet(stage.verify(&[]).await);
    }
    // What is written between two comparisons is compared.
    stage.source_sql("INSERT INTO t VALUES (101)").await;
    let ran = assert_quiet(stage.verify(&[]).await);
    assert_eq!(table(&ran, "public.t")["source_rows"], 101);
    assert_eq!(run.terminate().await, Some(0));
    // Nobody runs it: there is no position in common, and nothing is claimed.
    let ran = stage.verify(&[]).await;
    assert_ne!(ran.code, Some(0));
    assert_eq!(ran.json()["error"]["code"], "TM7042", "{}", ran.stdout);
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_never_identical() {
    let stage = Stage::new("verify_aside").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i;
             CREATE TABLE paused (id int PRIMARY KEY); CREATE TABLE gone (id int PRIMARY KEY);
             CREATE TABLE ahead (id int PRIMARY KEY); CREATE TABLE good (id int PRIMARY KEY);
             INSERT INTO good VALUES (1)",
        )
        .await;
    let run = stage.start_streaming().await;
    stage
        .target_sql("ALTER TABLE t ADD CHECK (v < 100); DROP TABLE gone")
        .await;
    stage
        .source_sql("INSERT INTO t VALUES (10, 100); ALTER TABLE ahead ADD COLUMN more int")
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    stage
        .run(&["pause", "FILE", "--table", "public.paused"])
        .await
        .expect(0);

    let ran = stage.verify(&[]).await.expect(3);
    let data = &ran.json()["data"];
    assert_eq!(
        (&data["result"], &data["rows"]),
        (&"incomplete".into(), &1.into()),
        "{data}"
    );
    for (name, why) in [
        ("public.t", "quarantined"),
        ("public.paused", "paused"),
        ("public.gone", "TM2019"),
    ] {
        let found = table(&ran, name);
        assert_eq!(found["result"], "not_compared", "{found}");
        assert!(found["reason"].to_string().contains(why), "{found}");
        assert!(
            found["target_rows"].is_null(),
            "what was not measured is no number: {found}"
        );
    }
    assert_eq!(table(&ran, "public.good")["result"], "identical");
    // Nobody writes to it, so it is followed by a look at the catalog, now or later.
    let ahead = table(&ran, "public.ahead");
    if ahead["result"] == "identical" {
        let followed = "SELECT count(*) FROM information_schema.columns \
                        WHERE table_name = 'ahead' AND column_name = 'more'";
        assert_eq!(text(&stage.target, followed).await.unwrap(), "1");
    } else {
        assert!(ahead["reason"].to_string().contains("more"), "{ahead}");
    }
    let said = stage.run(&["verify", "FILE"]).await.expect(3);
    assert!(
        said.stdout.contains("not compared") && !said.stdout.contains("differ"),
        "{}",
        said.stdout
    );
    // There is nothing to repair, and nobody is asked to.
    stage.verify(&["--repair", "--no-input"]).await.expect(3);
    // The first change of the new shape brings the column.
    stage.source_sql("INSERT INTO ahead VALUES (1, 2)").await;
    stage.wait_for_target("SELECT more FROM ahead", "2").await;
    assert_quiet(stage.verify(&["--table", "public.ahead"]).await);
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A transaction that is open for long is waited for without holding the pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_on_the_source_holds_nobody_up() {
    let stage = Stage::new("verify_old").await;
    stage
        .source_sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    let run = stage.start_streaming().await;
    let old = stage
        .source_server
        .client_to(&stage.source_name)
        .await
        .unwrap();
    old.batch_execute("BEGIN; INSERT INTO t VALUES (-1)")
        .await
        .unwrap();
    let (verified, ()) = tokio::join!(stage.verify(&[]), async {
        for id in 2..8 {
            stage
                .source_sql(&format!("INSERT INTO t VALUES ({id})"))
                .await;
            let began = std::time::Instant::now();
            stage
                .wait_for_target(&format!("SELECT count(*) FROM t WHERE id = {id}"), "1")
                .await;
            assert!(
                began.elapsed() < Duration::from_secs(3),
                "the pipeline was held"
            );
        }
        old.batch_execute("COMMIT").await.unwrap();
    });
    assert_quiet(verified);
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
