//! Writes down what happens to pipelines, and tells it to whoever watches.
//!
//! Beside the line, never on it. While the store cannot be written entries wait for it, up to a limit; what
//! is beyond is left out, and how much that was is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tidemark_core::checkpoint::{Reason, TableState};
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::pipeline::observe::PipelineEvent;
use tidemark_core::status::{By, PipelineState};
use tidemark_core::{Result, clock};
use tokio::sync::mpsc;

use crate::news::{News, Topic};
use crate::store::{Entry, Key, Level, Sample, Store};

/// Entries that wait for a store that cannot be written, and how many are written at once.
const WAITING_MAX: usize = 10_000;
const BATCH_MAX: usize = 256;
/// Looks at pipelines that wait for it, each list of which is of ten seconds.
const LOOKS_WAITING_MAX: usize = 30;
/// How long a store that could not be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scribe {
    sender: mpsc::Sender<Entry>,
    looks: mpsc::Sender<Vec<Sample>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Entries, and what else is to be written, that are not written down yet.
    waiting: AtomicUsize,
    /// Entries and lists of looks for which there was no room.
    left_out: AtomicUsize,
}

impl Scribe {
    /// A scribe, and its work, which ends when every clone of it is gone.
    pub(super) fn new(store: Store, news: Arc<News>) -> (Scribe, impl Future<Output = ()> + Send) {
        let (sender, entries) = mpsc::channel(WAITING_MAX);
        let (looks, seen) = mpsc::channel(LOOKS_WAITING_MAX);
        let counts = Arc::new(Counts::default());
        let scribe = Scribe {
            sender,
            looks,
            counts: Arc::clone(&counts),
        };
        let work = async move {
            let looks = write_looks(store.clone(), seen);
            tokio::join!(write(store, news, entries, counts), looks);
        };
        (scribe, work)
    }

    /// Notes something. What there is no room for is not written down.
    pub(crate) fn note(&self, entry: Entry) {
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(entry).is_err() {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes what the engine says, if it is worth it.
    pub(super) fn note_event(&self, key: &Key, event: &PipelineEvent) {
        if let Some(entry) = entry(key, event) {
            self.note(entry);
        }
    }

    /// Notes looks at pipelines, in the order in which they were taken.
    pub(super) fn note_looks(&self, looks: Vec<Sample>) {
        if self.looks.try_send(looks).is_err() {
            self.counts.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something that somebody else writes down: until it is dropped the server does not end.
    pub(super) fn awaits(&self) -> Awaited {
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        Awaited(Arc::clone(&self.counts))
    }

    /// Waits until every entry is written down, and what is awaited, and no longer than this.
    pub(super) async fn finish(&self, within: Duration) {
        let finished = async {
            while self.counts.waiting.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(within, finished).await.is_err() {
            let count = self.counts.waiting.load(Ordering::Relaxed);
            tracing::warn!(count, "events are not written down: the store is away");
        }
    }
}

/// See [`Scribe::awaits`].
pub(super) struct Awaited(Arc<Counts>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn write(
    store: Store,
    news: Arc<News>,
    mut entries: mpsc::Receiver<Entry>,
    counts: Arc<Counts>,
) {
    let mut batch = Vec::new();
    let scribe = format!("{} {}", std::process::id(), clock::now_us());
    let mut number = 0_u64;
    while entries.recv_many(&mut batch, BATCH_MAX).await > 0 {
        number += 1;
        let add = || store.add_events(format!("{scribe} {number}"), batch.clone());
        let added = until_written("events wait", add).await;
        counts.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        batch.clear();
        for (key, row) in added {
            news.say(&key.tenant, &key.id, Topic::Events, &json!(row));
        }
        let left_out = counts.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(
                left_out,
                "the store was away for too long to keep everything"
            );
        }
    }
}

async fn write_looks(store: Store, mut looks: mpsc::Receiver<Vec<Sample>>) {
    while let Some(seen) = looks.recv().await {
        let write = || {
            let now = clock::now_us() / 1_000_000;
            store.add_samples(seen.clone(), now)
        };
        until_written("the history waits", write).await;
    }
}

/// Tries until the store takes it.
async fn until_written<T, F>(what: &str, mut write: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    let mut attempt = 1_u32;
    loop {
        match write().await {
            Ok(written) => return written,
            // A store that stays away is said less and less often.
            Err(err) if attempt.is_power_of_two() => {
                tracing::warn!(code = %err.code(), error = %err, "{what} for the store");
            }
            Err(_) => {}
        }
        attempt = attempt.saturating_add(1);
        tokio::time::sleep(PAUSE).await;
    }
}

fn entry(key: &Key, event: &PipelineEvent) -> Option<Entry> {
    let plain = |level, kind, text: String| Entry::plain(key, level, kind, text);
    Some(match event {
        PipelineEvent::Step { step, text } => {
            plain(Level::Info, "step", format!("step {step}: {text}"))
        }
        PipelineEvent::State { state, reason, by } => {
            of_pipeline(plain, *state, reason.as_deref(), *by)
        }
        // What failed comes back as the run's own error, and is noted once more, with its code, there.
        PipelineEvent::Failed(error) => {
            let reason = Some(error.message.as_str());
            of_pipeline(plain, PipelineState::Failed, reason, By::Engine)
        }
        PipelineEvent::Checked(findings) => checked(plain, findings),
        PipelineEvent::LoadPosition(position) => {
            plain(Level::Info, "load", format!("full_load_lsn {position}"))
        }
        PipelineEvent::Loaded { rows, took } => {
            let seconds = took.as_secs_f64();
            plain(
                Level::Info,
                "load",
                format!("loaded {rows} rows in {seconds:.1} s"),
            )
        }
        PipelineEvent::TableState {
            table,
            state,
            reason,
        } => Entry {
            table: Some(table.to_string()),
            ..of_table(plain, *state, reason.as_ref())
        },
        PipelineEvent::LeftOut { table, reason } => Entry {
            table: Some(table.to_string()),
            ..match reason {
                Some(why) => plain(Level::Warn, "table", format!("table left out: {why}")),
                None => plain(Level::Info, "table", "table followed again".to_owned()),
            }
        },
        PipelineEvent::Retry {
            error,
            wait,
            attempt,
        } => {
            // A side that stays away is said less and less often.
            if !attempt.is_power_of_two() {
                return None;
            }
            let seconds = wait.as_secs_f64();
            Entry {
                code: Some(error.code().to_string()),
                ..plain(
                    Level::Warn,
                    "retry",
                    format!("{error}; tries again in {seconds:.1} s"),
                )
            }
        }
        PipelineEvent::SchemaChanged { table, text } => Entry {
            table: Some(table.to_string()),
            ..plain(Level::Info, "schema", text.clone())
        },
        PipelineEvent::NewTable { table, text } => Entry {
            table: Some(table.to_string()),
            ..plain(Level::Warn, "new_table", text.clone())
        },
        PipelineEvent::Warning { code, text } => Entry {
            code: Some(code.to_string()),
            ..plain(Level::Warn, "warning", text.clone())
        },
        _ => return None,
    })
}

fn of_pipeline(
    plain: impl Fn(Level, &'static str, String) -> Entry,
    state: PipelineState,
    reason: Option<&str>,
    by: By,
) -> Entry {
    let word = super::word_of(&state);
    let why = reason.map_or_else(String::new, |why| format!(": {why}"));
    Entry {
        by: Some(super::word_of(&by)),
        ..plain(Level::Info, "state", format!("state {word}{why}"))
    }
}

fn of_table(
    plain: impl Fn(Level, &'static str, String) -> Entry,
    state: TableState,
    reason: Option<&Reason>,
) -> Entry {
    let level = match state {
        TableState::Quarantined | TableState::Unloaded => Level::Error,
        _ => Level::Info,
    };
    let word = format!("{state:?}").to_lowercase();
    let why = reason.map_or_else(String::new, |why| format!(": {why}"));
    Entry {
        code: reason.and_then(|why| Some(why.code?.to_string())),
        ..plain(level, "table", format!("table {word}{why}"))
    }
}

fn checked(plain: impl Fn(Level, &'static str, String) -> Entry, findings: &[Finding]) -> Entry {
    let bad = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let (failed, warnings) = (bad(Verdict::Failed), bad(Verdict::Warning));
    let level = if failed > 0 {
        Level::Error
    } else {
        Level::Info
    };
    let worst = findings.iter().max_by_key(|finding| finding.verdict);
    let worst = worst.filter(|worst| worst.verdict >= Verdict::Warning);
    let said = worst.map_or_else(String::new, |worst| format!("; {}", worst.found));
    Entry {
        code: worst.map(|worst| worst.code.to_string()),
        ..plain(
            level,
            "check",
            format!("{failed} failed, {warnings} warnings{said}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use tidemark_core::catalogue::codes;
    use tidemark_lab::proxy::Proxy;
    use tidemark_lab::server::PostgresServer;
    use tidemark_lab::wait::wait_for;

    use super::*;
    use crate::store::{Cursor, EventsWanted, Step, testing};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A store with a pipeline, the way to it, and its database.
    async fn behind_a_proxy() -> (Store, Key, Proxy, String) {
        let server = PostgresServer::shared().await.unwrap();
        let name = server.fresh_database("store").await.unwrap();
        let proxy = Proxy::start(server.port()).await.unwrap();
        let url = server.url_through(proxy.address(), &name);
        let store = testing::open_shared(&url, 'a').await.unwrap();
        let key = Key::new("default", "shop");
        let new = testing::new_pipeline(&key.tenant, &key.id);
        store.add_pipeline(new).await.unwrap().unwrap();
        (store, key, proxy, name)
    }

    /// The store refuses once, or for longer: nothing of what happened meanwhile is lost or doubled.
    #[tokio::test]
    async fn what_happens_while_the_store_is_away_is_written_down_later() {
        let (store, key, proxy, _) = behind_a_proxy().await;
        let (scribe, work) = Scribe::new(store.clone(), Arc::new(News::new()));
        let work = tokio::spawn(work);
        proxy.refuse();
        wait_for(PATIENCE, "the store to be away", || async {
            Ok(store.pipeline(&key).await.is_err().then_some(()))
        })
        .await
        .unwrap();
        let mut noted = Vec::new();
        for number in 0..300 {
            let entry = Entry::plain(&key, Level::Info, "step", number.to_string());
            noted.push((entry.at.clone(), entry.text.clone()));
            scribe.note(entry);
        }
        let look = |at| Sample {
            key: key.clone(),
            at,
            gap_bytes: Some(at),
            latency_seconds: None,
            source: None,
            processed: None,
            retained_bytes: None,
            changes: [0; 3],
            state: "streaming".to_owned(),
        };
        let now = clock::now_us() / 1_000_000;
        scribe.note_looks(vec![look(now - 1)]);
        scribe.note_looks(vec![look(now)]);
        // It was tried, and refused, before the store comes back.
        let before = proxy.counters().refused;
        wait_for(PATIENCE, "the scribe to be refused", || async {
            Ok((proxy.counters().refused > before).then_some(()))
        })
        .await
        .unwrap();
        proxy.accept();
        scribe.finish(PATIENCE).await;
        let page = Cursor {
            before: None,
            limit: 1000,
        };
        let events = store.events(&key, EventsWanted::default(), page).await;
        let written = events.unwrap().into_iter().rev();
        let written: Vec<_> = written.map(|event| (event.at, event.text)).collect();
        assert_eq!(written, noted, "each once, in order, when it happened");
        wait_for(PATIENCE, "the history to be whole", || async {
            let rows = store.history(&key, Step::Second, now - 5, now + 5).await?;
            let seen: Vec<i64> = rows.iter().map(|row| row.at).collect();
            Ok((seen == [now - 1, now]).then_some(()))
        })
        .await
        .unwrap();
        drop(scribe);
        work.await.unwrap();
    }

    /// A server that ends does not forget what it has just said of a pipeline.
    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_somebody_else_writes_and_no_longer_than_it_may() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path(), testing::seal('a')).unwrap();
        let (scribe, _) = Scribe::new(store, Arc::new(News::new()));
        let awaited = scribe.awaits();
        let ends = tokio::spawn({
            let scribe = scribe.clone();
            async move { scribe.finish(PATIENCE).await }
        });
        tokio::time::advance(PATIENCE / 2).await;
        assert!(!ends.is_finished());
        let began = tokio::time::Instant::now();
        drop(awaited);
        ends.await.unwrap();
        assert!(began.elapsed() <= LOOK_EVERY);
        let _forgotten = scribe.awaits();
        scribe.finish(PATIENCE).await;
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
    }

    /// Whether it is found at once or later than anybody waits for an answer: what was committed is not
    /// written again.
    #[tokio::test]
    async fn what_was_written_when_the_answer_was_lost_is_not_written_again() {
        tokio::join!(lose_an_answer(false), lose_an_answer(true));
    }

    async fn lose_an_answer(is_away_for_long: bool) {
        let (store, key, proxy, name) = behind_a_proxy().await;
        let held = testing::HeldCommits::of("events", &name).await;
        let news = Arc::new(News::new());
        let before = news.subscribe(None).up_to;
        let (scribe, work) = Scribe::new(store.clone(), Arc::clone(&news));
        let work = tokio::spawn(work);
        scribe.note(Entry::plain(&key, Level::Info, "step", "first"));
        held.reached().await;
        if is_away_for_long {
            proxy.refuse();
            held.let_go().await;
            let busy = store.pipeline(&key).await.unwrap_err();
            assert_eq!(busy.code(), codes::STORE_UNREACHABLE);
            proxy.accept();
        } else {
            proxy.cut();
            held.let_go().await;
        }
        scribe.note(Entry::plain(&key, Level::Info, "step", "second"));
        scribe.finish(PATIENCE).await;
        let page = Cursor {
            before: None,
            limit: 10,
        };
        let events = store.events(&key, EventsWanted::default(), page).await;
        let mut events = events.unwrap();
        events.reverse();
        let texts: Vec<_> = events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["first", "second"], "each once");
        let told = news.subscribe(Some(before)).missed;
        let told: Vec<_> = told.iter().map(|item| item.data.as_str()).collect();
        let expected: Vec<_> = events
            .iter()
            .map(|event| json!(event).to_string())
            .collect();
        assert_eq!(told, expected, "and told once");
        drop(scribe);
        work.await.unwrap();
    }
}
