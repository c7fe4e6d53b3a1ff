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

/// How often it is told where no line can be renewed.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Does the work; on a terminal says after a second what it is and how long it has taken so far. The
/// line is gone when this returns or is dropped. Only where nothing else owns the live region.
pub(crate) async fn during<T>(talk: &Talk, what: &str, work: impl Future<Output = T>) -> T {
    // What is waited for holds whole conversations with a server: too large for a stack.
    let work = Box::pin(work);
    if is_live(talk) {
        return renewed(talk, || what.to_owned(), work).await;
    }
    work.await
}

/// The same for what can say how far it is. Where there is no terminal that is a line now and then.
pub(crate) async fn told<T>(
    talk: &Talk,
    how_far: impl Fn() -> String,
    work: impl Future<Output = T>,
) -> T {
    let mut work = Box::pin(work);
    if is_live(talk) {
        return renewed(talk, how_far, work).await;
    }
    if talk.progress == ProgressForm::Off {
        return work.await;
    }
    let began = Instant::now();
    let mut tick = tokio::time::interval_at((began + TELL_EVERY).into(), TELL_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => talk.say(&line(&how_far(), began)),
        }
    }
}

fn is_live(talk: &Talk) -> bool {
    talk.progress == ProgressForm::Live && talk.form == Form::Human
}

fn line(what: &str, began: Instant) -> String {
    format!("  {what}   {}", duration(began.elapsed()))
}

async fn renewed<T>(
    talk: &Talk,
    what: impl Fn() -> String,
    mut work: std::pin::Pin<Box<impl Future<Output = T>>>,
) -> T {
    let began = Instant::now();
    let shown = Line(&talk.screen);
    let mut tick = tokio::time::interval_at((began + PATIENCE).into(), DRAW_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                let text = talk.err.paint(Tone::Faint, &line(&what(), began));
                shown.0.show(Stream::Err, vec![text]);
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
