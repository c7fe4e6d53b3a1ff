//! The last log lines of each pipeline, for its page, and how loud the log is.
//!
//! Lines come from whoever writes the log (the binary), with the ids that the spans around them carry; a
//! line belongs to a pipeline if it has both its tenant and its name. Only what a person should read is
//! kept, `info` and above: finer lines may have what a database said in full. Bounded by pipeline, and gone
//! with the process: what must outlive it is an event.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_core::clock;
use tracing::{Level, Span};
use utoipa::ToSchema;

use crate::store::{Key, Level as EventLevel};

/// Lines of a pipeline.
const LINES_MAX: usize = 300;
/// Bytes of a line's text and of all its fields.
const LINE_BYTES_MAX: usize = 2_000;
/// Pipelines whose lines are kept.
const PIPELINES_MAX: usize = 2_000;

/// See the module's text.
pub struct Logs {
    rings: Mutex<Rings>,
    loudness: Box<dyn Loudness>,
}

#[derive(Default)]
struct Rings {
    of: BTreeMap<Key, VecDeque<Line>>,
    last: u64,
}

/// Whoever writes the log.
pub trait Loudness: Send + Sync {
    /// How loud it is; `None` where a filter of somebody's own decides.
    fn level(&self) -> Option<LogLevel>;

    /// Makes it this loud, from the next line on.
    fn set(&self, level: LogLevel);
}

/// From which level on lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A person must look.
    Error,
    /// Unexpected, and it went on.
    Warn,
    /// Changes of state.
    Info,
    /// Also what is of use to whoever looks for a cause.
    Debug,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        })
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Line {
    /// Increases.
    pub(crate) id: u64,
    /// RFC 3339; of the last one, where it repeats.
    pub(crate) at: String,
    /// `info`, `warn` or `error`.
    pub(crate) level: EventLevel,
    pub(crate) text: String,
    /// How often it came in a row.
    pub(crate) count: u64,
    /// What the log line says besides: `code`, `table`, `op_id`, `request_id` and others.
    #[schema(value_type = Object)]
    pub(crate) fields: Map<String, Value>,
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}

impl Logs {
    /// Without any line yet.
    pub fn new(loudness: Box<dyn Loudness>) -> Logs {
        Logs {
            rings: Mutex::default(),
            loudness,
        }
    }

    /// Takes a line in, with everything that it and the spans around it say.
    pub fn note(&self, level: Level, text: &str, fields: &Map<String, Value>) {
        let level = match level {
            Level::ERROR => EventLevel::Error,
            Level::WARN => EventLevel::Warn,
            Level::INFO => EventLevel::Info,
            _ => return,
        };
        let name = |field: &str| fields.get(field).and_then(Value::as_str);
        let (Some(tenant), Some(pipeline)) = (name("tenant"), name("pipeline")) else {
            return;
        };
        let mut fields = fields.clone();
        fields.retain(|name, _| name != "tenant" && name != "pipeline");
        let key = Key::new(tenant, pipeline);
        let line = Line {
            id: 0,
            at: clock::now(),
            level,
            text: cut(text),
            count: 1,
            fields: if Value::Object(fields.clone()).to_string().len() > LINE_BYTES_MAX {
                Map::new()
            } else {
                fields
            },
        };
        self.rings().push(key, line);
    }

    /// Lines of a pipeline, newest first: of this level and above, before a number.
    pub(crate) fn lines(
        &self,
        key: &Key,
        level: EventLevel,
        before: Option<u64>,
        limit: usize,
    ) -> Vec<Line> {
        let rings = self.rings();
        let lines = rings.of.get(key).into_iter().flatten().rev();
        let lines = lines.filter(|line| line.level >= level);
        let lines = lines.filter(|line| before.is_none_or(|before| line.id < before));
        lines.take(limit).cloned().collect()
    }

    /// Forgets what a pipeline that is gone has said.
    pub(crate) fn forget(&self, key: &Key) {
        self.rings().of.remove(key);
    }

    /// Logs from this level on, from the next line on.
    pub fn set_level(&self, level: LogLevel) {
        self.loudness.set(level);
    }

    pub(crate) fn loudness(&self) -> &dyn Loudness {
        self.loudness.as_ref()
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        // Holds whole lines, whatever panicked.
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rings {
    fn push(&mut self, key: Key, mut line: Line) {
        if !self.of.contains_key(&key) && self.of.len() >= PIPELINES_MAX {
            return;
        }
        self.last += 1;
        line.id = self.last;
        let lines = self.of.entry(key).or_default();
        if let Some(last) = lines.back_mut() {
            let is_again =
                (last.level, &last.text, &last.fields) == (line.level, &line.text, &line.fields);
            if is_again {
                line.count += last.count;
                *last = line;
                return;
            }
        }
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

fn cut(text: &str) -> String {
    if text.len() <= LINE_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LINE_BYTES_MAX);
    format!("{} …", text.get(..end).unwrap_or_default())
}

/// Around everything that is done for a pipeline: its lines bear its name, and no number of the request
/// that once made it.
pub(crate) fn span_of(key: &Key) -> Span {
    tracing::error_span!(parent: None, "pipeline", tenant = key.tenant, pipeline = key.id)
}

/// Around an action that somebody asked for.
pub(crate) fn span_of_operation(key: &Key, id: &str) -> Span {
    let request_id = crate::api::problem::request_id();
    tracing::error_span!(
        parent: None,
        "operation",
        tenant = key.tenant,
        pipeline = key.id,
        op_id = id,
        request_id
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Still;

    impl Loudness for Still {
        fn level(&self) -> Option<LogLevel> {
            None
        }

        fn set(&self, _: LogLevel) {}
    }

    fn fields(tenant: &str, more: &Value) -> Map<String, Value> {
        let mut fields = json!({ "tenant": tenant, "pipeline": "shop" });
        for (name, value) in more.as_object().unwrap() {
            fields[name] = value.clone();
        }
        fields.as_object().unwrap().clone()
    }

    fn texts(logs: &Logs, tenant: &str, level: EventLevel, before: Option<u64>) -> Vec<String> {
        let lines = logs.lines(&Key::new(tenant, "shop"), level, before, 3);
        let texts = lines
            .iter()
            .map(|line| format!("{}×{}", line.text, line.count));
        texts.collect()
    }

    #[test]
    fn lines_belong_to_a_pipeline_of_one_tenant_and_repeats_are_one() {
        let logs = Logs::new(Box::new(Still));
        let none = json!({});
        logs.note(Level::INFO, "one", &fields("a", &none));
        logs.note(Level::WARN, "two", &fields("a", &none));
        logs.note(Level::WARN, "two", &fields("a", &none));
        logs.note(Level::WARN, "two", &fields("a", &json!({ "op_id": "7" })));
        logs.note(Level::INFO, "theirs", &fields("b", &none));
        logs.note(Level::DEBUG, "finer", &fields("a", &none));
        logs.note(Level::ERROR, "of nobody", &Map::new());
        let (info, warn) = (EventLevel::Info, EventLevel::Warn);
        assert_eq!(texts(&logs, "a", info, None), ["two×1", "two×2", "one×1"]);
        assert_eq!(texts(&logs, "a", warn, None), ["two×1", "two×2"]);
        assert_eq!(texts(&logs, "a", info, Some(4)), ["two×2", "one×1"]);
        assert_eq!(texts(&logs, "b", info, None), ["theirs×1"]);
        assert!(texts(&logs, "c", info, None).is_empty());
        logs.forget(&Key::new("a", "shop"));
        assert!(texts(&logs, "a", info, None).is_empty());
    }

    #[test]
    fn however_much_is_said_what_is_kept_is_bounded() {
        let logs = Logs::new(Box::new(Still));
        for number in 0..LINES_MAX + 10 {
            let text = format!("{number} {}", "ä".repeat(LINE_BYTES_MAX));
            let long = json!({ "long": "x".repeat(LINE_BYTES_MAX) });
            logs.note(Level::INFO, &text, &fields("a", &long));
        }
        let key = Key::new("a", "shop");
        let lines = logs.lines(&key, EventLevel::Info, None, usize::MAX);
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines[0].text.starts_with(&format!("{} ", LINES_MAX + 9)));
        assert!(
            lines
                .iter()
                .all(|line| line.text.len() <= LINE_BYTES_MAX + 4)
        );
        assert!(lines.iter().all(|line| line.fields.is_empty()));
        for number in 0..PIPELINES_MAX {
            let of = fields("b", &json!({ "pipeline": number.to_string() }));
            logs.note(Level::INFO, "x", &of);
        }
        assert_eq!(logs.rings().of.len(), PIPELINES_MAX);
    }
}
