//! Golden messages, and bytes that are none.

use proptest::prelude::*;

use super::*;

/// Builds messages as `pq_send*` does.
#[derive(Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn tag(tag: u8) -> Bytes {
        Bytes(vec![tag])
    }
    pub(crate) fn u8(mut self, value: u8) -> Bytes {
        self.0.push(value);
        self
    }
    pub(crate) fn u16(mut self, value: u16) -> Bytes {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(crate) fn u32(mut self, value: u32) -> Bytes {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Bytes {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(crate) fn text(mut self, text: &str) -> Bytes {
        self.0.extend(text.as_bytes());
        self.u8(0)
    }
    /// A row: `None` is NULL, `Some("\u{1}")` an unchanged value.
    pub(crate) fn row(mut self, values: &[Option<&str>]) -> Bytes {
        self = self.u16(u16::try_from(values.len()).unwrap());
        for value in values {
            self = match value {
                None => self.u8(b'n'),
                Some("\u{1}") => self.u8(b'u'),
                Some(text) => {
                    let mut with = self.u8(b't').u32(u32::try_from(text.len()).unwrap());
                    with.0.extend(text.as_bytes());
                    with
                }
            };
        }
        self
    }
}

fn decode_all(bytes: &[u8], form: Form) -> (Decoded<'_>, Vec<Cell>) {
    let mut cells = Vec::new();
    let decoded = decode(bytes, 0..bytes.len(), form, &mut cells).unwrap();
    (decoded, cells)
}

fn values(bytes: &[u8], cells: &[Cell], row: Row) -> Vec<Option<String>> {
    cells[row.start as usize..][..usize::from(row.len)]
        .iter()
        .map(|cell| match cell.kind {
            CellKind::Null => None,
            CellKind::Unchanged => Some("(unchanged)".to_owned()),
            CellKind::Text => {
                let value = &bytes[cell.start as usize..][..cell.len as usize];
                Some(String::from_utf8(value.to_vec()).unwrap())
            }
        })
        .collect()
}

/// A message, where it stands, and what it must be.
type Example = (Vec<u8>, Form, &'static str);

/// One message of every kind.
fn every_message() -> Vec<Example> {
    [descriptions(), changes(), transactions()].concat()
}

fn descriptions() -> Vec<Example> {
    let plain = Form::Plain;
    let relation = |head: Bytes| {
        let columns = head.u32(16385).text("public").text("Ordér").u8(b'd').u16(2);
        columns
            .u8(1)
            .text("id")
            .u32(20)
            .u32(u32::MAX)
            .u8(0)
            .text("note")
            .u32(1043)
            .u32(44)
            .0
    };
    vec![
        (
            Bytes::tag(b'B')
                .u64(0x1_0000_0010)
                .u64(1_000_000)
                .u32(731)
                .0,
            plain,
            "Begin(Begin { xid: 731, commit: PgLsn(Lsn(4294967312)), committed_at_us: 946684801000000 })",
        ),
        (
            Bytes::tag(b'C').u8(0).u64(16).u64(48).u64(0).0,
            plain,
            "Commit { commit: Lsn(16), end: Lsn(48) }",
        ),
        (Bytes::tag(b'O').u64(0).text("pg_16399").0, plain, "Origin"),
        (
            relation(Bytes::tag(b'R')),
            plain,
            "Table(StreamTable { id: 16385, name: TableName { schema: \"public\", name: \"Ordér\" }, columns: [StreamColumn { name: \"id\", type_id: 20, type_modifier: -1 }, StreamColumn { name: \"note\", type_id: 1043, type_modifier: 44 }], identity: Key([0]) })",
        ),
        (
            relation(Bytes::tag(b'R').u32(732)),
            Form::Streamed,
            "Table(StreamTable { id: 16385, name: TableName { schema: \"public\", name: \"Ordér\" }, columns: [StreamColumn { name: \"id\", type_id: 20, type_modifier: -1 }, StreamColumn { name: \"note\", type_id: 1043, type_modifier: 44 }], identity: Key([0]) })",
        ),
        (
            Bytes::tag(b'Y').u32(99).text("").text("mood").0,
            plain,
            "Type",
        ),
    ]
}

fn changes() -> Vec<Example> {
    let plain = Form::Plain;
    vec![
        (
            Bytes::tag(b'I').u32(5).u8(b'N').row(&[Some("1"), None]).0,
            plain,
            "Change(RowChange { table: 5, op: Insert, old: None, new: Some(Row { start: 0, len: 2 }) })",
        ),
        (
            Bytes::tag(b'U')
                .u32(5)
                .u8(b'K')
                .row(&[Some("1"), None])
                .u8(b'N')
                .row(&[Some("2"), None])
                .0,
            plain,
            "Change(RowChange { table: 5, op: Update, old: Some(Key(Row { start: 0, len: 2 })), new: Some(Row { start: 2, len: 2 }) })",
        ),
        (
            Bytes::tag(b'U')
                .u32(731)
                .u32(5)
                .u8(b'N')
                .row(&[Some("2"), Some("\u{1}")])
                .0,
            Form::Streamed,
            "Change(RowChange { table: 5, op: Update, old: None, new: Some(Row { start: 0, len: 2 }) })",
        ),
        (
            Bytes::tag(b'D')
                .u32(5)
                .u8(b'O')
                .row(&[Some("1"), Some("")])
                .0,
            plain,
            "Change(RowChange { table: 5, op: Delete, old: Some(Full(Row { start: 0, len: 2 })), new: None })",
        ),
        (
            Bytes::tag(b'T').u32(2).u8(3).u32(5).u32(6).0,
            plain,
            "Truncate(Truncate { tables: [5, 6], cascade: true, restart_identity: true })",
        ),
        (
            {
                let mut m = Bytes::tag(b'M').u8(0).u64(77).text("p").u32(2);
                m.0.extend(b"hi");
                m.0
            },
            plain,
            "Logical { is_transactional: false, prefix: [112], content: [104, 105] }",
        ),
        (
            Bytes::tag(b'M').u32(731).u8(1).u64(77).text("").u32(0).0,
            Form::Streamed,
            "Logical { is_transactional: true, prefix: [], content: [] }",
        ),
    ]
}

fn transactions() -> Vec<Example> {
    let plain = Form::Plain;
    vec![
        (
            Bytes::tag(b'S').u32(731).u8(1).0,
            plain,
            "StreamStart { xid: 731, is_first: true }",
        ),
        (Bytes::tag(b'E').0, Form::Streamed, "StreamStop"),
        (
            Bytes::tag(b'c')
                .u32(731)
                .u8(0)
                .u64(16)
                .u64(48)
                .u64(1_000_000)
                .0,
            plain,
            "StreamCommit { begin: Begin { xid: 731, commit: PgLsn(Lsn(16)), committed_at_us: 946684801000000 }, commit_end: Lsn(48) }",
        ),
        (
            Bytes::tag(b'A').u32(731).u32(733).0,
            plain,
            "StreamAbort { xid: 731, subxid: 733 }",
        ),
        (
            Bytes::tag(b'A').u32(731).u32(731).u64(99).u64(0).0,
            plain,
            "StreamAbort { xid: 731, subxid: 731 }",
        ),
        (
            Bytes::tag(b'b').u64(16).u64(48).u64(0).u32(731).text("g").0,
            plain,
            "Prepared(BeginPrepare)",
        ),
        (
            Bytes::tag(b'P')
                .u8(0)
                .u64(16)
                .u64(48)
                .u64(0)
                .u32(731)
                .text("g")
                .0,
            plain,
            "Prepared(Prepare)",
        ),
        (
            Bytes::tag(b'K')
                .u8(0)
                .u64(16)
                .u64(48)
                .u64(0)
                .u32(731)
                .text("g")
                .0,
            plain,
            "Prepared(CommitPrepared)",
        ),
        (
            Bytes::tag(b'r')
                .u8(0)
                .u64(16)
                .u64(48)
                .u64(0)
                .u64(0)
                .u32(731)
                .text("g")
                .0,
            plain,
            "Prepared(RollbackPrepared)",
        ),
        (
            Bytes::tag(b'p')
                .u8(0)
                .u64(16)
                .u64(48)
                .u64(0)
                .u32(731)
                .text("g")
                .0,
            plain,
            "Prepared(StreamPrepare)",
        ),
    ]
}

#[test]
fn every_message_is_read_as_the_server_writes_it() {
    for (bytes, form, expected) in every_message() {
        let (decoded, _) = decode_all(&bytes, form);
        assert_eq!(format!("{:?}", decoded.message), expected);
        let names_one = form == Form::Streamed && bytes[0] != b'E';
        assert_eq!(decoded.xid != 0, names_one, "{expected}");
    }
}

/// Recorded from PostgreSQL 15.20 (`pg_logical_slot_peek_binary_changes`, protocol 2, messages,
/// streaming), one message a line in hexadecimal; the one large value is cut to 32 bytes.
const RECORDED: &str = include_str!("recorded-15.hex");

/// What [`RECORDED`] means, checked by hand against the statements that wrote it.
const MEANT: &str = include_str!("recorded-15.txt");

fn from_hex(line: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    line.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) * 16 + digit(pair[1]))
        .collect()
}

#[test]
fn recorded_messages_mean_what_was_written() {
    let mut form = Form::Plain;
    let mut meant = String::new();
    for line in RECORDED.lines() {
        let bytes = from_hex(line);
        let (decoded, cells) = decode_all(&bytes, form);
        match &decoded.message {
            Message::StreamStart { .. } => form = Form::Streamed,
            Message::StreamStop => form = Form::Plain,
            _ => {}
        }
        let line = match decoded.message {
            Message::Change(RowChange {
                table,
                op,
                old,
                new,
            }) => {
                let old = old.map(|old| match old {
                    OldRow::Key(row) => format!("key {:?}", values(&bytes, &cells, row)),
                    OldRow::Full(row) => format!("full {:?}", values(&bytes, &cells, row)),
                });
                let new = new.map(|row| values(&bytes, &cells, row));
                format!("{} {op:?} {table} old {old:?} new {new:?}", decoded.xid)
            }
            message => format!("{} {message:?}", decoded.xid),
        };
        meant.push_str(&line);
        meant.push('\n');
    }
    assert_eq!(meant, MEANT, "{meant}");
}

#[test]
fn identity_is_what_the_server_would_use() {
    for (letter, flag, expected) in [
        (b'd', 1, ReplicaIdentity::Key(vec![0])),
        (b'd', 0, ReplicaIdentity::Nothing),
        (b'i', 1, ReplicaIdentity::Key(vec![0])),
        (b'i', 0, ReplicaIdentity::Nothing),
        (b'f', 1, ReplicaIdentity::Full),
        (b'n', 0, ReplicaIdentity::Nothing),
    ] {
        let head = Bytes::tag(b'R')
            .u32(1)
            .text("s")
            .text("t")
            .u8(letter)
            .u16(1);
        let bytes = head.u8(flag).text("a").u32(23).u32(u32::MAX).0;
        let (decoded, _) = decode_all(&bytes, Form::Plain);
        let Message::Table(table) = decoded.message else {
            panic!("{:?}", decoded.message)
        };
        assert_eq!(table.identity, expected, "{}", char::from(letter));
    }
}

#[test]
fn every_cut_and_every_surplus_is_refused() {
    for (bytes, form, expected) in every_message() {
        for cut in 0..bytes.len() {
            // The longer of the two forms of an abort, cut to the shorter.
            if bytes[0] == b'A' && cut == 9 {
                continue;
            }
            let cut = decode(&bytes, 0..cut, form, &mut Vec::new());
            assert!(cut.is_err(), "{expected}: {cut:?}");
        }
        let mut surplus = bytes.clone();
        surplus.push(0);
        let surplus = decode(&surplus, 0..surplus.len(), form, &mut Vec::new());
        assert!(surplus.is_err(), "{expected}: {surplus:?}");
    }
}

#[test]
fn counts_beyond_the_message_make_no_room() {
    let mut cells = Vec::new();
    for bytes in [
        Bytes::tag(b'I').u32(5).u8(b'N').u16(u16::MAX).0,
        Bytes::tag(b'I')
            .u32(5)
            .u8(b'N')
            .u16(1)
            .u8(b't')
            .u32(u32::MAX)
            .0,
        Bytes::tag(b'T').u32(0x7fff_ffff).u8(0).u32(1).0,
        Bytes::tag(b'T').u32(u32::MAX).u8(0).0,
        Bytes::tag(b'R')
            .u32(1)
            .text("s")
            .text("t")
            .u8(b'd')
            .u16(u16::MAX)
            .0,
        Bytes::tag(b'M').u8(0).u64(0).text("p").u32(0x7fff_ffff).0,
    ] {
        assert!(decode(&bytes, 0..bytes.len(), Form::Plain, &mut cells).is_err());
    }
    assert_eq!(cells.capacity(), 4, "room for the one value that fits");
}

#[test]
fn s21_what_no_server_sends_is_refused() {
    for (what, bytes) in [
        (
            "binary value",
            Bytes::tag(b'I').u32(5).u8(b'N').u16(1).u8(b'b').u32(0).0,
        ),
        (
            "old row in an insert",
            Bytes::tag(b'I').u32(5).u8(b'O').row(&[]).0,
        ),
        (
            "new row in a delete",
            Bytes::tag(b'D').u32(5).u8(b'N').row(&[]).0,
        ),
        (
            "two old rows",
            Bytes::tag(b'U')
                .u32(5)
                .u8(b'K')
                .row(&[])
                .u8(b'K')
                .row(&[])
                .0,
        ),
        (
            "flags of a commit",
            Bytes::tag(b'C').u8(1).u64(16).u64(48).u64(0).0,
        ),
        ("flags of a truncate", Bytes::tag(b'T').u32(0).u8(4).0),
        ("no position", Bytes::tag(b'B').u64(0).u64(0).u32(1).0),
        ("unknown message", Bytes::tag(b'?').0),
        ("nothing", Vec::new()),
    ] {
        let decoded = decode(&bytes, 0..bytes.len(), Form::Plain, &mut Vec::new());
        assert!(decoded.is_err(), "{what}: {decoded:?}");
    }
}

/// Every cell must lie inside the message, or it would show bytes of another.
fn assert_inside(cells: &[Cell], range: &Range<usize>) {
    for cell in cells.iter().filter(|cell| cell.kind == CellKind::Text) {
        let start = cell.start as usize;
        assert!(
            start >= range.start && start + cell.len as usize <= range.end,
            "{cell:?}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 1..120),
        tag in proptest::sample::select(b"IUDBCRYTMOSEcAbPKrp".to_vec()),
        streamed in any::<bool>(),
    ) {
        bytes[0] = tag;
        let form = if streamed { Form::Streamed } else { Form::Plain };
        let mut cells = Vec::new();
        let decoded = decode(&bytes, 0..bytes.len(), form, &mut cells);
        if decoded.is_ok() {
            assert_inside(&cells, &(0..bytes.len()));
        }
    }

    #[test]
    fn mutated_messages_are_survived(
        pick in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        front in 0_usize..9,
    ) {
        let messages = every_message();
        let (message, form, _) = &messages[pick.index(messages.len())];
        let mut bytes = vec![b'x'; front];
        bytes.extend(message);
        for (at, byte) in changes {
            let at = front + at.index(message.len());
            bytes[at] = byte;
        }
        let range = front..bytes.len();
        bytes.extend(b"tttttttttttttttttttt");
        let mut cells = Vec::new();
        if decode(&bytes, range.clone(), *form, &mut cells).is_ok() {
            assert_inside(&cells, &range);
        }
    }

    #[test]
    fn rows_round_trip(
        rows in proptest::collection::vec(proptest::collection::vec(proptest::option::of("[a-zµ€𝄞]{0,9}"), 0..12), 1..9)
    ) {
        let mut block = Vec::new();
        let mut ranges = Vec::new();
        for row in &rows {
            let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
            let start = block.len();
            block.extend(Bytes::tag(b'I').u32(5).u8(b'N').row(&row).0);
            ranges.push(start..block.len());
        }
        let mut cells = Vec::new();
        for (range, expected) in ranges.into_iter().zip(&rows) {
            let decoded = decode(&block, range, Form::Plain, &mut cells).unwrap();
            let Message::Change(change) = decoded.message else { panic!("not a change") };
            prop_assert_eq!(&values(&block, &cells, change.new.unwrap()), expected);
        }
    }
}
