//! From the slot to the relay log: read, write, make durable, acknowledge, in this order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::{Error, ErrorKind, Result, failpoint};
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::boundaries::Boundaries;
use super::segment::{Meta, SegmentWriter};
use super::{Relay, SEGMENT_BYTES, Segment, Writer, died, lock, segment_files, segment_path};
use crate::source::session::Sessions;
use crate::source::{PgSourceOptions, slot, stream};

/// So much is gathered before it is made durable, if it is there.
const GATHERED_BYTES_MAX: usize = 8 << 20;

/// How long the stream's own connection may take to go.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Between two tries to reach the source.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// What the task reads with.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) options: Arc<PgSourceOptions>,
    pub(crate) sessions: Arc<Sessions>,
}

/// How a connection's part of the log ended.
enum Ended {
    /// The segment is large enough.
    Full,
    /// The stream has come so far that it can read by itself.
    Stopped,
}

impl Relay {
    /// Has the slot read into the relay log, if nobody does so already.
    pub(crate) fn begin(self: &Arc<Self>, origin: Origin) {
        let begins = self.kept.send_if_modified(|kept| {
            let begins = kept.writer == Writer::None;
            if begins {
                kept.writer = Writer::Running;
            }
            begins
        });
        if !begins {
            return;
        }
        let relay = Arc::clone(self);
        let writing = async move {
            let pipeline = origin.options.pipeline.clone();
            match relay.write(&origin).await {
                Ok(()) => tracing::info!(
                    pipeline,
                    "the stream reads the source's log by itself again"
                ),
                Err(err) => {
                    *lock(&relay.off) = Some(err.to_string());
                    tracing::warn!(pipeline, code = %err.code(), error = %err,
                        "the relay log takes no more in this run");
                }
            }
            relay.kept.send_modify(|kept| kept.writer = Writer::None);
        };
        lock(&self.tasks).spawn(writing.in_current_span());
    }

    async fn write(&self, origin: &Origin) -> Result<()> {
        let mut start = self.take_over(origin).await?;
        tracing::info!(
            pipeline = origin.options.pipeline,
            "the target does not keep up: the source's log is kept in {} from {start} on",
            self.home.display()
        );
        loop {
            match self.session(origin, start).await {
                Ok(Ended::Full) => {}
                Ok(Ended::Stopped) => return Ok(()),
                Err(err) if err.kind() == ErrorKind::Transient => {
                    tracing::debug!(error = %err, "the relay log tries again");
                    if self.is_stopped_within(RETRY_WAIT).await {
                        return Ok(());
                    }
                }
                Err(err) => return Err(err),
            }
            start = self.kept.borrow().end().unwrap_or(start);
        }
    }

    /// Sees that the source is still the one whose log was kept, and has all of it: one that was promoted
    /// or restored meanwhile may have gone another way.
    pub(crate) async fn same_log(&self, origin: &Origin, end: Lsn) -> Result<()> {
        let theirs = slot::identity(&origin.options.connect).await?.identity;
        let ours = self.identity()?;
        if theirs != ours {
            let message = format!(
                "the relay log is of system {} on timeline {}, the source is {} on {}",
                ours.system, ours.timeline, theirs.system, theirs.timeline
            );
            return Err(Error::definite(codes::OTHER_SOURCE, message));
        }
        let mut session = origin.sessions.borrow(&origin.options.connect).await?;
        let head = slot::now(&mut session).await?.head;
        session.give_back();
        if head < end {
            let message = format!("the source's log ends at {head}, the relay log at {end}");
            return Err(Error::definite(codes::SOURCE_WENT_BACK, message));
        }
        Ok(())
    }

    fn identity(&self) -> Result<SourceIdentity> {
        let opened = lock(&self.opened);
        let identity = opened.as_ref().map(|opened| opened.identity.clone());
        identity.ok_or_else(|| Error::definite(codes::INTERNAL, "a relay log that is not open"))
    }

    /// Ends the stream's own connection, and gives where the log is to be read from: what is before
    /// that is durable in the target or here.
    async fn take_over(&self, origin: &Origin) -> Result<Lsn> {
        let _gate = self.gate.lock().await;
        if let Some(stopper) = lock(&self.stopper).take() {
            stopper.stop();
        }
        let name = &origin.options.slot;
        let deadline = Instant::now() + TAKE_OVER_TIMEOUT;
        loop {
            let mut session = origin.sessions.borrow(&origin.options.connect).await?;
            let found = slot::read(&mut session, name).await?;
            session.give_back();
            let slot = found.ok_or_else(|| {
                Error::definite(codes::SLOT_MISSING, format!("slot {name} is gone"))
            })?;
            let Position::PgLsn(confirmed) = slot.confirmed;
            let end = self.kept.borrow().end();
            match slot.holder {
                None => return Ok(end.map_or(confirmed, |end| end.max(confirmed))),
                Some(holder) if Instant::now() >= deadline => {
                    let message = format!("slot {name} is still read by pid {}", holder.pid);
                    return Err(Error::definite(codes::SLOT_ACTIVE, message));
                }
                Some(_) => sleep(PAUSE).await,
            }
        }
    }

    /// One connection, one segment.
    async fn session(&self, origin: &Origin, start: Lsn) -> Result<Ended> {
        self.same_log(origin, start).await?;
        let mut reader = stream::open_wire(&origin.options, &origin.sessions, start).await?;
        let mut segment = self.new_segment(origin, start).await?;
        let mut seen = Boundaries::new(start);
        let segment_bytes_max = SEGMENT_BYTES.min(self.options.bytes_max / 8);
        let mut kept = self.kept.subscribe();
        loop {
            // What is full is not read from: the source keeps its log again, as without us.
            let is_full = |kept: &super::Kept| {
                kept.bytes() >= self.options.bytes_max && kept.writer == Writer::Running
            };
            drop(kept.wait_for(|kept| !is_full(kept)).await);
            let block = tokio::select! {
                block = reader.next_block() => block?,
                () = self.stopped() => {
                    drop(reader.stop().await);
                    return Ok(Ended::Stopped);
                }
            };
            let Some(block) = block else {
                return Err(Error::definite(
                    codes::INTERNAL,
                    "the relay log's connection was ended by somebody else",
                ));
            };
            let mut bytes = block.bytes().len();
            let mut blocks = vec![block.bytes().clone()];
            let mut failure = None;
            while bytes < GATHERED_BYTES_MAX {
                match reader.try_next_block() {
                    Some(Ok(Some(block))) => {
                        bytes += block.bytes().len();
                        blocks.push(block.bytes().clone());
                    }
                    Some(Err(err)) => {
                        failure = Some(err);
                        break;
                    }
                    _ => break,
                }
            }
            for block in &blocks {
                let read = seen.read(block);
                read.map_err(crate::source::assemble::malformed)?;
            }
            segment = self.append(segment, blocks).await?;
            let (written, end) = (segment.bytes(), seen.boundary());
            self.kept.send_modify(|kept| {
                if let Some(last) = kept.segments.last_mut() {
                    (last.bytes, last.end) = (written, end);
                }
            });
            failpoint::reached(failpoint::RELAYED);
            // Only now: the frames before it are durable, and so is the file's name.
            reader.acknowledge(end);
            if let Some(failure) = failure {
                return Err(failure);
            }
            if written >= segment_bytes_max && seen.is_between() {
                drop(reader.stop().await);
                return Ok(Ended::Full);
            }
        }
    }

    /// Durable on return, empty.
    async fn new_segment(&self, origin: &Origin, start: Lsn) -> Result<SegmentWriter> {
        let identity = self.identity()?;
        let meta = Meta {
            pipeline: origin.options.pipeline.clone(),
            slot: origin.options.slot.clone(),
            system: identity.system,
            timeline: identity.timeline,
            database: identity.database,
            start: start.0,
        };
        let (home, key) = (self.home.clone(), self.options.key.clone());
        let made = tokio::task::spawn_blocking(move || {
            let last = segment_files(&home)?.pop().map_or(0, |(number, _)| number);
            let path = segment_path(&home, last + 1);
            let mut writer = SegmentWriter::create(&path, key.as_ref(), &meta)?;
            writer.make_durable()?;
            std::fs::File::open(&home)?.sync_all()?;
            Ok((last + 1, path, writer))
        });
        let made = made.await.map_err(died)?;
        let (number, path, writer) = made.map_err(|error| self.failed("written", error))?;
        self.kept.send_modify(|kept| {
            kept.segments.push(Segment {
                number,
                path,
                start,
                end: start,
                bytes: writer.bytes(),
            });
        });
        Ok(writer)
    }

    async fn append(
        &self,
        mut segment: SegmentWriter,
        blocks: Vec<Bytes>,
    ) -> Result<SegmentWriter> {
        let appended = tokio::task::spawn_blocking(move || {
            for block in blocks {
                segment.append(&block)?;
            }
            segment.make_durable()?;
            Ok(segment)
        });
        let appended = appended.await.map_err(died)?;
        appended.map_err(|error| self.failed("written", error))
    }

    /// Returns when the task is to end.
    async fn stopped(&self) {
        let mut kept = self.kept.subscribe();
        // The sender is `self`.
        drop(kept.wait_for(|kept| kept.writer == Writer::Stopping).await);
    }

    async fn is_stopped_within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopped()).await.is_ok()
    }
}
