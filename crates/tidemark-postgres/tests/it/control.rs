//! The side door, from both ends.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::control::{Answer, Command, Control, HoldAt, HoldId, ResyncStrategy};
use tidemark_core::schema::TableName;
use tidemark_core::status::{By, Health, PipelineState, Status, Totals, Trend};
use tidemark_lab::wait_for;

use crate::target::{Database, at, owner};

#[tokio::test]
async fn asking_for_a_pipeline_that_never_ran_is_an_answer() {
    let database = Database::new().await;
    let mut door = database.target("shop").control().await.unwrap();
    assert_eq!(door.last_status().await.unwrap(), None);
    assert_eq!(door.owner().await.unwrap(), None);
    assert!(door.commands().await.unwrap().is_empty());
    let refusal = door.send(&Command::Stop).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_NOT_KNOWN);

    // The schema comes while the door is open.
    let other = database.target("other");
    other.acquire(&owner(1)).await.unwrap();
    assert_eq!(door.last_status().await.unwrap(), None);
    let refusal = door.send(&Command::Stop).await.unwrap_err();
    assert_eq!(
        refusal.code(),
        codes::TARGET_NOT_KNOWN,
        "another pipeline's"
    );
}

#[tokio::test]
async fn commands_wait_in_order_until_answered() {
    let database = Database::new().await;
    let target = database.target("shop");
    target.acquire(&owner(1)).await.unwrap();
    let mut engine = target.control().await.unwrap();
    let mut caller = database.target("shop").control().await.unwrap();
    let resync = Command::Resync {
        tables: vec![TableName::new("public", "it's")],
        strategy: ResyncStrategy::Swap,
    };
    let hold = Command::Hold {
        id: HoldId::random(),
        at: HoldAt::Position(at(77)),
        seconds_max: 9,
    };
    let first = caller.send(&resync).await.unwrap();
    let second = caller.send(&hold).await.unwrap();
    let waiting = vec![(first, resync), (second, hold)];
    assert_eq!(engine.commands().await.unwrap(), waiting);
    assert_eq!(engine.commands().await.unwrap(), waiting, "until answered");
    assert_eq!(caller.answer_to(first).await.unwrap(), None);

    let answer = Answer {
        ok: false,
        text: "not while it loads".to_owned(),
        code: Some("TM2048".to_owned()),
    };
    engine.answer(first, &answer).await.unwrap();
    assert_eq!(caller.answer_to(first).await.unwrap(), Some(answer));
    assert_eq!(engine.commands().await.unwrap(), waiting[1..]);
    let mut stranger = database.target("another").control().await.unwrap();
    assert!(stranger.commands().await.unwrap().is_empty());
    assert_eq!(stranger.answer_to(first).await.unwrap(), None);
}

const AT_ONCE: Duration = Duration::ZERO;

async fn is_called(control: &mut dyn Control, within: Duration) -> bool {
    let called = tokio::time::timeout(within, control.called()).await;
    called.inspect(|called| assert!(called.is_ok())).is_ok()
}

#[tokio::test]
async fn a_command_calls_its_pipeline_and_no_other() {
    let database = Database::new().await;
    let (shop, other) = (database.target("shop"), database.target("other"));
    shop.acquire(&owner(1)).await.unwrap();
    other.acquire(&owner(2)).await.unwrap();
    let mut engine = shop.control().await.unwrap();
    let mut caller = database.target("shop").control().await.unwrap();
    // Whoever only asks is not told.
    caller.send(&Command::Stop).await.unwrap();
    assert!(!is_called(caller.as_mut(), AT_ONCE).await);
    assert_eq!(engine.commands().await.unwrap().len(), 1);
    assert!(!is_called(engine.as_mut(), AT_ONCE).await, "it was read");

    let mut to_other = database.target("other").control().await.unwrap();
    to_other.send(&Command::Stop).await.unwrap();
    caller.send(&Command::Stop).await.unwrap();
    assert!(is_called(engine.as_mut(), Duration::from_secs(30)).await);
    assert!(!is_called(engine.as_mut(), AT_ONCE).await, "once");
    assert_eq!(engine.commands().await.unwrap().len(), 2);
}

#[tokio::test]
async fn commands_to_a_run_that_ended_are_not_carried_out_by_the_next() {
    let database = Database::new().await;
    let first = database.target("shop");
    first.acquire(&owner(1)).await.unwrap();
    let mut door = first.control().await.unwrap();
    let stop = door.send(&Command::Stop).await.unwrap();
    first.acquire(&owner(1)).await.unwrap();
    assert_eq!(
        door.commands().await.unwrap().len(),
        1,
        "it came again by itself"
    );
    drop(first);
    // In a container each process has the number 1.
    let second = database.target("shop");
    wait_for(Duration::from_secs(10), "the pipeline", || async {
        Ok(second.acquire(&owner(1)).await.ok())
    })
    .await
    .unwrap();
    assert!(door.commands().await.unwrap().is_empty());
    assert!(!door.answer_to(stop).await.unwrap().unwrap().ok);
}

#[tokio::test]
async fn the_status_and_its_age_and_owner_are_told() {
    let database = Database::new().await;
    let first = database.target("shop");
    let mut engine = first.control().await.unwrap();
    engine
        .report(&status(PipelineState::Checking))
        .await
        .unwrap();
    first.acquire(&owner(4711)).await.unwrap();
    let mut caller = database.target("shop").control().await.unwrap();
    assert_eq!(caller.owner().await.unwrap(), Some(owner(4711)));
    assert_eq!(
        caller.last_status().await.unwrap(),
        None,
        "silent before it owned the pipeline"
    );
    engine
        .report(&status(PipelineState::Loading))
        .await
        .unwrap();
    let (told, age) = caller.last_status().await.unwrap().unwrap();
    assert_eq!(told, status(PipelineState::Loading));
    assert!((0.0..60.0).contains(&age), "{age}");

    drop(first);
    let gone = async { while caller.owner().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the owner is gone");
    assert!(
        caller.last_status().await.unwrap().is_some(),
        "its last word stays"
    );

    let second = database.target("shop");
    second.acquire(&owner(2)).await.unwrap();
    let mut newer = second.control().await.unwrap();
    newer
        .report(&status(PipelineState::Streaming))
        .await
        .unwrap();
    engine.report(&status(PipelineState::Failed)).await.unwrap();
    let (told, _) = caller.last_status().await.unwrap().unwrap();
    assert_eq!(
        told,
        status(PipelineState::Streaming),
        "only the owner reports"
    );
    caller.send(&Command::Stop).await.unwrap();
    assert!(
        engine.commands().await.unwrap().is_empty(),
        "only the owner obeys"
    );
    assert_eq!(newer.commands().await.unwrap().len(), 1);
}

fn status(state: PipelineState) -> Status {
    Status {
        pipeline: "shop".to_owned(),
        mode: "full_load_and_cdc".to_owned(),
        state,
        since: "2024-05-01T12:00:00Z".to_owned(),
        reason: None,
        by: By::Engine,
        health: Health::Ok,
        trend: Trend::Unknown,
        position_type: Some("pg_lsn".to_owned()),
        full_load_lsn: Some(at(5)),
        source_lsn: None,
        received_lsn: None,
        processed_lsn: None,
        confirmed_lsn: None,
        restart_lsn: None,
        gap_bytes: Some(1 << 60),
        latency_seconds: Some(0.25),
        latency_by_stage_seconds: None,
        slot: None,
        verified: None,
        unverified: None,
        tables: Vec::new(),
        totals: Totals::default(),
        error: None,
        unknown_reason: None,
        last_known: None,
        measured_at: "2024-05-01T12:00:01Z".to_owned(),
    }
}
