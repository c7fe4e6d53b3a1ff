//! Where transactions end in frames that are passed on without being decoded.
//!
//! A boundary is a position before which everything that commits is whole in the frames that came so far:
//! the end of a commit, or a keepalive between transactions (see [`super::super::assemble`], which
//! decodes the same frames and gives out the same boundaries).

use std::collections::HashSet;

use tidemark_core::position::Lsn;

use super::super::decode::Malformed;
use super::super::frames::{FrameKind, frame};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Boundaries {
    boundary: Lsn,
    scope: Scope,
    /// Transactions that are sent while they are in progress.
    in_progress: HashSet<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Between,
    Transaction,
    Stream,
}

impl Boundaries {
    /// For frames of what commits at or after `start`.
    pub(super) fn new(start: Lsn) -> Boundaries {
        Boundaries {
            boundary: start,
            scope: Scope::Between,
            in_progress: HashSet::new(),
        }
    }

    /// The last one.
    pub(super) fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Whether the frames end at a boundary, and nothing of what follows has come.
    pub(super) fn is_between(&self) -> bool {
        self.scope == Scope::Between && self.in_progress.is_empty()
    }

    /// Walks over whole frames.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        while at < bytes.len() {
            let frame = frame(bytes, at)?;
            match frame.kind {
                FrameKind::Keepalive(lsn) if self.scope == Scope::Between => self.reach(lsn),
                FrameKind::Keepalive(_) => {}
                FrameKind::Message(range) => {
                    let message = bytes.get(range).unwrap_or_default();
                    let short = || Malformed::new("message cut short", at);
                    self.message(message).ok_or_else(short)?;
                }
            }
            at = frame.end;
        }
        Ok(())
    }

    fn message(&mut self, message: &[u8]) -> Option<()> {
        let (kind, rest) = message.split_first()?;
        match (self.scope, kind) {
            (_, b'B') => self.scope = Scope::Transaction,
            // Flags, where the commit record starts, where it ends.
            (_, b'C') => {
                self.scope = Scope::Between;
                self.reach(Lsn(u64_at(rest, 9)?));
            }
            (_, b'S') => {
                self.scope = Scope::Stream;
                self.in_progress.insert(u32_at(rest, 0)?);
            }
            (Scope::Stream, b'E') => self.scope = Scope::Between,
            // The same after the transaction's id.
            (Scope::Between, b'c') => {
                self.in_progress.remove(&u32_at(rest, 0)?);
                self.reach(Lsn(u64_at(rest, 13)?));
            }
            (Scope::Between, b'A') => {
                let (xid, subxid) = (u32_at(rest, 0)?, u32_at(rest, 4)?);
                if xid == subxid {
                    self.in_progress.remove(&xid);
                }
            }
            _ => {}
        }
        Some(())
    }

    fn reach(&mut self, lsn: Lsn) {
        self.boundary = self.boundary.max(lsn);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::tests::{data, keepalive};
    use super::*;

    fn commit(end: u64) -> Vec<u8> {
        let mut message = vec![b'C', 0];
        message.extend((end - 8).to_be_bytes());
        message.extend(end.to_be_bytes());
        message.extend([0; 8]);
        data(&message)
    }

    fn with_xid(kind: u8, xid: u32, more: &[u8]) -> Vec<u8> {
        data(&[&[kind][..], &xid.to_be_bytes(), more].concat())
    }

    fn stream_commit(xid: u32, end: u64) -> Vec<u8> {
        let more = [
            &[0][..],
            &(end - 8).to_be_bytes(),
            &end.to_be_bytes(),
            &[0; 8],
        ]
        .concat();
        with_xid(b'c', xid, &more)
    }

    #[test]
    fn commits_and_keepalives_between_transactions_are_boundaries() {
        let mut seen = Boundaries::new(Lsn(100));
        let mut expect = |frames: Vec<u8>, boundary, is_between| {
            seen.read(&frames).unwrap();
            assert_eq!(
                (seen.boundary(), seen.is_between()),
                (Lsn(boundary), is_between)
            );
        };
        expect(keepalive(150), 150, true);
        expect(data(b"B"), 150, false);
        expect(keepalive(170), 150, false);
        expect([data(b"I"), commit(200)].concat(), 200, true);
        expect(with_xid(b'S', 7, &[1]), 200, false);
        expect(keepalive(210), 200, false);
        expect(data(b"E"), 200, false);
        // It commits later than this, and is sent again to whoever begins here.
        expect(keepalive(220), 220, false);
        expect([data(b"B"), commit(230)].concat(), 230, false);
        let aborted = with_xid(b'A', 7, &9_u32.to_be_bytes());
        expect(aborted, 230, false);
        expect(stream_commit(7, 240), 240, true);
        // A stray one, of a transaction that was never sent.
        expect(with_xid(b'A', 8, &8_u32.to_be_bytes()), 240, true);
        expect(keepalive(1), 240, true);
    }

    #[test]
    fn messages_cut_short_are_refused() {
        for message in [&b"C\0"[..], b"S", b"c\0\0\0\x07"] {
            assert!(Boundaries::new(Lsn(1)).read(&data(message)).is_err());
        }
    }
}
