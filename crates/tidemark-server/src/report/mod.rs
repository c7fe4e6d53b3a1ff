//! A pipeline's report in one file: how it stands and what happened, to be kept, printed and sent.
//!
//! It needs nothing beside itself: no script, no font, no picture of elsewhere. Everything in it is text that
//! was escaped, or a number. No values of rows are in it, and no secrets: the definition is that which the API
//! shows.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tidemark_core::clock;

use crate::api::{Lag, PipelineBody, TableBody};
use crate::logs::Line;
use crate::store::{EventRow, HistoryRow, Level, RunRow, VerificationRow};
use chart::{Chart, Words};
pub(crate) use comparison::Comparison;

/// What of a bucket is drawn.
type Drawn = fn(&HistoryRow) -> Option<f64>;

/// Tables that are listed.
const TABLES_MAX: usize = 500;

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#14202b;--muted:#51606e;--bg:#fff;--line:#d5dde5;--error:#b3261e;--warn:#8a5300;--ok:#0a6b43;--series:#0072b2}\
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--muted:#9fb0c0;--bg:#0e1620;--line:#2a3a4a;--error:#ff8478;--warn:#f0b429;--ok:#4cc38a;--series:#56b4e9}}\
body{font:14px/1.5 system-ui,sans-serif;color:var(--text);background:var(--bg);max-width:1000px;margin:24px auto;padding:0 16px;overflow-wrap:anywhere}\
h1{font-size:24px;margin:0}h2{font-size:17px;margin:28px 0 8px}p{margin:4px 0}\
table{border-collapse:collapse;width:100%}caption{text-align:left;color:var(--muted)}\
th,td{text-align:left;vertical-align:top;padding:4px 12px 4px 0;border-bottom:1px solid var(--line)}th{font-weight:500;color:var(--muted)}\
.n{text-align:right}.muted{color:var(--muted)}.error{color:var(--error)}.warn{color:var(--warn)}.ok{color:var(--ok)}\
dl{display:flex;flex-wrap:wrap;gap:4px 24px;margin:8px 0}dt{color:var(--muted)}dd{margin:0}dl>div{display:flex;gap:6px}\
code,pre{font-family:ui-monospace,monospace;font-size:13px}pre{border:1px solid var(--line);padding:10px;white-space:pre-wrap}\
figure{margin:14px 0}svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--muted)}\
.grid{stroke:var(--line);fill:none}.line{stroke:var(--series);stroke-width:1.5;stroke-linecap:round;fill:none}.hole{fill:var(--muted);fill-opacity:.18}\
@media print{body{margin:0;max-width:none}tr,figure{break-inside:avoid}}";

/// What is in it.
pub(crate) struct Report {
    pub(crate) pipeline: PipelineBody,
    pub(crate) lag: Lag,
    /// Those that need a person first.
    pub(crate) tables: Vec<TableBody>,
    /// Begin and end, in seconds since 1970 UTC.
    pub(crate) period: (i64, i64),
    pub(crate) step_seconds: i64,
    pub(crate) history: Vec<HistoryRow>,
    /// Newest first, like all that follows.
    pub(crate) events: Vec<EventRow>,
    pub(crate) verifications: Vec<VerificationRow>,
    pub(crate) runs: Vec<RunRow>,
    pub(crate) lines: Vec<Line>,
    /// Without secrets; `None` where it cannot be read.
    pub(crate) definition: Option<String>,
    /// Who asked for it.
    pub(crate) by: String,
}

/// What a browser may do with it: nothing but its own style.
pub(crate) fn policy() -> String {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'none'; frame-ancestors 'none'; \
         base-uri 'none'"
    )
}

macro_rules! put {
    ($out:expr, $($text:tt)*) => {{
        // Writing to a string does not fail.
        let written = writeln!($out, $($text)*);
        debug_assert!(written.is_ok());
    }};
}

mod chart;
mod comparison;

/// Text as it stands in a document.
fn esc(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Begins a document.
fn open(out: &mut String, title: &str) {
    put!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title>\
         <style>{STYLE}</style></head><body>",
        esc(title)
    );
}

impl Report {
    pub(crate) fn html(&self) -> String {
        let mut out = String::new();
        open(&mut out, &format!("{}: report", self.pipeline.id));
        self.head(&mut out);
        self.charts(&mut out);
        self.tables(&mut out);
        self.verifications(&mut out);
        self.events(&mut out);
        self.runs(&mut out);
        self.lines(&mut out);
        if let Some(definition) = &self.definition {
            put!(out, "<h2>Definition</h2>\n<pre>{}</pre>", esc(definition));
        }
        put!(out, "</main></body></html>");
        out
    }

    fn head(&self, out: &mut String) {
        let one = &self.pipeline;
        let (from, to) = self.period;
        put!(out, "<header><h1><bdi>{}</bdi></h1>", esc(&one.id));
        put!(
            out,
            "<p class=\"muted\">Report of Tidemark {}, made {} for {}; what happened from {} to {}. All times are UTC.</p></header>",
            env!("CARGO_PKG_VERSION"),
            when(&clock::now()),
            esc(&self.by),
            moment(from),
            moment(to)
        );
        let side = |address: &Option<String>| esc(address.as_deref().unwrap_or("not known yet"));
        put!(
            out,
            "<main><p><bdi>{}</bdi> → <bdi>{}</bdi>, {}</p><dl>",
            side(&one.source),
            side(&one.target),
            words(&one.mode)
        );
        let mut fact = |name: &str, value: String| {
            put!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        };
        let tone = match one.health.as_str() {
            "ok" => "ok",
            "error" => "error",
            _ => "warn",
        };
        fact(
            "health",
            format!("<span class=\"{tone}\">{}</span>", words(&one.health)),
        );
        fact("state", words(&one.state));
        fact("since", format!("{} by {}", when(&one.since), esc(&one.by)));
        if let Some(reason) = &one.reason {
            fact("reason", esc(reason));
        }
        fact("trend", words(&one.trend));
        let lag = &self.lag;
        fact("latency", known(lag.latency_seconds, seconds));
        fact("gap", known(lag.gap_bytes.map(|gap| gap as f64), bytes));
        let position = |at: &Option<String>| at.as_ref().map_or_else(unknown, |at| code(at));
        fact("source at", position(&lag.source_lsn));
        fact("processed", position(&lag.processed_lsn));
        fact("confirmed", position(&lag.confirmed_lsn));
        fact("measured", when(&lag.measured_at));
        if let Some(why) = &lag.unknown_reason {
            fact("the source's side is not known", code(why));
        }
        if let Some(slot) = &lag.slot {
            let loss = slot.predicted_loss_at.as_deref();
            let lost = loss.map_or_else(String::new, |at| {
                format!(
                    ", <span class=\"warn\">lost {} at this rate</span>",
                    when(at)
                )
            });
            let kept = bytes(slot.retained_bytes as f64);
            fact(
                "slot",
                format!(
                    "{} keeps {kept}, {}{lost}",
                    code(&slot.name),
                    words(&slot.wal_status)
                ),
            );
        }
        if let Some(loaded) = &one.full_load_lsn {
            fact("first loaded at", code(loaded));
        }
        put!(out, "</dl>");
        if let Some(error) = &one.error {
            put!(
                out,
                "<p class=\"error\">✗ {} {}</p><p>First: {}</p>",
                code(&error.code),
                esc(&error.message),
                esc(&error.action)
            );
        }
    }

    fn charts(&self, out: &mut String) {
        put!(out, "<h2>Over time</h2>");
        let all: [(&str, Drawn, Words); 3] = [
            ("Gap", |row| row.gap[1].map(|gap| gap as f64), bytes),
            ("Latency", |row| row.latency[1], seconds),
            (
                "Log kept on the source",
                |row| row.retained_bytes.map(|kept| kept as f64),
                bytes,
            ),
        ];
        for (title, value, words) in all {
            let points: Vec<_> = self
                .history
                .iter()
                .map(|row| (row.at, value(row)))
                .collect();
            let chart = Chart {
                title,
                period: self.period,
                step_seconds: self.step_seconds,
                points: &points,
                words,
                clock: moment,
            };
            out.push_str(&chart.html());
        }
        let (step, title) = (self.step_seconds, "The most of each");
        put!(
            out,
            "<p class=\"muted\">{title} {}. A grey band: not measured, or no run.</p>",
            seconds(step as f64)
        );
    }

    fn tables(&self, out: &mut String) {
        put!(out, "<h2>Tables</h2>");
        let counts = self.pipeline.tables.iter();
        let counts: Vec<String> = counts
            .map(|one| format!("{} {}", one.count, words(&one.state)))
            .collect();
        put!(
            out,
            "<p>{}</p>",
            if counts.is_empty() {
                "none is known".to_owned()
            } else {
                counts.join(", ")
            }
        );
        if self.tables.is_empty() {
            return;
        }
        begin(
            out,
            &[
                "Table → target",
                "State",
                "#Rows loaded",
                "#Changes",
                "#Parked",
                "#In quarantine",
            ],
        );
        for table in self.tables.iter().take(TABLES_MAX) {
            let reason = table.reason.as_ref();
            let reason = reason.map_or_else(String::new, |why| {
                format!("<br><span class=\"muted\">{}</span>", esc(why))
            });
            let name = |name: &str| format!("<bdi>{}</bdi>", esc(name));
            row(
                out,
                &[
                    format!("{} → {}{reason}", name(&table.source), name(&table.target)),
                    words(&table.state),
                    table.rows_loaded.to_string(),
                    table.changes.to_string(),
                    table.parked.to_string(),
                    table.quarantined.to_string(),
                ],
                2,
            );
        }
        put!(out, "</tbody></table>");
        let more = self.tables.len().saturating_sub(TABLES_MAX);
        if more > 0 {
            put!(out, "<p class=\"muted\">and {more} more</p>");
        }
    }

    fn verifications(&self, out: &mut String) {
        put!(out, "<h2>Verification</h2>");
        let Some(last) = self.verifications.first() else {
            put!(out, "<p>Nothing was compared yet.</p>");
            return;
        };
        comparison::found(out, last, TABLES_MAX);
        if self.verifications.len() > 1 {
            begin(out, &["Before", "Result", "At", "How", "#Rows"]);
            for old in self.verifications.iter().skip(1) {
                row(
                    out,
                    &[
                        when(&old.at),
                        words(&old.result),
                        code(&old.lsn),
                        words(&old.depth),
                        old.rows.to_string(),
                    ],
                    4,
                );
            }
            put!(out, "</tbody></table>");
        }
    }

    fn events(&self, out: &mut String) {
        let wrong = self
            .events
            .iter()
            .filter(|event| event.level != Level::Info);
        put!(
            out,
            "<h2>Events</h2><p>{} in this period, {} of them warnings and errors.</p>",
            self.events.len(),
            wrong.count()
        );
        if self.events.is_empty() {
            return;
        }
        begin(out, &["When", "Level", "What", "By"]);
        for event in &self.events {
            let table = event
                .table
                .as_ref()
                .map(|name| format!("<bdi>{}</bdi> ", esc(name)));
            let of_code = event.code.as_ref().map(|of| format!("{} ", code(of)));
            row(
                out,
                &[
                    when(&event.at),
                    level(event.level),
                    format!(
                        "{}{}{}",
                        of_code.unwrap_or_default(),
                        table.unwrap_or_default(),
                        esc(&event.text)
                    ),
                    esc(event.by.as_deref().unwrap_or_default()),
                ],
                4,
            );
        }
        put!(out, "</tbody></table>");
    }

    fn runs(&self, out: &mut String) {
        if self.runs.is_empty() {
            return;
        }
        put!(out, "<h2>Runs</h2>");
        begin(out, &["From", "To", "How it ended"]);
        for run in &self.runs {
            let ended = run.ended_at.as_deref().map(when);
            let why =
                [&run.code, &run.reason].map(|part| part.as_deref().map(esc).unwrap_or_default());
            row(
                out,
                &[
                    when(&run.started_at),
                    ended.unwrap_or_default(),
                    format!(
                        "{} {} {}",
                        words(run.outcome.as_deref().unwrap_or("no end was written down")),
                        why[0],
                        why[1]
                    ),
                ],
                3,
            );
        }
        put!(out, "</tbody></table>");
    }

    fn lines(&self, out: &mut String) {
        if self.lines.is_empty() {
            return;
        }
        put!(out, "<h2>Log</h2>");
        begin(out, &["When", "Level", "Line"]);
        for line in &self.lines {
            let again = if line.count > 1 {
                format!(" × {}", line.count)
            } else {
                String::new()
            };
            let of_code = line.fields.get("code").and_then(Value::as_str);
            let of_code = of_code
                .map(|of| format!("{} ", code(of)))
                .unwrap_or_default();
            row(
                out,
                &[
                    when(&line.at),
                    level(line.level),
                    format!("{of_code}{}{again}", esc(&line.text)),
                ],
                3,
            );
        }
        put!(out, "</tbody></table>");
    }
}

/// A table; columns of numbers begin with `#`.
fn begin(out: &mut String, columns: &[&str]) {
    let head = |name: &&str| match name.strip_prefix('#') {
        Some(name) => format!("<th scope=\"col\" class=\"n\">{name}</th>"),
        None => format!("<th scope=\"col\">{name}</th>"),
    };
    let head: String = columns.iter().map(head).collect();
    put!(out, "<table><thead><tr>{head}</tr></thead><tbody>");
}

/// A row of cells that are escaped; those from `numbers` on are numbers.
fn row(out: &mut String, cells: &[String], numbers: usize) {
    let cell = |(at, cell): (usize, &String)| {
        let class = if at >= numbers { " class=\"n\"" } else { "" };
        format!("<td{class}>{cell}</td>")
    };
    let cells: String = cells.iter().enumerate().map(cell).collect();
    put!(out, "<tr>{cells}</tr>");
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", esc(text))
}

fn unknown() -> String {
    "<span class=\"muted\">unknown</span>".to_owned()
}

fn known(value: Option<f64>, words: fn(f64) -> String) -> String {
    value.map_or_else(unknown, words)
}

fn level(level: Level) -> String {
    match level {
        Level::Info => "info".to_owned(),
        Level::Warn => "<span class=\"warn\">! warning</span>".to_owned(),
        Level::Error => "<span class=\"error\">✗ error</span>".to_owned(),
    }
}

/// A state's name as words.
fn words(name: &str) -> String {
    esc(&name.replace('_', " "))
}

/// RFC 3339 as people read it.
fn when(at: &str) -> String {
    let text = at.get(..19).unwrap_or(at);
    esc(&text.replace('T', " "))
}

fn moment(at: i64) -> String {
    when(&clock::rfc3339(at.saturating_mul(1_000_000)))
}

/// Units of 10³, as everywhere.
fn bytes(n: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut at) = (n, 0);
    while value >= 1000.0 && at < UNITS.len() - 1 {
        value /= 1000.0;
        at += 1;
    }
    let digits = usize::from(at > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[at])
}

fn seconds(n: f64) -> String {
    match n {
        n if n < 0.0005 => "0 s".to_owned(),
        n if n < 1.0 => format!("{:.0} ms", n * 1000.0),
        n if n < 60.0 => format!("{n:.1} s"),
        n if n < 3600.0 => format!("{:.0} m {:.0} s", (n / 60.0).floor(), (n % 60.0).floor()),
        n => format!(
            "{:.0} h {:.0} m",
            (n / 3600.0).floor(),
            (n % 3600.0 / 60.0).floor()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_is_it_is_text() {
        let hostile = "\"><img src=x onerror='y'>&";
        assert_eq!(
            esc(hostile),
            "&quot;&gt;&lt;img src=x onerror=&#39;y&#39;&gt;&amp;"
        );
        for made in [code(hostile), words(hostile), when(hostile)] {
            assert!(!made.contains("<img") && !made.contains("\">"), "{made}");
        }
    }

    #[test]
    fn numbers_are_words() {
        for (n, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1234.0, "1.2 kB"),
            (5e8, "500 MB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [
            (0.0, "0 s"),
            (0.25, "250 ms"),
            (4.25, "4.2 s"),
            (119.9, "1 m 59 s"),
            (7260.0, "2 h 1 m"),
        ] {
            assert_eq!(seconds(n), text);
        }
        assert_eq!(moment(0), "1970-01-01 00:00:00");
    }
}
