//! Messages of a replication stream inside their CopyData frames (PostgreSQL 15, 55.4,
//! `START_REPLICATION`): WAL data and keepalives in, status updates out.

use bytes::{BufMut, Bytes, BytesMut};
use tidemark_core::position::Lsn;

use super::frame::{self, HEADER_LEN, Reader};

/// One message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalMessage<'a> {
    /// A piece of the stream; with logical decoding one message of the output plugin.
    Data {
        /// Where the data stand in the log. Logical decoding gives 0 for all but the last message
        /// of a transaction (`WalSndPrepareWrite`), and the commit itself says its own position.
        start: Lsn,
        /// The same number again with logical decoding; the server's end of log with physical.
        end: Lsn,
        /// The server's clock, µs since 2000-01-01 UTC.
        sent_at_us: i64,
        /// For the decoder; [`WalBlock::bytes`] can be sliced to it without a copy.
        payload: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// Up to where the server has read its log and, all before it having been sent, everything
        /// that concerns this stream is received.
        end: Lsn,
        /// The server's clock, µs since 2000-01-01 UTC.
        sent_at_us: i64,
        /// The server waits for a status update; the reader has already sent it.
        reply_requested: bool,
    },
}

/// Reads the payload of a CopyData frame; `None` if it is malformed or unknown.
pub(crate) fn parse(payload: &[u8]) -> Option<WalMessage<'_>> {
    let (kind, rest) = payload.split_first()?;
    let mut reader = Reader(rest);
    match kind {
        b'w' => Some(WalMessage::Data {
            start: Lsn(reader.u64()?),
            end: Lsn(reader.u64()?),
            sent_at_us: reader.u64()?.cast_signed(),
            payload: reader.0,
        }),
        b'k' => Some(WalMessage::Keepalive {
            end: Lsn(reader.u64()?),
            sent_at_us: reader.u64()?.cast_signed(),
            reply_requested: reader.bytes(1)? != [0],
        }),
        _ => None,
    }
}

/// Many messages, as they arrived.
#[derive(Clone, Debug)]
pub struct WalBlock {
    frames: Bytes,
}

impl WalBlock {
    /// `frames` holds whole CopyData frames whose payloads [`parse`] understands.
    pub(crate) fn new(frames: Bytes) -> WalBlock {
        WalBlock { frames }
    }

    /// The frames; payloads of [`WalMessage::Data`] point into them (`Bytes::slice_ref`).
    pub fn bytes(&self) -> &Bytes {
        &self.frames
    }

    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = WalMessage<'_>> {
        let mut rest = &self.frames[..];
        std::iter::from_fn(move || {
            let header = frame::complete(rest, frame::FRAME_MAX).ok()??;
            let (message, after) = rest.split_at(header.len);
            rest = after;
            parse(&message[HEADER_LEN..])
        })
    }
}

/// What we tell the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusUpdate {
    /// Received.
    pub(crate) written: Lsn,
    /// Durable in the target: the server may forget its log up to here.
    pub(crate) flushed: Lsn,
    /// Ask for a keepalive in return.
    pub(crate) reply_requested: bool,
}

impl StatusUpdate {
    /// As a CopyData frame.
    pub(crate) fn encode(self) -> BytesMut {
        // µs from 1970 to 2000 in the server's epoch
        const EPOCH_US: u128 = 946_684_800_000_000;
        let now_us = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_micros().saturating_sub(EPOCH_US));
        let mut out = BytesMut::with_capacity(39);
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(b'r');
        out.put_u64(self.written.0);
        out.put_u64(self.flushed.0);
        out.put_u64(self.flushed.0);
        out.put_u64(u64::try_from(now_us).unwrap_or(0));
        out.put_u8(u8::from(self.reply_requested));
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_one_after_the_other() {
        let mut frames = BytesMut::new();
        for payload in [
            &b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03Bxy"[..],
            b"k\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\x01",
        ] {
            frames.put_u8(b'd');
            frames.put_u32(u32::try_from(payload.len() + 4).unwrap());
            frames.put_slice(payload);
        }
        let block = WalBlock::new(frames.freeze());
        let messages: Vec<_> = block.messages().collect();
        assert_eq!(
            messages,
            [
                WalMessage::Data {
                    start: Lsn(1),
                    end: Lsn(2),
                    sent_at_us: 3,
                    payload: b"Bxy"
                },
                WalMessage::Keepalive {
                    end: Lsn(9),
                    sent_at_us: 3,
                    reply_requested: true
                },
            ]
        );
    }

    #[test]
    fn a_status_update_is_a_frame_of_its_own() {
        let update = StatusUpdate {
            written: Lsn(7),
            flushed: Lsn(5),
            reply_requested: true,
        }
        .encode();
        let header = frame::complete(&update, frame::FRAME_MAX).unwrap().unwrap();
        assert_eq!((header.tag, header.len), (b'd', update.len()));
        assert_eq!(update[5], b'r');
        assert_eq!(update[38], 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let block = WalBlock::new(bytes.into());
            prop_assert!(block.messages().count() <= 20);
        }
    }
}
