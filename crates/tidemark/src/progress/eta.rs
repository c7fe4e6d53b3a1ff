//! Rates, and the time that is left as a range.
//!
//! One number would pretend to know. The rate of each second is kept for the last minute; the range
//! goes from what is left at the better of these rates to what is left at the worse, with a margin
//! that shrinks as more is known. Nothing is said before three seconds are measured.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One sample covers this long.
const SAMPLE: Duration = Duration::from_secs(1);
/// So many samples are kept.
const SAMPLES_MAX: usize = 60;
/// And so many are needed for an estimate.
const SAMPLES_MIN: usize = 3;

/// How quickly something grows.
#[derive(Debug, Default)]
pub(super) struct Rate {
    samples: VecDeque<f64>,
    /// Beginning and amount of the sample that is being filled.
    open: Option<(Instant, u64)>,
}

impl Rate {
    /// It grew by this much.
    pub(super) fn add(&mut self, amount: u64, now: Instant) {
        let (began, so_far) = self.open.get_or_insert((now, 0));
        *so_far += amount;
        let elapsed = now.duration_since(*began);
        if elapsed >= SAMPLE {
            let per_second = *so_far as f64 / elapsed.as_secs_f64();
            // A pause is as many slow seconds as it lasted, not one.
            let seconds = usize::try_from(elapsed.as_secs()).unwrap_or(SAMPLES_MAX);
            for _ in 0..seconds.clamp(1, SAMPLES_MAX) {
                self.samples.push_back(per_second);
            }
            while self.samples.len() > SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.open = Some((now, 0));
        }
    }

    /// Growth a second, over the last few seconds; `None` before there is anything to say.
    pub(super) fn per_second(&self, now: Instant) -> Option<u64> {
        const RECENT: usize = 5;
        let recent = self.samples.iter().rev().take(RECENT);
        let (sum, count) = recent.fold((0.0, 0_u32), |(sum, count), rate| (sum + rate, count + 1));
        if count > 0 {
            return to_u64(sum / f64::from(count));
        }
        let (began, so_far) = self.open?;
        let elapsed = now.duration_since(began).as_secs_f64();
        if elapsed < 0.2 {
            None
        } else {
            to_u64(so_far as f64 / elapsed)
        }
    }

    /// How long `left` more will take, at best and at worst.
    pub(super) fn time_for(&self, left: u64) -> Option<(Duration, Duration)> {
        if self.samples.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted: Vec<f64> = self.samples.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let at = (share * (sorted.len() - 1) as f64).round();
            sorted
                .get(to_u64(at).and_then(|at| usize::try_from(at).ok())?)
                .copied()
        };
        // Few samples say little about the seconds to come: 50 % either way at first, 15 % later.
        let margin = (1.5 / self.samples.len() as f64).clamp(0.15, 0.5);
        let fast = quantile(0.9)? * (1.0 + margin);
        let slow = quantile(0.1)? * (1.0 - margin);
        let time = |rate: f64| {
            if rate > 0.0 {
                Duration::try_from_secs_f64(left as f64 / rate).ok()
            } else {
                None
            }
        };
        Some((time(fast)?, time(slow)?))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked before"
)]
fn to_u64(number: f64) -> Option<u64> {
    (number.is_finite() && (0.0..1e18).contains(&number)).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(rates: &[u64]) -> (Rate, Instant) {
        let start = Instant::now();
        let mut rate = Rate::default();
        rate.add(0, start);
        for (second, amount) in rates.iter().enumerate() {
            rate.add(*amount, start + Duration::from_secs(second as u64 + 1));
        }
        (rate, start + Duration::from_secs(rates.len() as u64))
    }

    #[test]
    fn a_steady_rate_gives_a_narrow_range_around_the_truth() {
        let (rate, now) = fed(&[1_000; 30]);
        assert_eq!(rate.per_second(now), Some(1_000));
        let (best, worst) = rate.time_for(60_000).expect("enough samples");
        assert!(best < Duration::from_mins(1) && worst > Duration::from_mins(1));
        assert!(worst < best * 2, "{best:?} {worst:?}");
    }

    #[test]
    fn an_unsteady_rate_gives_a_wide_range() {
        let (rate, _) = fed(&[2_000, 400, 1_800, 500, 2_100, 600, 1_900, 450]);
        let (best, worst) = rate.time_for(60_000).expect("enough samples");
        assert!(worst > best * 3, "{best:?} {worst:?}");
    }

    #[test]
    fn nothing_is_said_before_enough_is_measured_or_when_nothing_moves() {
        assert_eq!(fed(&[1_000, 1_000]).0.time_for(10), None);
        assert_eq!(fed(&[0, 0, 0, 0]).0.time_for(10), None);
        assert_eq!(Rate::default().per_second(Instant::now()), None);
    }

    #[test]
    fn a_pause_counts_for_as_long_as_it_lasted() {
        let start = Instant::now();
        let mut rate = Rate::default();
        rate.add(0, start);
        rate.add(1_000, start + Duration::from_secs(1));
        rate.add(1_000, start + Duration::from_secs(11));
        assert_eq!(rate.samples.len(), 11);
    }
}
