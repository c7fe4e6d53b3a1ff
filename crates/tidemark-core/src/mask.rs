//! Masks: what is done to a column's values on their way.
//!
//! A mask is applied in two places that must agree to the byte: here, to the text forms of the
//! stream, and on the source in SQL, to the rows of the load and of verification. Each mask below
//! is therefore defined by an SQL expression over `v`, the value's text form as the log has it: what
//! the type's output function prints (`format('%s', col)`; a cast to text prints booleans, `inet` and
//! `character(n)` otherwise), in a session with `bytea_output = hex`, `DateStyle = ISO`,
//! `TimeZone = UTC`, `extra_float_digits` ≥ 1, UTF-8 on the wire. Characters are characters of UTF-8,
//! never bytes.
//!
//! NULL stays NULL for all but [`Mask::Fixed`].

use sha2::{Digest, Sha256};

use crate::config::secret::Secret;
use crate::event::CellKind;
use crate::schema::ValueClass;

/// What is done to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// NULL instead. The target's column keeps its type and allows NULL.
    Null,
    /// `encode(sha256(convert_to(<salt> || v, 'UTF8')), 'hex')`: 64 lower-case hexadecimal digits.
    /// Equal values stay equal, so it may be on key columns. The target's column is `text`.
    Hash {
        /// Stands before the value; may be empty.
        salt: Secret,
    },
    /// This constant instead of every value that is not NULL: see [`redacted`]. The target's column
    /// keeps its type; a text column is `text`.
    Redact {
        /// In text form.
        constant: &'static str,
    },
    /// Text only; the target's column is `text`:
    ///
    /// ```sql
    /// CASE WHEN strpos(v, '@') > 1 THEN '***' || substr(v, strpos(v, '@'))
    ///      WHEN char_length(v) >= 8 THEN '***' || right(v, 4)
    ///      ELSE '***' END
    /// ```
    ///
    /// An address keeps what begins at its first `@`, anything else its last 4 characters if there
    /// are at least 4 more. (Where the column's collation is nondeterministic, `strpos` needs
    /// `v COLLATE "C"` before PostgreSQL 18.)
    Partial,
    /// This value instead, of NULL too. The target's column keeps its type.
    Fixed {
        /// In text form.
        value: String,
    },
}

/// The constant by which [`Mask::Redact`] replaces values of a class; `None` where there is none.
pub fn redacted(class: ValueClass) -> Option<&'static str> {
    match class {
        ValueClass::Integer | ValueClass::Decimal | ValueClass::Float => Some("0"),
        ValueClass::Boolean => Some("false"),
        ValueClass::Text => Some("***"),
        ValueClass::Date => Some("1970-01-01"),
        ValueClass::Timestamp => Some("1970-01-01 00:00:00"),
        ValueClass::TimestampTz => Some("1970-01-01 00:00:00+00"),
        ValueClass::Uuid => Some("00000000-0000-0000-0000-000000000000"),
        ValueClass::Bytes => Some("\\x"),
        ValueClass::Json => Some("{}"),
        ValueClass::Enum | ValueClass::Other => None,
    }
}

impl Mask {
    /// Its word in files.
    pub fn word(&self) -> &'static str {
        match self {
            Mask::Null => "null",
            Mask::Hash { .. } => "hash",
            Mask::Redact { .. } => "redact",
            Mask::Partial => "partial",
            Mask::Fixed { .. } => "fixed",
        }
    }

    /// What a value of this kind becomes. Only for [`CellKind::Text`] as the answer, [`Mask::apply`]
    /// gives the bytes.
    ///
    /// A value that the log left out is not NULL (only large values are left out), so the masks that
    /// do not look at it give their constant.
    pub fn kind(&self, kind: CellKind) -> CellKind {
        match (self, kind) {
            (Mask::Null, _) => CellKind::Null,
            (Mask::Fixed { .. }, _) | (Mask::Redact { .. }, CellKind::Unchanged) => CellKind::Text,
            (_, kind) => kind,
        }
    }

    /// Appends the masked form of a value. Allocates nothing but what `out` needs to grow.
    pub fn apply(&self, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Mask::Null => {}
            Mask::Hash { salt } => {
                let mut hasher = Sha256::new();
                hasher.update(salt.expose().as_bytes());
                hasher.update(value);
                for byte in hasher.finalize() {
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
            }
            Mask::Redact { constant } => out.extend_from_slice(constant.as_bytes()),
            Mask::Partial => {
                out.extend_from_slice(b"***");
                out.extend_from_slice(kept_part(value));
            }
            Mask::Fixed { value } => out.extend_from_slice(value.as_bytes()),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What [`Mask::Partial`] leaves of a value.
fn kept_part(value: &[u8]) -> &[u8] {
    // `@` is one byte of UTF-8 and part of no other character.
    match memchr::memchr(b'@', value) {
        Some(at) if at > 0 => &value[at..],
        _ => {
            let mut starts = value
                .iter()
                .enumerate()
                .rev()
                .filter(|(_, byte)| is_start(**byte));
            let last_four = starts.nth(3).map(|(at, _)| at);
            match (last_four, starts.nth(3)) {
                (Some(at), Some(_)) => &value[at..],
                _ => &[],
            }
        }
    }
}

/// Whether a byte begins a character of UTF-8.
fn is_start(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &Mask, value: &str) -> String {
        let mut out = Vec::new();
        mask.apply(value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hash_is_that_of_salt_and_text() {
        let mask = |salt: &str| Mask::Hash {
            salt: Secret::new(salt),
        };
        assert_eq!(
            masked(&mask(""), "abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // SELECT encode(sha256(convert_to('pepper' || 'a@b.example', 'UTF8')), 'hex')
        assert_eq!(
            masked(&mask("pepper"), "a@b.example"),
            "3c8654ce335c5af7365398407b224319d5c4c0d166601b3e7c24dce2e1dca8c2"
        );
        assert_eq!(masked(&mask("ab"), "c"), masked(&mask(""), "abc"));
        assert_ne!(masked(&mask("x"), "abc"), masked(&mask("y"), "abc"));
    }

    #[test]
    fn partial_keeps_a_domain_or_four_of_at_least_eight_characters() {
        for (value, expected) in [
            ("", "***"),
            ("1234567", "***"),
            ("12345678", "***5678"),
            ("4111 1111 1111 1234", "***1234"),
            ("ann@example.com", "***@example.com"),
            ("a@b@c", "***@b@c"),
            ("@handle", "***"),
            ("@handle_of_somebody", "***body"),
            ("äöüßéèê", "***"),
            ("äöüßéèê🐘", "***éèê🐘"),
        ] {
            assert_eq!(masked(&Mask::Partial, value), expected, "{value}");
        }
    }

    #[test]
    fn null_stays_null_but_for_fixed() {
        let fixed = Mask::Fixed {
            value: "x".to_owned(),
        };
        let redact = Mask::Redact { constant: "***" };
        for (mask, null, unchanged) in [
            (&Mask::Null, CellKind::Null, CellKind::Null),
            (&Mask::Partial, CellKind::Null, CellKind::Unchanged),
            (&redact, CellKind::Null, CellKind::Text),
            (&fixed, CellKind::Text, CellKind::Text),
        ] {
            assert_eq!(mask.kind(CellKind::Null), null, "{mask:?}");
            assert_eq!(mask.kind(CellKind::Unchanged), unchanged, "{mask:?}");
        }
        assert_eq!(redact.kind(CellKind::Text), CellKind::Text);
        assert_eq!(masked(&redact, "anything"), "***");
        assert_eq!(masked(&fixed, "anything"), "x");
    }
}
