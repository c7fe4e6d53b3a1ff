//! Which commits survive a crash of the target.
//!
//! Commits do not wait for the disk (`synchronous_commit = off`): that would cost each of them
//! milliseconds for a durability that only the acknowledgement to the source needs (promise P4). So
//! durability is tracked instead. Right after a commit the server is asked how far its log goes
//! and how far the log is on disk. The commit record, and those of all commits before it, lie before the
//! first of the two; they are durable as soon as the second has passed that point, which later answers
//! tell. The server's WAL writer gets there by itself within three times `wal_writer_delay` (PostgreSQL
//! 15, 30.4), 0.6 s as it comes. So nothing is gained by asking behind each of a thousand commits a second,
//! and the question costs the server as much as a small change does.
//!
//! Positions are raised in commit order only, so a position is durable if all before it are.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidemark_core::position::{Lsn, Position};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Durability {
    durable: Option<Position>,
    /// Committed positions, and the point in the target's log before which their commit lies.
    waiting: VecDeque<(Position, Lsn)>,
    /// Committed since the last of them; the next answer is for it too.
    unplaced: Option<Position>,
    asked_at: Option<Instant>,
}

/// How long after one question the next is due. Short beside the 0.6 s and the source's own pace.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// More than this many points of the log in 0.6 s are told apart less finely.
const WAITING_MAX: usize = 4096;

impl Durability {
    /// The highest position that survives a crash.
    pub(super) fn durable(&self) -> Option<Position> {
        self.durable
    }

    /// Whether some commit is not known to be durable.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.unplaced.is_some()
    }

    /// Whether the commit that is about to be sent at `now` is to be followed by the question.
    pub(super) fn must_ask(&mut self, now: Instant) -> bool {
        let is_due = self
            .asked_at
            .is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }

    /// A position was committed, somewhere in the target's log.
    pub(super) fn committed(&mut self, position: Position) {
        self.unplaced = Some(position);
    }

    /// All that was committed lies before this point of the target's log.
    pub(super) fn placed(&mut self, before: Lsn) {
        let Some(position) = self.unplaced.take() else {
            return;
        };
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
        let last = self.waiting.drain(..).next_back();
        let last = self.unplaced.take().or(last.map(|(position, _)| position));
        self.durable = last.or(self.durable);
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
        durability.committed(at(10));
        durability.placed(Lsn(1000));
        durability.committed(at(20));
        durability.placed(Lsn(2000));
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
            durability.committed(at(number));
            durability.placed(Lsn(number * 10));
        }
        assert_eq!(durability.waiting.len(), WAITING_MAX);
        durability.flushed(Lsn(99_999));
        assert!(durability.durable() < Some(at(10_000)));
        durability.flushed(Lsn(100_000));
        assert_eq!(durability.durable(), Some(at(10_000)));
    }

    #[test]
    fn the_question_is_asked_now_and_then_and_its_answer_is_for_all_before_it() {
        let mut durability = Durability::default();
        let began = Instant::now();
        assert!(durability.must_ask(began));
        durability.committed(at(10));
        durability.placed(Lsn(1000));
        assert!(!durability.must_ask(began + ASK_EVERY / 2));
        durability.committed(at(20));
        durability.flushed(Lsn(9000));
        assert_eq!(
            durability.durable(),
            Some(at(10)),
            "20 is at no known point"
        );
        assert!(durability.is_waiting());
        assert!(durability.must_ask(began + ASK_EVERY));
        durability.committed(at(30));
        durability.placed(Lsn(9500));
        durability.flushed(Lsn(9499));
        assert_eq!(durability.durable(), Some(at(10)));
        durability.flushed(Lsn(9500));
        assert_eq!(durability.durable(), Some(at(30)));
        assert!(!durability.is_waiting());
    }
}
