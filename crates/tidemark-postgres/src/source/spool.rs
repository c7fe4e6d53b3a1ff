//! Where transactions in progress wait on disk until they are decided.
//!
//! Each has an anonymous temporary file: it has no name, so that nothing is left behind when we are
//! killed. Pieces below [`BUFFER_BYTES_MAX`] stay in memory, so small transactions never touch the
//! disk. Memory is bounded: by that limit for each transaction, and by another for all.
//!
//! What is kept are frames of the stream as they came, whole and in order, read back in chunks of
//! whole frames. All I/O here blocks; [`super::stream`] calls what may touch the disk on a thread for
//! that.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result, failpoint};

use super::assemble::{Aside, malformed, out_of_place};
use super::frames::{FRAME_HEADER_LEN, frame_end};

#[cfg(test)]
mod tests;

/// What one transaction may hold in memory.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Says so in the log when a transaction has put this much aside, and at each doubling.
const NOTABLE_BYTES: u64 = 256 * 1024 * 1024;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: Arc<Path>,
    transactions: HashMap<u32, Kept>,
    memory_bytes: usize,
    memory_bytes_max: usize,
}

/// The pieces of one transaction: first those on disk, then those in memory.
#[derive(Debug, Default)]
struct Kept {
    file: Option<File>,
    file_bytes: u64,
    buffer: Vec<u8>,
}

/// The frames of a transaction, to be read back from the front.
#[derive(Debug)]
pub(crate) struct Frames {
    directory: Arc<Path>,
    file: Option<File>,
    file_bytes: u64,
    /// How much of the file has been given out.
    at: u64,
    /// What follows after the file.
    buffer: Vec<u8>,
}

/// Whether transactions could be put aside there: makes a file as they would, and writes to it.
pub(crate) async fn try_directory(directory: PathBuf) -> Result<()> {
    let tried = tokio::task::spawn_blocking(move || {
        let written = tempfile::tempfile_in(&directory).and_then(|mut file| file.write_all(b"."));
        written.map_err(|error| failed(&directory, "written", error))
    });
    tried.await.unwrap_or_else(|died| {
        Err(Error::definite(codes::INTERNAL, "a blocking task died").caused_by(died))
    })
}

impl Spool {
    /// All transactions together hold at most so much in memory.
    pub(crate) fn new(directory: PathBuf, memory_bytes_max: usize) -> Spool {
        Spool {
            directory: directory.into(),
            transactions: HashMap::new(),
            memory_bytes: 0,
            memory_bytes_max,
        }
    }

    /// Does what can be done without touching the disk, in order, and gives how many steps that was.
    pub(crate) fn carry_out_in_memory(&mut self, block: &[u8], steps: &[Aside]) -> Result<usize> {
        for (done, step) in steps.iter().enumerate() {
            match step {
                Aside::Keep { xid, frames } => {
                    let kept = self.transactions.entry(*xid).or_default();
                    if kept.buffer.len() + frames.len() > BUFFER_BYTES_MAX
                        || self.memory_bytes + frames.len() > self.memory_bytes_max
                    {
                        return Ok(done);
                    }
                    kept.buffer.extend_from_slice(slice(block, frames)?);
                    self.memory_bytes += frames.len();
                }
                Aside::Forget { xid } => {
                    if self
                        .transactions
                        .get(xid)
                        .is_some_and(|kept| kept.file.is_some())
                    {
                        return Ok(done);
                    }
                    self.forget(*xid);
                }
            }
        }
        Ok(steps.len())
    }

    /// Does all steps, in order. Blocks.
    pub(crate) fn carry_out(&mut self, block: &[u8], steps: &[Aside]) -> Result<()> {
        for step in steps {
            match step {
                Aside::Keep { xid, frames } => self.write(*xid, slice(block, frames)?)?,
                Aside::Forget { xid } => self.forget(*xid),
            }
        }
        Ok(())
    }

    fn write(&mut self, xid: u32, frames: &[u8]) -> Result<()> {
        let kept = self.transactions.entry(xid).or_default();
        let result = kept.write(&self.directory, frames);
        result.map_err(|error| failed(&self.directory, "written", error))?;
        failpoint::reached(failpoint::SPOOLED);
        let before = kept.file_bytes;
        self.memory_bytes -= kept.buffer.len();
        kept.file_bytes += (kept.buffer.len() + frames.len()) as u64;
        kept.buffer = Vec::new();
        if notable(before) != notable(kept.file_bytes) {
            tracing::info!(
                xid,
                bytes = kept.file_bytes,
                "transaction is still in progress on the source; its changes are put aside in {}",
                self.directory.display()
            );
        }
        Ok(())
    }

    fn forget(&mut self, xid: u32) {
        if let Some(kept) = self.transactions.remove(&xid) {
            self.memory_bytes -= kept.buffer.len();
        }
    }

    /// The frames of a transaction that has committed; none if it brought none.
    pub(crate) fn take(&mut self, xid: u32) -> Frames {
        let kept = self.transactions.remove(&xid).unwrap_or_default();
        self.memory_bytes -= kept.buffer.len();
        Frames {
            directory: Arc::clone(&self.directory),
            file: kept.file,
            file_bytes: kept.file_bytes,
            at: 0,
            buffer: kept.buffer,
        }
    }
}

impl Kept {
    /// Appends the buffer and then `frames` to the file.
    fn write(&mut self, directory: &Path, frames: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(directory)?),
        };
        file.write_all(&self.buffer)?;
        file.write_all(frames)
    }
}

impl Frames {
    /// The next frames, whole ones: as many as fit into `goal_bytes`, but at least one. `None` after
    /// the last; the file is gone then. Blocks.
    pub(crate) fn next_chunk(&mut self, goal_bytes: usize) -> Result<Option<Bytes>> {
        if self.at < self.file_bytes {
            return self.read(goal_bytes).map(Some);
        }
        self.file = None;
        match std::mem::take(&mut self.buffer) {
            buffer if buffer.is_empty() => Ok(None),
            buffer => Ok(Some(buffer.into())),
        }
    }

    fn read(&mut self, goal_bytes: usize) -> Result<Bytes> {
        let mut chunk = self.read_at_most(goal_bytes.max(FRAME_HEADER_LEN))?;
        let mut whole = whole_frames(&chunk)?;
        if whole == 0 {
            // A frame larger than the goal: exactly that one.
            whole = frame_end(&chunk, 0).map_err(malformed)?;
            chunk = self.read_at_most(whole)?;
            if chunk.len() < whole {
                return Err(out_of_place("frame cut short in what was put aside"));
            }
        }
        chunk.truncate(whole);
        self.at += whole as u64;
        Ok(chunk.into())
    }

    fn read_at_most(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.file_bytes - self.at).unwrap_or(usize::MAX);
        let mut chunk = vec![0; bytes.min(left)];
        let read = match &mut self.file {
            Some(file) => file
                .seek(SeekFrom::Start(self.at))
                .and_then(|_| file.read_exact(&mut chunk)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        read.map_err(|error| failed(&self.directory, "read", error))?;
        Ok(chunk)
    }
}

/// How many bytes at the front are whole frames.
fn whole_frames(chunk: &[u8]) -> Result<usize> {
    let mut at = 0;
    while at + FRAME_HEADER_LEN <= chunk.len() {
        match frame_end(chunk, at).map_err(malformed)? {
            end if end <= chunk.len() => at = end,
            _ => break,
        }
    }
    Ok(at)
}

fn slice<'a>(block: &'a [u8], frames: &std::ops::Range<usize>) -> Result<&'a [u8]> {
    block
        .get(frames.clone())
        .ok_or_else(|| out_of_place("frames outside of their block"))
}

/// How often the notable size has been doubled; 0 below it.
fn notable(bytes: u64) -> u32 {
    (bytes / NOTABLE_BYTES)
        .checked_ilog2()
        .map_or(0, |doublings| doublings + 1)
}

/// A full disk may be mended while we try again (the source sends the transaction anew); a
/// directory that is missing or closed to us needs another configuration.
fn failed(directory: &Path, what: &str, error: io::Error) -> Error {
    let shown = directory.display();
    let elsewhere = "set stream.spool_dir to another directory";
    let (kind, action) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            ErrorKind::Transient,
            format!("free space in {shown}, or {elsewhere}, on a larger disk"),
        ),
        io::ErrorKind::NotFound => (
            ErrorKind::Definite,
            format!("make the directory {shown}, or {elsewhere}"),
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::Definite,
            format!("see that tidemark's user may write in {shown}, or {elsewhere}"),
        ),
        _ => (ErrorKind::Definite, elsewhere.to_owned()),
    };
    Error::new(
        kind,
        codes::SPOOL_FAILED,
        format!("a transaction in progress cannot be {what} in the directory {shown}"),
    )
    .first_action(action)
    .caused_by(error)
}
