//! Values in the two text forms that carry many at once: COPY rows and array literals.
//!
//! The values are already PostgreSQL's own text; all that is left is to escape what has a meaning in
//! the form around them. Most values have nothing to escape, so the scan is what counts: a table
//! look-up for short ones, `memchr` for long ones.

use bytes::{BufMut, BytesMut};

/// From this length on vector instructions win over a loop.
const LONG: usize = 48;

/// Appends a value to a row of `COPY … FROM STDIN` in text format (PostgreSQL 15, COPY, "Text
/// Format"): backslash, newline, carriage return and the delimiter are escaped, NULL is `\N`.
pub(super) fn put_copy_value(out: &mut BytesMut, value: Option<&[u8]>) {
    let Some(mut rest) = value else {
        out.put_slice(b"\\N");
        return;
    };
    while let Some(at) = next_special(rest) {
        let (clean, special) = rest.split_at(at);
        out.put_slice(clean);
        out.put_slice(match special[0] {
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\t",
        });
        rest = &special[1..];
    }
    out.put_slice(rest);
}

fn next_special(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < LONG {
        let is_special = |byte: &u8| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t');
        return bytes.iter().position(is_special);
    }
    let first = memchr::memchr3(b'\\', b'\n', b'\t', bytes);
    let until = first.unwrap_or(bytes.len());
    memchr::memchr(b'\r', &bytes[..until]).or(first)
}

/// Appends an array literal (PostgreSQL 15, 8.15.2 and 8.15.6).
pub(super) struct ListWriter<'a> {
    out: &'a mut BytesMut,
    delimiter: u8,
    is_bare: bool,
    is_empty: bool,
}

impl<'a> ListWriter<'a> {
    /// Begins; `is_bare` if no value ever needs quotes.
    pub(super) fn begin(out: &'a mut BytesMut, delimiter: u8, is_bare: bool) -> ListWriter<'a> {
        out.put_u8(b'{');
        ListWriter {
            out,
            delimiter,
            is_bare,
            is_empty: true,
        }
    }

    /// The next element.
    pub(super) fn put(&mut self, value: Option<&[u8]>) {
        if !self.is_empty {
            self.out.put_u8(self.delimiter);
        }
        self.is_empty = false;
        match value {
            None => self.out.put_slice(b"NULL"),
            Some(bytes) if self.is_bare => self.out.put_slice(bytes),
            Some(bytes) => self.put_quoted(bytes),
        }
    }

    fn put_quoted(&mut self, mut rest: &[u8]) {
        self.out.put_u8(b'"');
        while let Some(at) = next_quote(rest) {
            let (clean, special) = rest.split_at(at);
            self.out.put_slice(clean);
            self.out.put_u8(b'\\');
            self.out.put_u8(special[0]);
            rest = &special[1..];
        }
        self.out.put_slice(rest);
        self.out.put_u8(b'"');
    }

    /// Ends.
    pub(super) fn end(self) {
        self.out.put_u8(b'}');
    }
}

fn next_quote(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < LONG {
        return bytes.iter().position(|byte| matches!(byte, b'\\' | b'"'));
    }
    memchr::memchr2(b'\\', b'"', bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// COPY's own reading of one value.
    fn read_copy(text: &[u8]) -> Option<Vec<u8>> {
        if text == b"\\N" {
            return None;
        }
        let mut value = Vec::new();
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            assert!(!matches!(byte, b'\n' | b'\r' | b'\t'), "a bare separator");
            value.push(match byte {
                b'\\' => match bytes.next().expect("something follows a backslash") {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                },
                other => *other,
            });
        }
        Some(value)
    }

    /// The array parser's reading of quoted elements.
    fn read_list(text: &[u8]) -> Vec<Option<Vec<u8>>> {
        let inner = text.strip_prefix(b"{").unwrap().strip_suffix(b"}").unwrap();
        let (mut values, mut at) = (Vec::new(), 0);
        while at < inner.len() {
            if inner[at..].starts_with(b"NULL") {
                values.push(None);
                at += 4;
            } else {
                assert_eq!(inner[at], b'"');
                at += 1;
                let mut value = Vec::new();
                while inner[at] != b'"' {
                    at += usize::from(inner[at] == b'\\');
                    value.push(inner[at]);
                    at += 1;
                }
                values.push(Some(value));
                at += 1;
            }
            if at < inner.len() {
                assert_eq!(inner[at], b';');
                at += 1;
            }
        }
        values
    }

    fn any_value() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![
            Just(b'\\'),
            Just(b'\n'),
            Just(b'\r'),
            Just(b'\t'),
            Just(b'"'),
            Just(b';'),
            Just(b'N'),
            any::<u8>(),
        ];
        proptest::option::of(proptest::collection::vec(byte, 0..120))
    }

    proptest! {
        #[test]
        fn copy_values_are_read_back(value in any_value()) {
            let mut out = BytesMut::new();
            put_copy_value(&mut out, value.as_deref());
            prop_assert_eq!(read_copy(&out), value);
        }

        #[test]
        fn lists_are_read_back(values in proptest::collection::vec(any_value(), 0..8)) {
            let mut out = BytesMut::new();
            let mut list = ListWriter::begin(&mut out, b';', false);
            for value in &values {
                list.put(value.as_deref());
            }
            list.end();
            prop_assert_eq!(read_list(&out), values);
        }
    }

    #[test]
    fn null_and_the_word_null_differ() {
        let mut out = BytesMut::new();
        let mut list = ListWriter::begin(&mut out, b',', false);
        list.put(None);
        list.put(Some(b"NULL"));
        list.put(Some(b""));
        list.end();
        assert_eq!(&out[..], b"{NULL,\"NULL\",\"\"}");
    }
}
