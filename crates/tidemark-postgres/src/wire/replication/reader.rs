//! The thread that reads a replication stream.
//!
//! The walsender flushes after every message (PostgreSQL 15, `WalSndWriteData`), some hundred bytes
//! each, and wakes whoever waits on the socket. Waking costs more than decoding on both sides. A
//! thread that sleeps without waiting on the socket is not woken; so while much is coming the
//! thread naps between reads and finds many messages each time. `SO_RCVLOWAT` would do the same in
//! the kernel, but no safe crate offers it.
//!
//! What "much" means is for `pace` to say. Below it the thread waits on the socket and hands over
//! what has come, once that is not the beginning of a transaction alone, whose end follows at once.
//!
//! One wait is for everything: socket, bell (acknowledged, room in the queue, stop), and the next
//! deadline (status update, silence).

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tidemark_core::catalogue::codes;
use tidemark_core::position::Lsn;
use tidemark_core::{Error, Result, failpoint};
use tokio::sync::Notify;

use super::super::ServerError;
use super::super::frame::{self, HEADER_LEN};
use super::super::socket::{Link, LinkSocket};
use super::super::wal::{self, StatusUpdate, WalBlock, WalMessage};
use super::pace::{LOOPBACK_NAPS, LOOPBACK_WINDOW_BYTES, Pace, TCP_NAPS, UNIX_NAPS};
use super::{
    AWAKE, Queue, RUN, ReplicationOptions, ReplicationReader, STOP_FOR_SHUTDOWN, STOP_NOW,
    STOP_POLITELY, Shared, WAITS, WAITS_NOT_FOR_ACKNOWLEDGE, died,
};
use crate::config::Side;
use crate::error::{self, pick};

/// Room for one read; grows only for messages that are larger.
const BUFFER_BYTES: usize = 256 * 1024;

/// How much larger than what is in it a buffer becomes at once.
const GROWTH: usize = 16;

/// What waits for the rest of its transaction holds at most so many bytes: the rest of a large one may be
/// far away.
const REST_BYTES: usize = 16 * 1024;

/// Between two status updates that are sent only because more was acknowledged.
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(100);

/// For the server to take a status update, and for a polite end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the thread. `early` is what was read behind the answer to `START_REPLICATION`.
pub(super) fn spawn(
    side: Side,
    link: Link,
    early: &[u8],
    options: ReplicationOptions,
) -> Result<ReplicationReader> {
    let system = |error: io::Error| {
        Error::transient(
            codes::INTERNAL,
            "cannot start the thread of a replication stream",
        )
        .caused_by(error)
    };
    let (bell, ear) = UnixStream::pair().map_err(system)?;
    bell.set_nonblocking(true).map_err(system)?;
    ear.set_nonblocking(true).map_err(system)?;
    let shared = Arc::new(Shared {
        side,
        acknowledged: AtomicU64::new(options.acknowledged.0),
        received: AtomicU64::new(options.acknowledged.0),
        stop: AtomicU8::new(RUN),
        waiting: AtomicU8::new(AWAKE),
        held_bytes: AtomicUsize::new(0),
        bell,
        queue: Mutex::new(Queue::default()),
        arrived: Notify::new(),
    });
    let mut buffer = vec![0; BUFFER_BYTES.max(early.len())];
    buffer[..early.len()].copy_from_slice(early);
    let now = Instant::now();
    let naps = match &link.socket {
        LinkSocket::Tcp(socket) if is_same_machine(socket) => {
            set_socket_recv_buffer_size(socket, LOOPBACK_WINDOW_BYTES)
                .map_err(|error| system(error.into()))?;
            LOOPBACK_NAPS
        }
        LinkSocket::Tcp(_) => TCP_NAPS,
        LinkSocket::Unix(_) => UNIX_NAPS,
    };
    let reader = Reader {
        shared: Arc::clone(&shared),
        link,
        ear,
        options,
        buffer,
        filled: early.len(),
        scanned: 0,
        open_since: None,
        drained: false,
        pace: Pace::new(naps, now),
        gulp: 0,
        heard_at: now,
        asked: false,
        reply_due: true,
        status_at: now,
        told: Lsn(0),
    };
    let ender = Ender(Arc::clone(&shared));
    std::thread::Builder::new()
        .name("wal-reader".to_owned())
        .spawn(move || reader.run(&ender))
        .map_err(system)?;
    Ok(ReplicationReader {
        shared,
        queue_bytes_max: options.queue_bytes_max,
    })
}

/// Whether what the server sends stays on this machine, so that its `send` does our kernel's work.
fn is_same_machine(socket: &TcpStream) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(here), Ok(there)) => here.ip() == there.ip(),
        _ => false,
    }
}

/// Tells the async side that the thread has ended, whatever ended it.
struct Ender(Arc<Shared>);

impl Ender {
    fn end(&self, outcome: Result<()>) {
        self.0.queue().end.get_or_insert(outcome);
        self.0.arrived.notify_one();
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.end(Err(died()));
    }
}

/// A large message, counted until everybody has let go of it: its values go on uncopied.
struct Held {
    grown: Vec<u8>,
    shared: Arc<Shared>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.grown
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let held = &self.shared.held_bytes;
        held.fetch_sub(self.grown.capacity(), Ordering::SeqCst);
        self.shared.ring();
    }
}

/// What [`Reader::wait`] waits for besides the bell and the deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitFor {
    /// The server.
    Data,
    /// Blocks being taken off the queue, which rings.
    Room,
}

struct Reader {
    shared: Arc<Shared>,
    link: Link,
    ear: UnixStream,
    options: ReplicationOptions,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were read.
    filled: usize,
    /// Bytes of those that are whole CopyData frames.
    scanned: usize,
    /// Since when those are nothing but the beginning and changes of a transaction whose end has not come.
    open_since: Option<Instant>,
    /// The last read took all that was there.
    drained: bool,
    pace: Pace,
    /// Bytes that came since the last nap or wait.
    gulp: usize,
    heard_at: Instant,
    /// The silent server has been asked for a sign of life.
    asked: bool,
    /// The server asked for one.
    reply_due: bool,
    status_at: Instant,
    /// The position acknowledged by the last status update.
    told: Lsn,
}

impl Reader {
    fn run(mut self, ender: &Ender) {
        let outcome = self.read_until_stopped();
        // Close first: who waits for the end may want to use the slot at once.
        drop(self.link);
        ender.end(outcome);
    }

    fn read_until_stopped(&mut self) -> Result<()> {
        loop {
            match self.shared.stop.load(Ordering::SeqCst) {
                STOP_NOW => return Ok(()),
                STOP_POLITELY => return self.say_goodbye(),
                STOP_FOR_SHUTDOWN => return Err(self.shuts_down()),
                _ => {}
            }
            self.scan()?;
            if !self.waits_for_the_rest() {
                self.deliver();
            }
            self.send_status_if_due()?;
            if self.queue_is_full() {
                // The server may talk, we do not listen: its silence counts from when we do again.
                self.wait(WaitFor::Room)?;
                self.heard_at = Instant::now();
                continue;
            }
            if self.drained {
                if let Some(nap) = self.pace.nap() {
                    std::thread::sleep(nap);
                } else {
                    self.check_silence()?;
                    self.wait(WaitFor::Data)?;
                }
            }
            self.gulp += self.read()?;
            if self.drained {
                self.pace
                    .note(std::mem::take(&mut self.gulp), Instant::now());
            }
        }
    }

    fn shuts_down(&self) -> Error {
        let side = self.shared.side;
        Error::transient(
            pick(side, codes::SOURCE_SHUTDOWN, codes::TARGET_SHUTDOWN),
            format!("{side}: the server shuts down, and waits for its log to be confirmed"),
        )
    }

    /// Reads all that is there, up to the room in the buffer. 0 if there is nothing.
    fn read(&mut self) -> Result<usize> {
        if self.filled == self.buffer.len() {
            self.grow()?;
        }
        let before = self.filled;
        self.drained = true;
        while self.filled < self.buffer.len() {
            match self.link.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(error::closed(self.shared.side)),
                Ok(count) => {
                    self.filled += count;
                    // A short read has emptied a plain socket; asking again would say so. During
                    // naps it has also made room for what waits at the server.
                    let is_all = self.link.reads_all() && self.pace.nap().is_none();
                    if self.filled < self.buffer.len() && is_all {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was read before is handed over first; the next read says it again.
                Err(_) if self.filled > before => break,
                Err(error) => return Err(error::lost(self.shared.side, error)),
            }
        }
        self.drained &= self.filled < self.buffer.len();
        let arrived = self.filled - before;
        if arrived > 0 {
            self.heard_at = Instant::now();
            self.asked = false;
        }
        Ok(arrived)
    }

    /// Room for one message that is larger than the buffer: for all of it, but never for more than a
    /// multiple of what has arrived, whatever its length says. Fresh memory costs nothing before
    /// something is written to it.
    fn grow(&mut self) -> Result<()> {
        let ahead = &self.buffer[self.scanned..self.filled];
        let header = frame::header(ahead, frame::FRAME_MAX)
            .map_err(|bad| error::protocol(self.shared.side, bad))?;
        let announced = header.map_or(0, |header| self.scanned + header.len);
        let room = announced.clamp(self.filled + BUFFER_BYTES, self.filled * GROWTH);
        let mut larger = vec![0; room];
        larger[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = larger;
        Ok(())
    }

    /// Walks over the frames that have arrived.
    fn scan(&mut self) -> Result<()> {
        let side = self.shared.side;
        let mut received = Lsn(0);
        loop {
            let ahead = &self.buffer[self.scanned..self.filled];
            let header = frame::complete(ahead, frame::FRAME_MAX)
                .map_err(|bad| error::protocol(side, bad))?;
            let Some(header) = header else { break };
            let body = &ahead[HEADER_LEN..header.len];
            if header.tag == b'd' {
                match wal::parse(body) {
                    Some(WalMessage::Data {
                        start,
                        end,
                        payload,
                        ..
                    }) => {
                        received = received.max(start).max(end);
                        if !is_before_the_commit(payload) {
                            self.open_since = None;
                        } else if self.scanned == 0 {
                            self.open_since = Some(Instant::now());
                        }
                    }
                    Some(WalMessage::Keepalive {
                        end,
                        reply_requested,
                        ..
                    }) => {
                        received = received.max(end);
                        self.reply_due |= reply_requested;
                        self.open_since = None;
                    }
                    None => return Err(error::protocol(side, "unknown replication message")),
                }
                self.scanned += header.len;
                continue;
            }
            let ended = match header.tag {
                b'S' => None,
                b'N' => something_skipped(side, body),
                b'E' => Some(error::classify(side, ServerError::parse(body))),
                // On shutdown the walsender completes the command without a CopyDone.
                b'c' | b'C' => Some(Error::transient(
                    pick(side, codes::SOURCE_SHUTDOWN, codes::TARGET_SHUTDOWN),
                    format!("{side}: the server has ended the replication stream"),
                )),
                _ => Some(error::protocol(
                    side,
                    "unknown message in a replication stream",
                )),
            };
            let len = header.len;
            self.deliver();
            if let Some(ended) = ended {
                return Err(ended);
            }
            self.drop_front(len);
        }
        self.shared.received.fetch_max(received.0, Ordering::SeqCst);
        Ok(())
    }

    /// Whether what has come is too little to be handed over.
    fn waits_for_the_rest(&self) -> bool {
        let is_calm = self.drained && self.pace.nap().is_none();
        let is_small = self.scanned <= REST_BYTES;
        let wait = self.options.rest_wait;
        is_calm && is_small && self.open_since.is_some_and(|since| since.elapsed() < wait)
    }

    /// Hands over the frames that are whole.
    fn deliver(&mut self) {
        self.open_since = None;
        if self.scanned == 0 {
            return;
        }
        let block = if self.buffer.len() > BUFFER_BYTES {
            // Grown for a large message, which is not copied.
            let mut fresh = vec![0; BUFFER_BYTES.max(self.filled - self.scanned)];
            fresh[..self.filled - self.scanned]
                .copy_from_slice(&self.buffer[self.scanned..self.filled]);
            let mut grown = std::mem::replace(&mut self.buffer, fresh);
            grown.truncate(self.scanned);
            self.filled -= self.scanned;
            self.shared
                .held_bytes
                .fetch_add(grown.capacity(), Ordering::SeqCst);
            let shared = Arc::clone(&self.shared);
            Bytes::from_owner(Held { grown, shared })
        } else {
            // A copy, since most blocks are far smaller than the buffer.
            let copy = Bytes::copy_from_slice(&self.buffer[..self.scanned]);
            self.drop_front(self.scanned);
            copy
        };
        self.scanned = 0;
        let mut queue = self.shared.queue();
        queue.bytes += block.len();
        queue.blocks.push_back(WalBlock::new(block));
        drop(queue);
        self.shared.arrived.notify_one();
    }

    fn drop_front(&mut self, len: usize) {
        self.buffer.copy_within(len..self.filled, 0);
        self.filled -= len;
    }

    fn queue_is_full(&self) -> bool {
        self.shared.queue().bytes >= self.options.queue_bytes_max
            || self.shared.held_bytes.load(Ordering::SeqCst) >= self.options.held_bytes_max
    }

    fn acknowledged(&self) -> Lsn {
        Lsn(self.shared.acknowledged.load(Ordering::SeqCst))
    }

    fn send_status_if_due(&mut self) -> Result<()> {
        let since = self.status_at.elapsed();
        let raised = self.acknowledged() > self.told && since >= ACKNOWLEDGE_PAUSE;
        if self.reply_due || raised || since >= self.options.status_interval {
            self.send_status(false)?;
        }
        Ok(())
    }

    fn send_status(&mut self, reply_requested: bool) -> Result<()> {
        let flushed = self.acknowledged();
        let written = Lsn(self.shared.received.load(Ordering::SeqCst)).max(flushed);
        let update = StatusUpdate {
            written,
            flushed,
            reply_requested,
        };
        self.write(&update.encode())?;
        self.reply_due = false;
        if flushed > self.told {
            failpoint::reached(failpoint::ACKNOWLEDGED);
        }
        self.told = flushed;
        self.status_at = Instant::now();
        Ok(())
    }

    fn check_silence(&mut self) -> Result<()> {
        let silent = self.heard_at.elapsed();
        if silent >= self.options.silence_timeout {
            return Err(error::silent(self.shared.side, silent.as_secs()));
        }
        if silent >= self.options.silence_timeout / 2 && !self.asked {
            self.asked = true;
            self.send_status(true)?;
        }
        Ok(())
    }

    /// Writes a short message, waiting for the socket if need be.
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let side = self.shared.side;
        let deadline = Instant::now() + WRITE_TIMEOUT;
        loop {
            let outcome = if bytes.is_empty() {
                self.link.flush()
            } else {
                self.link.write(bytes).map(|count| bytes = &bytes[count..])
            };
            match outcome {
                Ok(()) if bytes.is_empty() && !self.link.wants_write() => return Ok(()),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Err(error::silent(side, WRITE_TIMEOUT.as_secs()));
                    }
                    let mut fds = [PollFd::new(&self.link.socket, PollFlags::OUT)];
                    poll_until(&mut fds, deadline);
                }
                Err(error) => return Err(error::lost(side, error)),
            }
        }
    }

    /// When something is to be done even if nothing happens.
    fn next_deadline(&self) -> Instant {
        let mut deadline = self.status_at + self.options.status_interval;
        if self.acknowledged() > self.told {
            deadline = deadline.min(self.status_at + ACKNOWLEDGE_PAUSE);
        }
        if let Some(since) = self.open_since {
            deadline = deadline.min(since + self.options.rest_wait);
        }
        let patience = self.options.silence_timeout / if self.asked { 1 } else { 2 };
        deadline.min(self.heard_at + patience)
    }

    /// Waits for the bell, the next deadline, and what `wanted` says.
    fn wait(&mut self, wanted: WaitFor) -> Result<()> {
        let deadline = self.next_deadline();
        // With an acknowledgement yet to be told the deadline is near; more of them change nothing.
        let pending = self.acknowledged() > self.told;
        let waiting = if pending {
            WAITS_NOT_FOR_ACKNOWLEDGE
        } else {
            WAITS
        };
        self.shared.waiting.store(waiting, Ordering::SeqCst);
        // What rang before that has left its mark in one of these.
        let nothing_rang = self.shared.stop.load(Ordering::SeqCst) == RUN
            && (wanted == WaitFor::Data || self.queue_is_full())
            && (pending || self.acknowledged() == self.told);
        if nothing_rang {
            let ear = PollFd::new(&self.ear, PollFlags::IN);
            if wanted == WaitFor::Data {
                let socket = PollFd::new(&self.link.socket, PollFlags::IN);
                poll_until(&mut [ear, socket], deadline);
            } else {
                poll_until(&mut [ear], deadline);
            }
        }
        self.shared.waiting.store(AWAKE, Ordering::SeqCst);
        let mut rung = [0; 16];
        match self.ear.read(&mut rung) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error::lost(self.shared.side, error)),
        }
    }

    /// Sends the last acknowledgement and CopyDone, and waits a little for the server's own end.
    fn say_goodbye(&mut self) -> Result<()> {
        self.send_status(false)?;
        self.write(&[b'c', 0, 0, 0, 4])?;
        let deadline = Instant::now() + GOODBYE_TIMEOUT;
        while Instant::now() < deadline && self.shared.stop.load(Ordering::SeqCst) != STOP_NOW {
            // The last word is said; how the server ends does not matter any more.
            if self.skip_to_ready().unwrap_or(true) {
                break;
            }
            self.shared.waiting.store(WAITS, Ordering::SeqCst);
            let ear = PollFd::new(&self.ear, PollFlags::IN);
            let socket = PollFd::new(&self.link.socket, PollFlags::IN);
            poll_until(&mut [ear, socket], deadline);
        }
        drop(self.write(&[b'X', 0, 0, 0, 4]));
        Ok(())
    }

    /// Throws away what arrives. True at ReadyForQuery.
    fn skip_to_ready(&mut self) -> Result<bool> {
        self.read()?;
        loop {
            let ahead = &self.buffer[..self.filled];
            let header = frame::complete(ahead, frame::FRAME_MAX)
                .map_err(|bad| error::protocol(self.shared.side, bad))?;
            let Some(header) = header else {
                return Ok(false);
            };
            self.drop_front(header.len);
            if header.tag == b'Z' {
                return Ok(true);
            }
        }
    }
}

/// Whether a message of pgoutput is the beginning of a transaction, a change of it, or what a change is told
/// with (PostgreSQL 15, 55.9: Begin, Origin, Relation, Type, Insert, Update, Delete, Truncate).
fn is_before_the_commit(message: &[u8]) -> bool {
    matches!(
        message.first(),
        Some(b'B' | b'O' | b'R' | b'Y' | b'I' | b'U' | b'D' | b'T')
    )
}

/// A warning that changes are left out, as an error. Since PostgreSQL 18 the server warns so, with
/// `object_not_in_prerequisite_state`, of a publication that is gone, and goes on without it.
fn something_skipped(side: Side, body: &[u8]) -> Option<Error> {
    let notice = ServerError::parse(body);
    let skips = notice.severity == "WARNING" && notice.sqlstate == "55000";
    skips.then(|| error::classify(side, notice))
}

/// `poll(2)`. A failed wait is taken for a short one: what is wrong with a socket is seen by the
/// read or write that follows.
fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    if let Err(error) = poll(fds, Some(&timeout)) {
        tracing::trace!(%error, "poll");
    }
}
