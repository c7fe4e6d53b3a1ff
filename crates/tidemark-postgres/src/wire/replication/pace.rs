//! Whether the next read comes after a nap.
//!
//! What "much" means cannot be told from the stream: with logical decoding the header's end of log
//! repeats the message's own position (PostgreSQL 15, `WalSndPrepareWrite`). So it is the rate of
//! arrival that decides.

use std::time::{Duration, Instant};

/// Naps begin when so much came within one [`WINDOW`], and end when a nap brought less than
/// [`BUSY_BYTES_MIN`]. A thousand small transactions a second are far below.
const WINDOW: Duration = Duration::from_millis(2);
const BUSY_BYTES: usize = 32 * 1024;
const BUSY_BYTES_MIN: usize = 4 * 1024;

pub(super) struct Pace {
    nap: Duration,
    busy: bool,
    window_start: Instant,
    window_bytes: usize,
}

impl Pace {
    /// Naps of the given length, none at first.
    pub(super) fn new(nap: Duration, now: Instant) -> Pace {
        Pace {
            nap,
            busy: false,
            window_start: now,
            window_bytes: 0,
        }
    }

    /// How long to sleep before the next read; `None`: wait for data instead.
    pub(super) fn nap(&self) -> Option<Duration> {
        self.busy.then_some(self.nap)
    }

    /// Takes note of what a read brought.
    pub(super) fn note(&mut self, arrived: usize, now: Instant) {
        if self.busy {
            if arrived < BUSY_BYTES_MIN {
                *self = Pace::new(self.nap, now);
            }
            return;
        }
        if now.saturating_duration_since(self.window_start) > WINDOW {
            self.window_start = now;
            self.window_bytes = 0;
        }
        self.window_bytes += arrived;
        self.busy = self.window_bytes >= BUSY_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAP: Duration = Duration::from_millis(1);

    #[test]
    fn a_thousand_small_transactions_a_second_are_delivered_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(NAP, now);
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            pace.note(600, now);
            assert_eq!(pace.nap(), None);
        }
    }

    #[test]
    fn a_backlog_brings_naps_until_it_is_drained() {
        let mut now = Instant::now();
        let mut pace = Pace::new(NAP, now);
        let mut reads = 0;
        while pace.nap().is_none() {
            now += Duration::from_micros(5);
            pace.note(300, now);
            reads += 1;
        }
        assert!(reads < 200, "{reads}");
        pace.note(40_000, now);
        assert_eq!(pace.nap(), Some(NAP));
        pace.note(0, now);
        assert_eq!(pace.nap(), None);
    }
}
