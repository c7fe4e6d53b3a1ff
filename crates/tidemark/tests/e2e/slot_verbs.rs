//! `slots list`, `drop` and `adopt`: nobody's slot is taken from under its reader, and a slot of another
//! name serves where it still has everything.

use serde_json::Value;
use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};
use crate::writing::{CHANGES, TABLES};

/// One slot as `slots list` tells it.
async fn listed(stage: &Stage, slot: &str) -> Value {
    let listed = stage.run(&["slots", "list", "FILE", "--json"]).await;
    let slots = listed.expect(0).json()["data"]["slots"].clone();
    let mut slots = slots.as_array().cloned().unwrap_or_default().into_iter();
    slots.find(|it| it["name"] == slot).unwrap_or_default()
}

async fn make_slot(stage: &Stage, slot: &str, plugin: &str) {
    let sql = format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')");
    text(&stage.source, &sql).await.unwrap();
}

/// Fails unless it ends in a refusal with this code, the slot still there.
async fn assert_refused(stage: &Stage, arguments: &[&str], code: &str, slot: &str) {
    let ran = stage.run(arguments).await.expect(6);
    assert!(ran.stderr.contains(code), "{code} in\n{}", ran.stderr);
    assert_eq!(listed(stage, slot).await["name"], slot);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_dropped_only_when_nobody_reads_it_and_it_is_ones_own() {
    let stage = Stage::new("slot_drop").await;
    stage.source_sql(TABLES).await;
    let own = "tidemark_slot_drop";
    let run = stage.start_streaming().await;
    let slot = listed(&stage, own).await;
    assert_eq!(
        (&slot["is_own"], &slot["active"]),
        (&true.into(), &true.into()),
        "{slot}"
    );
    let reader = slot["reader"]["application"].to_string();
    assert!(reader.contains("slot_drop"), "{slot}");
    assert_refused(&stage, &["slots", "drop", "FILE", "--yes"], "TM4015", own).await;
    assert_eq!(run.terminate().await, Some(0));

    wait_for(PATIENCE, "the slot to be free", || async {
        Ok((listed(&stage, own).await["active"] == false).then_some(()))
    })
    .await
    .unwrap();
    let foreign = "slot_drop_of_others";
    make_slot(&stage, foreign, "test_decoding").await;
    let slot = listed(&stage, foreign).await;
    assert_eq!(
        (&slot["is_own"], &slot["owner"]),
        (&false.into(), &"somebody else".into())
    );
    let drop = ["slots", "drop", "FILE", "--slot", foreign, "--yes"];
    assert_refused(&stage, &drop, "TM7041", foreign).await;
    assert_refused(&stage, &["slots", "drop", "FILE"], "TM7041", own).await;

    stage
        .run(&[&drop[..], &["--i-own", foreign]].concat())
        .await
        .expect(0);
    stage
        .run(&["slots", "drop", "FILE", "--yes"])
        .await
        .expect(0);
    for slot in [own, foreign] {
        assert!(listed(&stage, slot).await.is_null(), "{slot} is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_name_is_adopted_only_where_it_has_everything() {
    let stage = Stage::new("slot_adopt").await;
    stage.source_sql(TABLES).await;
    stage.catch_up().await;
    let (good, late, other) = ("slot_adopt_good", "slot_adopt_late", "slot_adopt_other");
    make_slot(&stage, good, "pgoutput").await;
    make_slot(&stage, other, "test_decoding").await;
    stage.source_sql(CHANGES).await;
    stage.catch_up().await;
    stage
        .source_sql("INSERT INTO notes VALUES (-1, 'later')")
        .await;
    make_slot(&stage, late, "pgoutput").await;

    let adopt = |slot| ["slots", "adopt", "FILE", "--slot", slot];
    // It has moved past what is in the target; it is of another kind; there is none.
    assert_refused(&stage, &adopt(late), "TM4011", late).await;
    assert_refused(&stage, &adopt(other), "TM4014", other).await;
    stage.run(&adopt("slot_adopt_none")).await.expect(6);
    let adopted = stage.run(&adopt(good)).await.expect(0);
    let lines = ["[source.postgres]", "slot = ", "publication = "];
    let mut said = adopted.stdout.lines().map(str::trim);
    let said = lines.map(|line| said.find(|said| said.starts_with(line)));
    let said = said.map(|line| line.unwrap_or_else(|| panic!("{}", adopted.stdout)));

    // As it says, and nothing is lost or doubled.
    stage
        .run(&["slots", "drop", "FILE", "--yes"])
        .await
        .expect(0);
    stage.write(&format!("{}\n", said.join("\n")));
    stage
        .source_sql("DELETE FROM notes WHERE id = 3; INSERT INTO lines VALUES ('later')")
        .await;
    stage.catch_up().await;
    stage.assert_identical().await;
    stage
        .run(&["slots", "drop", "FILE", "--yes"])
        .await
        .expect(0);
    for slot in [late, other] {
        let drop = [
            "slots", "drop", "FILE", "--slot", slot, "--yes", "--i-own", slot,
        ];
        stage.run(&drop).await.expect(0);
    }
}
