//! Values of one kind compared by their text forms, as the server compares the values themselves.

use std::cmp::Ordering;

use super::datetime;
use super::number::{self, FloatWidth};

/// By which rules a column's values are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Integer,
    Decimal,
    Float(FloatWidth),
    Boolean,
    /// By bytes; trailing spaces do not count where `is_padded` (`character(n)`; PostgreSQL 15, 8.3).
    Text {
        is_padded: bool,
    },
    /// By bytes, equality only.
    Enum,
    Date,
    Timestamp,
    TimestampTz,
    Uuid,
    /// Hexadecimal text has the order of its bytes.
    Bytes,
    /// Only whether it is NULL.
    Opaque,
}

/// A literal, ready to be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    Null,
    Integer(i64),
    /// In the form of [`number::plain_decimal`].
    Decimal(String),
    Float(f64),
    Boolean(bool),
    /// Text, enumeration labels, and bytes in hexadecimal.
    Bytes(Vec<u8>),
    /// Days or microseconds.
    Moment(i64),
    Uuid([u8; 16]),
}

impl Kind {
    /// The order of a value and a literal; `None` where the value is not of this kind.
    pub(super) fn compare(self, text: &[u8], constant: &Constant) -> Option<Ordering> {
        match (self, constant) {
            (Kind::Integer, Constant::Integer(literal)) => {
                Some(number::integer(text)?.cmp(literal))
            }
            (Kind::Integer | Kind::Decimal, Constant::Decimal(literal)) => {
                number::compare_decimals(text, literal.as_bytes())
            }
            (Kind::Float(width), Constant::Float(literal)) => Some(number::compare_floats(
                number::float(text, width)?,
                *literal,
            )),
            (Kind::Boolean, Constant::Boolean(literal)) => Some(boolean(text)?.cmp(literal)),
            (Kind::Text { is_padded }, Constant::Bytes(literal)) => {
                Some(trimmed(text, is_padded).cmp(trimmed(literal, is_padded)))
            }
            (Kind::Enum | Kind::Bytes, Constant::Bytes(literal)) => {
                Some(text.cmp(literal.as_slice()))
            }
            (Kind::Date | Kind::Timestamp | Kind::TimestampTz, Constant::Moment(literal)) => {
                Some(self.moment(text)?.cmp(literal))
            }
            (Kind::Uuid, Constant::Uuid(literal)) => Some(uuid(text)?.cmp(literal)),
            _ => None,
        }
    }

    /// The order of two values of this kind; of two whole numbers or decimals in any mixture.
    pub(super) fn compare_values(self, left: &[u8], right: &[u8]) -> Option<Ordering> {
        match self {
            Kind::Integer | Kind::Decimal => number::compare_decimals(left, right),
            Kind::Float(width) => Some(number::compare_floats(
                number::float(left, width)?,
                number::float(right, width)?,
            )),
            Kind::Boolean => Some(boolean(left)?.cmp(&boolean(right)?)),
            Kind::Text { is_padded } => {
                Some(trimmed(left, is_padded).cmp(trimmed(right, is_padded)))
            }
            Kind::Enum | Kind::Bytes => Some(left.cmp(right)),
            Kind::Date | Kind::Timestamp | Kind::TimestampTz => {
                Some(self.moment(left)?.cmp(&self.moment(right)?))
            }
            Kind::Uuid => Some(uuid(left)?.cmp(&uuid(right)?)),
            Kind::Opaque => None,
        }
    }

    fn moment(self, text: &[u8]) -> Option<i64> {
        match self {
            Kind::Date => datetime::date(text),
            Kind::Timestamp => datetime::timestamp(text),
            _ => datetime::timestamp_tz(text),
        }
    }
}

/// PostgreSQL prints `t` and `f` in results and in the log, `true` and `false` by a cast to text.
pub(super) fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" | b"true" => Some(true),
        b"f" | b"false" => Some(false),
        _ => None,
    }
}

fn trimmed(text: &[u8], is_padded: bool) -> &[u8] {
    if !is_padded {
        return text;
    }
    let spaces = text.iter().rev().take_while(|byte| **byte == b' ').count();
    &text[..text.len() - spaces]
}

/// Reads a UUID as the server prints it.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = text.iter().filter(|byte| **byte != b'-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let mut nibble = || u8::try_from(char::from(*digits.next()?).to_digit(16)?).ok();
        *byte = nibble()? << 4 | nibble()?;
    }
    digits.next().is_none().then_some(bytes)
}

/// Reads a UUID literal: with or without hyphens and braces (PostgreSQL 15, 8.12).
pub(super) fn uuid_literal(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    if inner.len() == 36 {
        return uuid(inner.as_bytes());
    }
    if inner.len() != 32 || !inner.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(inner, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_in_both_forms() {
        let plain = uuid(b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        for literal in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(uuid_literal(literal), Some(plain), "{literal}");
        }
        for bad in [
            "",
            "a0ee",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "+0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1-",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert_eq!(uuid_literal(bad), None, "{bad}");
        }
    }
}
