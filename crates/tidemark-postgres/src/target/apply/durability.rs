//! Which commits survive a crash of the target.
//!
//! Commits do not wait for the disk (`synchronous_commit = off`): that would cost each of them
//! milliseconds for a durability that only the acknowledgement to the source needs (promise P4). So
//! durability is tracked instead. Right after a commit the server is asked how far its log goes
//! and how far the log is on disk. The commit record lies before the first of the two; it is
//! durable as soon as the second has passed that point, which later answers tell. The server's WAL
//! writer gets there by itself within three times `wal_writer_delay` (PostgreSQL 15, 30.4), 0.6 s
//! as it comes.
//!
//! Positions are raised in commit order only, so a position is durable if all before it are.

use std::collections::VecDeque;

use tidemark_core::position::{Lsn, Position};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Durability {
    durable: Option<Position>,
    /// Committed positions, and the point in the target's log before which their commit lies.
    waiting: VecDeque<(Position, Lsn)>,
}

/// More than this many commits in 0.6 s are told apart less finely.
const WAITING_MAX: usize = 4096;

impl Durability {
    /// The highest position that survives a crash.
    pub(super) fn durable(&self) -> Option<Position> {
        self.durable
    }

    /// Whether some commit is not known to be durable.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A position was committed before this point of the target's log.
    pub(super) fn committed(&mut self, position: Position, before: Lsn) {
        if self.waiting.len() >= WAITING_MAX {
            // A later point covers an earlier commit as well.
            self.waiting.pop_back();
        }
        self.waiting.push_back((position, before));
    }

    /// The target's log is on disk up to this point.
    pub(super) fn flushed(&mut self, up_to: Lsn) {
        while let Some((position, before)) = self.waiting.front()
            && *before <= up_to
        {
            self.durable = Some(*position);
            self.waiting.pop_front();
        }
    }

    /// Everything that was committed is on disk.
    pub(super) fn flushed_all(&mut self) {
        if let Some((position, _)) = self.waiting.drain(..).next_back() {
            self.durable = Some(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        Position::PgLsn(Lsn(lsn))
    }

    #[test]
    fn a_position_is_durable_once_the_log_behind_its_commit_is() {
        let mut durability = Durability::default();
        durability.committed(at(10), Lsn(1000));
        durability.committed(at(20), Lsn(2000));
        durability.flushed(Lsn(999));
        assert_eq!(durability.durable(), None);
        durability.flushed(Lsn(1999));
        assert_eq!(durability.durable(), Some(at(10)));
        assert!(durability.is_waiting());
        durability.flushed_all();
        assert_eq!(durability.durable(), Some(at(20)));
        durability.flushed_all();
        assert_eq!(durability.durable(), Some(at(20)));
    }

    #[test]
    fn the_queue_is_bounded_and_never_early() {
        let mut durability = Durability::default();
        for number in 1..=10_000 {
            durability.committed(at(number), Lsn(number * 10));
        }
        assert_eq!(durability.waiting.len(), WAITING_MAX);
        durability.flushed(Lsn(99_999));
        assert!(durability.durable() < Some(at(10_000)));
        durability.flushed(Lsn(100_000));
        assert_eq!(durability.durable(), Some(at(10_000)));
    }
}
