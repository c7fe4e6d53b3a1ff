//! Logs on stderr: lines for a person on a terminal, in local time; JSON lines everywhere else.
//!
//! JSON fields are `ts, level, msg` and, where an event or a span around it has them, `code, tenant, pipeline,
//! table, lsn, batch, op_id, request_id, error{…}` and others with the unit in their name. A line that repeats
//! the one before it is counted and said once. Values of cells and secrets never get here: the engine does
//! not log them.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};
use tidemark_core::config::{LogFormat, LogLevel as FileLevel, Serving};
use tidemark_server::logs::{LogLevel, Logs, Loudness as Dial};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::output::numbers::{rfc3339, time_of_day};
use crate::output::screen::{Screen, Stream, lock_behind_writers};
use crate::output::style::{Style, Tone};
use crate::output::zone::Zone;
use crate::output::{Detail, Talk, put};

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogForm {
    /// `14:01:02+01 info  shop  step 1/5 check`.
    Text,
    /// One JSON object a line.
    Json,
}

/// How loud a verb is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loudness {
    /// Looks and answers: warnings only.
    Answers,
    /// Works for a while: changes of state, too.
    Works,
}

/// A line is said again after this long although it repeats the one before.
const REPEAT_SILENCE: Duration = Duration::from_secs(30);

/// Keeps the log; what was held back is written when it is dropped.
pub(crate) struct Log {
    lines: Arc<Lines>,
    /// For the pages of a server.
    pub(crate) kept: Arc<Logs>,
    /// How loud it is was said when the process began.
    is_said: bool,
}

impl Log {
    /// Does as the server's file says, except where a flag or a variable has said otherwise.
    pub(crate) fn obey(&self, said: &Serving, form: Option<LogForm>) {
        if let (Some(format), None) = (said.log_format, form) {
            *self.lines.form() = match format {
                LogFormat::Text => LogForm::Text,
                LogFormat::Json => LogForm::Json,
            };
        }
        if let (Some(level), false) = (said.log_level, self.is_said) {
            self.kept.set_level(match level {
                FileLevel::Error => LogLevel::Error,
                FileLevel::Warn => LogLevel::Warn,
                FileLevel::Info => LogLevel::Info,
                FileLevel::Debug => LogLevel::Debug,
            });
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Starts logging for this process. `filter`: `TIDEMARK_LOG`, in the words of `EnvFilter`.
pub(crate) fn start(talk: &Talk, form: LogForm, loudness: Loudness, filter: Option<&str>) -> Log {
    let lines = Arc::new(Lines {
        screen: Arc::clone(&talk.screen),
        style: talk.err,
        form: Mutex::new(form),
        state: Mutex::default(),
    });
    let of_talk = match (talk.detail, loudness) {
        (Detail::Quiet, _) => "error",
        (Detail::Normal, Loudness::Answers) => "warn",
        (Detail::Normal, Loudness::Works) => "info",
        (Detail::Verbose, _) => "debug",
        (Detail::Trace, _) => "trace",
    };
    let own = filter.and_then(|text| EnvFilter::try_new(text).ok());
    let level = match (own.is_some(), of_talk) {
        (false, "error") => Some(LogLevel::Error),
        (false, "warn") => Some(LogLevel::Warn),
        (false, "info") => Some(LogLevel::Info),
        (false, "debug") => Some(LogLevel::Debug),
        _ => None,
    };
    let is_said = filter.is_some() || talk.detail != Detail::Normal;
    let (filter, handle) = reload::Layer::new(own.unwrap_or_else(|| filter_of(of_talk)));
    let kept = Arc::new(Logs::new(Box::new(Filter {
        handle,
        level: Mutex::new(level),
    })));
    let layer = Writer {
        lines: Arc::clone(&lines),
        kept: Arc::clone(&kept),
    }
    .with_filter(filter);
    // A second subscriber in one process is a programming error of ours alone.
    tracing_subscriber::registry().with(layer).init();
    Log {
        lines,
        kept,
        is_said,
    }
}

/// Ours from this level on; of others what is wrong.
fn filter_of(level: &str) -> EnvFilter {
    if level == "error" {
        return EnvFilter::new("error");
    }
    let ours = [
        "tidemark",
        "tidemark_core",
        "tidemark_postgres",
        "tidemark_server",
    ]
    .map(|name| format!("{name}={level}"));
    EnvFilter::new(format!("warn,{}", ours.join(",")))
}

/// Which lines are written, changed while the process runs.
struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    level: Mutex<Option<LogLevel>>,
}

impl Filter {
    fn known(&self) -> MutexGuard<'_, Option<LogLevel>> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Filter {
    fn level(&self) -> Option<LogLevel> {
        *self.known()
    }

    fn set(&self, level: LogLevel) {
        let mut known = self.known();
        // It is gone when the process ends, and nothing is logged then.
        if self.handle.reload(filter_of(&level.to_string())).is_ok() {
            *known = Some(level);
        }
    }
}

struct Writer {
    lines: Arc<Lines>,
    kept: Arc<Logs>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Writer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(Scope::from_root)
        {
            if let Some(around) = span.extensions().get::<Fields>() {
                fields.others.extend(around.others.clone());
            }
        }
        event.record(&mut fields);
        fields.others.retain(|_, value| value.as_str() != Some(""));
        let level = *event.metadata().level();
        self.kept.note(level, &fields.message, &fields.others);
        self.lines.push(level, fields);
    }
}

/// Where lines are made and written.
struct Lines {
    screen: Arc<Screen>,
    style: Style,
    form: Mutex<LogForm>,
    state: Mutex<Repeats>,
}

/// The last line and how often it came again.
#[derive(Default)]
struct Repeats {
    last: Option<(Level, Fields)>,
    said_at: Option<Instant>,
    held: u64,
}

/// What an event carries.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Lines {
    fn form(&self) -> MutexGuard<'_, LogForm> {
        self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, level: Level, fields: Fields) {
        let mut repeats = lock_behind_writers(&self.state);
        let is_repeat = repeats
            .last
            .as_ref()
            .is_some_and(|(l, f)| *l == level && *f == fields);
        let is_recent = repeats
            .said_at
            .is_some_and(|at| at.elapsed() < REPEAT_SILENCE);
        if is_repeat && is_recent {
            repeats.held += 1;
            return;
        }
        self.say_held(&mut repeats);
        self.write(level, &fields, None);
        repeats.last = Some((level, fields));
        repeats.said_at = Some(Instant::now());
    }

    fn flush(&self) {
        let mut repeats = lock_behind_writers(&self.state);
        self.say_held(&mut repeats);
    }

    fn say_held(&self, repeats: &mut Repeats) {
        let held = std::mem::take(&mut repeats.held);
        if held > 0
            && let Some((level, fields)) = &repeats.last
        {
            self.write(*level, fields, Some(held));
        }
    }

    fn write(&self, level: Level, fields: &Fields, repeated: Option<u64>) {
        let line = match *self.form() {
            LogForm::Json => json_line(SystemTime::now(), level, fields, repeated),
            LogForm::Text => {
                let time = time_of_day(SystemTime::now(), Zone::local());
                text_line(&time, level, fields, repeated, self.style)
            }
        };
        self.screen.write(Stream::Err, &line);
    }
}

fn json_line(now: SystemTime, level: Level, fields: &Fields, repeated: Option<u64>) -> String {
    let mut line = Map::new();
    line.insert("ts".to_owned(), rfc3339(now).into());
    line.insert("level".to_owned(), level.as_str().to_lowercase().into());
    line.insert("msg".to_owned(), fields.message.clone().into());
    let is_empty = |value: &Value| value.as_str() == Some("");
    for (name, value) in fields.others.iter().filter(|(_, value)| !is_empty(value)) {
        let value = match name.as_str() {
            "error" => serde_json::json!({ "message": value }),
            _ => value.clone(),
        };
        line.insert(name.clone(), value);
    }
    if let Some(count) = repeated {
        line.insert("repeated".to_owned(), count.into());
    }
    Value::Object(line).to_string()
}

/// What the message does not say and a person can use: names and words. Numbers are for programs.
fn text_line(
    time: &str,
    level: Level,
    fields: &Fields,
    repeated: Option<u64>,
    style: Style,
) -> String {
    let (word, tone) = match level {
        Level::ERROR => ("error", Tone::Bad),
        Level::WARN => ("warn ", Tone::Caution),
        Level::INFO => ("info ", Tone::Strong),
        _ => ("debug", Tone::Faint),
    };
    let mut line = format!("{time} {}", style.paint(tone, word));
    if let Some(pipeline) = fields.others.get("pipeline").and_then(Value::as_str) {
        put!(line, " {pipeline}");
    }
    put!(line, "  {}", within_a_line(&fields.message));
    for (name, value) in &fields.others {
        if matches!(name.as_str(), "tenant" | "op_id" | "request_id") {
            continue;
        }
        let Some(value) = value.as_str().filter(|value| !value.is_empty()) else {
            continue;
        };
        if name != "pipeline" && !fields.message.contains(value) {
            let value = within_a_line(value);
            line.push_str(&style.paint(Tone::Faint, &format!(" {name}={value}")));
        }
    }
    if let Some(count) = repeated {
        put!(line, " (repeated {count} times)");
    }
    line
}

/// Names can have line breaks: what comes behind one is not to be taken for a line of its own.
fn within_a_line(text: &str) -> String {
    text.replace('\n', "\n    ")
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // `log`'s own fields say where in the code; levels and messages say enough.
        match field.name() {
            "message" => {
                self.message = match value {
                    Value::String(text) => text,
                    other => other.to_string(),
                }
            }
            name if name.starts_with("log.") => {}
            name => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        let mut fields = Fields {
            message: "step 1/5 check".to_owned(),
            others: Map::new(),
        };
        fields.others.insert("pipeline".to_owned(), "shop".into());
        fields.others.insert("passed".to_owned(), 22.into());
        fields
            .others
            .insert("error".to_owned(), "connection closed".into());
        fields
    }

    #[test]
    fn json_lines_have_the_documented_fields() {
        let line = json_line(SystemTime::UNIX_EPOCH, Level::INFO, &fields(), Some(3));
        let value: Value = serde_json::from_str(&line).expect("a JSON line");
        assert_eq!(value["ts"], "1970-01-01T00:00:00.000Z");
        assert_eq!(value["level"], "info");
        assert_eq!(value["msg"], "step 1/5 check");
        assert_eq!(value["pipeline"], "shop");
        assert_eq!(value["passed"], 22);
        assert_eq!(value["error"]["message"], "connection closed");
        assert_eq!(value["repeated"], 3);
    }

    #[test]
    fn s25_a_line_of_the_log_stays_one_whatever_is_in_a_name() {
        let mut fields = fields();
        let name = "public.a\r\n14:02:15+01 info  shop  all is well\u{1b}[2J\u{85}\"}";
        fields.message = format!("{name} is in quarantine");
        fields.others.insert("table".to_owned(), name.into());
        let line = json_line(SystemTime::UNIX_EPOCH, Level::WARN, &fields, None);
        assert!(!line.contains(['\n', '\r', '\u{1b}']), "{line:?}");
        let value: Value = serde_json::from_str(&line).expect("a JSON line");
        assert_eq!(value["table"], name);
        let text = text_line("14:02:15+01", Level::WARN, &fields, None, Style::PLAIN);
        let forged = text.lines().skip(1).filter(|line| !line.starts_with(' '));
        assert_eq!(forged.count(), 0, "{text}");
    }

    #[test]
    fn text_lines_name_the_pipeline_first_and_leave_numbers_to_programs() {
        let line = text_line("14:02:15+01", Level::WARN, &fields(), None, Style::PLAIN);
        assert_eq!(
            line,
            "14:02:15+01 warn  shop  step 1/5 check error=connection closed"
        );
    }
}
