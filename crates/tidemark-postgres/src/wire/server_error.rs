//! What a server says when it refuses: `ErrorResponse` and `NoticeResponse`, field by field.
//!
//! Some fields quote cell values (`DETAIL: Key (id)=(5) already exists.`, `CONTEXT: COPY t, line 3,
//! column c: "…"`, and messages of class 22). [`ServerError`]'s `Display` and `Debug` leave those
//! out, so that it can be logged; who shows rows to a person reads the fields.
//!
//! Field letters: PostgreSQL 15, 55.8 "Error and Notice Message Fields".

use std::fmt;

/// An error or notice as the server reported it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, …, never translated (servers since 9.6).
    pub severity: String,
    /// Five characters, such as `23505`.
    pub sqlstate: String,
    /// The primary message; may quote a cell value when the class is 22.
    pub message: String,
    /// May hold cell values.
    pub detail: Option<String>,
    /// Advice of the server.
    pub hint: Option<String>,
    /// Where in the query text, in characters from 1.
    pub position: Option<u32>,
    /// The call stack of the server (`CONTEXT`); may hold cell values.
    pub context: Option<String>,
    /// The schema it is about.
    pub schema: Option<String>,
    /// The table it is about.
    pub table: Option<String>,
    /// The column it is about.
    pub column: Option<String>,
    /// The type it is about.
    pub data_type: Option<String>,
    /// The constraint it is about.
    pub constraint: Option<String>,
}

/// Bytes of a field. What is longer tells a person nothing more, and is kept and written down often.
const FIELD_BYTES_MAX: usize = 16 * 1024;

fn shortened(text: &[u8]) -> String {
    match text.get(..FIELD_BYTES_MAX) {
        Some(beginning) if text.len() > FIELD_BYTES_MAX => {
            format!("{}…", String::from_utf8_lossy(beginning))
        }
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

impl ServerError {
    /// Reads the body of an `ErrorResponse` or `NoticeResponse`. Never fails: what is not there
    /// stays empty, and bytes that are not UTF-8 (a server may complain before it knows the
    /// client's encoding) are replaced.
    pub(crate) fn parse(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        let mut plain_severity = String::new();
        for field in body.split(|byte| *byte == 0) {
            let Some((letter, text)) = field.split_first() else {
                continue;
            };
            let text = shortened(text);
            match letter {
                b'V' => error.severity = text,
                b'S' => plain_severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'P' => error.position = text.parse().ok(),
                b'W' => error.context = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'd' => error.data_type = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = plain_severity;
        }
        error
    }

    /// Whether the server ends the session after it.
    pub fn ends_session(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// The message without what it quotes when that may be a cell value.
    pub fn safe_message(&self) -> String {
        if self.sqlstate.starts_with("22") || self.sqlstate.starts_with("P0") {
            without_quoted(&self.message)
        } else {
            self.message.clone()
        }
    }

    /// `schema.table.column`, as far as the server said it, else what a COPY's context names.
    pub fn place(&self) -> Option<String> {
        if let Some(table) = &self.table {
            let mut place = String::new();
            if let Some(schema) = &self.schema {
                place.push_str(schema);
                place.push('.');
            }
            place.push_str(table);
            if let Some(column) = &self.column {
                place.push('.');
                place.push_str(column);
            }
            return Some(place);
        }
        self.copy_place()
    }

    /// Of a deadlock, which sessions waited for which locks: no values, and no statements, are in it
    /// (`DeadLockReport`, PostgreSQL 15).
    fn who_waited(&self) -> Option<String> {
        let is_deadlock = self.sqlstate == "40P01";
        let detail = self.detail.as_deref().filter(|_| is_deadlock)?;
        let lines: Vec<_> = detail
            .lines()
            .map(|line| line.trim_end_matches('.'))
            .collect();
        Some(lines.join("; "))
    }

    /// `COPY t, line 3, column c` out of the context, without the value behind it.
    fn copy_place(&self) -> Option<String> {
        let line = self
            .context
            .as_deref()?
            .lines()
            .find(|line| line.starts_with("COPY "))?;
        let end = line.find(": \"").unwrap_or(line.len());
        line.get(..end).map(str::to_owned)
    }
}

/// Replaces `"…"` by `"…"` with nothing inside, to the last quote: values may hold quotes too.
fn without_quoted(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            let before = message.get(..=first).unwrap_or_default();
            let after = message.get(last..).unwrap_or_default();
            format!("{before}…{after}")
        }
        _ => message.to_owned(),
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.safe_message())?;
        if let Some(place) = self.place() {
            write!(f, " at {place}")?;
        }
        if let Some(who) = self.who_waited() {
            write!(f, ": {who}")?;
        }
        write!(f, " (SQLSTATE {})", self.sqlstate)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.severity)
    }
}

impl std::error::Error for ServerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(fields: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend_from_slice(field.as_bytes());
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn fields_are_read_and_values_stay_hidden() {
        let error = ServerError::parse(&body(&[
            "SFEHLER",
            "VERROR",
            "C22P02",
            "Minvalid input syntax for type integer: \"se\"cret\"",
            "WCOPY t, line 3, column n: \"se\"cret\"",
            "P17",
        ]));
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.position, Some(17));
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("cret"), "{shown}");
        assert!(shown.contains("COPY t, line 3, column n"), "{shown}");
    }

    #[test]
    fn place_names_schema_table_and_column() {
        let error = ServerError::parse(&body(&["C23502", "sdw", "tprices", "camount"]));
        assert_eq!(error.place().as_deref(), Some("dw.prices.amount"));
    }

    #[test]
    fn a_deadlock_says_who_waited() {
        let error = ServerError::parse(&body(&[
            "C40P01",
            "Mdeadlock detected",
            "DProcess 7 waits for ShareLock on transaction 9; blocked by process 8.\n\
             Process 8 waits for ShareLock on transaction 6; blocked by process 7.",
        ]));
        let said = "deadlock detected: Process 7 waits for ShareLock on transaction 9; blocked by \
                    process 8; Process 8 waits for ShareLock on transaction 6; blocked by process 7 \
                    (SQLSTATE 40P01)";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn detail_is_not_shown() {
        let error = ServerError::parse(&body(&[
            "VERROR",
            "C23505",
            "Mduplicate key value violates unique constraint \"t_pkey\"",
            "DKey (id)=(4711) already exists.",
        ]));
        assert!(!error.to_string().contains("4711"));
        assert!(error.to_string().contains("t_pkey"));
    }
}
