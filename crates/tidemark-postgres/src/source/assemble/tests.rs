//! Histories as a server would send them, cut into blocks anywhere, against what must come out.

use std::path::PathBuf;

use proptest::prelude::*;
use tidemark_core::event::{CellKind, Op};

use super::*;
use crate::source::decode::tests::Bytes;
use crate::source::frames::tests::{data, keepalive};
use crate::source::spool::Spool;

mod sessions;

fn begin(commit: u64, xid: u32) -> Vec<u8> {
    data(&Bytes::tag(b'B').u64(commit).u64(0).u32(xid).0)
}

fn commit(commit: u64, end: u64) -> Vec<u8> {
    data(&Bytes::tag(b'C').u8(0).u64(commit).u64(end).u64(0).0)
}

/// A table of `columns` columns; inside a stream with the transaction's id.
fn relation(xid: Option<u32>, columns: u16) -> Vec<u8> {
    let head = in_stream(Bytes::tag(b'R'), xid);
    let mut message = head.u32(5).text("public").text("t").u8(b'd').u16(columns);
    for column in 0..columns {
        let flag = u8::from(column == 0);
        message = message
            .u8(flag)
            .text(&format!("c{column}"))
            .u32(25)
            .u32(u32::MAX);
    }
    data(&message.0)
}

fn insert(xid: Option<u32>, values: &[&str]) -> Vec<u8> {
    let values: Vec<Option<&str>> = values.iter().copied().map(Some).collect();
    data(
        &in_stream(Bytes::tag(b'I'), xid)
            .u32(5)
            .u8(b'N')
            .row(&values)
            .0,
    )
}

fn in_stream(message: Bytes, xid: Option<u32>) -> Bytes {
    match xid {
        Some(xid) => message.u32(xid),
        None => message,
    }
}

fn stream_start(xid: u32, first: u8) -> Vec<u8> {
    data(&Bytes::tag(b'S').u32(xid).u8(first).0)
}

fn stream_stop() -> Vec<u8> {
    data(b"E")
}

fn stream_abort(xid: u32, subxid: u32) -> Vec<u8> {
    data(&Bytes::tag(b'A').u32(xid).u32(subxid).0)
}

fn stream_commit(xid: u32, commit: u64, end: u64) -> Vec<u8> {
    data(
        &Bytes::tag(b'c')
            .u32(xid)
            .u8(0)
            .u64(commit)
            .u64(end)
            .u64(0)
            .0,
    )
}

fn heartbeat_message(prefix: &str, content: &str) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let mut message = Bytes::tag(b'M').u8(0).u64(0).text(prefix).u32(length);
    message.0.extend(content.as_bytes());
    data(&message.0)
}

/// What came out of one block or chunk, as short lines.
fn tell(bytes: &[u8], out: &Output) -> Vec<String> {
    let value = |row: tidemark_core::event::Row| {
        let cell = out.cells[row.start as usize];
        assert_eq!(cell.kind, CellKind::Text);
        let value = &bytes[cell.start as usize..][..cell.len as usize];
        String::from_utf8(value.to_vec()).unwrap()
    };
    let line = |event: &Event| match event {
        Event::Begin(begin) => format!("begin {} {}", begin.xid, begin.commit),
        Event::Table(table) => format!("table {}", table.columns.len()),
        Event::Change(change) => {
            assert_eq!(change.op, Op::Insert);
            format!("insert {}", value(change.new.unwrap()))
        }
        Event::Truncate(_) => "truncate".to_owned(),
        Event::Commit { end } => format!("commit {end}"),
        Event::Quiet { position } => format!("quiet {position}"),
        Event::Heartbeat { written_at_us } => format!("heartbeat {written_at_us}"),
        Event::Undecided { xid } => format!("undecided {xid}"),
        Event::Decided(begin) => format!("decided {} {}", begin.xid, begin.commit),
        Event::Withdrawn => "withdrawn".to_owned(),
    };
    out.events.iter().map(line).collect()
}

/// Reads blocks as the stream does: what is put aside is kept, and replayed in chunks of about
/// `chunk` bytes.
fn run(blocks: &[Vec<u8>], chunk: usize) -> Result<Vec<String>> {
    run_giving(blocks, chunk, |_| GiveUndecided::No)
}

/// The same, where transactions may be given undecided as `give` says for each block and for what is
/// decided in it.
fn run_giving(
    blocks: &[Vec<u8>],
    chunk: usize,
    give: impl Fn(usize) -> GiveUndecided,
) -> Result<Vec<String>> {
    let mut assembler = Assembler::new(Lsn(0x10), "tidemark:shop");
    let mut asked = 0;
    let mut ask = |assembler: &mut Assembler| {
        assembler.give_undecided(give(asked));
        asked += 1;
    };
    // Nothing here outgrows memory, so the directory is never looked for.
    let mut spool = Spool::new(PathBuf::from("/nonexistent"), 8 << 20);
    let mut told = Vec::new();
    for block in blocks {
        let mut at = 0;
        loop {
            let mut out = Output::default();
            ask(&mut assembler);
            if assembler.gives_undecided() == Some(GiveUndecided::No) {
                assembler.withdraw(&mut out);
            }
            let stop = assembler.read(block, &mut at, &mut out)?;
            told.extend(tell(block, &out));
            assert_eq!(
                spool.carry_out_in_memory(block, &out.aside)?,
                out.aside.len()
            );
            let Stop::Replay(mut replay) = stop else {
                break;
            };
            let mut frames = spool.take(replay.xid());
            ask(&mut assembler);
            if replay.is_given() && assembler.may_decide() {
                let mut out = Output::default();
                replay.finish(&mut assembler, &mut out);
                told.extend(tell(&[], &out));
                continue;
            } else if replay.is_given() {
                let mut out = Output::default();
                replay.withdraw(&assembler, &mut out);
                told.extend(tell(&[], &out));
            }
            while let Some(bytes) = frames.next_chunk(chunk)? {
                let mut out = Output::default();
                replay.read(&bytes, &mut out)?;
                told.extend(tell(&bytes, &out));
            }
            let mut out = Output::default();
            replay.finish(&mut assembler, &mut out);
            told.extend(tell(&[], &out));
        }
        assert_eq!(at, block.len());
    }
    Ok(told)
}

/// One block, in one go.
fn run_one(frames: &[Vec<u8>]) -> Result<Vec<String>> {
    run(&[frames.concat()], usize::MAX)
}

#[test]
fn decided_transactions_pass_through() {
    let told = run_one(&[
        begin(0x20, 7),
        relation(None, 1),
        insert(None, &["a"]),
        commit(0x20, 0x30),
        begin(0x30, 8),
        insert(None, &["b"]),
        commit(0x30, 0x40),
    ]);
    assert_eq!(
        told.unwrap(),
        [
            "begin 7 0/20",
            "table 1",
            "insert a",
            "commit 0/30",
            "begin 8 0/30",
            "insert b",
            "commit 0/40"
        ]
    );
}

#[test]
fn transaction_in_progress_comes_whole_at_its_commit() {
    let told = run_one(&[
        stream_start(7, 1),
        relation(Some(7), 1),
        insert(Some(7), &["a"]),
        stream_stop(),
        begin(0x20, 8),
        relation(None, 1),
        insert(None, &["x"]),
        commit(0x20, 0x30),
        stream_start(7, 0),
        insert(Some(7), &["b"]),
        keepalive(0x18),
        insert(Some(7), &["c"]),
        stream_stop(),
        stream_commit(7, 0x30, 0x40),
        begin(0x50, 9),
        insert(None, &["y"]),
        commit(0x50, 0x60),
    ]);
    assert_eq!(
        told.unwrap(),
        [
            "begin 8 0/20",
            "table 1",
            "insert x",
            "commit 0/30",
            "begin 7 0/30",
            "table 1",
            "insert a",
            "insert b",
            "insert c",
            "commit 0/40",
            "begin 9 0/50",
            "insert y",
            "commit 0/60"
        ]
    );
}

#[test]
fn transaction_in_progress_may_come_while_it_does() {
    let history = [
        stream_start(7, 1),
        relation(Some(7), 1),
        insert(Some(7), &["a"]),
        stream_stop(),
        keepalive(0x20),
        stream_start(7, 0),
        insert(Some(7), &["b"]),
        stream_stop(),
        stream_commit(7, 0x30, 0x40),
        keepalive(0x50),
    ];
    let told = run_giving(&[history.concat()], usize::MAX, |_| GiveUndecided::Yes);
    let given = ["undecided 7", "table 1", "insert a", "insert b"];
    let decided = ["decided 7 0/30", "commit 0/40", "quiet 0/50"];
    assert_eq!(told.unwrap(), [&given[..], &decided].concat());
}

/// Each of these is in the way of what is given out: it is withdrawn before, and comes whole later.
#[test]
fn transaction_given_undecided_is_withdrawn_for_anything_else() {
    let other = [
        begin(0x20, 8),
        relation(None, 1),
        insert(None, &["x"]),
        commit(0x20, 0x30),
    ];
    let other_streamed = [
        stream_start(8, 1),
        relation(Some(8), 1),
        insert(Some(8), &["x"]),
        stream_stop(),
        stream_commit(8, 0x20, 0x30),
    ];
    let came = ["begin 8 0/20", "table 1", "insert x", "commit 0/30"];
    for (what, between, came) in [
        ("a transaction", other.concat(), &came[..]),
        ("another in progress", other_streamed.concat(), &came[..]),
        ("a savepoint", stream_abort(7, 9), &[]),
    ] {
        let history = [
            stream_start(7, 1),
            relation(Some(7), 1),
            insert(Some(7), &["a"]),
            stream_stop(),
            between,
            stream_start(7, 0),
            insert(Some(7), &["b"]),
            stream_stop(),
            stream_commit(7, 0x30, 0x40),
        ];
        let told = run_giving(&[history.concat()], usize::MAX, |_| GiveUndecided::Yes);
        let given = ["undecided 7", "table 1", "insert a", "withdrawn"];
        let whole = [
            "begin 7 0/30",
            "table 1",
            "insert a",
            "insert b",
            "commit 0/40",
        ];
        assert_eq!(told.unwrap(), [&given[..], came, &whole].concat(), "{what}");
    }
}

#[test]
fn transaction_given_undecided_that_aborts_never_was() {
    let history = [
        begin(0x20, 6),
        relation(None, 1),
        commit(0x20, 0x30),
        stream_start(7, 1),
        relation(Some(7), 2),
        insert(Some(7), &["a", "b"]),
        stream_stop(),
        stream_abort(7, 7),
        begin(0x50, 8),
        insert(None, &["c"]),
        commit(0x50, 0x60),
    ];
    let told = run_giving(&[history.concat()], usize::MAX, |_| GiveUndecided::Yes).unwrap();
    // The table is again what it was outside of the transaction.
    let after = [
        "withdrawn",
        "table 1",
        "begin 8 0/50",
        "insert c",
        "commit 0/60",
    ];
    assert_eq!(told[told.len() - 5..], after);
}

/// What has been withdrawn again and again is tried less and less.
#[test]
fn transactions_are_given_undecided_where_that_has_gone_well() {
    let mut history = Vec::new();
    for at in 1..40_u32 {
        let position = u64::from(at) * 0x100;
        history.extend([
            stream_start(at, 1),
            stream_stop(),
            begin(position, 1000 + at),
            commit(position, position + 0x10),
            stream_commit(at, position + 0x20, position + 0x30),
        ]);
    }
    let told = run_giving(&[history.concat()], usize::MAX, |_| GiveUndecided::Yes).unwrap();
    let tried: Vec<&String> = told.iter().filter(|t| t.starts_with("undecided")).collect();
    let expected = [1, 3, 6, 11, 20, 37].map(|xid| format!("undecided {xid}"));
    assert_eq!(tried, expected.iter().collect::<Vec<_>>());
}

#[test]
fn aborted_subtransaction_takes_only_its_own_changes() {
    let told = run_one(&[
        stream_start(7, 1),
        relation(Some(7), 1),
        insert(Some(7), &["a"]),
        insert(Some(9), &["gone"]),
        insert(Some(8), &["b"]),
        stream_stop(),
        stream_abort(7, 9),
        stream_start(7, 0),
        insert(Some(10), &["c"]),
        stream_stop(),
        stream_commit(7, 0x30, 0x40),
    ]);
    assert_eq!(
        told.unwrap(),
        [
            "begin 7 0/30",
            "table 1",
            "insert a",
            "insert b",
            "insert c",
            "commit 0/40"
        ]
    );
}

#[test]
fn aborts_of_unknown_transactions_mean_nothing() {
    let told = run_one(&[stream_abort(70, 70), stream_abort(70, 71), keepalive(0x18)]);
    assert_eq!(told.unwrap(), ["quiet 0/18"]);
}

#[test]
fn aborted_transaction_never_comes() {
    let told = run_one(&[
        stream_start(7, 1),
        relation(Some(7), 1),
        insert(Some(7), &["a"]),
        stream_stop(),
        stream_abort(7, 7),
        keepalive(0x40),
    ]);
    assert_eq!(told.unwrap(), ["quiet 0/40"]);
}

#[test]
fn keepalive_is_a_boundary_between_transactions_and_only_forward() {
    let told = run_one(&[
        keepalive(0x8),
        keepalive(0x20),
        keepalive(0x20),
        begin(0x20, 7),
        keepalive(0x28),
        commit(0x20, 0x30),
        keepalive(0x28),
        stream_start(8, 1),
        keepalive(0x38),
        stream_stop(),
        keepalive(0x40),
    ]);
    assert_eq!(
        told.unwrap(),
        [
            "quiet 0/20",
            "begin 7 0/20",
            "commit 0/30",
            "quiet 0/38",
            "quiet 0/40"
        ]
    );
}

#[test]
fn only_our_own_heartbeats_are_told() {
    let told = run_one(&[
        heartbeat_message("tidemark:shop", "1700000000000000"),
        heartbeat_message("tidemark:other", "1700000000000001"),
        heartbeat_message("tidemark:shop", "not a clock"),
    ]);
    assert_eq!(told.unwrap(), ["heartbeat 1700000000000000"]);
}

#[test]
fn commit_before_a_boundary_ends_the_stream() {
    for history in [
        [begin(0x20, 7), commit(0x20, 0x30), begin(0x28, 8)],
        [
            keepalive(0x50),
            stream_start(7, 1),
            [stream_stop(), stream_commit(7, 0x40, 0x60)].concat(),
        ],
        [begin(0x8, 7), Vec::new(), Vec::new()],
    ] {
        let error = run_one(&history).unwrap_err();
        assert_eq!(error.code(), codes::STREAM_ORDER, "{error}");
        assert_eq!(error.kind(), tidemark_core::ErrorKind::Definite);
    }
}

#[test]
fn what_has_no_place_is_refused() {
    let started = stream_start(7, 1);
    for (what, history) in [
        ("change between transactions", vec![insert(None, &["a"])]),
        (
            "begin in a transaction",
            vec![begin(0x20, 7), begin(0x30, 8)],
        ),
        ("commit without begin", vec![commit(0x20, 0x30)]),
        (
            "commit of another",
            vec![begin(0x20, 7), commit(0x28, 0x30)],
        ),
        (
            "commit that ends before it starts",
            vec![begin(0x20, 7), commit(0x20, 0x20)],
        ),
        ("stop without start", vec![stream_stop()]),
        ("start in a stream", vec![started.clone(), started.clone()]),
        (
            "second beginning",
            vec![started.clone(), stream_stop(), started.clone()],
        ),
        ("no beginning", vec![stream_start(7, 0)]),
        ("unknown commit", vec![stream_commit(7, 0x20, 0x30)]),
        ("unknown table", vec![begin(0x20, 7), insert(None, &["a"])]),
        (
            "other width",
            vec![begin(0x20, 7), relation(None, 2), insert(None, &["a"])],
        ),
        (
            "other width in a replay",
            vec![
                started,
                relation(Some(7), 2),
                insert(Some(7), &["a"]),
                stream_stop(),
                stream_commit(7, 0x20, 0x30),
            ],
        ),
        (
            "two-phase",
            vec![data(
                &Bytes::tag(b'b').u64(1).u64(2).u64(0).u32(7).text("g").0,
            )],
        ),
    ] {
        let error = run_one(&history).expect_err(what);
        assert_eq!(error.code(), codes::SOURCE_PROTOCOL, "{what}: {error}");
    }
}

#[test]
fn description_in_a_committed_stream_holds_afterwards() {
    let told = run_one(&[
        begin(0x20, 6),
        relation(None, 1),
        commit(0x20, 0x30),
        stream_start(7, 1),
        relation(Some(7), 2),
        insert(Some(7), &["a", "b"]),
        stream_stop(),
        stream_commit(7, 0x30, 0x40),
        begin(0x50, 8),
        insert(None, &["c", "d"]),
        commit(0x50, 0x60),
    ]);
    let told = told.unwrap();
    assert_eq!(told[told.len() - 2], "insert c");
}

#[test]
fn description_in_an_aborted_stream_never_holds() {
    for abort in [
        stream_abort(7, 7),
        [stream_abort(7, 9), stream_commit(7, 0x30, 0x40)].concat(),
    ] {
        let told = run_one(&[
            begin(0x20, 6),
            relation(None, 1),
            commit(0x20, 0x30),
            stream_start(7, 1),
            relation(Some(9), 2),
            insert(Some(9), &["a", "b"]),
            stream_stop(),
            abort,
            begin(0x50, 8),
            insert(None, &["c"]),
            commit(0x50, 0x60),
        ]);
        let told = told.unwrap();
        assert_eq!(told[told.len() - 2], "insert c");
    }
}

/// The publication's column list changes while a transaction is in progress: its own rows keep the
/// width they were sent with, and the later description holds again after its commit.
#[test]
fn later_description_outside_of_a_stream_is_repeated_after_it() {
    let told = run_one(&[
        stream_start(7, 1),
        relation(Some(7), 2),
        insert(Some(7), &["a", "b"]),
        stream_stop(),
        begin(0x20, 8),
        relation(None, 1),
        insert(None, &["c"]),
        commit(0x20, 0x30),
        stream_commit(7, 0x30, 0x40),
        begin(0x50, 9),
        insert(None, &["d"]),
        commit(0x50, 0x60),
    ]);
    assert_eq!(
        told.unwrap()[4..],
        [
            "begin 7 0/30",
            "table 2",
            "insert a",
            "table 1",
            "commit 0/40",
            "begin 9 0/50",
            "insert d",
            "commit 0/60"
        ]
    );
}
