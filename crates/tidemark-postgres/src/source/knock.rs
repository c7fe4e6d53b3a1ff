//! A log that says anything at all: what the fuzzer knocks with.

use std::path::PathBuf;

use tidemark_core::position::Lsn;
use tidemark_core::source::GiveUndecided;

use super::assemble::{Assembler, Output, Stop};
use super::spool::Spool;

/// The log: frames, messages, transactions. The first byte says whether they are given undecided.
pub fn log(bytes: &[u8]) {
    let Some((first, block)) = bytes.split_first() else {
        return;
    };
    let give = if first % 2 == 0 {
        GiveUndecided::No
    } else {
        GiveUndecided::Yes
    };
    let mut assembler = Assembler::new(Lsn(0x10), "tidemark:shop");
    // Nothing here outgrows memory, so the directory is never looked for.
    let mut spool = Spool::new(PathBuf::from("/nonexistent"), 8 << 20);
    let mut at = 0;
    loop {
        let mut out = Output::default();
        assembler.give_undecided(give);
        let Ok(stop) = assembler.read(block, &mut at, &mut out) else {
            return;
        };
        let kept = spool.carry_out_in_memory(block, &out.aside);
        if kept.is_err() || kept.is_ok_and(|kept| kept < out.aside.len()) {
            return;
        }
        let Stop::Replay(mut replay) = stop else {
            return;
        };
        let mut frames = spool.take(replay.xid());
        while let Ok(Some(chunk)) = frames.next_chunk(4096) {
            if replay.read(&chunk, &mut Output::default()).is_err() {
                return;
            }
        }
        replay.finish(&mut assembler, &mut Output::default());
    }
}
