//! A comparison, or the pipeline that it holds, is interrupted: what is said is never wrong, and
//! nothing stays behind.

use std::time::{Duration, Instant};

use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::{Proxy, wait_for};

use crate::stage::{PATIENCE, Ran, Stage};

const BANK: Bank = Bank { accounts: 300 };

async fn bank(stage: &Stage, seed: u64) -> Traffic {
    let config = stage.source_config();
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::start(&config, &BANK, Pace::at(200.0, seed))
}

/// Identical, or not compared for a reason that is told: never different.
#[track_caller]
fn assert_no_alarm(ran: &Ran) {
    let answer = ran.json();
    assert_ne!(
        answer["data"]["result"], "different",
        "{}\n{}",
        ran.stdout, ran.stderr
    );
    if ran.code == Some(0) {
        assert_eq!(answer["data"]["result"], "identical");
    }
}

/// Temporary slots of the source's database.
async fn temporary_slots(stage: &Stage) -> anyhow::Result<usize> {
    let sql =
        "SELECT 1 FROM pg_replication_slots WHERE temporary AND database = current_database()";
    Ok(stage.source.query(sql, &[]).await?.len())
}

async fn nothing_is_left(stage: &Stage) {
    wait_for(PATIENCE, "the temporary slot to be gone", || async {
        Ok((temporary_slots(stage).await? == 0).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(stage.slots().await.len(), 1, "the pipeline's own");
}

/// How long the next transfer takes to arrive.
async fn time_to_arrive(stage: &Stage) -> Duration {
    let newest = "SELECT max(id) FROM bank_transfers";
    let before: i64 = stage.source.query_one(newest, &[]).await.unwrap().get(0);
    let began = Instant::now();
    wait_for(PATIENCE, "a transfer to arrive", || async {
        let now: Option<i64> = stage.target.query_one(newest, &[]).await?.get(0);
        Ok((now > Some(before)).then_some(()))
    })
    .await
    .unwrap();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_killed_in_the_middle_leaves_nothing_and_the_pipeline_goes_on() {
    let stage = Stage::new("verify_killed").await;
    stage
        .source_sql(
            "CREATE TABLE large (id int PRIMARY KEY, v text);
             INSERT INTO large SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 300000) i",
        )
        .await;
    let bank = bank(&stage, 91).await;
    let run = stage.start_streaming().await;

    // While it compares.
    let mut verify = stage.command(&["verify", "FILE"]).spawn().unwrap();
    wait_for(PATIENCE, "a comparison under way", || async {
        Ok((temporary_slots(&stage).await? == 1).then_some(()))
    })
    .await
    .unwrap();
    verify.kill().await.unwrap();
    nothing_is_left(&stage).await;

    // While it holds the pipeline: the source does not answer it any more.
    let wire = Proxy::start(stage.source_server.port()).await.unwrap();
    let through = stage
        .source_server
        .url_through(wire.address(), &stage.source_name);
    stage.write_between(&through, &stage.target_url(), "");
    let holds =
        "SELECT count(*) FROM tidemark.command WHERE command ? 'hold' AND answer IS NOT NULL";
    let before: i64 = stage.target.query_one(holds, &[]).await.unwrap().get(0);
    let mut verify = stage.command(&["verify", "FILE"]).spawn().unwrap();
    wait_for(PATIENCE, "a pipeline that is held", || async {
        let now: i64 = stage.target.query_one(holds, &[]).await?.get(0);
        Ok((now > before).then_some(()))
    })
    .await
    .unwrap();
    wire.partition();
    verify.kill().await.unwrap();
    let held = time_to_arrive(&stage).await;
    assert!(
        held < Duration::from_secs(15),
        "held for {held:?} by nobody"
    );
    drop(wire);
    stage.write("");
    nothing_is_left(&stage).await;

    stage.verify(&[]).await.expect(0);
    bank.stop().await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_killed_while_it_is_held_raises_no_alarm() {
    let stage = Stage::new("verify_restart").await;
    let bank = bank(&stage, 92).await;
    let mut run = stage.start_streaming().await;
    for pause in [0, 30, 60, 90, 120, 160, 200, 260] {
        let answers = "SELECT count(*) FROM tidemark.command WHERE answer IS NOT NULL";
        let before: i64 = stage.target.query_one(answers, &[]).await.unwrap().get(0);
        let again = async {
            // From the first answer on, at different moments.
            wait_for(PATIENCE, "a pipeline that is held", || async {
                let now: i64 = stage.target.query_one(answers, &[]).await?.get(0);
                Ok((now > before).then_some(()))
            })
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            run.kill9().await;
            stage.start(&["run", "FILE"])
        };
        let (ran, again) = tokio::join!(stage.verify(&[]), again);
        assert_no_alarm(&ran);
        run = again;
        time_to_arrive(&stage).await;
    }
    stage.verify(&[]).await.expect(0);
    bank.stop().await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Tables are loaded anew, in their place and beside it, while they are compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_beside_a_comparison_raises_no_alarm() {
    let stage = Stage::new("verify_resync").await;
    stage
        .source_sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bulk (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 40000) i;
             INSERT INTO bulk SELECT i, md5(i::text) FROM generate_series(1, 100000) i",
        )
        .await;
    let bank = bank(&stage, 93).await;
    let run = stage.start_streaming().await;
    let resyncs = async {
        for strategy in ["swap", "truncate", "swap", "truncate"] {
            stage
                .run(&[
                    "resync",
                    "FILE",
                    "--table",
                    "public.t",
                    "--strategy",
                    strategy,
                    "--yes",
                ])
                .await
                .expect(0);
        }
    };
    tokio::pin!(resyncs);
    let mut rounds = 0;
    loop {
        tokio::select! {
            () = &mut resyncs => break,
            ran = stage.verify(&[]) => assert_no_alarm(&ran),
        }
        rounds += 1;
    }
    assert!(rounds > 2, "compared beside them: {rounds}");
    stage.verify(&[]).await.expect(0);
    bank.stop().await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
