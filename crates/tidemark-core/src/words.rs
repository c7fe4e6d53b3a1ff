//! Words of sentences that several crates say.

/// `1 table`, `6 tables`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}
