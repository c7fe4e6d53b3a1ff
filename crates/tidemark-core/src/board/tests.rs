//! What a board says, event by event.

use super::*;
use crate::checkpoint::{Reason, SourceIdentity, TableState};
use crate::error::Error;
use crate::pipeline::observe::TableOutline;
use crate::position::Lsn;
use crate::quarantine::Kept;
use crate::schema::TableName;

fn at(lsn: u64) -> Position {
    Position::PgLsn(Lsn(lsn))
}

fn log(head: u64) -> LogState {
    LogState {
        is_standby: false,
        earlier_timelines: Vec::new(),
        identity: SourceIdentity {
            system: "1".into(),
            timeline: 1,
            database: "d".into(),
        },
        head: at(head),
        slot: None,
        clock_us: clock::now_us(),
        running: Vec::new(),
        slot_made_by: None,
        committing: Vec::new(),
        pins: Vec::new(),
        relayed: None,
        other_target: None,
    }
}

fn recorded(tables: &[(&str, TableState)], quarantined: &[(&str, u64)]) -> PipelineEvent {
    let outline = |(name, state): &(&str, TableState)| TableOutline {
        source: TableName::new("public", *name),
        target: TableName::new("public", *name),
        state: *state,
        reason: None,
        is_left_out: false,
        is_part: false,
        rows_estimated: Some(7),
        units: 1,
        units_loaded: 1,
        rows_loaded: 7,
    };
    let kept = |(name, rows): &(&str, u64)| {
        let kept = Kept {
            rows: *rows,
            changes: *rows,
            bytes: 10,
        };
        (TableName::new("public", *name), kept)
    };
    PipelineEvent::Recorded {
        tables: tables.iter().map(outline).collect(),
        quarantined: quarantined.iter().map(kept).collect(),
    }
}

/// A run that has read what the target has, and measured nothing.
fn streaming() -> Board {
    let mut board = Board::new("shop", "full_load_and_cdc");
    board.set_checkpoint(at(100), at(500));
    board.take(&recorded(&[], &[]), Instant::now());
    board.state(PipelineState::Streaming, None, By::Engine);
    board
}

/// One that knew once how far it is behind.
fn measured_once() -> Board {
    let mut board = streaming();
    let written_at_us = clock::now_us();
    board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
    board
}

#[tokio::test(start_paused = true)]
async fn nothing_measured_is_unknown_not_zero() {
    let status = streaming().status(Instant::now());
    assert_eq!(status.gap_bytes, None);
    assert_eq!(status.latency_seconds, None);
    assert_eq!(status.health, Health::Unknown);
    assert_eq!(status.trend, Trend::Unknown);
}

#[tokio::test(start_paused = true)]
async fn what_failed_has_its_code_from_the_first_moment() {
    let mut board = streaming();
    let error = Error::data(codes::TARGET_VALUE, "too long").table("public.two words");
    board.take(
        &PipelineEvent::Failed(StatusError::of(&error)),
        Instant::now(),
    );
    let status = board.status(Instant::now());
    assert_eq!(status.state, PipelineState::Failed);
    assert_eq!(status.health, Health::Error);
    assert_eq!(status.reason.as_deref(), Some(error.to_string().as_str()));
    let told = status.error.unwrap();
    assert_eq!(told.code, error.code().to_string());
    // What to type can be typed as it stands.
    let command = "tidemark resync shop --table 'public.two words'";
    assert!(told.action.contains(command), "{}", told.action);
}

#[tokio::test(start_paused = true)]
async fn what_was_verified_is_forgotten_when_everything_is_loaded_anew() {
    let mut board = streaming();
    board.set_verified(Verified {
        lsn: at(450),
        result: "identical".to_owned(),
        values: true,
        at: clock::now(),
    });
    let goes_on = PipelineEvent::Checkpoint {
        load_position: at(100),
        position: at(600),
    };
    board.take(&goes_on, Instant::now());
    assert!(board.status(Instant::now()).verified.is_some());
    board.take(&PipelineEvent::LoadPosition(at(700)), Instant::now());
    assert!(board.status(Instant::now()).verified.is_none());
}

#[tokio::test(start_paused = true)]
async fn f04_a_source_that_falls_silent_in_a_load_is_unknown_and_so_is_one_not_asked_yet() {
    let mut board = Board::new("shop", "full_load_and_cdc");
    board.take(&recorded(&[], &[]), Instant::now());
    board.state(PipelineState::Loading, None, By::Engine);
    let status = board.status(Instant::now());
    let why = Some("the source was not looked at yet".to_owned());
    assert_eq!((status.health, status.reason), (Health::Unknown, why));
    let measured = PipelineEvent::Measured(Ok(Box::new(log(900))));
    board.take(&measured, Instant::now());
    let status = board.status(Instant::now());
    assert_eq!((status.health, status.reason), (Health::Ok, None));
    tokio::time::advance(STALE_AFTER + Duration::from_secs(1)).await;
    let status = board.status(Instant::now());
    assert_eq!(status.health, Health::Unknown);
    assert_eq!(status.source_lsn, None);
    assert!(status.last_known.is_some(), "{status:?}");
    assert_eq!(status.unknown_reason.as_deref(), Some("TM1001"));
    // Not even its first answer came.
    let mut board = Board::new("shop", "full_load_and_cdc");
    let lost = Error::transient(codes::SOURCE_UNREACHABLE, "no answer");
    board.take(&PipelineEvent::Measured(Err(lost)), Instant::now());
    let status = board.status(Instant::now());
    assert_eq!(status.health, Health::Unknown);
    assert_eq!(status.unknown_reason.as_deref(), Some("TM1001"));
}

/// What it is judged by was looked at by an earlier run at best.
#[tokio::test(start_paused = true)]
async fn b6_a_run_that_begins_is_not_well_before_it_has_read_what_the_target_has() {
    for state in [
        PipelineState::Checking,
        PipelineState::Starting,
        PipelineState::Paused,
    ] {
        let mut board = Board::new("shop", "full_load_and_cdc");
        board.state(state, None, By::Engine);
        let measured = PipelineEvent::Measured(Ok(Box::new(log(900))));
        board.take(&measured, Instant::now());
        let status = board.status(Instant::now());
        let why = Some("what the target has was not read yet".to_owned());
        assert_eq!((status.health, status.reason), (Health::Unknown, why));
        board.take(&recorded(&[], &[]), Instant::now());
        let status = board.status(Instant::now());
        assert!(status.health <= Health::Notice, "{status:?}");
        assert_eq!(status.reason, None);
    }
}

#[tokio::test(start_paused = true)]
async fn b6_what_the_target_has_in_quarantine_is_all_there_is() {
    let mut board = measured_once();
    let measured = PipelineEvent::Measured(Ok(Box::new(log(900))));
    board.take(&measured, Instant::now());
    let (odd, calm) = (
        ("odd", TableState::Streaming),
        ("calm", TableState::Streaming),
    );
    let found = |board: &Board| {
        let status = board.status(Instant::now());
        let rows: u64 = status.tables.iter().map(|table| table.quarantined).sum();
        (status.health, status.tables.len(), rows)
    };
    board.take(&recorded(&[odd, calm], &[("odd", 3)]), Instant::now());
    assert_eq!(found(&board), (Health::Warning, 2, 3));
    // A side was lost while they were released, and the answer with it.
    board.take(&recorded(&[odd, calm], &[]), Instant::now());
    assert_eq!(found(&board), (Health::Ok, 2, 0));
    let aside = ("odd", TableState::Quarantined);
    board.take(&recorded(&[aside, calm], &[]), Instant::now());
    assert_eq!(found(&board), (Health::Error, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn b6_a_stream_is_not_well_before_it_was_measured_once_how_far_it_is_behind() {
    let measured = || PipelineEvent::Measured(Ok(Box::new(log(900))));
    let why = Some("how far it is behind was not measured yet".to_owned());
    for state in [PipelineState::CatchingUp, PipelineState::Streaming] {
        for found in [
            PipelineEvent::Received(at(900)),
            PipelineEvent::Unapplied(Some(clock::now_us())),
            PipelineEvent::Heartbeat {
                written_at_us: clock::now_us(),
            },
        ] {
            let mut board = streaming();
            board.state(state, None, By::Engine);
            board.take(&measured(), Instant::now());
            // The log before what was seen of it may hold anything.
            board.take(&PipelineEvent::Received(at(899)), Instant::now());
            let status = board.status(Instant::now());
            assert_eq!((status.health, &status.reason), (Health::Unknown, &why));
            board.take(&found, Instant::now());
            let status = board.status(Instant::now());
            assert_eq!((status.health, status.reason), (Health::Ok, None));
            // Once it is known it is not asked again: a standby writes no heartbeats.
            tokio::time::advance(Duration::from_secs(30)).await;
            board.take(&measured(), Instant::now());
            assert_eq!(board.status(Instant::now()).health, Health::Ok, "{found:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b6_what_has_stopped_is_not_well() {
    let mut board = streaming();
    board.state(PipelineState::Stopped, None, By::User);
    assert_eq!(board.status(Instant::now()).health, Health::Unknown);
    let measured = PipelineEvent::Measured(Ok(Box::new(log(900))));
    board.take(&measured, Instant::now());
    assert_eq!(board.status(Instant::now()).health, Health::Warning);
    board.state(PipelineState::Completed, None, By::Engine);
    assert_eq!(board.status(Instant::now()).health, Health::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_measured_source_gives_a_gap_and_goes_stale() {
    let mut board = measured_once();
    board.take(
        &PipelineEvent::Measured(Ok(Box::new(log(900)))),
        Instant::now(),
    );
    let status = board.status(Instant::now());
    assert_eq!(status.gap_bytes, Some(400));
    assert_eq!(status.health, Health::Ok);

    tokio::time::advance(Duration::from_secs(42)).await;
    let lost = Error::transient(codes::SOURCE_UNREACHABLE, "connection refused");
    board.take(&PipelineEvent::Measured(Err(lost)), Instant::now());
    let status = board.status(Instant::now());
    assert_eq!(status.gap_bytes, None);
    assert_eq!(status.source_lsn, None);
    assert_eq!(status.unknown_reason.as_deref(), Some("TM1001"));
    assert_eq!(status.health, Health::Unknown);
    let last = status.last_known.unwrap();
    assert_eq!(
        (last.source_lsn, format!("{:.0}", last.seconds_ago)),
        (at(900), "42".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_target_that_says_nothing_is_not_well() {
    let mut board = measured_once();
    let looked = |board: &mut Board| {
        board.take(
            &PipelineEvent::Measured(Ok(Box::new(log(900)))),
            Instant::now(),
        );
        let status = board.status(Instant::now());
        (status.health, status.unknown_reason)
    };
    assert_eq!(looked(&mut board), (Health::Ok, None), "nobody asks it");
    board.target_answered(Instant::now());
    assert_eq!(looked(&mut board), (Health::Ok, None));
    tokio::time::advance(Duration::from_secs(11)).await;
    let unknown = (Health::Unknown, Some("TM2001".to_owned()));
    assert_eq!(looked(&mut board), unknown);
    board.target_answered(Instant::now());
    assert_eq!(looked(&mut board), (Health::Ok, None));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_comes_back_says_nothing_of_a_target_that_is_silent() {
    let mut board = streaming();
    board.target_answered(Instant::now());
    let latency = |board: &mut Board| {
        let written_at_us = clock::now_us();
        let written = PipelineEvent::HeartbeatWritten { written_at_us };
        board.take(&written, Instant::now());
        board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
        let at = Instant::now();
        (board.status(at).latency_seconds, board.latency_age(at))
    };
    assert!(latency(&mut board).0.is_some());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(latency(&mut board), (None, None));
    board.target_answered(Instant::now());
    assert!(latency(&mut board).0.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_source_is_never_behind_what_came_from_it() {
    let mut board = streaming();
    board.take(
        &PipelineEvent::Measured(Ok(Box::new(log(900)))),
        Instant::now(),
    );
    board.take(&PipelineEvent::Received(at(1_200)), Instant::now());
    let status = board.status(Instant::now());
    assert_eq!(
        (status.source_lsn, status.gap_bytes),
        (Some(at(1_200)), Some(700))
    );
}

#[tokio::test(start_paused = true)]
async fn latency_counts_only_while_it_is_fresh() {
    let mut board = streaming();
    let written_at_us = clock::now_us() - 800_000;
    board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
    let latency = board.status(Instant::now()).latency_seconds.unwrap();
    assert!((0.8..1.5).contains(&latency), "{latency}");
    tokio::time::advance(Duration::from_secs(4)).await;
    // The time of the measurement is told, not that of whoever asks.
    assert_eq!(
        board.latency_age(Instant::now()),
        Some(Duration::from_secs(4))
    );
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(board.status(Instant::now()).latency_seconds, None);
    assert_eq!(board.latency_age(Instant::now()), None);
}

#[tokio::test(start_paused = true)]
async fn latency_grows_while_something_is_not_in() {
    let ago = |seconds: i64| clock::now_us() - seconds * 1_000_000;
    let grown = |board: &Board| board.status(Instant::now()).latency_seconds;
    for late in [
        PipelineEvent::Unapplied(Some(ago(40))),
        PipelineEvent::HeartbeatWritten {
            written_at_us: ago(40),
        },
    ] {
        let mut board = streaming();
        assert_eq!(board.latency_age(Instant::now()), None);
        let written_at_us = clock::now_us();
        board.take(
            &PipelineEvent::Heartbeat {
                written_at_us: ago(60),
            },
            Instant::now(),
        );
        board.take(&late, Instant::now());
        let latency = grown(&board).unwrap();
        assert!((40.0..42.0).contains(&latency), "{latency} with {late:?}");
        // What was measured before is no help.
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(grown(&board).is_some());
        board.take(&PipelineEvent::Unapplied(None), Instant::now());
        board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
        let latency = grown(&board).unwrap();
        assert!((0.0..1.0).contains(&latency), "{latency} after {late:?}");
    }
}

/// A run that begins writes heartbeats at once; what it has to catch up with may be hours old.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_says_nothing_of_what_was_written_before_it() {
    let mut board = Board::new("shop", "full_load_and_cdc");
    let written_at_us = clock::now_us();
    let beat = PipelineEvent::HeartbeatWritten { written_at_us };
    board.take(&beat, Instant::now());
    assert_eq!(board.status(Instant::now()).latency_seconds, None);
    assert_eq!(board.latency_age(Instant::now()), None);
    board.take(&PipelineEvent::Received(at(600)), Instant::now());
    assert_eq!(board.status(Instant::now()).latency_seconds, None);
    // Once one is back, so is everything before it.
    board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
    board.take(
        &PipelineEvent::HeartbeatWritten {
            written_at_us: written_at_us + 1,
        },
        Instant::now(),
    );
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(board.status(Instant::now()).latency_seconds.is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_late_only_where_a_measurement_says_so() {
    let mut board = streaming();
    let latency = |board: &mut Board, head| {
        board.take(
            &PipelineEvent::Measured(Ok(Box::new(log(head)))),
            Instant::now(),
        );
        board.status(Instant::now()).latency_seconds
    };
    assert_eq!(latency(&mut board, 600), None, "nothing was received");
    board.take(&PipelineEvent::Received(at(600)), Instant::now());
    assert_eq!(latency(&mut board, 700), None, "there is more");
    assert_eq!(latency(&mut board, 600), Some(0.0));
    let error = Error::transient(codes::TARGET_UNREACHABLE, "connection refused");
    let wait = Duration::from_secs(1);
    let attempt = 1;
    let lost = PipelineEvent::Retry {
        error,
        wait,
        attempt,
    };
    board.take(&lost, Instant::now());
    let status = board.status(Instant::now());
    let why = codes::TARGET_UNREACHABLE.to_string();
    assert_eq!(
        (status.latency_seconds, status.unknown_reason),
        (None, Some(why))
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_target_is_over_when_what_was_received_is_in_it() {
    let mut board = streaming();
    let error_after = |board: &mut Board, code, received| {
        let error = Error::transient(code, "refused");
        let (wait, attempt) = (Duration::from_secs(1), 1);
        let retry = PipelineEvent::Retry {
            error,
            wait,
            attempt,
        };
        board.take(&retry, Instant::now());
        board.take(&PipelineEvent::Received(at(received)), Instant::now());
        board.status(Instant::now()).error.map(|error| error.code)
    };
    let (source, target) = (codes::SOURCE_CONNECTION_LOST, codes::TARGET_PERMISSION);
    assert_eq!(error_after(&mut board, source, 600), None, "it answers");
    let told = Some(target.to_string());
    assert_eq!(error_after(&mut board, target, 600), told, "not applied");
    assert_eq!(error_after(&mut board, target, 500), None, "all is in");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_back_before_its_writer_is_not_missed() {
    let mut board = streaming();
    let written_at_us = clock::now_us() - 5_000_000;
    board.take(&PipelineEvent::Heartbeat { written_at_us }, Instant::now());
    board.take(
        &PipelineEvent::HeartbeatWritten { written_at_us },
        Instant::now(),
    );
    assert_eq!(board.behind(), None);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_copied_anew_is_counted_anew() {
    let mut board = streaming();
    let outline = |state| {
        PipelineEvent::Table(TableOutline {
            source: TableName::new("public", "a"),
            target: TableName::new("public", "a"),
            state,
            reason: None,
            is_left_out: false,
            is_part: false,
            rows_estimated: Some(7),
            units: 1,
            units_loaded: 0,
            rows_loaded: 0,
        })
    };
    let progress = || PipelineEvent::LoadProgress {
        table: TableName::new("public", "a"),
        rows: 5,
        bytes: 50,
    };
    for (state, word) in [
        (TableState::Loading, TableStatusState::Loading),
        (TableState::Resyncing, TableStatusState::Resyncing),
        (TableState::Resyncing, TableStatusState::Resyncing),
    ] {
        board.take(&outline(state), Instant::now());
        board.take(&progress(), Instant::now());
        let table = board.status(Instant::now()).tables.remove(0);
        assert_eq!((table.state, table.rows_loaded), (word, 5));
    }
}

/// What a repair copies is no load: the table has the rows that its load has brought.
#[tokio::test(start_paused = true)]
async fn rows_that_are_mended_among_others_leave_what_was_loaded() {
    let mut board = streaming();
    let loaded = recorded(&[("a", TableState::Streaming)], &[]);
    board.take(&loaded, Instant::now());
    let table = || TableName::new("public", "a");
    let outline = PipelineEvent::Table(TableOutline {
        source: table(),
        target: table(),
        state: TableState::Resyncing,
        reason: Some(Reason::plain("repair")),
        is_left_out: false,
        is_part: true,
        rows_estimated: Some(9),
        units: 2,
        units_loaded: 0,
        rows_loaded: 0,
    });
    let progress = PipelineEvent::LoadProgress {
        table: table(),
        rows: 2,
        bytes: 20,
    };
    let unit = PipelineEvent::UnitLoaded {
        table: table(),
        unit: 0,
    };
    let finished = PipelineEvent::TableFinished { table: table() };
    let back = PipelineEvent::TableState {
        table: table(),
        state: TableState::Streaming,
        reason: None,
    };
    for event in [outline, progress, unit, finished, back] {
        board.take(&event, Instant::now());
        let table = board.status(Instant::now()).tables.remove(0);
        let told = (table.rows_loaded, table.chunks_loaded, table.chunks);
        assert_eq!(told, (7, 1, 1), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_trend_is_told_from_the_gap() {
    let mut board = streaming();
    for (second, head) in [(0, 500 + (10 << 20)), (6, 500 + (5 << 20))] {
        tokio::time::advance(Duration::from_secs(second)).await;
        board.take(
            &PipelineEvent::Measured(Ok(Box::new(log(head)))),
            Instant::now(),
        );
    }
    assert_eq!(board.status(Instant::now()).trend, Trend::CatchingUp);
    tokio::time::advance(Duration::from_secs(10)).await;
    board.take(
        &PipelineEvent::Measured(Ok(Box::new(log(500 + (90 << 20))))),
        Instant::now(),
    );
    assert_eq!(board.status(Instant::now()).trend, Trend::FallingBehind);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_keeps_much_is_a_warning_and_its_loss_is_foretold() {
    let mut board = measured_once();
    board.set_max_retained(Some(10_000));
    let kept = |retained_bytes: u64| {
        let slot = crate::source::Slot {
            name: "s".into(),
            database: "d".into(),
            foreign: None,
            holder: None,
            confirmed: at(500),
            restart: at(400),
            retained_bytes,
            safe_bytes: Some(100_000),
            wal_status: "reserved".into(),
            lost: None,
        };
        PipelineEvent::Measured(Ok(Box::new(LogState {
            slot: Some(slot),
            ..log(900)
        })))
    };
    board.take(&kept(1_000), Instant::now());
    let status = board.status(Instant::now());
    let slot = status.slot.unwrap();
    assert_eq!(
        (slot.predicted_loss_at, slot.predicted_over_at),
        (None, None)
    );
    assert_eq!(status.health, Health::Ok);
    for step in 0..60 {
        tokio::time::advance(Duration::from_secs(2)).await;
        board.take(&kept(1_000 + step * 120), Instant::now());
    }
    let status = board.status(Instant::now());
    let slot = status.slot.unwrap();
    let rate = slot.retained_bytes_per_second.unwrap();
    assert!((55.0..65.0).contains(&rate), "{rate}");
    assert!(slot.predicted_over_at < slot.predicted_loss_at);
    assert!(slot.predicted_over_at.unwrap() > clock::now());
    assert_eq!(status.health, Health::Warning);
}

#[tokio::test(start_paused = true)]
async fn tables_that_need_a_person_come_first() {
    let mut board = streaming();
    for name in ["a", "b"] {
        board.take(
            &PipelineEvent::Table(TableOutline {
                source: TableName::new("public", name),
                target: TableName::new("public", name),
                state: TableState::Streaming,
                reason: None,
                is_left_out: false,
                is_part: false,
                rows_estimated: Some(7),
                units: 1,
                units_loaded: 1,
                rows_loaded: 7,
            }),
            Instant::now(),
        );
    }
    let quarantined = PipelineEvent::TableState {
        table: TableName::new("public", "b"),
        state: TableState::Quarantined,
        reason: Some(Reason::read("TM2041: value does not fit")),
    };
    board.take(&quarantined, Instant::now());
    let status = board.status(Instant::now());
    assert_eq!(status.tables[0].source, "public.b");
    assert_eq!(status.health, Health::Error);
}
