//! Rounds: what is looked at once a second, as long as the supervisor is there.
//!
//! Nobody else notices when history, alerts or schedules are not looked at any more. So a round that
//! panics costs that round alone, and one that does not come round is told ([`Turns::late`]).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use tidemark_core::catalogue::codes;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{LOOK_EVERY, Supervisor};

/// A round that has not come to its end for so long does not turn: every wait in it is shorter.
const LATE_AFTER: Duration = Duration::from_mins(2);

/// When each kind of round came to its end last.
#[derive(Default)]
pub(crate) struct Turns {
    ended: Mutex<BTreeMap<&'static str, Instant>>,
}

impl Turns {
    fn turned(&self, what: &'static str) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.insert(what, Instant::now());
    }

    /// Those that do not come round.
    pub(crate) fn late(&self) -> Vec<&'static str> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let late = ended.iter().filter(|(_, at)| at.elapsed() > LATE_AFTER);
        late.map(|(what, _)| *what).collect()
    }
}

/// See the module's text.
pub(crate) struct Rounds {
    what: &'static str,
    tick: Interval,
    supervisor: Weak<Supervisor>,
    turns: Arc<Turns>,
}

impl Rounds {
    pub(super) fn of(supervisor: &Arc<Supervisor>, what: &'static str) -> Rounds {
        let turns = Arc::clone(&supervisor.shared.turns);
        Rounds::new(Arc::downgrade(supervisor), what, turns)
    }

    fn new(supervisor: Weak<Supervisor>, what: &'static str, turns: Arc<Turns>) -> Rounds {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        turns.turned(what);
        Rounds {
            what,
            tick,
            supervisor,
            turns,
        }
    }

    /// When it is time again. It must not be kept for longer than the round.
    pub(crate) async fn next(&mut self) -> Option<Arc<Supervisor>> {
        self.tick.tick().await;
        self.supervisor.upgrade()
    }

    /// Goes round once.
    pub(crate) async fn turn(&self, round: impl Future<Output = ()>) {
        if survived(self.what, round).await.is_some() {
            self.turns.turned(self.what);
        }
    }
}

/// Does something that others wait for in vain if it ends: `None` where it panicked, which is said.
pub(crate) async fn survived<T>(what: &str, work: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| {
        let words = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
        let words = words.unwrap_or_default();
        tracing::error!(code = %codes::INTERNAL, "{what} panicked, and goes on: {words}");
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f58_a_round_that_panics_costs_that_round_and_one_that_does_not_turn_is_told() {
        let turns = Arc::new(Turns::default());
        let mut rounds = Rounds::new(Weak::new(), "alerts", Arc::clone(&turns));
        let mut went = Vec::new();
        for number in 0..3 {
            rounds.tick.tick().await;
            let round = async {
                assert_ne!(number, 1, "a defect in the middle");
                went.push(number);
            };
            rounds.turn(round).await;
        }
        assert_eq!(went, [0, 2]);
        assert!(turns.late().is_empty());
        tokio::time::advance(LATE_AFTER + LOOK_EVERY).await;
        rounds.turn(async { panic!("again") }).await;
        assert_eq!(turns.late(), ["alerts"]);
        rounds.turn(async {}).await;
        assert!(turns.late().is_empty());
    }
}
