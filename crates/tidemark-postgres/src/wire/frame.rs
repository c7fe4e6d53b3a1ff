//! Message boundaries: a type byte, a length that counts itself, a body (PostgreSQL 15, 55.7).
//!
//! Lengths come from outside. They are checked against a limit before anything is done with them,
//! and no buffer is made larger because a length says so.

use std::fmt;

/// Type byte and length word.
pub(crate) const HEADER_LEN: usize = 5;

/// No server sends longer messages: it builds them in a `StringInfo`, which ends at 1 GiB.
pub(crate) const FRAME_MAX: usize = (1 << 30) + 1024;

/// During start-up messages are short; longer ones come from something else than PostgreSQL.
/// (libpq draws the line at 2,000 bytes for authentication and 30,000 for errors.)
pub(crate) const STARTUP_FRAME_MAX: usize = 32 * 1024;

/// Type and length of the message that a buffer starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tag: u8,
    /// Of the whole message, type byte included.
    pub(crate) len: usize,
}

/// A length that no message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadLength {
    tag: u8,
    len: usize,
}

impl fmt::Display for BadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag).escape_default();
        write!(f, "message '{tag}' of impossible length {}", self.len)
    }
}

/// The header, as soon as its bytes are there.
pub(crate) fn header(buffer: &[u8], limit: usize) -> Result<Option<Header>, BadLength> {
    let Some((&[tag, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let len = length + 1;
    if length < 4 || len > limit {
        return Err(BadLength { tag, len: length });
    }
    Ok(Some(Header { tag, len }))
}

/// The header, as soon as the whole message is there.
pub(crate) fn complete(buffer: &[u8], limit: usize) -> Result<Option<Header>, BadLength> {
    Ok(header(buffer, limit)?.filter(|header| buffer.len() >= header.len))
}

/// Reads integers and strings off the front of a body; `None` once it is too short.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Up to the next zero byte, which is consumed.
    pub(crate) fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }

    /// Like [`Reader::cstr`], as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn string(&mut self) -> Option<String> {
        self.cstr()
            .map(|text| String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_complete_when_its_last_byte_is_there() {
        let message = [b'Z', 0, 0, 0, 5, b'I'];
        assert_eq!(complete(&message[..5], FRAME_MAX), Ok(None));
        assert_eq!(
            complete(&message, FRAME_MAX),
            Ok(Some(Header { tag: b'Z', len: 6 }))
        );
    }

    #[test]
    fn s21_impossible_lengths_are_refused_before_their_bytes_arrive() {
        assert!(header(&[b'd', 0, 0, 0, 3], FRAME_MAX).is_err());
        assert!(header(&[b'd', 0xff, 0xff, 0xff, 0xff], FRAME_MAX).is_err());
        assert!(header(b"HTTP/1.1", STARTUP_FRAME_MAX).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(header)) = complete(&bytes, FRAME_MAX) {
                prop_assert!(header.len >= HEADER_LEN && header.len <= bytes.len());
            }
            let mut reader = Reader(&bytes);
            let _ = reader.string();
            let _ = reader.u32();
            let _ = reader.bytes(7);
        }
    }
}
