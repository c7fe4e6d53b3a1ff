//! Fail points: where a test may have the process killed, one behind each step that leaves something
//! durable behind, and a few within such steps.
//!
//! A crash can come at any moment, but what it leaves differs only by which step was the last. So a
//! test that kills at each of these and looks at what becomes of it has seen them all. The points
//! are constants, each is passed at exactly one place, and [`ALL`] has them in the order of a run.
//!
//! [`reached`] does nothing unless a point is armed, which happens once, at the start of a process. What
//! an armed point does is told by whoever arms it: core knows neither signals nor the environment.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A point that a test can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailPoint(&'static str);

impl FailPoint {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// The point of that name.
    pub fn named(name: &str) -> Option<FailPoint> {
        ALL.iter().copied().find(|point| point.0 == name)
    }
}

macro_rules! fail_points {
    ($($(#[$text:meta])* $constant:ident $name:literal)*) => {
        $($(#[$text])* pub const $constant: FailPoint = FailPoint($name);)*

        /// Every point, in the order in which a run comes to them.
        pub const ALL: &[FailPoint] = &[$($constant),*];
    };
}

fail_points! {
    // The start.
    /// Our schema is on the target, the lock is held; no generation yet.
    SCHEMA_MADE "start.schema_made"
    /// The generation is raised.
    OWNER_RECORDED "start.owner_recorded"
    /// A slot that a killed start had left is dropped, its publication is not.
    SLOT_REMOVED "start.slot_removed"
    /// What a killed start had left on the source is gone.
    LEFTOVER_REMOVED "start.leftover_removed"
    /// The publication is there; what was open when it was made may still be.
    PUBLICATION_MADE "start.publication_made"
    /// Every table is announced.
    ANNOUNCED "start.announced"
    /// The slot is there, its snapshot exported and not yet adopted; nobody knows where it stands.
    SLOT_MADE "start.slot_made"
    /// The snapshot is adopted; the target knows nothing of it.
    SNAPSHOT_OPENED "start.snapshot_opened"
    /// Slot, position and source are recorded in the target.
    START_RECORDED "start.recorded"
    /// Types and sequences are made.
    OBJECTS_MADE "start.objects_made"

    /// That the slot is given up, and why, is recorded; it is still there.
    RELEASE_RECORDED "release.recorded"

    // The load.
    /// A table is made (or emptied) and its units are recorded.
    TABLE_PREPARED "load.table_prepared"
    /// The rows of a unit are written and not committed.
    UNIT_WRITTEN "load.unit_written"
    /// A unit is in, with its record.
    UNIT_COMMITTED "load.unit_committed"
    /// One index of a table is made.
    INDEX_MADE "load.index_made"
    /// Keys, indexes and checks of a table are made.
    TABLE_FINISHED "load.table_finished"
    /// All tables are recorded as loaded; the phase still says that rows are copied.
    TABLES_RECORDED "load.tables_recorded"
    /// The phase says that foreign keys are to be made.
    FINISHING_RECORDED "load.finishing_recorded"
    /// One foreign key is made.
    FOREIGN_KEY_MADE "load.foreign_key_made"
    /// One that was taken off for a load is made again, and that it was is forgotten.
    FOREIGN_KEY_MADE_AGAIN "load.foreign_key_made_again"
    /// All foreign keys are made.
    FOREIGN_KEYS_MADE "load.foreign_keys_made"
    /// Sequences stand where the source's do.
    SEQUENCES_SET "load.sequences_set"
    /// The load is recorded as over.
    LOAD_RECORDED "load.recorded"

    // The stream.
    /// The source sends its log, the applier is connected.
    STREAM_OPENED "stream.opened"
    /// The target knows where log may be kept beside the source.
    RELAY_RECORDED "relay.recorded"
    /// Log is durable on this machine; the source is not told.
    RELAYED "relay.durable"
    /// Log that the target has is removed from this machine.
    RELAY_REMOVED "relay.removed"
    /// A transaction in progress was put aside on disk.
    SPOOLED "stream.spooled"
    /// It has committed, and comes back from there.
    REPLAY_BEGUN "stream.replay_begun"
    /// A target transaction is begun.
    APPLY_BEGUN "apply.begun"
    /// A part of a transaction that is larger than a batch is in; the transaction is open.
    PART_APPLIED "apply.part_applied"
    /// The parts of a transaction that the source has not decided are undone.
    UNDONE "apply.undone"
    /// Changes of a table that is set aside are parked, uncommitted.
    PARKED "apply.parked"
    /// A row that the target refused is put aside, uncommitted.
    ROW_ASIDE "apply.row_aside"
    /// A table has its new columns, uncommitted.
    RESHAPED "apply.reshaped"
    /// All of a transaction is given to the applier, and nothing of its end.
    COMMIT_DUE "apply.commit_due"
    /// The commit is sent, its answer not read.
    COMMIT_SENT "apply.commit_sent"
    /// Committed; the stream does not know.
    COMMITTED "apply.committed"
    /// Made durable; the stream does not know.
    FLUSHED "apply.flushed"
    /// A table's new state is committed; nothing has followed from it yet.
    STATE_COMMITTED "stream.state_committed"
    /// The stream is told what it may acknowledge; the source is not.
    ACKNOWLEDGE_DUE "stream.acknowledge_due"
    /// The source is told.
    ACKNOWLEDGED "stream.acknowledged"

    // A table that is loaded anew while others stream.
    /// A table that is new is announced on the source.
    TABLE_ANNOUNCED "resync.table_announced"
    /// Rows are in, beside the table or in its place.
    ROWS_LOADED "resync.rows_loaded"
    /// The new rows have taken the table's place, uncommitted.
    SWAP_DUE "resync.swap_due"
    /// The same, committed.
    SWAPPED "resync.swapped"
    /// Parked changes are taken back and applied, uncommitted.
    DRAIN_DUE "resync.drain_due"
    /// The same, committed.
    DRAINED "resync.drained"

    // A gap that is bridged.
    /// The tables are recorded as to be reconciled; the log is as it was.
    RECONCILE_RECORDED "reconcile.recorded"
    /// What the source kept before is gone.
    RECONCILE_RELEASED "reconcile.released"
    /// It keeps its log anew; the target does not know from where.
    RECONCILE_OPENED "reconcile.opened"
    /// The target knows.
    RECONCILE_BEGUN "reconcile.begun"
    /// Both sides of a table are compared, nothing of it is moved.
    RECONCILE_COMPARED "reconcile.compared"
    /// Rows in quarantine are applied again, uncommitted.
    RELEASE_DUE "quarantine.release_due"
    /// The same, committed.
    RELEASED "quarantine.released"

    // The end, and those who ask.
    /// The last position is acknowledged; the stream is open.
    STREAM_DONE "end.stream_done"
    /// The stream is closed.
    STREAM_CLOSED "end.stream_closed"
    /// A verification holds the pipeline, and has a slot of its own.
    HELD "verify.held"
    /// The first repair is asked for.
    REPAIR_ASKED "verify.repair_asked"
    /// What the target remembers of the pipeline is forgotten.
    FORGOTTEN "resync.forgotten"
}

static ARMED: OnceLock<Armed> = OnceLock::new();

struct Armed {
    point: FailPoint,
    left: AtomicU32,
    end: fn(),
}

/// Has `end` called when this point is reached for the `nth` time. Once a process: what comes later is
/// ignored.
pub fn arm(point: FailPoint, nth: u32, end: fn()) {
    ARMED.get_or_init(|| Armed {
        point,
        left: AtomicU32::new(nth.max(1)),
        end,
    });
}

/// Stands behind the step that the point is named for.
pub fn reached(point: FailPoint) {
    if let Some(armed) = ARMED.get()
        && armed.point == point
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        (armed.end)();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn names_tell_points_apart() {
        for point in ALL {
            assert_eq!(FailPoint::named(point.name()), Some(*point));
        }
        assert_eq!(FailPoint::named("apply"), None);
    }

    #[test]
    fn an_armed_point_ends_at_its_nth_time_and_others_never() {
        static ENDED: AtomicBool = AtomicBool::new(false);
        let is_ended = || ENDED.load(Ordering::SeqCst);
        arm(COMMITTED, 2, || ENDED.store(true, Ordering::SeqCst));
        for point in [FLUSHED, COMMITTED, FLUSHED] {
            reached(point);
            assert!(!is_ended(), "{point:?}");
        }
        reached(COMMITTED);
        assert!(is_ended());
    }
}
