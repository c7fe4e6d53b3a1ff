//! Whether the next read comes after a nap, and how long a nap is.
//!
//! What "much" means cannot be told from the stream: with logical decoding the header's end of log
//! repeats the message's own position (PostgreSQL 15, `WalSndPrepareWrite`). So it is the rate of
//! arrival that decides, and naps lengthen or shorten until each finds a good gulp. They stay so
//! short that the socket's buffer does not fill meanwhile, which would stop the server.

use std::time::{Duration, Instant};

/// Naps begin when so much came within one [`WINDOW`]. A thousand small transactions a second are
/// far below.
const WINDOW: Duration = Duration::from_millis(2);
const BUSY_BYTES: usize = 16 * 1024;

/// Naps end when so many of them brought hardly anything, by the rate at which they began. One may
/// be bad luck: on a busy machine the server gets no CPU for a while.
const QUIET_NAPS: u32 = 3;
const QUIET_SHARE: u128 = 4;

/// What naps may be like, which depends on what the socket can hold.
#[derive(Clone, Copy)]
pub(super) struct Naps {
    min: Duration,
    max: Duration,
    /// A gulp smaller than this lengthens the next nap, one larger than the second shortens it.
    gulp_bytes: (usize, usize),
}

/// Between machines: up to what one read can take (see the buffer of `reader`).
pub(super) const TCP_NAPS: Naps = Naps {
    min: Duration::from_millis(1),
    max: Duration::from_millis(8),
    gulp_bytes: (128 * 1024, 240 * 1024),
};

/// On one machine a small write of the server is carried through TCP to our receive queue before
/// `send` returns, which costs it more than decoding did. Unless the receive window is shut: then it
/// is appended to what waits at the server, which is next to nothing, and goes out in large segments
/// when we read. So the window is kept small, lest it never shuts, and naps are so long that far
/// more than a window gathers at the server, but less than its send buffer holds (a megabyte and
/// more on a loopback device, `tcp_sndbuf_expand`, Linux 6).
pub(super) const LOOPBACK_WINDOW_BYTES: usize = 64 * 1024;
pub(super) const LOOPBACK_NAPS: Naps = Naps {
    min: Duration::from_millis(1),
    max: Duration::from_millis(20),
    gulp_bytes: (512 * 1024, 1024 * 1024),
};

/// A Unix socket joins nothing and holds 208 KiB (`net.core.wmem_default`) in which every message
/// is accounted with its bookkeeping: about 270 small ones, then the server waits. So short.
pub(super) const UNIX_NAPS: Naps = Naps {
    min: Duration::from_micros(50),
    max: Duration::from_micros(150),
    gulp_bytes: (16 * 1024, 40 * 1024),
};

pub(super) struct Pace {
    naps: Naps,
    /// Set while much is coming.
    nap: Option<Duration>,
    quiet: u32,
    window_start: Instant,
    window_bytes: usize,
}

impl Pace {
    /// No naps at first.
    pub(super) fn new(naps: Naps, now: Instant) -> Pace {
        Pace {
            naps,
            nap: None,
            quiet: 0,
            window_start: now,
            window_bytes: 0,
        }
    }

    /// How long to sleep before the next read; `None`: wait for data instead.
    pub(super) fn nap(&self) -> Option<Duration> {
        self.nap
    }

    /// Takes note of what a read brought.
    pub(super) fn note(&mut self, arrived: usize, now: Instant) {
        let Some(nap) = self.nap else {
            self.note_awake(arrived, now);
            return;
        };
        // What the rate at which naps begin would have brought meanwhile.
        let busy = BUSY_BYTES as u128 * nap.as_nanos() / WINDOW.as_nanos();
        if arrived as u128 * QUIET_SHARE < busy {
            self.quiet += 1;
            if self.quiet >= QUIET_NAPS {
                *self = Pace::new(self.naps, now);
            }
            return;
        }
        self.quiet = 0;
        let (small, large) = self.naps.gulp_bytes;
        if arrived > large || (arrived as u128) < busy {
            self.nap = Some((nap / 2).max(self.naps.min));
        } else if arrived < small {
            self.nap = Some((nap * 2).min(self.naps.max));
        }
    }

    fn note_awake(&mut self, arrived: usize, now: Instant) {
        if now.saturating_duration_since(self.window_start) > WINDOW {
            self.window_start = now;
            self.window_bytes = 0;
        }
        self.window_bytes += arrived;
        if self.window_bytes >= BUSY_BYTES {
            self.nap = Some(self.naps.min);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_small_transactions_a_second_are_delivered_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(TCP_NAPS, now);
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            pace.note(600, now);
            assert_eq!(pace.nap(), None);
        }
    }

    #[test]
    fn a_backlog_brings_naps_until_it_is_drained() {
        let mut now = Instant::now();
        let mut pace = Pace::new(TCP_NAPS, now);
        let mut reads = 0;
        while pace.nap().is_none() {
            now += Duration::from_micros(5);
            pace.note(300, now);
            reads += 1;
        }
        assert!(reads < 100, "{reads}");
        for _ in 0..3 {
            pace.note(80_000, now);
        }
        assert_eq!(
            pace.nap(),
            Some(TCP_NAPS.max),
            "small gulps lengthen the nap"
        );
        for _ in 0..3 {
            pace.note(260_000, now);
        }
        assert_eq!(pace.nap(), Some(TCP_NAPS.min), "large ones shorten it");
        pace.note(0, now);
        pace.note(20_000, now);
        pace.note(0, now);
        pace.note(0, now);
        assert!(pace.nap().is_some(), "a pause is not the end");
        pace.note(0, now);
        assert_eq!(pace.nap(), None);
    }

    #[test]
    fn a_steady_load_that_is_no_backlog_does_not_lengthen_naps() {
        let now = Instant::now();
        let mut pace = Pace::new(LOOPBACK_NAPS, now);
        pace.note(BUSY_BYTES, now);
        // A third of the rate at which naps begin: short naps, for whoever waits for the changes.
        for _ in 0..10 {
            let nap = pace.nap().expect("not quiet");
            assert_eq!(nap, LOOPBACK_NAPS.min);
            pace.note(BUSY_BYTES / 6, now);
        }
    }
}
