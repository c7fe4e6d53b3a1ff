//! From the relay log to the stream.
//!
//! Reads segment after segment, up to what is durable. Where the target keeps up again, so that little
//! is left, the task that writes is told to end; what it has left is read, and then there is an end.
//! What waits here is kept in the reader, so a dropped call loses nothing.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::catalogue::codes;
use tidemark_core::position::Lsn;
use tidemark_core::{Error, Result};
use tokio::task::JoinHandle;

use super::segment::{Damage, SegmentReader};
use super::{Kept, Relay, Segment, Writer, died};

/// So little is left that the stream can read the slot by itself.
const LITTLE_BYTES: u64 = 1 << 20;

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A segment begins: what follows is as from a new connection that asked for this.
    Segment(Lsn),
    /// Whole frames.
    Frames(Bytes),
    /// That was all; what follows is to be read from the slot.
    End(Lsn),
}

/// See the module's text.
pub(crate) struct RelayReader {
    relay: Arc<Relay>,
    after: Lsn,
    /// The segment that is read.
    number: Option<u64>,
    at: u64,
    /// Where that segment ended when it was looked at last, in the log and in the file.
    seen: (Lsn, u64),
    file: Option<SegmentReader>,
    reading: Option<JoinHandle<Reading>>,
    opening: Option<JoinHandle<Result<SegmentReader, Damage>>>,
}

/// A file, and what was read from it.
type Reading = (SegmentReader, Result<Option<Vec<u8>>, Damage>);

/// What is to be done, by what is kept and how far it is read.
#[derive(Debug)]
enum Step {
    Read { limit: u64 },
    Open(Segment),
    Wait,
    End(Lsn),
    Gone,
}

impl RelayReader {
    /// Reads what commits at or after `after`, and some of what commits before it.
    pub(crate) fn new(relay: Arc<Relay>, after: Lsn) -> RelayReader {
        RelayReader {
            relay,
            after,
            number: None,
            at: 0,
            seen: (after, 0),
            file: None,
            reading: None,
            opening: None,
        }
    }

    /// Waits for what comes next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Next> {
        let mut kept = self.relay.kept.subscribe();
        loop {
            if let Some(reading) = &mut self.reading {
                let done = reading.await;
                self.reading = None;
                let (file, read) = done.map_err(died)?;
                self.at = file.at();
                self.file = Some(file);
                if let Some(frames) = read.map_err(|why| self.damaged(&why))? {
                    return Ok(Next::Frames(frames.into()));
                }
                continue;
            }
            if let Some(opening) = &mut self.opening {
                let done = opening.await;
                self.opening = None;
                let file = done.map_err(died)?.map_err(|why| self.damaged(&why))?;
                let start = Lsn(file.meta().start);
                self.at = file.at();
                self.file = Some(file);
                return Ok(Next::Segment(start));
            }
            let step = {
                let kept = kept.borrow_and_update();
                self.look(&kept);
                self.step(&kept)
            };
            match step {
                Step::Read { limit } => {
                    let Some(mut file) = self.file.take() else {
                        return Err(self.damaged(&Damage::Seal { record: 0 }));
                    };
                    self.reading = Some(tokio::task::spawn_blocking(move || {
                        let read = file.next(limit);
                        (file, read)
                    }));
                }
                Step::Open(segment) => {
                    self.number = Some(segment.number);
                    self.at = 0;
                    self.seen = (segment.end, segment.bytes);
                    let key = self.relay.options.key.clone();
                    self.opening = Some(tokio::task::spawn_blocking(move || {
                        SegmentReader::open(&segment.path, key.as_ref())
                    }));
                }
                Step::Wait => {
                    if self.is_near_the_end(&kept.borrow()) {
                        self.relay.stop_writer();
                    }
                    // The sender is `self.relay`.
                    drop(kept.changed().await);
                }
                Step::End(end) => return Ok(Next::End(end)),
                Step::Gone => {
                    let message =
                        format!("the relay log does not hold what commits at {}", self.after);
                    return Err(Error::definite(codes::RELAY_LOST, message));
                }
            }
        }
    }

    fn look(&mut self, kept: &Kept) {
        let mut segments = kept.segments.iter();
        if let Some(here) = segments.find(|segment| Some(segment.number) == self.number) {
            self.seen = (here.end, here.bytes);
        }
    }

    fn step(&self, kept: &Kept) -> Step {
        let is_written = kept.writer != Writer::None;
        let Some(number) = self.number else {
            return match kept.holding(self.after) {
                Some(segment) => Step::Open(segment.clone()),
                // The task has not begun one yet.
                None if is_written && kept.segments.is_empty() => Step::Wait,
                None => Step::Gone,
            };
        };
        let mut later = kept
            .segments
            .iter()
            .filter(|segment| segment.number >= number);
        match (later.next(), later.next()) {
            (Some(here), _) if here.number == number && self.at < here.bytes => {
                Step::Read { limit: here.bytes }
            }
            (Some(here), Some(next)) if here.number == number => Step::Open(next.clone()),
            // All of it is in the target, and removed.
            (Some(next), _) if next.number != number => Step::Open(next.clone()),
            (Some(_) | None, _) if is_written => Step::Wait,
            (Some(here), _) => Step::End(here.end),
            // The target has all that was read, and all was read.
            (None, _) if self.at >= self.seen.1 => Step::End(self.seen.0),
            (None, _) => Step::Gone,
        }
    }

    /// Everything that is durable is read: what comes from now on may come to the stream itself.
    fn is_near_the_end(&self, kept: &Kept) -> bool {
        let is_last = kept.segments.last().map(|last| last.number) == self.number;
        let left = kept
            .segments
            .last()
            .map_or(0, |last| last.bytes.saturating_sub(self.at));
        kept.writer == Writer::Running && is_last && left < LITTLE_BYTES
    }

    fn damaged(&self, why: &Damage) -> Error {
        let home = self.relay.home.display();
        let number = self.number.unwrap_or(0);
        let message = format!("segment {number} of the relay log in {home}: {why}");
        Error::definite(codes::RELAY_LOST, message)
    }
}
