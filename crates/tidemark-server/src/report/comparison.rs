//! What a comparison of both sides found: a part of a pipeline's report, and a document by itself.

use std::fmt::Write as _;

use serde_json::Value;
use tidemark_core::clock;

use super::{begin, code, esc, open, row, seconds, unknown, when, words};
use crate::store::VerificationRow;

/// A comparison in one document: proof to be kept and sent.
pub(crate) struct Comparison {
    pub(crate) pipeline: String,
    /// Where rows come from, without secrets; `None` where that is not known.
    pub(crate) source: Option<String>,
    /// Where rows go.
    pub(crate) target: Option<String>,
    pub(crate) found: VerificationRow,
    /// Who asked for it.
    pub(crate) by: String,
}

impl Comparison {
    pub(crate) fn html(&self) -> String {
        let mut out = String::new();
        let number = self.found.id;
        open(
            &mut out,
            &format!("{}: verification {number}", self.pipeline),
        );
        put!(
            out,
            "<header><h1><bdi>{}</bdi>, verification {number}</h1>",
            esc(&self.pipeline)
        );
        put!(
            out,
            "<p class=\"muted\">Report of Tidemark {}, made {} for {}. All times are UTC.</p></header>",
            env!("CARGO_PKG_VERSION"),
            when(&clock::now()),
            esc(&self.by)
        );
        let side = |address: &Option<String>| esc(address.as_deref().unwrap_or("not known yet"));
        put!(
            out,
            "<main><p><bdi>{}</bdi> → <bdi>{}</bdi></p>",
            side(&self.source),
            side(&self.target)
        );
        put!(
            out,
            "<p>Both sides were read at one position of the source's log, while writes went on, in {}. {}</p>",
            seconds(self.found.seconds),
            how(&self.found)
        );
        found(&mut out, &self.found, usize::MAX);
        put!(out, "</main></body></html>");
        out
    }
}

/// What was asked for, and what its result therefore says.
fn how(found: &VerificationRow) -> String {
    let depth = match found.depth.as_str() {
        "deep" => "Every row was compared, column by column.",
        _ => "Rows were counted, not compared.",
    };
    let whole = if found.whole {
        "All tables of the pipeline were to be compared."
    } else {
        "Only tables that were named were to be compared: nothing is said of others."
    };
    format!("{depth} {whole}")
}

/// The verdict, and the tables, worst first, so many of them at most.
pub(super) fn found(out: &mut String, found: &VerificationRow, tables_max: usize) {
    let tone = match found.result.as_str() {
        "identical" => "ok",
        "different" => "error",
        _ => "warn",
    };
    put!(
        out,
        "<p><b class=\"{tone}\">{}</b> at {}: {} rows ({}), {}</p>",
        words(&found.result),
        code(&found.lsn),
        found.rows,
        words(&found.depth),
        when(&found.at)
    );
    begin(
        out,
        &[
            "Table",
            "Result",
            "#Rows on the source",
            "#In the target",
            "#Differences",
        ],
    );
    let tables = found.tables.as_array().map_or(&[][..], Vec::as_slice);
    for table in tables.iter().take(tables_max) {
        let text = |name: &str| table[name].as_str().map(esc).unwrap_or_default();
        let number = |name: &str| table[name].as_u64().map_or_else(unknown, |n| n.to_string());
        let is_compared = table["result"] != "not_compared";
        row(
            out,
            &[
                format!(
                    "<bdi>{}</bdi>{} <span class=\"muted\">{}</span>",
                    text("source"),
                    target(table),
                    text("reason")
                ),
                words(table["result"].as_str().unwrap_or_default()),
                number("source_rows"),
                number("target_rows"),
                match (is_compared, table["is_counted"] == Value::Bool(false)) {
                    (false, _) => unknown(),
                    (true, true) => format!("at least {}", number("different")),
                    (true, false) => number("different"),
                },
            ],
            2,
        );
    }
    put!(out, "</tbody></table>");
    let more = tables.len().saturating_sub(tables_max);
    if more > 0 {
        put!(out, "<p class=\"muted\">and {more} more</p>");
    }
}

/// Its name there, where that is another.
fn target(table: &Value) -> String {
    let name = table["target"].as_str().unwrap_or_default();
    if name.is_empty() || table["source"] == *name {
        return String::new();
    }
    format!(" → <bdi>{}</bdi>", esc(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_compared_is_not_said_to_be_the_same() {
        let table = |name: &str, result: &str, different: u64| {
            json!({ "source": name, "target": name, "result": result, "different": different,
                "reason": null, "source_rows": null, "target_rows": null, "is_counted": true })
        };
        let row = VerificationRow {
            id: 7,
            at: "2026-01-02T03:04:05.000Z".to_owned(),
            lsn: "0/7".to_owned(),
            position_type: "pg_lsn".to_owned(),
            whole: false,
            result: "incomplete".to_owned(),
            depth: "counts".to_owned(),
            rows: 9,
            seconds: 0.25,
            tables: json!([table("public.<a>", "not_compared", 0)]),
        };
        let mut out = String::new();
        found(&mut out, &row, 1);
        assert!(out.contains("<b class=\"warn\">incomplete</b>"), "{out}");
        assert!(
            out.contains("public.&lt;a&gt;") && !out.contains("<a>"),
            "{out}"
        );
        assert_eq!(out.matches("unknown").count(), 3, "no count is 0: {out}");
        assert!(!out.contains("more"), "{out}");
        let said = how(&row);
        assert!(
            said.contains("counted, not compared") && said.contains("nothing is said of others")
        );
        found(&mut out, &row, 0);
        assert!(out.contains("and 1 more"), "{out}");
    }
}
