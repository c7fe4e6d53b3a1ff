//! How fast the source's log grows because of a slot, and when that ends badly.
//!
//! What a slot keeps goes up and down like a saw: the log is written all the time, and given free at
//! intervals. So what counts is the lower edge: the least that was kept in the older half of what was
//! seen, and the least in the newer half. Where that does not rise, or was not watched for long enough,
//! nothing is foretold.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How far back it looks.
const WINDOW: Duration = Duration::from_mins(5);

/// Less than this says nothing: the source gives log free every 15 s and more (`LOG_SNAPSHOT_INTERVAL_MS`,
/// PostgreSQL 15), and at checkpoints.
const WATCHED_MIN: Duration = Duration::from_secs(45);

/// What was kept, over the last minutes.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    seen: VecDeque<(Instant, u64)>,
}

impl Forecast {
    pub(super) fn saw(&mut self, retained_bytes: u64, now: Instant) {
        self.seen.push_back((now, retained_bytes));
        while self
            .seen
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Bytes a second by which what is kept grows; 0 where it does not. `None`: not known.
    pub(super) fn bytes_per_second(&self) -> Option<f64> {
        let (first, last) = (self.seen.front()?.0, self.seen.back()?.0);
        let watched = last.duration_since(first);
        if watched < WATCHED_MIN {
            return None;
        }
        let middle = first + watched / 2;
        let least = |is_newer: bool| {
            let half = self
                .seen
                .iter()
                .filter(|(at, _)| (*at > middle) == is_newer);
            // Of several that are least the last: it was still so then.
            half.min_by_key(|(at, bytes)| (*bytes, std::cmp::Reverse(*at)))
        };
        let (older, newer) = (least(false)?, least(true)?);
        let grown = newer.1.saturating_sub(older.1) as f64;
        Some(grown / newer.0.duration_since(older.0).as_secs_f64().max(1.0))
    }

    /// How long `left_bytes` last at this rate.
    pub(super) fn lasts(&self, left_bytes: u64) -> Option<Duration> {
        let rate = self.bytes_per_second().filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(left_bytes as f64 / rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(samples: impl IntoIterator<Item = (u64, u64)>) -> Forecast {
        let start = Instant::now();
        let mut forecast = Forecast::default();
        for (second, bytes) in samples {
            forecast.saw(bytes, start + Duration::from_secs(second));
        }
        forecast
    }

    #[tokio::test]
    async fn nothing_is_foretold_from_little() {
        assert_eq!(seen([]).bytes_per_second(), None);
        let short = seen((0..20).map(|i| (i * 2, i * 1000)));
        assert_eq!(short.bytes_per_second(), None);
        assert_eq!(short.lasts(1), None);
    }

    #[tokio::test]
    async fn a_steady_growth_is_foretold() {
        let forecast = seen((0..60).map(|i| (i * 2, i * 2000)));
        let rate = forecast.bytes_per_second().unwrap();
        assert!((900.0..1100.0).contains(&rate), "{rate}");
        let lasts = forecast.lasts(18_000_000).unwrap().as_secs();
        assert!((16_000..20_000).contains(&lasts), "{lasts}");
    }

    #[tokio::test]
    async fn a_saw_that_comes_back_to_the_same_edge_does_not_grow() {
        let forecast = seen((0..120).map(|i| (i * 2, 500 + (i % 8) * 40_000_000)));
        assert_eq!(forecast.bytes_per_second(), Some(0.0));
        assert_eq!(forecast.lasts(10), None);
    }

    #[tokio::test]
    async fn what_is_long_past_does_not_count() {
        let forecast = seen((0..400).map(|i| (i * 2, (i * 2000).min(200_000))));
        assert_eq!(forecast.bytes_per_second(), Some(0.0));
    }
}
