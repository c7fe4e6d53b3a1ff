//! Positions in a source's log.
//!
//! A [`Position`] is a boundary: everything that committed before it is contained, everything at or
//! after it is not. A transaction whose commit record starts at `c` is contained in a checkpoint at
//! `p` if and only if `c < p`. The consistent point of a slot, the end of a commit record and the
//! position of a keepalive are all boundaries of this kind, so one comparison serves everywhere.
//!
//! Positions are compared as numbers, and only within one kind of log; across kinds the comparison
//! has no answer (`None`), which no code can mistake for "behind".

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalogue::codes;
use crate::error::Error;

/// A PostgreSQL log sequence number: a byte offset in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn, Error> {
        let parse = || {
            let (high, low) = text.trim().split_once('/')?;
            let part = |hex: &str| match hex.len() {
                1..=8 => u32::from_str_radix(hex, 16).ok(),
                _ => None,
            };
            Some(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
        };
        parse().ok_or_else(|| {
            Error::definite(
                codes::POSITION_MALFORMED,
                format!("`{text}` is not a log position"),
            )
            .first_action("write it as PostgreSQL does, for example 16/B374D848")
        })
    }
}

/// A boundary in the log of one kind of source. Closed on purpose: each kind of log is added here,
/// and only positions of one kind compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// PostgreSQL.
    PgLsn(Lsn),
}

impl Position {
    /// The name of the kind, as `position_type` in status and API.
    pub fn kind(self) -> &'static str {
        match self {
            Position::PgLsn(_) => "pg_lsn",
        }
    }

    /// Bytes of log from `earlier` to here, `None` where the kinds differ. Never negative: a
    /// position that is behind gives 0.
    pub fn bytes_since(self, earlier: Position) -> Option<u64> {
        match (self, earlier) {
            (Position::PgLsn(a), Position::PgLsn(b)) => Some(a.0.saturating_sub(b.0)),
        }
    }

    /// Whether a transaction that commits at `commit` is contained in what lies before `self`.
    pub fn contains(self, commit: Position) -> bool {
        commit < self
    }

    /// Reads a position back from its kind and text.
    pub fn parse(kind: &str, text: &str) -> Result<Position, Error> {
        match kind {
            "pg_lsn" => Ok(Position::PgLsn(text.parse()?)),
            _ => Err(Error::definite(
                codes::POSITION_MALFORMED,
                format!("`{kind}` is not a kind of log that this version knows"),
            )),
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Position) -> Option<Ordering> {
        match (self, other) {
            (Position::PgLsn(a), Position::PgLsn(b)) => Some(a.cmp(b)),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::PgLsn(lsn) => lsn.fmt(f),
        }
    }
}

impl From<Lsn> for Position {
    fn from(lsn: Lsn) -> Position {
        Position::PgLsn(lsn)
    }
}

/// In JSON a position is its native text; the kind stands beside it as `position_type`. Only
/// PostgreSQL's is read back this way today.
impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<Lsn>()
            .map(Position::PgLsn)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(text: &str) -> Position {
        Position::PgLsn(text.parse().unwrap())
    }

    #[test]
    fn positions_compare_as_numbers_not_as_text() {
        assert!(lsn("9/0") < lsn("10/0"));
        assert!(lsn("0/FFFFFFFF") < lsn("1/0"));
        assert_eq!(lsn("1/0").bytes_since(lsn("0/FFFFFFFF")), Some(1));
        assert_eq!(lsn("0/1").bytes_since(lsn("0/5")), Some(0));
    }

    #[test]
    fn a_commit_at_the_boundary_is_not_contained() {
        assert!(!lsn("0/10").contains(lsn("0/10")));
        assert!(lsn("0/11").contains(lsn("0/10")));
    }

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        assert_eq!(lsn("16/B374D848").to_string(), "16/B374D848");
        for bad in ["", "0", "0/", "/1", "0/GGG", "-1", "0/123456789", "1/2/3"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
