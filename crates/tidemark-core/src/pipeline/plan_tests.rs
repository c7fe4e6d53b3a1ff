//! Every row of the table "Slot rules at start", and the rows between them.

use super::*;
use crate::checkpoint::{RelayHome, Release};
use crate::pipeline::going_on::refusal;
use crate::position::Lsn;
use crate::source::{Holder, Relayed};

fn at(lsn: u64) -> Position {
    Position::PgLsn(Lsn(lsn))
}

fn identity() -> SourceIdentity {
    SourceIdentity {
        system: "7001".into(),
        timeline: 1,
        database: "shop".into(),
    }
}

fn checkpoint(position: u64, phase: LoadPhase) -> Checkpoint {
    Checkpoint {
        identity: identity(),
        position: at(position),
        load_position: at(100),
        phase,
        tables: Vec::new(),
        release: None,
        relay: None,
    }
}

fn slot(confirmed: u64) -> Slot {
    Slot {
        name: "tidemark_shop".into(),
        database: "shop".into(),
        foreign: None,
        holder: None,
        confirmed: at(confirmed),
        restart: at(confirmed.saturating_sub(10)),
        retained_bytes: 10,
        safe_bytes: None,
        wal_status: "reserved".into(),
        lost: None,
    }
}

fn log(slot: Option<Slot>) -> LogState {
    LogState {
        is_standby: false,
        earlier_timelines: Vec::new(),
        identity: identity(),
        head: at(1000),
        slot,
        slot_made_by: None,
        clock_us: 0,
        running: Vec::new(),
        committing: Vec::new(),
        pins: Vec::new(),
        relayed: None,
        other_target: None,
    }
}

fn held(mut slot: Slot) -> Slot {
    slot.holder = Some(Holder {
        pid: 4711,
        application: "psql".into(),
        host: "10.0.0.1".into(),
        since: "2026-11-21T14:00:00Z".into(),
    });
    slot
}

fn full(checkpoint: Option<&Checkpoint>, log: &LogState) -> Result<Start, Error> {
    decide(Mode::FullLoadAndCdc, CdcStart::Now, checkpoint, log)
}

fn code(result: Result<Start, Error>) -> Code {
    result.expect_err("this start must be refused").code()
}

#[test]
fn a_slot_that_was_released_on_purpose_is_a_gap_that_says_why() {
    let mut checkpoint = checkpoint(500, LoadPhase::Loaded);
    let release = |position| Release {
        position: at(position),
        at: "2026-11-21T14:00:00Z".into(),
        reason: "it kept 21 GB".into(),
        is_to_begin_anew: false,
        is_history_lost: false,
    };
    checkpoint.release = Some(release(500));
    let refused = full(Some(&checkpoint), &log(None)).unwrap_err();
    assert_eq!(refused.code(), codes::SLOT_RELEASED);
    assert!(refused.to_string().contains("it kept 21 GB"), "{refused}");
    // One that was healed since says nothing of this one.
    checkpoint.release = Some(release(400));
    assert_eq!(
        code(full(Some(&checkpoint), &log(None))),
        codes::SLOT_MISSING
    );
}

#[test]
fn a_load_whose_slot_is_given_up_begins_anew_and_nothing_else_does() {
    let given_up = |phase, position| {
        let mut checkpoint = checkpoint(500, phase);
        checkpoint.release = Some(Release {
            position: at(position),
            at: "2026-11-21T14:00:00Z".into(),
            reason: "could not map filenode".into(),
            is_to_begin_anew: true,
            is_history_lost: false,
        });
        checkpoint
    };
    let loading = given_up(LoadPhase::Loading, 500);
    assert_eq!(full(Some(&loading), &log(None)).unwrap(), Start::Anew(None));
    // The old slot, or its successor: the target knows where neither stands.
    for confirmed in [400, 900] {
        let started = full(Some(&loading), &log(Some(slot(confirmed)))).unwrap();
        assert_eq!(
            started,
            Start::Anew(Some(slot(confirmed).name)),
            "{confirmed}"
        );
    }
    for other in [
        given_up(LoadPhase::Finishing, 500),
        given_up(LoadPhase::Loading, 400),
    ] {
        let refused = full(Some(&other), &log(None));
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[test]
fn a_slot_past_the_checkpoint_is_no_gap_where_the_relay_log_holds_what_is_between() {
    let mut checkpoint = checkpoint(500, LoadPhase::Loaded);
    let home = RelayHome {
        id: "a1".into(),
        host: "host-a".into(),
        directory: "/relay".into(),
    };
    checkpoint.relay = Some(home);
    let relayed = |id: &str, range: Option<(u64, u64)>| Relayed {
        id: id.into(),
        directory: "/relay".into(),
        range: range.map(|(from, to)| (at(from), at(to))),
        bytes: 1,
        bytes_max: 2,
        is_reading: false,
        damage: None,
        stopped: None,
    };
    let state = |relayed: Option<Relayed>| LogState {
        relayed: relayed.map(Box::new),
        ..log(Some(slot(700)))
    };
    for (here, is_enough) in [
        (Some(relayed("a1", Some((500, 700)))), true),
        (Some(relayed("a1", Some((400, 800)))), true),
        (Some(relayed("a1", Some((501, 800)))), false),
        (Some(relayed("a1", Some((500, 699)))), false),
        (Some(relayed("b2", None)), false),
        (None, false),
    ] {
        let said_before = refusal(Mode::FullLoadAndCdc, &checkpoint, &state(here.clone()));
        // Only a run opens it.
        assert_eq!(said_before.is_some(), here.is_some() && !is_enough);
        let started = full(Some(&checkpoint), &state(here.clone()));
        match started {
            Ok(start) => {
                let resumes = Start::ResumeStream {
                    slot_behind_bytes: 0,
                };
                assert!(is_enough && start == resumes, "{here:?}");
            }
            Err(err) => {
                assert!(
                    !is_enough && err.code() == codes::RELAY_LOST,
                    "{here:?}: {err}"
                );
                assert!(err.to_string().contains("host-a in /relay"), "{err}");
            }
        }
    }
    checkpoint.relay = None;
    assert_eq!(
        code(full(Some(&checkpoint), &state(None))),
        codes::SLOT_AHEAD
    );
}

/// The slot is held by ourselves while the log is read into the relay log.
#[test]
fn a_slot_that_the_relay_log_reads_is_not_anothers() {
    let checkpoint = checkpoint(500, LoadPhase::Loaded);
    let relayed = Relayed {
        id: "a1".into(),
        directory: "/relay".into(),
        range: Some((at(500), at(700))),
        bytes: 1,
        bytes_max: 2,
        is_reading: true,
        damage: None,
        stopped: None,
    };
    let state = LogState {
        relayed: Some(Box::new(relayed)),
        ..log(Some(held(slot(700))))
    };
    assert!(full(Some(&checkpoint), &state).is_ok());
}

#[test]
fn nothing_and_nothing_is_a_first_start() {
    assert_eq!(
        full(None, &log(None)).unwrap(),
        Start::First { leftover: None }
    );
}

#[test]
fn a_leftover_slot_is_removed_by_name() {
    let start = full(None, &log(Some(slot(200)))).unwrap();
    assert_eq!(
        start,
        Start::First {
            leftover: Some("tidemark_shop".into())
        }
    );
}

#[test]
fn a_slot_that_another_target_needs_is_no_leftover() {
    let state = LogState {
        other_target: Some("database dw of cluster 7".into()),
        ..log(Some(slot(200)))
    };
    let err = full(None, &state).unwrap_err();
    assert_eq!(err.code(), codes::SLOT_OF_ANOTHER_TARGET);
    assert!(err.to_string().contains("database dw"), "{err}");
}

#[test]
fn the_slot_of_another_pipeline_is_no_leftover() {
    let mut log = log(Some(slot(200)));
    log.slot_made_by = Some("sh-op".into());
    let err = full(None, &log).unwrap_err();
    assert_eq!(err.code(), codes::SLOT_FOREIGN);
    assert!(err.to_string().contains("sh-op"), "{err}");
    // What this pipeline has read of it before stays with it.
    assert!(full(Some(&checkpoint(500, LoadPhase::Loaded)), &log).is_ok());
}

#[test]
fn a_held_slot_without_checkpoint_is_refused_naming_the_holder() {
    let err = full(None, &log(Some(held(slot(200))))).unwrap_err();
    assert_eq!(err.code(), codes::SLOT_ACTIVE);
    for part in ["4711", "psql", "10.0.0.1", "14:00"] {
        assert!(err.to_string().contains(part), "{err}");
    }
}

#[test]
fn a_slot_at_or_behind_the_checkpoint_resumes() {
    for (confirmed, behind) in [(500, 0), (400, 100)] {
        let start = full(
            Some(&checkpoint(500, LoadPhase::Loaded)),
            &log(Some(slot(confirmed))),
        )
        .unwrap();
        assert_eq!(
            start,
            Start::ResumeStream {
                slot_behind_bytes: behind
            }
        );
    }
}

#[test]
fn an_interrupted_load_resumes_as_a_load() {
    let start = full(
        Some(&checkpoint(100, LoadPhase::Loading)),
        &log(Some(slot(100))),
    )
    .unwrap();
    assert_eq!(start, Start::ResumeLoad);
}

#[test]
fn a_slot_past_the_checkpoint_is_a_gap_even_by_one_byte() {
    let result = full(
        Some(&checkpoint(500, LoadPhase::Loaded)),
        &log(Some(slot(501))),
    );
    assert_eq!(code(result), codes::SLOT_AHEAD);
    let result = full(
        Some(&checkpoint(100, LoadPhase::Loading)),
        &log(Some(slot(101))),
    );
    assert_eq!(code(result), codes::SLOT_AHEAD);
}

#[test]
fn a_missing_slot_is_a_gap() {
    let result = full(Some(&checkpoint(500, LoadPhase::Loaded)), &log(None));
    assert_eq!(code(result), codes::SLOT_MISSING);
}

#[test]
fn an_invalidated_slot_is_a_gap_with_its_cause() {
    let mut lost = slot(400);
    lost.wal_status = "lost".into();
    lost.lost = Some("wal_removed".into());
    let err = full(Some(&checkpoint(500, LoadPhase::Loaded)), &log(Some(lost))).unwrap_err();
    assert_eq!(err.code(), codes::SLOT_LOST);
    assert!(err.to_string().contains("wal_removed"));
}

#[test]
fn another_source_is_refused_whatever_the_positions() {
    let mut others = Vec::new();
    for change in [
        |id: &mut SourceIdentity| id.system = "7002".into(),
        |id: &mut SourceIdentity| id.database = "other".into(),
    ] {
        let mut state = log(Some(slot(400)));
        change(&mut state.identity);
        others.push(state);
    }
    for other in others {
        let result = full(Some(&checkpoint(500, LoadPhase::Loaded)), &other);
        assert_eq!(code(result), codes::OTHER_SOURCE);
    }
}

#[test]
fn an_older_timeline_is_another_source_and_a_newer_one_is_a_promotion() {
    let mut ours = checkpoint(500, LoadPhase::Loaded);
    ours.identity.timeline = 3;
    let mut older = log(Some(slot(400)));
    older.identity.timeline = 2;
    assert_eq!(code(full(Some(&ours), &older)), codes::OTHER_SOURCE);
    let mut newer = log(Some(slot(400)));
    newer.identity.timeline = 4;
    assert!(full(Some(&ours), &newer).is_ok());
}

#[test]
fn f35_a_timeline_that_began_before_the_checkpoint_lacks_what_the_target_has() {
    let ours = checkpoint(500, LoadPhase::Loaded);
    let was = ours.identity.timeline;
    for (earlier, is_refused) in [
        (vec![(was - 1, at(100)), (was, at(500))], false),
        (vec![(was, at(900))], false),
        (vec![(was, at(499))], true),
        (vec![(was - 1, at(100))], true),
        // Not known: a role that may not replicate.
        (vec![], false),
    ] {
        let mut newer = log(Some(slot(400)));
        newer.identity.timeline = was + 1;
        newer.earlier_timelines.clone_from(&earlier);
        let started = full(Some(&ours), &newer);
        if is_refused {
            assert_eq!(code(started), codes::SOURCE_WENT_BACK, "{earlier:?}");
        } else {
            assert!(started.is_ok(), "{earlier:?}");
        }
    }
}

#[test]
fn a_source_whose_log_ends_before_the_checkpoint_went_back_in_time() {
    let result = full(
        Some(&checkpoint(1001, LoadPhase::Loaded)),
        &log(Some(slot(900))),
    );
    assert_eq!(code(result), codes::SOURCE_WENT_BACK);
}

/// Its log has grown past the checkpoint since: what stands there is another history.
#[test]
fn a_source_that_was_seen_to_have_gone_back_stays_refused_at_that_position() {
    let seen = |position| {
        let mut checkpoint = checkpoint(900, LoadPhase::Loaded);
        checkpoint.release = Some(Release {
            position: at(position),
            at: "2026-11-21T14:00:00Z".into(),
            reason: "the source's log ended at 0/300".into(),
            is_to_begin_anew: false,
            is_history_lost: true,
        });
        full(Some(&checkpoint), &log(Some(slot(400))))
    };
    assert_eq!(code(seen(900)), codes::SOURCE_WENT_BACK);
    assert!(seen(800).is_ok(), "healed since");
}

#[test]
fn a_foreign_slot_is_never_used_nor_dropped() {
    let mut foreign = slot(400);
    foreign.foreign = Some("its plugin is wal2json".into());
    assert_eq!(
        code(full(None, &log(Some(foreign.clone())))),
        codes::SLOT_FOREIGN
    );
    let result = full(
        Some(&checkpoint(500, LoadPhase::Loaded)),
        &log(Some(foreign)),
    );
    assert_eq!(code(result), codes::SLOT_FOREIGN);
}

#[test]
fn a_held_slot_at_resume_is_worth_waiting_for() {
    let err = full(
        Some(&checkpoint(500, LoadPhase::Loaded)),
        &log(Some(held(slot(400)))),
    )
    .unwrap_err();
    assert_eq!(err.kind(), crate::ErrorKind::Transient);
}

#[test]
fn cdc_from_a_position_needs_a_slot_that_has_it() {
    let from =
        |position, log: &LogState| decide(Mode::CdcOnly, CdcStart::At(at(position)), None, log);
    assert_eq!(code(from(300, &log(None))), codes::START_OUT_OF_RANGE);
    assert_eq!(
        code(from(199, &log(Some(slot(200))))),
        codes::START_OUT_OF_RANGE
    );
    assert_eq!(
        code(from(1001, &log(Some(slot(200))))),
        codes::START_OUT_OF_RANGE
    );
    let start = from(200, &log(Some(slot(200)))).unwrap();
    assert_eq!(start, Start::FromSlot { position: at(200) });
}

#[test]
fn a_full_load_alone_opens_no_log_and_leaves_none_open() {
    let once = |checkpoint: Option<&Checkpoint>, log: &LogState| {
        decide(Mode::FullLoadOnly, CdcStart::Now, checkpoint, log)
    };
    let before = checkpoint(500, LoadPhase::Loaded);
    for checkpoint in [None, Some(&before)] {
        assert_eq!(once(checkpoint, &log(None)).unwrap(), Start::LoadOnce);
        // Its checkpoint would take the place of the stream's, and the slot keep log for nobody.
        assert_eq!(
            code(once(checkpoint, &log(Some(slot(400))))),
            codes::SLOT_EXISTS
        );
    }
}
