//! Measures from outside of the line: heartbeats into the source's log, and a look at the log's end
//! and at the slot. What cannot be measured is said to be so; nothing is guessed.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::Instrument as _;

use super::Engine;
use super::observe::PipelineEvent;
use super::protection::{Budget, Look, Over};

/// The measuring tasks of a run.
pub(super) struct Monitor {
    stop: watch::Sender<bool>,
    over: watch::Receiver<Option<Over>>,
    tasks: JoinSet<()>,
}

impl Monitor {
    pub(super) fn start(engine: &Arc<Engine>) -> Monitor {
        let (stop, stopped) = watch::channel(false);
        let (is_over, over) = watch::channel(None);
        let mut tasks = JoinSet::new();
        // A source that does not answer is told, whatever is asked of it.
        let measures = measure(Arc::clone(engine), is_over, stopped.clone());
        tasks.spawn(measures.in_current_span());
        if engine.options.mode.streams() {
            tasks.spawn(beat(Arc::clone(engine), stopped).in_current_span());
        }
        Monitor { stop, over, tasks }
    }

    /// Waits until the source keeps more log than it may. Cancel-safe.
    pub(super) async fn over(&self) -> Over {
        let mut over = self.over.clone();
        loop {
            let seen = over.borrow_and_update().clone();
            if let Some(seen) = seen {
                return seen;
            }
            if over.changed().await.is_err() {
                // Nobody measures any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends the measuring; returns when nothing of it runs any more.
    pub(super) async fn stop(mut self) {
        // Nobody listening means that the tasks are over already.
        self.stop.send_replace(true);
        self.tasks.shutdown().await;
    }
}

async fn measure(
    engine: Arc<Engine>,
    is_over: watch::Sender<Option<Over>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut budget = Budget::new(engine.options.max_retained_bytes);
    let mut tick = interval(engine.options.measure_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.changed() => return,
        }
        let measured = engine.source.watch_log().await;
        if let Ok(log) = &measured {
            match budget.look(log) {
                Look::Fine => {}
                Look::Warn(percent) => engine.warn_of_retained(log, percent),
                Look::Over(over) => drop(is_over.send_replace(Some(over))),
            }
        }
        engine
            .observer
            .say(PipelineEvent::Measured(measured.map(Box::new)));
    }
}

async fn beat(engine: Arc<Engine>, mut stopped: watch::Receiver<bool>) {
    let mut tick = interval(engine.options.heartbeat_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.changed() => return,
        }
        // A source that cannot be written to (a standby) or reached is measured all the same.
        match engine.source.heartbeat().await {
            Ok(Some(written_at_us)) => {
                let written = PipelineEvent::HeartbeatWritten { written_at_us };
                engine.observer.say(written);
            }
            Ok(None) => return,
            Err(err) => tracing::debug!(pipeline = %engine.name, error = %err, "no heartbeat"),
        }
    }
}
