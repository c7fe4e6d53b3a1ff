//! Writes down what happens to pipelines, and tells it to whoever watches.
//!
//! Beside the line, never on it: a store that cannot be written costs entries, not changes.

use std::time::Duration;

use serde_json::json;
use tidemark_core::checkpoint::TableState;
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::pipeline::observe::PipelineEvent;
use tokio::sync::mpsc;

use std::sync::Arc;

use crate::news::{News, Topic};
use crate::store::{Entry, Key, Level, Store};

/// Entries that wait for a store that cannot be written.
const WAITING_MAX: usize = 10_000;
/// How long a store that could not be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scribe {
    sender: mpsc::Sender<Entry>,
}

impl Scribe {
    /// A scribe, and its work, which ends when every clone of it is gone.
    pub(super) fn new(store: Store, news: Arc<News>) -> (Scribe, impl Future<Output = ()> + Send) {
        let (sender, entries) = mpsc::channel(WAITING_MAX);
        (Scribe { sender }, write(store, news, entries))
    }

    /// Notes something. What there is no room for is not written down.
    pub(crate) fn note(&self, entry: Entry) {
        if self.sender.try_send(entry).is_err() {
            tracing::debug!("an event is not written down");
        }
    }

    /// Notes what the engine says, if it is worth it.
    pub(super) fn note_event(&self, key: &Key, event: &PipelineEvent) {
        if let Some(entry) = entry(key, event) {
            self.note(entry);
        }
    }
}

async fn write(store: Store, news: Arc<News>, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, 256).await > 0 {
        match store.add_events(std::mem::take(&mut batch)).await {
            Ok(added) => {
                for (key, row) in added {
                    news.say(&key.tenant, &key.id, Topic::Events, json!(row));
                }
            }
            Err(err) => {
                tracing::warn!(code = %err.code(), error = %err, "events are not written down");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn entry(key: &Key, event: &PipelineEvent) -> Option<Entry> {
    let plain = |level, kind, text: String| Entry::plain(key, level, kind, text);
    Some(match event {
        PipelineEvent::Step {
            number,
            count,
            name,
            text,
        } => plain(
            Level::Info,
            "step",
            format!("step {number}/{count} {name}: {text}"),
        ),
        PipelineEvent::State { state, reason, by } => {
            let word = super::word_of(state);
            let why = reason
                .as_ref()
                .map_or_else(String::new, |why| format!(": {why}"));
            Entry {
                by: Some(super::word_of(by)),
                ..plain(Level::Info, "state", format!("state {word}{why}"))
            }
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
            ..of_table(plain, *state, reason.as_deref())
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
        // What failed comes back as the run's own error, and is noted once, there.
        _ => return None,
    })
}

fn of_table(
    plain: impl Fn(Level, &'static str, String) -> Entry,
    state: TableState,
    reason: Option<&str>,
) -> Entry {
    let level = match state {
        TableState::Quarantined | TableState::Unloaded => Level::Error,
        _ => Level::Info,
    };
    let word = format!("{state:?}").to_lowercase();
    let why = reason.map_or_else(String::new, |why| format!(": {why}"));
    Entry {
        code: reason.and_then(code_of),
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

/// The code that a reason begins with.
fn code_of(reason: &str) -> Option<String> {
    let word = reason.split(':').next()?;
    tidemark_core::catalogue::Code::parse(word).map(|code| code.to_string())
}
