//! Due times over days and restarts, by a clock that is made up.

use std::path::Path;

use tempfile::TempDir;
use tidemark_core::config::{Missed, Overlap, Secret};
use tidemark_core::schedule::{Schedule, parse_due, zone};

use super::*;
use crate::store::{NewPipeline, Seal};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn schedule(text: &str, zone_name: &str, overlap: Overlap, missed: Missed) -> Schedule {
    let due = parse_due(text).unwrap();
    Schedule::new(text, due, zone(zone_name).unwrap(), overlap, missed)
}

fn hourly() -> Schedule {
    schedule("hourly", "UTC", Overlap::Skip, Missed::RunOnce)
}

fn key() -> Key {
    Key::new("default", "shop")
}

/// An hour of a day of 2026.
fn hour(of: i64) -> i64 {
    1_780_000_000 / 3600 * HOUR + of * HOUR
}

struct Place {
    _home: TempDir,
    store: Store,
}

impl Place {
    async fn new() -> Place {
        let home = tempfile::tempdir().unwrap();
        let store = Place::open(home.path());
        let new = NewPipeline {
            key: key(),
            mode: "full_load_only".to_owned(),
            definition: None,
            file: None,
            desired: Desired::now(DesiredState::Completed, "engine", None),
            by: "ann".to_owned(),
        };
        store.add_pipeline(new).await.unwrap().unwrap();
        Place { _home: home, store }
    }

    fn open(directory: &Path) -> Store {
        let seal = Seal::of_text(&Secret::new("a".repeat(64))).unwrap();
        Store::open(directory, seal).unwrap()
    }

    /// A server on this store, that has just been started.
    async fn server(&self, now_us: i64) -> Schedules {
        let news = Arc::new(News::new());
        Schedules::load(self.store.clone(), news, now_us)
            .await
            .unwrap()
    }

    /// All rows, oldest first: how long after `from` they were due, and how they stand.
    async fn rows(&self, from: i64) -> Vec<(i64, RunState)> {
        let rows = self.store.schedule_runs(&key(), i64::MAX, 500).await;
        let rows = rows.unwrap().into_iter().rev();
        rows.map(|run| ((run.due_us - from) / SECOND, run.state))
            .collect()
    }
}

async fn look(server: &Schedules, schedule: &Schedule, now_us: i64) {
    server
        .look(&key(), schedule, now_us, &Situation::Free)
        .await
        .unwrap();
}

/// A look each second, runs ended at once.
async fn pass(server: &Schedules, schedule: &Schedule, from: i64, until: i64, step: i64) {
    let mut now_us = from;
    while now_us < until {
        look(server, schedule, now_us).await;
        now_us += step;
    }
}

#[tokio::test]
async fn what_was_due_before_a_schedule_was_there_is_no_concern_of_it() {
    let place = Place::new().await;
    let from = hour(0);
    let server = place.server(from).await;
    pass(
        &server,
        &hourly(),
        from + 10 * SECOND,
        from + HOUR + MINUTE,
        10 * SECOND,
    )
    .await;
    assert_eq!(place.rows(from).await, [(3600, RunState::Queued)]);
    // Another schedule in its place: its times of today are no concern either.
    let other = schedule("30 * * * *", "UTC", Overlap::Skip, Missed::RunOnce);
    look(&server, &other, from + HOUR + 40 * MINUTE).await;
    look(&server, &other, from + HOUR + 41 * MINUTE).await;
    assert_eq!(place.rows(from).await.len(), 1);
    look(&server, &other, from + 2 * HOUR + 30 * MINUTE).await;
    assert_eq!(place.rows(from).await.len(), 2);
}

#[tokio::test]
async fn s35_a_load_that_begins_at_this_moment_is_not_said_to_be_left_out() {
    let place = Place::new().await;
    let from = hour(0);
    let (server, late) = (place.server(from).await, place.server(from).await);
    look(&server, &hourly(), from + SECOND).await;
    look(&server, &hourly(), from + HOUR).await;
    // As if it had looked a moment before that was written down.
    let now = from + HOUR - SECOND;
    let skipped = late.skip_next(&key(), &hourly(), "ann", now).await;
    assert_eq!(skipped.unwrap_err().code(), codes::API_CONFLICT);
    assert_eq!(place.rows(from).await, [(3600, RunState::Queued)]);
}

/// The store was away when it should have said that the time is claimed: it was.
#[tokio::test]
async fn a_load_that_was_claimed_without_an_answer_begins_all_the_same() {
    let place = Place::new().await;
    let from = hour(0);
    let server = place.server(from).await;
    look(&server, &hourly(), from + SECOND).await;
    let due_us = from + HOUR;
    let claimed = ScheduleRun {
        key: key(),
        due_us,
        state: RunState::Queued,
        by: BY.to_owned(),
        began_us: None,
        ended_us: None,
        reason: None,
    };
    let claim = place.store.claim_run(claimed.clone(), Some(due_us), None);
    claim.await.unwrap().unwrap();
    for second in 0..2 {
        look(&server, &hourly(), due_us + second * SECOND).await;
    }
    assert_eq!(server.open(&key()), [claimed]);
    assert_eq!(place.rows(from).await, [(3600, RunState::Queued)]);
}

#[tokio::test]
async fn f60_a_clock_that_goes_back_brings_no_second_run() {
    let place = Place::new().await;
    let from = hour(0);
    let server = place.server(from).await;
    let quarters = schedule("every 15m", "UTC", Overlap::Skip, Missed::RunOnce);
    pass(
        &server,
        &quarters,
        from + SECOND,
        from + HOUR + 12 * SECOND,
        10 * SECOND,
    )
    .await;
    let before = place.rows(from).await;
    assert_eq!(before.len(), 4);
    // An hour again, with a restart in it.
    pass(
        &server,
        &quarters,
        from + SECOND,
        from + HOUR / 2,
        10 * SECOND,
    )
    .await;
    drop(server);
    let server = place.server(from + HOUR / 2).await;
    pass(
        &server,
        &quarters,
        from + HOUR / 2,
        from + HOUR + MINUTE,
        10 * SECOND,
    )
    .await;
    assert_eq!(place.rows(from).await, before);
    pass(
        &server,
        &quarters,
        from + HOUR,
        from + 2 * HOUR,
        10 * SECOND,
    )
    .await;
    assert_eq!(place.rows(from).await.len(), 7);
}

#[tokio::test]
async fn f60_a_clock_that_leaps_ahead_brings_one_run_late_or_none() {
    for (missed, expected) in [
        (Missed::RunOnce, RunState::Queued),
        (Missed::Skip, RunState::Missed),
    ] {
        let place = Place::new().await;
        let from = hour(0);
        let server = place.server(from).await;
        let hourly = schedule("hourly", "UTC", Overlap::Skip, missed);
        look(&server, &hourly, from + SECOND).await;
        look(&server, &hourly, from + 3 * HOUR + 30 * MINUTE).await;
        look(&server, &hourly, from + 3 * HOUR + 31 * MINUTE).await;
        assert_eq!(place.rows(from).await, [(3 * 3600, expected)]);
        let last = server.last(&key()).unwrap();
        let reason = last.reason.unwrap();
        assert!(
            reason.contains("no server was there at its time (and 2 before it)"),
            "{reason}"
        );
        assert_eq!(server.missed(&key()).is_some(), missed == Missed::Skip);
        // Put right again: what is due until it leapt comes as ever.
        look(&server, &hourly, from + HOUR / 2).await;
        look(&server, &hourly, from + HOUR + SECOND).await;
        let rows = place.rows(from).await;
        assert_eq!(rows, [(3600, RunState::Queued), (3 * 3600, expected)]);
        look(&server, &hourly, from + 3 * HOUR + SECOND).await;
        assert_eq!(place.rows(from).await, rows, "claimed once");
    }
}

#[tokio::test]
async fn f60_a_time_that_the_clock_shows_twice_or_never_is_one_run() {
    // 25 October and 29 March 2026 in Berlin, from midnight on.
    for (midnight, due) in [(1_792_879_200, 9_000), (1_774_738_800, 7_200)] {
        let place = Place::new().await;
        let from = midnight * SECOND;
        let server = place.server(from).await;
        let daily = schedule("30 2 * * *", "Europe/Berlin", Overlap::Skip, Missed::Skip);
        pass(&server, &daily, from, from + 6 * HOUR, 20 * SECOND).await;
        assert_eq!(place.rows(from).await, [(due, RunState::Queued)]);
    }
}

#[tokio::test]
async fn a_time_is_claimed_once_whoever_looks() {
    let place = Place::new().await;
    let from = hour(0);
    let (one, other) = (place.server(from).await, place.server(from).await);
    for server in [&one, &other] {
        look(server, &hourly(), from + SECOND).await;
    }
    look(&one, &hourly(), from + HOUR + SECOND).await;
    look(&other, &hourly(), from + HOUR + SECOND).await;
    assert_eq!((one.open(&key()).len(), other.open(&key()).len()), (1, 0));
    assert_eq!(place.rows(from).await, [(3600, RunState::Queued)]);
    // The next server finds what was claimed and not begun.
    let next = place.server(from + HOUR + 2 * SECOND).await;
    assert_eq!(next.open(&key()), one.open(&key()));
    look(&next, &hourly(), from + HOUR + 2 * SECOND).await;
    assert_eq!(place.rows(from).await.len(), 1);
}

#[tokio::test]
async fn what_was_missed_while_no_server_was_there_is_run_once() {
    let place = Place::new().await;
    let from = hour(0);
    look(&place.server(from).await, &hourly(), from + SECOND).await;
    let server = place.server(from + 5 * HOUR + 10 * MINUTE).await;
    pass(
        &server,
        &hourly(),
        from + 5 * HOUR + 10 * MINUTE,
        from + 5 * HOUR + 20 * MINUTE,
        MINUTE,
    )
    .await;
    assert_eq!(place.rows(from).await, [(5 * 3600, RunState::Queued)]);
    // A short absence is none.
    let skips = schedule("hourly", "UTC", Overlap::Skip, Missed::Skip);
    let server = place.server(from + 6 * HOUR + 20 * SECOND).await;
    look(&server, &skips, from + 6 * HOUR + 20 * SECOND).await;
    assert_eq!(place.rows(from).await[1], (6 * 3600, RunState::Queued));
}

#[tokio::test]
async fn a_run_that_is_due_while_another_goes_on_follows_the_policy() {
    let busy = Situation::Busy("another goes on".to_owned());
    let full = Situation::Full("another waits already".to_owned());
    let off = Situation::Off("it is stopped by ann".to_owned());
    for (overlap, situation, expected) in [
        (Overlap::Skip, &busy, RunState::Skipped),
        (Overlap::Queue, &busy, RunState::Queued),
        (Overlap::Queue, &full, RunState::Skipped),
        (Overlap::Queue, &off, RunState::Skipped),
        (Overlap::Skip, &Situation::Free, RunState::Queued),
    ] {
        let place = Place::new().await;
        let from = hour(0);
        let server = place.server(from).await;
        let hourly = schedule("hourly", "UTC", overlap, Missed::RunOnce);
        look(&server, &hourly, from + SECOND).await;
        let now_us = from + HOUR + SECOND;
        server
            .look(&key(), &hourly, now_us, situation)
            .await
            .unwrap();
        assert_eq!(place.rows(from).await, [(3600, expected)], "{situation:?}");
        let is_missed = server.missed(&key()).is_some();
        assert_eq!(is_missed, expected == RunState::Skipped);
    }
}

#[tokio::test]
async fn a_person_leaves_the_next_run_out_and_pauses_all() {
    let place = Place::new().await;
    let from = hour(0);
    let mut server = place.server(from).await;
    look(&server, &hourly(), from + SECOND).await;
    for expected in [1, 2] {
        let (key, hourly) = (key(), hourly());
        let skipped = server.skip_next(&key, &hourly, "ann", from + MINUTE);
        assert_eq!(skipped.await.unwrap(), from + expected * HOUR);
    }
    // Also by a server that was started since.
    server = place.server(from + 2 * MINUTE).await;
    let next = server.next(&key(), &hourly(), from + 2 * MINUTE, 3);
    let by: Vec<Option<&str>> = next.iter().map(|(_, by)| by.as_deref()).collect();
    assert_eq!(by, [Some("ann"), Some("ann"), None]);
    pass(
        &server,
        &hourly(),
        from + 2 * MINUTE,
        from + 3 * HOUR + MINUTE,
        MINUTE,
    )
    .await;
    let rows = [
        (3600, RunState::Skipped),
        (2 * 3600, RunState::Skipped),
        (3 * 3600, RunState::Queued),
    ];
    assert_eq!(place.rows(from).await, rows);
    assert_eq!(server.missed(&key()), None);

    server
        .pause(&key(), &hourly(), "ann", from + 3 * HOUR + MINUTE)
        .await
        .unwrap();
    server = place.server(from + 4 * HOUR).await;
    assert_eq!(server.paused(&key()).unwrap().0, "ann");
    pass(
        &server,
        &hourly(),
        from + 4 * HOUR,
        from + 6 * HOUR + MINUTE,
        MINUTE,
    )
    .await;
    assert_eq!(place.rows(from).await, rows);
    server
        .resume(&key(), from + 6 * HOUR + 30 * MINUTE)
        .await
        .unwrap();
    look(&server, &hourly(), from + 6 * HOUR + 31 * MINUTE).await;
    assert_eq!(
        place.rows(from).await,
        rows,
        "what passed meanwhile is not made up for"
    );
    look(&server, &hourly(), from + 7 * HOUR + SECOND).await;
    assert_eq!(place.rows(from).await.len(), 4);
}
