//! The change stream: from the slot to blocks of whole transactions.
//!
//! ```text
//!   socket ─► wire's reader thread ─► blocks of frames ─► assemble ─► core
//!                                                   └─► spool ─► replay ─┘
//! ```
//!
//! [`PgChangeStream::next`] does one thing after the other: what is ready goes out first, then what
//! was given undecided is withdrawn if it is not wanted, then work on the disk is finished, then a
//! transaction that has committed is decided or goes out from where it was put aside chunk by chunk,
//! then the rest of the present block of frames is read, then the next block is waited for. Work on the disk
//! runs on a thread for that and its handle is kept, so a dropped call loses nothing.
//!
//! Invariant: after an error nothing is given out any more. What came before it was whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_core::catalogue::codes;
use tidemark_core::config::ChangeOrigin;
use tidemark_core::event::Block;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::source::{ChangeStream, GiveUndecided};
use tidemark_core::{Error, ErrorKind, Result};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::PgSourceOptions;
use super::assemble::{Aside, Assembler, Output, Stop};
use super::relay::Relay;
use super::relay::reader::{Next, RelayReader};
use super::relay::writer::Origin;
use super::replay::Replay;
use super::session::{Sessions, command_refused, open_replication};
use super::slot::{self, create::is_logical};
use super::spool::{Frames, Spool};
use crate::error::server_error;
use crate::wire::{ReplicationOptions, ReplicationReader, ShutdownNotice, quote_ident};

/// How large the blocks are in which a transaction that was put aside goes out.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A transaction that outgrows this on the source is sent while it is in progress. What it brings is
/// worked on so much earlier: of a million inserts, the first 16 MB were a tenth of the whole time
/// in which the target had nothing to do. Smaller still, and transactions that merely run beside each
/// other would be sent in pieces.
const DECODING_MEMORY: &str = "SELECT set_config('logical_decoding_work_mem', \
     least(setting::bigint, 4096) || 'kB', false) \
     FROM pg_settings WHERE name = 'logical_decoding_work_mem'";

/// How long a transaction that is given undecided may bring nothing. It keeps positions from being
/// acknowledged, and a transaction open on the target.
const UNDECIDED_SILENCE: Duration = Duration::from_secs(1);

/// See the module's text.
pub(crate) struct PgChangeStream {
    input: Input,
    relay: Option<Arc<Relay>>,
    origin: Origin,
    /// What commits before is in the target, and nobody wants it again.
    after: Lsn,
    assembler: Assembler,
    /// The farthest end of the log that anybody has seen.
    head: Arc<AtomicU64>,
    ready: Option<Block>,
    disk: Disk,
    replay: Option<Box<Replay>>,
    /// A block of frames, and how much of it has been read.
    rest: Option<(Bytes, usize)>,
    /// When rows came last.
    read_at: Instant,
    state: State,
}

/// Where frames come from.
enum Input {
    /// The slot.
    Wire(ReplicationReader),
    /// What is kept of the log on this machine; at its end the slot is about to be read.
    Relay(Box<RelayReader>, Option<Opening>),
}

/// The slot is about to be read from the relay log's end.
struct Opening {
    end: Lsn,
    task: JoinSet<Result<Option<ReplicationReader>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Failed,
}

/// Who has the spool.
enum Disk {
    /// Nobody works on it; frames of the transaction that goes out now.
    Idle(Spool, Option<Frames>),
    /// A thread does.
    Busy(JoinHandle<(Spool, Option<Frames>, Result<Option<Bytes>>)>),
    /// A thread has died with it.
    Gone,
}

/// Opens the stream of what commits at or after `after`.
pub(crate) async fn open(
    origin: Origin,
    relay: Option<Arc<Relay>>,
    head: Arc<AtomicU64>,
    after: Lsn,
) -> Result<PgChangeStream> {
    let input = match &relay {
        None => Input::Wire(open_wire(&origin.options, &origin.sessions, after).await?),
        Some(relay) => open_beside(relay, &origin, after).await?,
    };
    let options = &origin.options;
    Ok(PgChangeStream {
        input,
        relay,
        after,
        assembler: Assembler::new(after, &options.heartbeat_prefix()).leaving_out(options.origin),
        head,
        ready: None,
        disk: Disk::Idle(
            Spool::new(options.spool_dir.clone(), options.spool_bytes_max),
            None,
        ),
        replay: None,
        rest: None,
        read_at: Instant::now(),
        state: State::Running,
        origin,
    })
}

/// Reads from what is kept here, where the source has been told that it may forget it.
async fn open_beside(relay: &Arc<Relay>, origin: &Origin, after: Lsn) -> Result<Input> {
    let _gate = relay.gate().await;
    let relayed = || {
        let reader = RelayReader::new(Arc::clone(relay), after);
        Input::Relay(Box::new(reader), None)
    };
    if relay.is_written() {
        return Ok(relayed());
    }
    let mut session = origin.sessions.borrow(&origin.options.connect).await?;
    let found = slot::read(&mut session, &origin.options.slot).await?;
    session.give_back();
    let is_ahead = found.is_some_and(|slot| slot.confirmed > Position::PgLsn(after));
    if is_ahead && relay.holds(after) {
        return Ok(relayed());
    }
    let reader = open_wire(&origin.options, &origin.sessions, after).await?;
    relay.discard();
    relay.set_stopper(reader.stopper());
    Ok(Input::Wire(reader))
}

/// The relay log is at its end; `None` where it goes on after all.
async fn open_after(
    relay: Arc<Relay>,
    origin: Origin,
    end: Lsn,
) -> Result<Option<ReplicationReader>> {
    let _gate = relay.gate().await;
    if relay.is_written() {
        return Ok(None);
    }
    relay.same_log(&origin, end).await?;
    let reader = open_wire(&origin.options, &origin.sessions, end).await?;
    relay.set_stopper(reader.stopper());
    Ok(Some(reader))
}

/// Reads the slot, and acknowledges `after`.
pub(super) async fn open_wire(
    options: &PgSourceOptions,
    sessions: &Sessions,
    after: Lsn,
) -> Result<ReplicationReader> {
    let doing = || format!("read slot {} from {after}", options.slot);
    check(options, sessions, after).await?;
    let mut connection = open_replication(&options.connect).await?;
    if connection.parameter("server_encoding") == Some("SQL_ASCII") {
        // The sender would look at every text and stop for good at the first that is not UTF-8. The
        // target looks as well, and refuses but one table's change.
        connection.run("SET client_encoding = 'SQL_ASCII'").await?;
    }
    connection.run(DECODING_MEMORY).await?;
    let sql = statement(options, connection.server_version(), after);
    let started = connection.start_replication(
        &sql,
        ReplicationOptions {
            acknowledged: after,
            status_interval: options.status_interval,
            silence_timeout: options.silence_timeout,
            queue_bytes_max: options.queue_bytes_max,
            held_bytes_max: options.held_bytes_max,
            ..ReplicationOptions::default()
        },
    );
    match started.await {
        Ok(reader) => Ok(reader),
        Err(error) => {
            let error = refused(options, sessions, command_refused(error)).await;
            Err(error.context(doing()))
        }
    }
}

impl PgChangeStream {
    /// See [`ShutdownNotice`].
    pub(crate) fn shutdown_notice(&self) -> ShutdownNotice {
        match &self.input {
            Input::Wire(reader) => reader.shutdown_notice(),
            Input::Relay(..) => ShutdownNotice::default(),
        }
    }
}

/// What `START_REPLICATION` would pass over in silence: a position before the slot's own is moved up
/// to it (`CreateDecodingContext`, PostgreSQL 15), and a publication that is missing is skipped since
/// PostgreSQL 18.
async fn check(options: &PgSourceOptions, sessions: &Sessions, after: Lsn) -> Result<()> {
    let mut session = sessions.borrow(&options.connect).await?;
    let found = slot::read(&mut session, &options.slot).await?;
    let exists = "SELECT count(*) FROM pg_publication WHERE pubname = $1";
    let publications = session.query(exists, &[Some(&options.publication)]).await?;
    session.give_back();
    let name = &options.slot;
    let Some(slot) = found else {
        let message = format!("slot {name} is not on the source");
        return Err(Error::definite(codes::SLOT_MISSING, message));
    };
    if let Some(why) = slot.lost {
        return Err(Error::definite(
            codes::SLOT_LOST,
            format!("slot {name} is lost: {why}"),
        ));
    }
    if let Some(why) = slot.foreign {
        let message = format!("slot {name} is not ours: {why}");
        return Err(Error::definite(codes::SLOT_FOREIGN, message));
    }
    if slot.confirmed > Position::PgLsn(after) {
        let confirmed = slot.confirmed;
        let message = format!("slot {name} is at {confirmed}, past {after} which we have");
        return Err(Error::definite(codes::SLOT_AHEAD, message));
    }
    if publications.one()?.get::<i64>(0)? == 0 {
        return Err(publication_missing(&options.publication));
    }
    Ok(())
}

fn publication_missing(name: &str) -> Error {
    Error::definite(
        codes::PUBLICATION_MISSING,
        format!("publication {name} does not exist"),
    )
}

/// The command. Names inside option values are identifiers inside literals; the replication grammar
/// knows no `E'…'` (PostgreSQL 15, `repl_scanner.l`).
fn statement(options: &PgSourceOptions, version: u32, after: Lsn) -> String {
    let protocol = match version {
        ..150_000 => 2,
        150_000..160_000 => 3,
        _ => 4,
    };
    let publication = quote_ident(&options.publication).replace('\'', "''");
    let mut sql = format!(
        "START_REPLICATION SLOT {} LOGICAL {after} (proto_version '{protocol}', \
         publication_names '{publication}', messages 'true'",
        quote_ident(&options.slot)
    );
    // Where it cannot leave out what has an origin, it names the origin of a transaction that is
    // decided; one in progress may come without.
    if version >= 160_000 || options.origin == ChangeOrigin::Any {
        sql.push_str(", streaming 'on'");
    }
    if version >= 160_000 && options.origin == ChangeOrigin::None {
        sql.push_str(", origin 'none'");
    }
    sql.push(')');
    sql
}

/// Gives refusals of the command the entry that helps.
async fn refused(options: &PgSourceOptions, sessions: &Sessions, error: Error) -> Error {
    let definite = |code| move |error: Error| error.with_kind(ErrorKind::Definite).with_code(code);
    match error.sqlstate_code() {
        Some("42704") => definite(codes::SLOT_MISSING)(error),
        Some(slot::IN_USE) => error
            .with_kind(ErrorKind::Transient)
            .with_code(codes::SLOT_ACTIVE),
        // "can no longer get changes", "requires wal_level >= logical", …
        Some("55000") if !is_logical(&options.connect, sessions).await => {
            definite(codes::SOURCE_WAL_LEVEL)(error)
        }
        Some("55000" | "58P01") => definite(codes::SLOT_LOST)(error),
        _ => error,
    }
}

/// Gives errors of the running stream the entry that helps. What the server cannot decode it will not
/// be able to decode the next time either: the record stays in its log.
pub(super) fn broken(error: Error, options: &PgSourceOptions) -> Error {
    let (slot, publication) = (&options.slot, &options.publication);
    let definite = |error: Error, code| error.with_kind(ErrorKind::Definite).with_code(code);
    let is_warning = server_error(&error).is_some_and(|said| said.severity == "WARNING");
    let error = match error.sqlstate_code() {
        // "publication … does not exist": found out at the first change that asks for it. Since
        // PostgreSQL 18 it is but a warning, which the wire's reader takes for an error.
        Some(state) if state == "42704" || is_warning => {
            definite(error, codes::PUBLICATION_MISSING)
                .context(format!("publication {publication}"))
        }
        // "requested WAL segment … has already been removed"
        Some("58P01") => definite(error, codes::SLOT_LOST),
        Some(state) if state.starts_with("XX") || state.starts_with("22") => {
            definite(error, codes::SOURCE_CANNOT_DECODE)
        }
        _ => error,
    };
    error.context(format!("read slot {slot}"))
}

#[async_trait]
impl ChangeStream for PgChangeStream {
    async fn next(&mut self) -> Result<Block> {
        if self.state == State::Failed {
            let message = "a change stream is used after it has failed";
            return Err(Error::definite(codes::INTERNAL, message));
        }
        let result = self.advance().await;
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn give_undecided(&mut self, give: GiveUndecided) {
        let give = match self.input {
            Input::Wire(_) => give,
            // Who is behind reads what is decided, for the most part.
            Input::Relay(..) => GiveUndecided::No,
        };
        self.assembler.give_undecided(give);
    }

    fn acknowledge(&mut self, position: Position) {
        let Position::PgLsn(lsn) = position;
        if let Input::Wire(reader) = &self.input {
            reader.acknowledge(lsn);
        }
        if let Some(relay) = &self.relay {
            relay.acknowledge(lsn);
        }
    }

    async fn close(self: Box<Self>) -> Result<()> {
        match self.input {
            Input::Wire(reader) => reader.stop().await,
            Input::Relay(..) => Ok(()),
        }
    }
}

impl PgChangeStream {
    /// Cancel-safe: between two points of waiting all that is known is in `self`.
    async fn advance(&mut self) -> Result<Block> {
        loop {
            if let Some(block) = self.ready.take() {
                return Ok(block);
            }
            if self.assembler.gives_undecided() == Some(GiveUndecided::No) {
                self.withdraw();
            } else if let Disk::Busy(_) = self.disk {
                self.finish_disk().await?;
            } else if self.replay.as_ref().is_some_and(|replay| replay.is_given()) {
                self.decide()?;
            } else if self.replay.is_some() {
                self.start_chunk()?;
            } else if let Some((bytes, at)) = self.rest.take() {
                self.read(bytes, at)?;
            } else {
                self.receive().await?;
            }
        }
    }

    /// Waits for the next block of frames; while a transaction is given undecided not for long.
    async fn receive(&mut self) -> Result<()> {
        let reader = match &mut self.input {
            Input::Wire(reader) => reader,
            Input::Relay(..) => return self.receive_relayed().await,
        };
        let next = reader.next_block();
        let block = if self.assembler.gives_undecided().is_some() {
            let Ok(block) = timeout_at(self.read_at + UNDECIDED_SILENCE, next).await else {
                self.withdraw();
                return Ok(());
            };
            block
        } else {
            next.await
        };
        let block = block.map_err(|error| broken(error, &self.origin.options))?;
        let block = block.ok_or_else(|| match self.relay {
            Some(_) => Error::transient(
                codes::RELAY_BEGUN,
                "the source's log is kept on this machine from here on",
            ),
            None => Error::definite(codes::INTERNAL, "a change stream is used after its end"),
        })?;
        self.rest = Some((block.bytes().clone(), 0));
        Ok(())
    }

    /// The same from the relay log, or from where that ends.
    async fn receive_relayed(&mut self) -> Result<()> {
        let Input::Relay(reader, opening) = &mut self.input else {
            return Ok(());
        };
        if let Some(Opening { end, task }) = opening {
            let (end, opened) = (*end, task.join_next().await);
            *opening = None;
            let opened = opened.unwrap_or(Ok(Ok(None))).map_err(|died| {
                Error::definite(codes::INTERNAL, "opening the stream died").caused_by(died)
            })?;
            if let Some(wire) = opened? {
                self.input = Input::Wire(wire);
                self.begin_at(end);
            }
            return Ok(());
        }
        match reader.next().await? {
            Next::Frames(bytes) => self.rest = Some((bytes, 0)),
            Next::Segment(start) => self.begin_at(start),
            Next::End(end) => {
                // A relay log that was begun behind the checkpoint may end behind it. What is in the
                // target already must not be given undecided.
                let end = end.max(self.after);
                if let Some(relay) = self.relay.clone() {
                    let mut task = JoinSet::new();
                    task.spawn(open_after(relay, self.origin.clone(), end));
                    *opening = Some(Opening { end, task });
                }
            }
        }
        Ok(())
    }

    /// What follows is as from a new connection: tables are described anew, and what was in progress
    /// is sent again.
    fn begin_at(&mut self, start: Lsn) {
        let options = &self.origin.options;
        let assembler = Assembler::new(start, &options.heartbeat_prefix());
        self.assembler = assembler.leaving_out(options.origin);
        self.disk = Disk::Idle(
            Spool::new(options.spool_dir.clone(), options.spool_bytes_max),
            None,
        );
    }

    fn withdraw(&mut self) {
        let mut out = Output::default();
        self.assembler.withdraw(&mut out);
        self.give_out(Bytes::new(), out);
    }

    /// A transaction that was given undecided has committed. Between here and the block's being taken
    /// nobody waits, so what was wanted still is.
    fn decide(&mut self) -> Result<()> {
        let Some(mut replay) = self.replay.take() else {
            return Ok(());
        };
        let mut out = Output::default();
        if self.assembler.may_decide() {
            let xid = replay.xid();
            replay.finish(&mut self.assembler, &mut out);
            self.put_aside(&Bytes::new(), vec![Aside::Forget { xid }])?;
        } else {
            replay.withdraw(&self.assembler, &mut out);
            self.replay = Some(replay);
        }
        self.give_out(Bytes::new(), out);
        Ok(())
    }

    /// Reads on in a block of frames.
    fn read(&mut self, bytes: Bytes, mut at: usize) -> Result<()> {
        let mut out = Output::default();
        let stop = self.assembler.read(&bytes, &mut at, &mut out)?;
        if !out.cells.is_empty() {
            self.read_at = Instant::now();
        }
        let aside = std::mem::take(&mut out.aside);
        self.give_out(bytes.clone(), out);
        if let Stop::Replay(replay) = stop {
            self.replay = Some(replay);
        }
        self.put_aside(&bytes, aside)?;
        if at < bytes.len() {
            self.rest = Some((bytes, at));
        }
        Ok(())
    }

    fn give_out(&mut self, bytes: Bytes, out: Output) {
        let heard = self.assembler.heard();
        let head = self.head.fetch_max(heard.0, Ordering::Relaxed).max(heard.0);
        if !out.events.is_empty() {
            self.ready = Some(Block {
                bytes,
                cells: out.cells,
                events: out.events,
                head: Position::PgLsn(Lsn(head)),
            });
        }
    }

    /// Small pieces go to memory at once, the rest to disk on a thread.
    fn put_aside(&mut self, bytes: &Bytes, mut aside: Vec<Aside>) -> Result<()> {
        let (mut spool, frames) = self.idle_disk()?;
        let done = spool.carry_out_in_memory(bytes, &aside)?;
        aside.drain(..done);
        if aside.is_empty() {
            self.disk = Disk::Idle(spool, frames);
            return Ok(());
        }
        let bytes = bytes.clone();
        self.disk = Disk::Busy(tokio::task::spawn_blocking(move || {
            let result = spool.carry_out(&bytes, &aside);
            (spool, frames, result.map(|()| None))
        }));
        Ok(())
    }

    /// Asks for the next chunk of the transaction that goes out.
    fn start_chunk(&mut self) -> Result<()> {
        let (mut spool, frames) = self.idle_disk()?;
        let xid = self.replay.as_ref().map_or(0, |replay| replay.xid());
        let mut frames = frames.unwrap_or_else(|| spool.take(xid));
        self.disk = Disk::Busy(tokio::task::spawn_blocking(move || {
            let chunk = frames.next_chunk(CHUNK_BYTES);
            (spool, Some(frames), chunk)
        }));
        Ok(())
    }

    fn idle_disk(&mut self) -> Result<(Spool, Option<Frames>)> {
        match std::mem::replace(&mut self.disk, Disk::Gone) {
            Disk::Idle(spool, frames) => Ok((spool, frames)),
            Disk::Busy(_) | Disk::Gone => Err(spool_died()),
        }
    }

    /// Waits for the thread, and gives out what it brought.
    async fn finish_disk(&mut self) -> Result<()> {
        let Disk::Busy(task) = &mut self.disk else {
            return Err(spool_died());
        };
        let done = task.await;
        let Ok((spool, mut frames, result)) = done else {
            self.disk = Disk::Gone;
            return Err(spool_died());
        };
        let is_replaying = frames.is_some();
        match result {
            Ok(Some(chunk)) => {
                let mut out = Output::default();
                if let Some(replay) = &mut self.replay {
                    replay.read(&chunk, &mut out)?;
                }
                self.give_out(chunk, out);
            }
            Ok(None) if is_replaying => {
                frames = None;
                let mut out = Output::default();
                if let Some(replay) = self.replay.take() {
                    replay.finish(&mut self.assembler, &mut out);
                }
                self.give_out(Bytes::new(), out);
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        self.disk = Disk::Idle(spool, frames);
        Ok(())
    }
}

fn spool_died() -> Error {
    Error::definite(
        codes::INTERNAL,
        "the thread that puts transactions in progress aside died",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConnectConfig, Side};

    fn options() -> PgSourceOptions {
        let connect = ConnectConfig::parse("postgres://u@localhost/shop", Side::Source).unwrap();
        PgSourceOptions::new(connect, "shop")
    }

    #[test]
    fn command_asks_for_what_the_version_knows() {
        let mut options = options();
        options.publication = "Pu\"b's".to_owned();
        let start = "START_REPLICATION SLOT \"tidemark_shop\" LOGICAL 16/B374D848 ";
        for (version, origin, expected) in [
            (140_000, ChangeOrigin::None, "(proto_version '2'"),
            (150_020, ChangeOrigin::None, "(proto_version '3'"),
            (160_000, ChangeOrigin::Any, "(proto_version '4'"),
            (180_000, ChangeOrigin::None, "(proto_version '4'"),
        ] {
            options.origin = origin;
            let sql = statement(&options, version, Lsn(0x16_B374_D848));
            assert!(sql.starts_with(&format!("{start}{expected}")), "{sql}");
            assert!(sql.contains("publication_names '\"Pu\"\"b''s\"'"), "{sql}");
            let asks_for_origin = sql.ends_with(", origin 'none')");
            assert_eq!(
                asks_for_origin,
                version >= 160_000 && origin == ChangeOrigin::None
            );
            assert_eq!(
                sql.contains("streaming 'on'"),
                version >= 160_000 || origin == ChangeOrigin::Any
            );
        }
    }

    #[test]
    fn errors_of_the_running_stream_are_told_apart() {
        for (sqlstate, code, kind) in [
            ("42704", codes::PUBLICATION_MISSING, ErrorKind::Definite),
            ("58P01", codes::SLOT_LOST, ErrorKind::Definite),
            ("XX000", codes::SOURCE_CANNOT_DECODE, ErrorKind::Definite),
            ("22021", codes::SOURCE_CANNOT_DECODE, ErrorKind::Definite),
            ("57P01", codes::SOURCE_SHUTDOWN, ErrorKind::Transient),
        ] {
            let said = crate::wire::ServerError {
                sqlstate: sqlstate.to_owned(),
                ..Default::default()
            };
            let error = broken(crate::error::classify(Side::Source, said), &options());
            assert_eq!((error.code(), error.kind()), (code, kind), "{sqlstate}");
        }
    }
}
