//! A replication stream: the side that async code holds.
//!
//! The server writes every message of the stream by itself and wakes its reader for each, which
//! costs a reader that waits by readiness most of its CPU time and slows the server down twofold.
//! So the socket is given to a thread (`reader`) that naps while much is coming and wakes at
//! once when little is; see there. It hands over blocks of many messages through a queue that is
//! bounded in bytes: when nobody takes blocks, nothing more is read, and the server stops by
//! itself, kept alive by status updates.
//!
//! The server is told two positions (architecture, "acknowledged means durable"): what has been
//! received, which this module knows, and what may be forgotten, which is only ever what
//! [`ReplicationReader::acknowledge`] was given.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::position::Lsn;
use tidemark_core::{Error, Result};
use tokio::sync::Notify;

use super::connection::Connection;
use super::pipeline::Reply;
use super::wal::WalBlock;
use crate::config::Side;
use crate::error;

mod pace;
mod reader;

#[cfg(test)]
mod tests;

/// How a replication stream is read.
#[derive(Clone, Copy, Debug)]
pub struct ReplicationOptions {
    /// What is acknowledged before anything else is: the checkpoint.
    pub acknowledged: Lsn,
    /// Status updates are sent at least so often.
    pub status_interval: Duration,
    /// A server that says nothing for so long is given up; half-way it is asked for a sign of life.
    pub silence_timeout: Duration,
    /// Blocks waiting to be taken hold at most so many bytes, but always one message.
    pub queue_bytes_max: usize,
    /// Large messages that somebody still holds, taken or not, have at most so many bytes, but always
    /// one message. Must be more than is held before anything is let go of.
    pub held_bytes_max: usize,
    /// The first messages of a small transaction wait so long for the rest of it: each handing over wakes
    /// somebody, who can do nothing before the commit.
    pub rest_wait: Duration,
}

impl Default for ReplicationOptions {
    fn default() -> ReplicationOptions {
        ReplicationOptions {
            acknowledged: Lsn(0),
            status_interval: Duration::from_secs(5),
            silence_timeout: Duration::from_mins(1),
            queue_bytes_max: 8 << 20,
            held_bytes_max: 128 << 20,
            rest_wait: Duration::from_millis(1),
        }
    }
}

const RUN: u8 = 0;
const STOP_POLITELY: u8 = 1;
const STOP_NOW: u8 = 2;
const STOP_FOR_SHUTDOWN: u8 = 3;

/// Whether the thread waits, and is to be woken by a byte into the bell.
const AWAKE: u8 = 0;
const WAITS: u8 = 1;
const WAITS_NOT_FOR_ACKNOWLEDGE: u8 = 2;

/// What both sides see.
struct Shared {
    side: Side,
    acknowledged: AtomicU64,
    received: AtomicU64,
    stop: AtomicU8,
    waiting: AtomicU8,
    held_bytes: AtomicUsize,
    bell: UnixStream,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    blocks: VecDeque<WalBlock>,
    bytes: usize,
    /// The thread has ended, and why; `Ok` after a stop that was asked for.
    end: Option<Result<()>>,
}

impl Shared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing in here can be left half done by a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it waits. A full bell is already ringing.
    fn ring(&self) {
        if self.waiting.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            drop((&self.bell).write(&[1]));
        }
    }
}

/// A running replication stream. Dropping it closes the connection at once;
/// [`ReplicationReader::stop`] lets the server know what was acknowledged last.
pub struct ReplicationReader {
    shared: Arc<Shared>,
    queue_bytes_max: usize,
}

/// A way to tell a stream that its server shuts down, for whoever hears of it elsewhere.
///
/// A walsender that is to end waits until its reader has flushed everything, as long as it takes. A
/// reader whose target hangs flushes nothing, and cannot see that it is waited for: the protocol
/// has no word for it.
#[derive(Default)]
pub struct ShutdownNotice(Weak<Shared>);

impl ShutdownNotice {
    /// Ends the stream with an error, so that its walsender can end. What has arrived is still handed
    /// over first.
    pub fn server_shuts_down(&self) {
        if let Some(shared) = self.0.upgrade() {
            let stop = &shared.stop;
            // Whoever stops it already has told it more.
            if stop
                .compare_exchange(RUN, STOP_FOR_SHUTDOWN, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                shared.ring();
            }
        }
    }
}

impl Connection {
    /// Runs `START_REPLICATION …` and turns the connection into its stream.
    pub async fn start_replication(
        mut self,
        sql: &str,
        options: ReplicationOptions,
    ) -> Result<ReplicationReader> {
        self.begin_request()?;
        self.send_query(sql)?;
        match self.next_reply().await? {
            Reply::CopyBoth => {}
            Reply::Error(said) => return Err(error::classify(self.side, *said)),
            _ => return Err(error::protocol(self.side, "no replication stream")),
        }
        let side = self.side;
        let link = self
            .stream
            .into_link()
            .map_err(|error| error::lost(side, error))?;
        reader::spawn(side, link, &self.inbound, options)
    }
}

impl ReplicationReader {
    /// The next block; `None` after the stream was stopped. Cancel-safe.
    pub async fn next_block(&mut self) -> Result<Option<WalBlock>> {
        loop {
            if let Some(outcome) = self.take_block() {
                return outcome;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// See [`ShutdownNotice`].
    pub fn shutdown_notice(&self) -> ShutdownNotice {
        ShutdownNotice(Arc::downgrade(&self.shared))
    }

    /// The next block if one is there.
    pub fn try_next_block(&mut self) -> Option<Result<Option<WalBlock>>> {
        self.take_block()
    }

    fn take_block(&mut self) -> Option<Result<Option<WalBlock>>> {
        let mut queue = self.shared.queue();
        if let Some(block) = queue.blocks.pop_front() {
            let before = queue.bytes;
            queue.bytes -= block.bytes().len();
            let has_room = queue.bytes < self.queue_bytes_max / 2;
            drop(queue);
            if has_room && before >= self.queue_bytes_max / 2 {
                self.shared.ring();
            }
            return Some(Ok(Some(block)));
        }
        match &queue.end {
            None => None,
            Some(Ok(())) => Some(Ok(None)),
            Some(Err(_)) => {
                let reason = queue.end.replace(Err(error::closed(self.shared.side)));
                reason.map(|reason| reason.map(|()| None))
            }
        }
    }

    /// Lets the server forget its log up to `position`. Only what the target holds durably may be
    /// given here. A lower position than before is ignored.
    pub fn acknowledge(&self, position: Lsn) {
        let before = self
            .shared
            .acknowledged
            .fetch_max(position.0, Ordering::SeqCst);
        if position.0 > before && self.shared.waiting.load(Ordering::SeqCst) == WAITS {
            self.shared.ring();
        }
    }

    /// For whoever may have to end the stream while somebody else holds it.
    pub fn stopper(&self) -> ReplicationStopper {
        ReplicationStopper(Arc::clone(&self.shared))
    }

    /// What has been acknowledged.
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.shared.acknowledged.load(Ordering::SeqCst))
    }

    /// The highest position that the stream has named.
    pub fn received(&self) -> Lsn {
        Lsn(self.shared.received.load(Ordering::SeqCst))
    }

    /// Bytes in blocks that wait to be taken.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue().bytes
    }

    /// Ends the stream: sends what was acknowledged, says goodbye, and waits for the thread to end,
    /// at most a few seconds. Blocks not yet taken are dropped.
    pub async fn stop(self) -> Result<()> {
        self.shared.stop.store(STOP_POLITELY, Ordering::SeqCst);
        self.shared.ring();
        loop {
            let end = self.shared.queue().end.take();
            if let Some(end) = end {
                return end;
            }
            self.shared.arrived.notified().await;
        }
    }
}

/// Ends a replication stream from outside.
pub struct ReplicationStopper(Arc<Shared>);

impl ReplicationStopper {
    /// See [`ShutdownNotice`].
    pub fn shutdown_notice(&self) -> ShutdownNotice {
        ShutdownNotice(Arc::downgrade(&self.0))
    }

    /// Closes the connection soon. What was read before is still given out, and then the end.
    pub fn stop(&self) {
        self.0.stop.store(STOP_NOW, Ordering::SeqCst);
        self.0.ring();
    }
}

impl Drop for ReplicationReader {
    fn drop(&mut self) {
        // After `stop` there is nobody left to see this.
        self.shared.stop.store(STOP_NOW, Ordering::SeqCst);
        self.shared.ring();
    }
}

impl std::fmt::Debug for ReplicationReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationReader")
            .field("received", &self.received())
            .field("acknowledged", &self.acknowledged())
            .finish_non_exhaustive()
    }
}

/// The thread ended without a word, which only a defect can bring about.
fn died() -> Error {
    Error::definite(
        codes::INTERNAL,
        "the thread that reads the replication stream died",
    )
}
