//! What is tried again after an error, and how long to wait before: doubling, with jitter, up to a limit,
//! for ever.

use std::time::Duration;

use crate::error::{Error, Remedy};

use super::Run;
use super::options::Options;

impl Run {
    /// What is done about an error that ended an attempt. What this run has had and was taken away
    /// under it can be given back ([`Error::is_taken_away`]): it is waited for, where a start that lacks it ends.
    pub(super) fn remedy(&self, err: &Error) -> Remedy {
        let has_begun = self.lasting.backoff.has_begun;
        match err.kind().remedy() {
            Remedy::Fail if has_begun && err.is_taken_away() => Remedy::Retry,
            remedy => remedy,
        }
    }
}

/// Waits between attempts at the same thing.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
    seed: u64,
    /// Whether an attempt has come to where rows and changes can be read.
    pub(super) has_begun: bool,
}

impl Backoff {
    pub(crate) fn new(options: &Options) -> Backoff {
        // Jitter only has to differ between processes and places, so an address will do.
        let seed = std::ptr::from_ref(options) as usize as u64 ^ u64::from(std::process::id());
        Backoff {
            min: options.retry_wait_min,
            max: options.retry_wait_max,
            attempts: 0,
            seed,
            has_begun: false,
        }
    }

    /// How many waits were given out since the last success.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next wait: between half and all of the doubled one.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self
            .min
            .saturating_mul(1 << self.attempts.min(16))
            .min(self.max);
        self.attempts += 1;
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let share = f64::from(u32::try_from(self.seed >> 33).unwrap_or(0)) / f64::from(1_u32 << 31);
        doubled.mul_f64(0.5 + 0.5 * share.min(1.0))
    }

    /// Something worked.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_limit() {
        let options = Options {
            retry_wait_min: Duration::from_millis(100),
            retry_wait_max: Duration::from_secs(2),
            ..Options::default()
        };
        let mut backoff = Backoff::new(&options);
        for expected_ms in [100_u64, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next();
            let expected = Duration::from_millis(expected_ms);
            assert!(
                wait <= expected && wait >= expected / 2,
                "{wait:?} for {expected:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }

    /// However long a side was away, 10 s after it is back a pipeline is to go on.
    #[test]
    fn f01_f43_a_side_that_was_away_for_long_is_asked_often_enough() {
        let mut backoff = Backoff::new(&Options::default());
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(
            waits.iter().all(|wait| *wait <= Duration::from_secs(8)),
            "{waits:?}"
        );
        let first: Duration = waits.iter().take(5).sum();
        assert!(
            first > Duration::from_secs(3),
            "and not in a storm: {waits:?}"
        );
    }
}
