//! Keeps the load from reading the source faster than the user allows.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

/// Rows a second, shared by all workers of a load.
#[derive(Debug)]
pub(crate) struct Throttle {
    rows_per_second_max: Option<u64>,
    /// When the rows let through so far will have been paid for.
    paid_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(rows_per_second_max: Option<u64>) -> Throttle {
        Throttle {
            rows_per_second_max,
            paid_until: Mutex::new(None),
        }
    }

    /// Waits until this many more rows may pass.
    pub(crate) async fn pass(&self, rows: u64, now: Instant) {
        let Some(rate) = self.rows_per_second_max.filter(|rate| *rate > 0) else {
            return;
        };
        let until = {
            let mut paid_until = self
                .paid_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let from = paid_until.map_or(now, |until| until.max(now));
            let until = from + Duration::from_secs_f64(rows as f64 / rate as f64);
            *paid_until = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_pass_no_faster_than_allowed() {
        let throttle = Throttle::new(Some(1000));
        let start = Instant::now();
        for _ in 0..10 {
            throttle.pass(500, Instant::now()).await;
        }
        assert_eq!(start.elapsed().as_millis(), 5000);
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_means_no_wait() {
        let throttle = Throttle::new(None);
        let start = Instant::now();
        throttle.pass(u64::MAX, Instant::now()).await;
        assert_eq!(start.elapsed().as_millis(), 0);
    }
}
