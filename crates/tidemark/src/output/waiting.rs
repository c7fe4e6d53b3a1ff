//! What is said on a terminal while something takes longer than a moment.

use std::time::{Duration, Instant};

use super::numbers::duration;
use super::screen::{Screen, Stream};
use super::style::Tone;
use super::{Form, ProgressForm, Talk};

/// Before this nothing is said.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the time is renewed.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// Does the work; on a terminal says after a second what it is and how long it has taken so far. The
/// line is gone when this returns or is dropped. Only where nothing else owns the live region.
pub(crate) async fn during<T>(talk: &Talk, what: &str, work: impl Future<Output = T>) -> T {
    // What is waited for holds whole conversations with a server: too large for a stack.
    let mut work = Box::pin(work);
    if talk.progress != ProgressForm::Live || talk.form != Form::Human {
        return work.await;
    }
    let began = Instant::now();
    let line = Line(&talk.screen);
    let mut tick = tokio::time::interval_at((began + PATIENCE).into(), DRAW_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                let text = format!("  {what}   {}", duration(began.elapsed()));
                line.0.show(Stream::Err, vec![talk.err.paint(Tone::Faint, &text)]);
            }
        }
    }
}

/// Takes the line away.
struct Line<'a>(&'a Screen);

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}
