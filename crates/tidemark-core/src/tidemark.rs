//! What one unit of loaded data has already seen.
//!
//! # The problem
//! A table is loaded at some instant, and the log is replayed from some position. Unless instant
//! and position are the same, some transactions are either in both (applied twice) or in neither
//! (lost). On a first load they are the same: the slot's exported snapshot is exactly the slot's
//! consistent point. After a crash the exported snapshot is gone, while the slot still stands at
//! its position; the rest of the rows can only be read at a later instant.
//!
//! # Why the obvious ways fail
//! *Making the slot anew* throws finished work away. *Replaying with upserts* converges only for
//! tables with a key, and shows readers old rows over new ones meanwhile. *Comparing positions*
//! (skip what committed before the snapshot's LSN) is wrong on PostgreSQL: transactions become
//! visible in the order in which they leave the list of running transactions, which is not the
//! order of their commit records.
//!
//! # What we do
//! The snapshot itself says which transactions it has seen: every id below `xmin`, and those below
//! `xmax` that were not running (`xip`). The log names each transaction by the same id. So a
//! streamed transaction is skipped for a unit if and only if its id is visible in the unit's
//! snapshot. That is exact, needs no writes on the source and no second slot.
//!
//! ```text
//!   log      ──C────t1────t2──────t3────────t4──►      slot stands at C
//!   load     unit A at C          unit B here ▲ (has seen t1, t2, t3)
//!   replay   A: t1 t2 t3 t4                   B: t4
//! ```
//!
//! Once the stream has passed `after`, a position taken after the snapshot, every later transaction
//! is invisible to it, and the tidemark is dropped: until then the table is `catching_up`.
//!
//! Ids in the log are 32 bits wide and wrap around; snapshots use 64. [`Snapshot::sees`] widens the
//! id of the log around `xmax`: live ids are never more than 2^31 apart.

use serde::{Deserialize, Serialize};

use crate::position::Position;

/// Which transactions a unit of loaded data has seen, and from where on nobody needs to ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tidemark {
    /// What the rows were read at.
    pub seen: Seen,
    /// A position taken after the snapshot: nothing that commits at or after it was seen.
    pub after: Position,
}

/// How a source tells what a snapshot has seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// PostgreSQL: `pg_current_snapshot()` of the transaction that read the rows.
    PgSnapshot(PgSnapshot),
    /// Everything before the position: for sources whose snapshots are positions.
    Before(Position),
}

/// PostgreSQL's `pg_snapshot` (documentation, table 9.83): ids below `xmin` are finished, ids at or
/// above `xmax` had not started, those of `xip` were running. Top-level ids only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PgSnapshot {
    /// Lowest id still running.
    pub xmin: u64,
    /// One past the highest id given out.
    pub xmax: u64,
    /// Ids running between the two, ascending.
    pub xip: Vec<u64>,
}

impl Tidemark {
    /// Whether the rows have already seen the transaction, so that it must be skipped for them.
    pub fn covers(&self, xid: u32, commit: Position) -> bool {
        match &self.seen {
            Seen::PgSnapshot(snapshot) => self.after.contains(commit) && snapshot.sees(xid),
            Seen::Before(position) => position.contains(commit),
        }
    }

    /// Whether the stream, having applied everything before `applied`, needs this tidemark no more.
    pub fn is_passed(&self, applied: Position) -> bool {
        applied >= self.after
    }
}

impl PgSnapshot {
    /// Reads the text form `xmin:xmax:xip1,xip2`; `None` where it is not one.
    ///
    /// `xmin` may be above `xmax` in the snapshot of a slot: what is running moves `xmin`, while `xmax`
    /// follows commits alone, so ids that were rolled back lie between the two (`SnapBuild`,
    /// PostgreSQL 15). The server asks for `xmin` first (`XidInMVCCSnapshot`), and so do we.
    pub fn parse(text: &str) -> Option<PgSnapshot> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let xip = match parts.next()? {
            "" => Vec::new(),
            list => list
                .split(',')
                .map(|id| id.parse().ok())
                .collect::<Option<Vec<u64>>>()?,
        };
        let ordered = xip.windows(2).all(|pair| pair[0] < pair[1]);
        (parts.next().is_none() && ordered).then_some(PgSnapshot { xmin, xmax, xip })
    }

    /// Whether the transaction with this 32-bit id of the log is visible.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// The 64-bit id nearest to `xmax` whose low half is `xid`.
    pub fn widen(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(low_half(self.xmax)).cast_signed();
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

/// A 64-bit id as the log writes it.
pub(crate) fn low_half(id: u64) -> u32 {
    u32::try_from(id & u64::from(u32::MAX)).expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).unwrap()
    }

    #[test]
    fn visibility_is_that_of_the_server() {
        let s = snapshot("100:105:100,103");
        let seen: Vec<u32> = (98..108).filter(|xid| s.sees(*xid)).collect();
        assert_eq!(seen, [98, 99, 101, 102, 104]);
    }

    #[test]
    fn ids_are_widened_across_the_wraparound() {
        let epoch = 3_u64 << 32;
        let s = PgSnapshot {
            xmin: epoch - 2,
            xmax: epoch + 3,
            xip: vec![epoch - 2, epoch + 1],
        };
        assert!(s.sees(u32::MAX - 4), "before the epoch, below xmin");
        assert!(!s.sees(u32::MAX - 1), "running, before the epoch");
        assert!(s.sees(u32::MAX), "finished, before the epoch");
        assert!(s.sees(0), "finished, after the epoch");
        assert!(!s.sees(1), "running, after the epoch");
        assert!(!s.sees(3), "not started");
        assert!(!s.sees(1 << 30), "not started");
    }

    #[test]
    fn what_was_rolled_back_last_may_lie_between_the_bounds_of_a_slots_snapshot() {
        let s = snapshot("63496:63495:");
        let seen: Vec<u32> = (63_493..63_499).filter(|xid| s.sees(*xid)).collect();
        assert_eq!(seen, [63_493, 63_494, 63_495]);
    }

    #[test]
    fn malformed_snapshots_are_refused() {
        for bad in ["", "1", "1:2", "1:9:5,4", "1:9:x", "1:2::", "1:2:3:4"] {
            assert!(PgSnapshot::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(snapshot("7:7:").xip, Vec::<u64>::new());
    }

    #[test]
    fn nothing_at_or_after_the_later_position_is_covered() {
        let at = |lsn| Position::PgLsn(Lsn(lsn));
        let mark = Tidemark {
            seen: Seen::PgSnapshot(snapshot("10:20:")),
            after: at(500),
        };
        assert!(mark.covers(15, at(400)));
        assert!(!mark.covers(25, at(400)));
        assert!(
            !mark.covers(15, at(500)),
            "an id of an older epoch cannot be mistaken"
        );
        assert!(!mark.is_passed(at(499)));
        assert!(mark.is_passed(at(500)));
    }
}
