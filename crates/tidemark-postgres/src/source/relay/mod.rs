//! The relay log: the source's log, kept on this machine's disk while the target does not keep up.
//!
//! # The problem
//! A slot keeps the source's log until we acknowledge it, and we acknowledge what the target holds
//! durably. A target that stands still (locked, frozen, down, slow) fills the source's disk. The
//! source could be told earlier, if what it then forgets is durable somewhere else.
//!
//! # What must hold
//! "Acknowledged means durable", with one disk more: **the source is told a position only if the target
//! or the relay log holds durably everything that commits before it.** And a relay log that is not
//! where it is looked for, or not what was written, must be a gap like any other: refused, never
//! crossed.
//!
//! # How
//! Above a share of the budget the stream's connection is ended, and a task reads the slot from where it
//! stands into files ([`writer`]):
//!
//! ```text
//!   slot ─► frames ─► file, fdatasync ─► acknowledge the last boundary in it
//!                       └─► stream (another file position) ─► core ─► target
//! ```
//!
//! Frames are kept as they came, undecoded. The boundaries are read off them ([`boundaries`]), and only
//! a boundary whose frames are durable, with the file's own entry in its directory, is acknowledged.
//! Each connection writes a *segment* of its own ([`segment`]), which begins at the boundary where
//! the last one ended: the server describes tables anew, and sends again what was in progress, so a
//! segment is read without any other. Cut short by a kill, it is good up to its last boundary, and so is
//! the next one from there: nothing is missing and nothing is twice. Reading ends there too, since what
//! follows the last boundary is a part of a transaction, which whoever reads forgets at the next
//! segment's beginning ([`reader`]).
//!
//! The target's checkpoint decides as ever what is applied: a segment is read from its front, and core
//! passes over what the target has. A segment is removed when the target holds all of it durably.
//!
//! The task belongs to the source and not to one attempt of the pipeline: it goes on while the target
//! is down. When the stream has nearly come to the end of what is kept, the task ends at a boundary E;
//! the stream reads on to E and then from the slot again, which stands at E at most.
//!
//! # A start
//! | slot's confirmed position | files | |
//! |--|--|--|
//! | at or before the checkpoint | any | not needed: removed, the slot is read |
//! | after it | whole from the checkpoint to that position | read, then the slot |
//! | after it | missing, damaged, of another source, without the key | refused: TM4103 |
//!
//! Before the source is told anything that only the relay log holds, the *target* knows that there
//! is one: its id, the host, the directory ([`Relay::permit`]). So a start on another machine, or
//! without the directory, finds the slot past the checkpoint, as after any loss, and says where the log
//! is. A process that was frozen while another took over cannot write here meanwhile: the directory is
//! locked for as long as its owner lives.
//!
//! # Rejected
//! *Keeping decoded batches*: they depend on mapping and state of tables, which change. *One file for
//! ever*: nothing of it could be removed, since tables are described once for each connection.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::config::Secret;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::source::{Relayed, Slot};
use tidemark_core::{Error, ErrorKind, Result, failpoint};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Span;

use crate::wire::ReplicationStopper;

mod boundaries;
pub(super) mod reader;
mod segment;
pub(super) mod writer;

/// How the relay log is kept.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Where; each pipeline has a directory of its own in it.
    pub directory: PathBuf,
    /// So much, and then the source keeps its log as without a relay log.
    pub bytes_max: u64,
    /// Encrypts what is kept.
    pub key: Option<Secret>,
    /// What the source may keep, of which a part makes the relay log begin.
    pub budget_bytes: u64,
}

impl RelayOptions {
    /// Whether a pipeline's relay log can be kept there; gives how much there is room for, with what it
    /// keeps already. Nothing of it is made.
    pub(crate) async fn try_directory(&self, pipeline: &str) -> Result<u64> {
        let home = self.directory.join(pipeline);
        let trying = tokio::task::spawn_blocking(move || {
            room_in(&home).map_err(|error| failed(&home, "written", error))
        });
        trying.await.map_err(died)?
    }
}

fn room_in(home: &Path) -> io::Result<u64> {
    // What is made later is made in the nearest directory that is there.
    let nearest = home.ancestors().find(|it| it.exists());
    let nearest = nearest.filter(|it| !it.as_os_str().is_empty());
    let nearest = nearest.unwrap_or(Path::new("."));
    let tried = tempfile::tempfile_in(nearest).and_then(|mut file| file.write_all(b"."));
    match tried {
        // What is there can be read, and is removed then.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
        tried => tried?,
    }
    let mut kept = 0;
    if nearest == home {
        for (_, path) in segment_files(home)? {
            kept += fs::metadata(path)?.len();
        }
    }
    let disk = rustix::fs::statvfs(nearest)?;
    Ok(kept + disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The relay log begins when the slot keeps so much of the budget …
const BEGIN_PERCENT: u64 = 50;

/// … and so much of the budget is what we have not acknowledged. The rest is kept for others.
const UNACKNOWLEDGED_PERCENT: u64 = 25;

/// A segment is ended in a good place once it is so large, or an eighth of what may be kept.
const SEGMENT_BYTES: u64 = 256 << 20;

/// What of the source's log is here.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// In order; each begins where the one before ends.
    segments: Vec<Segment>,
    writer: Writer,
    damage: Option<String>,
}

/// A file of it.
#[derive(Clone, Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    /// Everything that commits at or after this …
    start: Lsn,
    /// … and before this is in it.
    end: Lsn,
    /// So much of the file is durable.
    bytes: u64,
}

/// Whether the slot is read into the relay log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writer {
    #[default]
    None,
    Running,
    /// It is to end.
    Stopping,
}

impl Kept {
    fn end(&self) -> Option<Lsn> {
        self.segments.last().map(|segment| segment.end)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segment that holds what commits at `after`.
    fn holding(&self, after: Lsn) -> Option<&Segment> {
        let mut newest_first = self.segments.iter().rev();
        newest_first.find(|segment| segment.start <= after)
    }
}

/// See the module's text. One for each source, for as long as that lives.
pub(super) struct Relay {
    options: RelayOptions,
    home: PathBuf,
    /// Held while it changes who reads the slot.
    gate: tokio::sync::Mutex<()>,
    kept: watch::Sender<Kept>,
    opened: Mutex<Option<Opened>>,
    /// Ends the stream's own reading of the slot.
    stopper: Mutex<Option<ReplicationStopper>>,
    tasks: Mutex<JoinSet<()>>,
    is_permitted: AtomicBool,
    /// What it could not be written for: not before the next run again.
    off: Mutex<Option<String>>,
}

/// The directory, locked.
struct Opened {
    id: String,
    identity: SourceIdentity,
    _lock: File,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in these is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    pub(super) fn new(options: RelayOptions, pipeline: &str) -> Relay {
        Relay {
            home: options.directory.join(pipeline),
            options,
            gate: tokio::sync::Mutex::default(),
            kept: watch::channel(Kept::default()).0,
            opened: Mutex::default(),
            stopper: Mutex::default(),
            tasks: Mutex::default(),
            is_permitted: AtomicBool::new(false),
            off: Mutex::default(),
        }
    }

    /// Opens and locks the directory, once a process, and finds what an earlier one has left.
    pub(super) async fn open(
        self: &Arc<Self>,
        slot: &str,
        identity: &SourceIdentity,
    ) -> Result<()> {
        if lock(&self.opened).is_some() {
            return Ok(());
        }
        let (relay, slot, identity) = (Arc::clone(self), slot.to_owned(), identity.clone());
        let opening = tokio::task::spawn_blocking(move || relay.open_blocking(&slot, identity));
        opening.await.map_err(died)?
    }

    fn open_blocking(&self, slot: &str, identity: SourceIdentity) -> Result<()> {
        let failed = |error| self.failed("opened", error);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.home).map_err(failed)?;
        // A directory that was just made must outlast a crash of the machine as its files do.
        for made in self.home.ancestors().take(3).filter(|made| made.is_dir()) {
            File::open(made)
                .and_then(|made| made.sync_all())
                .map_err(failed)?;
        }
        let lock_file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.home.join("lock"))
            .map_err(failed)?;
        if lock_file.try_lock().is_err() {
            let message = format!("the relay log in {} is in use", self.home.display());
            return Err(Error::transient(codes::RELAY_FAILED, message)
                .first_action("end the other process of this pipeline on this machine"));
        }
        let id = read_or_make_id(&self.home).map_err(failed)?;
        let (segments, damage) = self.recover(slot, &identity).map_err(failed)?;
        self.kept.send_modify(|kept| {
            kept.segments = segments;
            kept.damage = damage;
        });
        *lock(&self.opened) = Some(Opened {
            id,
            identity,
            _lock: lock_file,
        });
        Ok(())
    }

    /// The last segments that hang together; the others are of no use, and what they were needed for is
    /// decided by who compares positions.
    fn recover(
        &self,
        slot: &str,
        identity: &SourceIdentity,
    ) -> io::Result<(Vec<Segment>, Option<String>)> {
        let mut found: Vec<Segment> = Vec::new();
        let mut damage = None;
        for (number, path) in segment_files(&self.home)? {
            let shown = path.display().to_string();
            let scanned = match segment::scan(&path, self.options.key.as_ref()) {
                Ok(scanned) => scanned,
                // One that was never begun, or the end of what is here: what follows does not hang
                // together with what was before.
                Err(why) => {
                    damage = Some(format!("{shown}: {why}"));
                    continue;
                }
            };
            let meta = &scanned.meta;
            let is_ours = meta.slot == slot
                && meta.system == identity.system
                && meta.timeline == identity.timeline
                && meta.database == identity.database;
            if !is_ours {
                damage = Some(format!(
                    "{shown}: it is of another source, timeline or slot"
                ));
                found.clear();
                continue;
            }
            if let Some(why) = scanned.damage {
                // The end of a file whose writer was killed looks the same: whether it is missing is
                // for the slot to tell.
                damage = Some(format!("{shown}: {why}"));
            }
            let start = Lsn(meta.start);
            if found.last().is_some_and(|before| before.end != start) {
                found.clear();
            }
            found.push(Segment {
                number,
                path,
                start,
                end: scanned.end,
                bytes: scanned.bytes,
            });
        }
        Ok((found, damage))
    }

    /// What is here, for status and for a start; `None` before it was opened.
    pub(super) fn relayed(&self) -> Option<Relayed> {
        let opened = lock(&self.opened);
        let id = opened.as_ref()?.id.clone();
        let kept = self.kept.borrow();
        let first = kept.segments.first();
        Some(Relayed {
            id,
            directory: self.home.display().to_string(),
            range: first
                .zip(kept.segments.last())
                .map(|(first, last)| (Position::PgLsn(first.start), Position::PgLsn(last.end))),
            bytes: kept.bytes(),
            bytes_max: self.options.bytes_max,
            is_reading: kept.writer != Writer::None,
            damage: kept.damage.clone(),
            stopped: self.stopped_for(&kept),
        })
    }

    /// Why it takes nothing more, although the target does not keep up.
    fn stopped_for(&self, kept: &Kept) -> Option<String> {
        let is_full = kept.writer == Writer::Running && kept.bytes() >= self.options.bytes_max;
        let full = || "it keeps as much as source.postgres.relay_max allows".to_owned();
        lock(&self.off).clone().or_else(|| is_full.then(full))
    }

    /// The target knows of it now.
    pub(super) fn permit(&self) {
        self.is_permitted.store(true, Ordering::SeqCst);
    }

    /// Whether the slot, as it is now, is to be read into the relay log.
    pub(super) fn is_due(&self, slot: &Slot, head: Lsn) -> bool {
        let Position::PgLsn(confirmed) = slot.confirmed;
        let budget = self.options.budget_bytes;
        let share = |percent: u64| budget / 100 * percent;
        let may = self.is_permitted.load(Ordering::SeqCst) && lock(&self.off).is_none();
        may && slot.lost.is_none()
            && self.kept.borrow().writer == Writer::None
            && slot.retained_bytes >= share(BEGIN_PERCENT)
            && head.0.saturating_sub(confirmed.0) >= share(UNACKNOWLEDGED_PERCENT)
    }

    /// What the target holds durably: what is wholly before it is removed.
    pub(super) fn acknowledge(self: &Arc<Self>, position: Lsn) {
        let mut removed = Vec::new();
        self.kept.send_if_modified(|kept| {
            let is_live = kept.writer != Writer::None;
            // The last one is written to, or tells where the slot is to be read from.
            let all = kept.segments.len();
            let past = kept
                .segments
                .iter()
                .enumerate()
                .take_while(|(i, segment)| segment.end <= position && (i + 1 < all || !is_live))
                .count();
            removed.extend(kept.segments.drain(..past));
            past > 0
        });
        if !removed.is_empty() {
            let home = self.home.clone();
            let mut tasks = lock(&self.tasks);
            while tasks.try_join_next().is_some() {}
            let span = Span::current();
            tasks.spawn_blocking(move || {
                let _of_whom = span.enter();
                let paths = removed.iter().map(|segment| segment.path.as_path());
                if let Err(error) = remove(&home, paths) {
                    tracing::warn!(%error, "segments of the relay log are left in {}", home.display());
                }
            });
        }
    }

    /// Nothing of it is needed: the source still has all of it.
    pub(super) fn discard(self: &Arc<Self>) {
        self.acknowledge(Lsn(u64::MAX));
    }

    /// Has the task end; it may take a moment.
    fn stop_writer(&self) {
        self.kept.send_if_modified(|kept| {
            let runs = kept.writer == Writer::Running;
            if runs {
                kept.writer = Writer::Stopping;
            }
            runs
        });
    }

    /// Whether the slot is read into the relay log.
    pub(super) fn is_written(&self) -> bool {
        self.kept.borrow().writer != Writer::None
    }

    /// Returns when the slot is not read into the relay log.
    pub(super) async fn unwritten(&self) {
        let mut kept = self.kept.subscribe();
        // The sender is `self`.
        drop(kept.wait_for(|kept| kept.writer == Writer::None).await);
    }

    /// Returns when everything before `head` is here, or the slot is not read into the relay log.
    pub(super) async fn written_to(&self, head: Lsn) {
        let mut kept = self.kept.subscribe();
        let is_over = |kept: &Kept| kept.writer == Writer::None || kept.end() >= Some(head);
        drop(kept.wait_for(is_over).await);
    }

    /// Where what is here ends, if what commits at `after` is.
    pub(super) fn end_behind(&self, after: Lsn) -> Option<Lsn> {
        let kept = self.kept.borrow();
        let end = kept.end().filter(|end| *end >= after);
        kept.holding(after).and(end)
    }

    /// Whether what commits at `after` is to be read here: it is, or is about to be.
    pub(super) fn holds(&self, after: Lsn) -> bool {
        let kept = self.kept.borrow();
        kept.writer != Writer::None
            || kept
                .holding(after)
                .is_some_and(|_| kept.end() >= Some(after))
    }

    /// The stream reads the slot by itself; held until that is ended by [`Relay::begin`].
    pub(super) fn set_stopper(&self, stopper: ReplicationStopper) {
        *lock(&self.stopper) = Some(stopper);
    }

    /// The stream that reads the slot by itself may hold the server up.
    pub(super) fn server_shuts_down(&self) {
        if let Some(stopper) = lock(&self.stopper).as_ref() {
            stopper.shutdown_notice().server_shuts_down();
        }
    }

    /// Held by whoever begins to read the slot.
    pub(super) async fn gate(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.gate.lock().await
    }

    /// Whoever reads for it ends with the source.
    pub(super) fn abort(&self) {
        lock(&self.tasks).abort_all();
    }

    /// Ends the task and lets the slot go, for whoever removes it.
    pub(super) async fn let_go(&self) {
        self.is_permitted.store(false, Ordering::SeqCst);
        // Another slot may be read where this one could not.
        *lock(&self.off) = None;
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        self.kept.send_modify(|kept| kept.writer = Writer::None);
    }

    fn failed(&self, what: &str, error: io::Error) -> Error {
        failed(&self.home, what, error)
    }
}

/// What fails on the relay log's disk ends its writing, and a start that needs it.
fn failed(home: &Path, what: &str, error: io::Error) -> Error {
    let message = format!("the relay log in {} cannot be {what}", home.display());
    Error::new(ErrorKind::Definite, codes::RELAY_FAILED, message)
        .first_action(
            "see to the directory and its disk, or set source.postgres.relay_dir to another",
        )
        .caused_by(error)
}

fn died(err: tokio::task::JoinError) -> Error {
    Error::definite(codes::INTERNAL, "a thread of the relay log died").caused_by(err)
}

/// Tells this directory from a new one of the same name.
fn read_or_make_id(home: &Path) -> io::Result<String> {
    let path = home.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; 8];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let id = format!("{:016x}", u64::from_be_bytes(bytes));
    fs::write(&path, &id)?;
    File::open(&path)?.sync_all()?;
    File::open(home)?.sync_all()?;
    Ok(id)
}

/// `NNNNNNNNNNNNNNNN.relay`, in order.
fn segment_files(home: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(home)? {
        let path = entry?.path();
        let is_ours = path
            .extension()
            .is_some_and(|extension| extension == "relay");
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(number) = stem.filter(|_| is_ours).and_then(|stem| stem.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

fn segment_path(home: &Path, number: u64) -> PathBuf {
    home.join(format!("{number:016}.relay"))
}

/// Durable on return: what is removed must not come back beside what is written later.
fn remove<'a>(home: &Path, paths: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(home)?.sync_all()?;
    failpoint::reached(failpoint::RELAY_REMOVED);
    Ok(())
}

#[cfg(test)]
mod tests;
