//! A newer program over what an older one keeps in the target, and the other way round.

use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const BANK: Bank = Bank { accounts: 100 };

/// What the first version kept.
const OLDER: &str = "BEGIN; DROP TABLE tidemark.command, tidemark.status, tidemark.quarantine;
    ALTER TABLE tidemark.checkpoint DROP COLUMN release, DROP COLUMN relay;
    ALTER TABLE tidemark.table_state DROP COLUMN constraints, DROP COLUMN partitions, DROP COLUMN emptied_by;
    UPDATE tidemark.version SET version = 1; COMMIT";

const VERSION: &str = "SELECT version FROM tidemark.version";
const HAS_COMMANDS: &str = "SELECT to_regclass('tidemark.command') IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn k16_f61_killed_in_a_migration_it_is_the_old_version_and_the_next_run_migrates_under_load()
{
    let stage = Stage::new("upgrade").await;
    let config = stage.source_config();
    Traffic::set_up(&config, &BANK).await.unwrap();
    let bank = Traffic::start(&config, &BANK, Pace::at(100.0, 61));
    let run = stage.start_streaming().await;
    assert_eq!(run.terminate().await, Some(0));
    let present = text(&stage.target, VERSION).await.unwrap();
    stage.target_sql(OLDER).await;

    // A reader keeps the last step of the migration waiting; the first have been taken.
    let reader = stage
        .target_server
        .client_to(&stage.target_name)
        .await
        .unwrap();
    reader
        .batch_execute("BEGIN; SELECT FROM tidemark.checkpoint")
        .await
        .unwrap();
    let run = stage.start(&["run", "FILE"]);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database() AND application_name = 'tidemark upgrade'";
    stage.wait_for_target(waits, "1").await;
    run.kill9().await;
    reader.batch_execute("COMMIT").await.unwrap();
    let ours = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'tidemark upgrade'";
    stage.wait_for_target(ours, "0").await;
    let version = text(&stage.target, VERSION).await.unwrap();
    let has_commands = text(&stage.target, HAS_COMMANDS).await.unwrap();
    let whole = [("1", "f"), (present.as_str(), "t")];
    assert!(
        whole.contains(&(version.as_str(), has_commands.as_str())),
        "in between: {version} {has_commands}"
    );

    let run = stage.start_streaming().await;
    stage.wait_for_target(VERSION, &present).await;
    assert_eq!(run.terminate().await, Some(0));

    // A newer program was here: nothing is changed by an older one.
    let kept = "SELECT md5(string_agg(c::text, ',')) FROM tidemark.checkpoint c";
    let before = text(&stage.target, kept).await.unwrap();
    stage
        .target_sql("UPDATE tidemark.version SET version = 999")
        .await;
    let refused = stage.run(&["run", "FILE"]).await.expect(6);
    for words in ["TM2034", "version 999"] {
        assert!(
            refused.stderr.contains(words),
            "{words} in {}",
            refused.stderr
        );
    }
    assert_eq!(text(&stage.target, kept).await.unwrap(), before);
    assert_eq!(text(&stage.target, VERSION).await.unwrap(), "999");
    stage
        .target_sql(&format!("UPDATE tidemark.version SET version = {present}"))
        .await;

    let run = stage.start_streaming().await;
    bank.stop().await.unwrap();
    wait_for(PATIENCE, "the run to go on", || async {
        Ok(stage.log().contains("step 5/5").then_some(()))
    })
    .await
    .unwrap();
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
