//! Sessions on a source that do what they like, and a server that sends it in blocks cut anywhere.

use super::*;

/// What a session on the source does.
#[derive(Clone, Debug)]
enum Deed {
    /// Writes a row in transaction `0`, in its subtransaction `1` of four; 0 is the top level.
    Write(usize, usize),
    /// Rolls a subtransaction back.
    RollBackTo(usize, usize),
    Commit(usize),
    Abort(usize),
    /// A transaction of its own, sent when it has committed.
    Small,
    Keepalive,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        8 => (0..3_usize, 0..4_usize).prop_map(|(top, sub)| Deed::Write(top, sub)),
        2 => (0..3_usize, 1..4_usize).prop_map(|(top, sub)| Deed::RollBackTo(top, sub)),
        1 => (0..3_usize).prop_map(Deed::Commit),
        1 => (0..3_usize).prop_map(Deed::Abort),
        2 => Just(Deed::Small),
        1 => Just(Deed::Keepalive),
    ];
    proptest::collection::vec(deed, 0..60)
}

/// A transaction in progress on the model server: ids, and rows with the id that wrote them.
struct Open {
    xids: [u32; 4],
    rows: Vec<(u32, String)>,
    described: Vec<u32>,
}

/// Plays the server: the frames it sends for the deeds, and what must come out.
fn play(deeds: &[Deed]) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut frames, mut expected) = (Vec::new(), Vec::new());
    let mut open: [Option<Open>; 3] = [None, None, None];
    let (mut next_xid, mut lsn, mut next_row) = (100_u32, 0x100_u64, 0_u32);
    let mut plain_described = false;
    for deed in deeds {
        lsn += 0x20;
        let at = Position::PgLsn(Lsn(lsn));
        let end = Position::PgLsn(Lsn(lsn + 0x10));
        match *deed {
            Deed::Write(top, sub) => {
                let first = u8::from(open[top].is_none());
                let transaction = open[top].get_or_insert_with(|| {
                    next_xid += 4;
                    let xids = [next_xid, next_xid + 1, next_xid + 2, next_xid + 3];
                    Open {
                        xids,
                        rows: Vec::new(),
                        described: Vec::new(),
                    }
                });
                let xid = transaction.xids[sub];
                next_row += 1;
                let row = format!("r{next_row}");
                frames.push(stream_start(transaction.xids[0], first));
                // Described under an id that cannot be rolled back before this row is.
                if !transaction.described.contains(&xid) {
                    frames.push(relation(Some(xid), 1));
                    transaction.described.push(xid);
                }
                frames.push(insert(Some(xid), &[&row]));
                frames.push(stream_stop());
                transaction.rows.push((xid, row));
            }
            Deed::RollBackTo(top, sub) => {
                if let Some(transaction) = &mut open[top] {
                    let gone = transaction.xids[sub];
                    frames.push(stream_abort(transaction.xids[0], gone));
                    transaction.rows.retain(|(xid, _)| *xid != gone);
                    // The server describes tables anew after it, and later work has a new id.
                    transaction.described.clear();
                    next_xid += 4;
                    transaction.xids[sub] = next_xid;
                }
            }
            Deed::Commit(top) => {
                if let Some(transaction) = open[top].take() {
                    frames.push(stream_commit(transaction.xids[0], lsn, lsn + 0x10));
                    expected.push(format!("begin {} {at}", transaction.xids[0]));
                    expected.extend(
                        transaction
                            .rows
                            .iter()
                            .map(|(_, row)| format!("insert {row}")),
                    );
                    expected.push(format!("commit {end}"));
                }
            }
            Deed::Abort(top) => {
                if let Some(transaction) = open[top].take() {
                    frames.push(stream_abort(transaction.xids[0], transaction.xids[0]));
                }
            }
            Deed::Small => {
                next_xid += 4;
                next_row += 1;
                frames.push(begin(lsn, next_xid));
                if !std::mem::replace(&mut plain_described, true) {
                    frames.push(relation(None, 1));
                }
                frames.push(insert(None, &[&format!("r{next_row}")]));
                frames.push(commit(lsn, lsn + 0x10));
                expected.push(format!("begin {next_xid} {at}"));
                expected.push(format!("insert r{next_row}"));
                expected.push(format!("commit {end}"));
            }
            Deed::Keepalive => {
                frames.push(keepalive(lsn));
                expected.push(format!("quiet {at}"));
            }
        }
    }
    (frames, expected)
}

/// What counts of all that was told: nothing that was withdrawn, and the undecided in its place.
fn what_counts(told: Vec<String>) -> Vec<String> {
    let mut counts: Vec<String> = Vec::new();
    let mut undecided = None;
    for line in told {
        if line.starts_with("undecided") {
            undecided = Some(counts.len());
        } else if line == "withdrawn" {
            counts.truncate(undecided.take().expect("something is withdrawn"));
        } else if let Some(decided) = line.strip_prefix("decided") {
            let at = undecided.take().expect("something is decided");
            counts.insert(at, format!("begin{decided}"));
        } else {
            let is_of_it = line.starts_with("insert") || line.starts_with("table");
            assert!(undecided.is_none() || is_of_it, "{line} while undecided");
            counts.push(line);
        }
    }
    if let Some(at) = undecided {
        counts.truncate(at);
    }
    counts
}

proptest! {
    #[test]
    fn transactions_come_whole_and_in_commit_order_however_blocks_are_cut(
        deeds in deeds(),
        gives in proptest::collection::vec(prop_oneof![
            3 => Just(GiveUndecided::Yes),
            1 => Just(GiveUndecided::No),
        ], 1..10),
        cuts in proptest::collection::vec(1_usize..6, 1..20),
        chunk in prop_oneof![Just(1_usize), 20..300_usize, Just(usize::MAX)],
    ) {
        let (frames, mut expected) = play(&deeds);
        let mut blocks = Vec::new();
        let (mut rest, mut cut) = (&frames[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (block, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            blocks.push(block.concat());
            rest = later;
        }
        let told = run(&blocks, chunk).unwrap();
        let rows = |line: &String| !line.starts_with("table");
        prop_assert_eq!(told.into_iter().filter(rows).collect::<Vec<_>>(), &expected[..]);

        // Positions can wait for what is undecided; all else is the same.
        let told = run_giving(&blocks, chunk, |asked| gives[asked % gives.len()]).unwrap();
        let mut told = what_counts(told);
        told.retain(|line| !line.starts_with("table") && !line.starts_with("quiet"));
        expected.retain(|line| !line.starts_with("quiet"));
        prop_assert_eq!(told, expected);
    }

    #[test]
    fn damaged_blocks_are_survived(
        deeds in deeds(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (frames, _) = play(&deeds);
        let mut block = frames.concat();
        if !block.is_empty() {
            for (at, byte) in damage {
                let at = at.index(block.len());
                block[at] = byte;
            }
            let mut assembler = Assembler::new(Lsn(0), "tidemark:shop");
            let (mut at, mut out) = (0, Output::default());
            while let Ok(Stop::Replay(_)) = assembler.read(&block, &mut at, &mut out) {}
            prop_assert!(at <= block.len());
        }
    }
}
