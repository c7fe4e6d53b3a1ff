//! The frames that carry the log: `CopyData` around `XLogData` or a keepalive (PostgreSQL 15, 55.4).
//!
//! A block is frames end to end, whole ones only, as they came from the socket; what is put aside
//! on disk has the same form, so both are read with [`frame`]. Neighbours: [`super::decode`] reads
//! what is inside, the wire's replication client cuts the blocks.

use std::ops::Range;

use tidemark_core::position::Lsn;

use super::decode::Malformed;

/// `d`, its length, `w`, two positions and a time stand before a message.
const DATA_HEADER_LEN: usize = FRAME_HEADER_LEN + 1 + 24;

/// Type byte and length word.
pub(crate) const FRAME_HEADER_LEN: usize = 5;

/// A keepalive: type, position, time, and whether an answer is wanted.
const KEEPALIVE_LEN: usize = FRAME_HEADER_LEN + 1 + 17;

/// One frame of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where the next one begins.
    pub(crate) end: usize,
    pub(crate) kind: FrameKind,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A message of the output plugin, as a range of the block; at least one byte.
    Message(Range<usize>),
    /// How far the server has read its log and sent all that there was to send.
    Keepalive(Lsn),
}

/// The frame that starts at an offset of the block.
pub(crate) fn frame(bytes: &[u8], at: usize) -> Result<Frame, Malformed> {
    let end = frame_end(bytes, at)?;
    let short = || Malformed::new("frame cut short", at);
    let whole = bytes.get(at..end).ok_or_else(short)?;
    if whole.first() != Some(&b'd') {
        return Err(Malformed::new("frame that is no CopyData", at));
    }
    let kind = match whole.get(FRAME_HEADER_LEN) {
        Some(b'w') if whole.len() > DATA_HEADER_LEN => {
            FrameKind::Message(at + DATA_HEADER_LEN..end)
        }
        Some(b'k') if whole.len() == KEEPALIVE_LEN => {
            let lsn = whole
                .get(FRAME_HEADER_LEN + 1..)
                .and_then(<[u8]>::first_chunk);
            FrameKind::Keepalive(Lsn(u64::from_be_bytes(*lsn.ok_or_else(short)?)))
        }
        Some(b'w' | b'k') => return Err(Malformed::new("frame of an impossible length", at)),
        _ => return Err(Malformed::new("unknown frame", at)),
    };
    Ok(Frame { end, kind })
}

/// Where the frame that starts at an offset ends, even if not all of it is there.
pub(crate) fn frame_end(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let length = bytes
        .get(at..)
        .and_then(|rest| rest.get(1..)?.first_chunk());
    let length = length.ok_or_else(|| Malformed::new("frame cut short", at))?;
    let length = u32::from_be_bytes(*length) as usize;
    if length < 4 {
        return Err(Malformed::new("frame of an impossible length", at));
    }
    Ok(at + 1 + length)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `XLogData` in `CopyData`, as the server sends it.
    pub(crate) fn data(message: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        body.extend([0; 24]);
        body.extend(message);
        copy_data(&body)
    }

    /// A keepalive in `CopyData`.
    pub(crate) fn keepalive(lsn: u64) -> Vec<u8> {
        let mut body = vec![b'k'];
        body.extend(lsn.to_be_bytes());
        body.extend([0; 9]);
        copy_data(&body)
    }

    fn copy_data(body: &[u8]) -> Vec<u8> {
        let mut frame = vec![b'd'];
        frame.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn messages_and_keepalives_are_found() {
        let mut block = data(b"E");
        let second = block.len();
        block.extend(keepalive(0x1_0000_0002));
        let first = frame(&block, 0).unwrap();
        assert_eq!(first.end, second);
        assert_eq!(first.kind, FrameKind::Message(second - 1..second));
        let frame = frame(&block, first.end).unwrap();
        assert_eq!(frame.end, block.len());
        assert_eq!(frame.kind, FrameKind::Keepalive(Lsn(0x1_0000_0002)));
    }

    #[test]
    fn frames_that_cannot_be_are_refused() {
        let good = data(b"E");
        for cut in 0..good.len() {
            assert!(frame(&good[..cut], 0).is_err(), "cut at {cut}");
        }
        assert!(frame(&data(b""), 0).is_err(), "an empty message");
        for (what, at, byte) in [("tag", 0, b'c'), ("kind", 5, b'x'), ("length", 4, 3)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(frame(&bad, 0).is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0_usize..90) {
            if let Ok(frame) = frame(&bytes, at) {
                prop_assert!(frame.end <= bytes.len() && frame.end > at);
            }
        }
    }
}
