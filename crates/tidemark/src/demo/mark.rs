//! The mark that a running demo leaves, by which other commands find it.
//!
//! A small file in the directory for temporary files, one for each user. It is written whole or not
//! at all, readable by its owner alone, and believed only if it belongs to us and the demo that wrote
//! it is alive.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What commands need to know of a running demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The demo's process.
    pub(crate) pid: u32,
    /// When that process started, in clock ticks since boot: tells a later process of the same
    /// number (proc(5), `/proc/PID/stat`, field 22).
    pub(crate) started_ticks: u64,
    /// The pipeline's name.
    pub(crate) pipeline: String,
    /// The pipeline's file.
    pub(crate) file: PathBuf,
    /// The source, for psql.
    pub(crate) source_url: String,
    /// The target, for psql.
    pub(crate) target_url: String,
    /// A socket on which the demo takes orders.
    pub(crate) socket: PathBuf,
}

impl Mark {
    /// The mark of a demo of ours that is alive.
    pub(crate) fn of_running_demo() -> Option<Mark> {
        let path = path();
        let metadata = path.symlink_metadata().ok()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mark: Mark = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (started_ticks(mark.pid)? == mark.started_ticks).then_some(mark)
    }

    /// Leaves the mark, in place of one that a dead demo left.
    pub(crate) fn leave(&self) -> std::io::Result<Left> {
        let path = path();
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        let draft = path.with_extension(format!("{}.new", self.pid));
        match std::fs::remove_file(&draft) {
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&text)?;
        std::fs::rename(&draft, &path)?;
        Ok(Left {
            path,
            pid: self.pid,
        })
    }
}

/// A mark that was left; it goes with this.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    pid: u32,
}

impl Drop for Left {
    fn drop(&mut self) {
        let is_ours = Mark::of_running_demo().is_some_and(|mark| mark.pid == self.pid);
        if is_ours && let Err(err) = std::fs::remove_file(&self.path) {
            tracing::debug!(error = %err, "remove the demo's mark");
        }
    }
}

fn path() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("tidemark-demo-{uid}.json"))
}

/// When a process started; `None` where there is none of that number.
pub(crate) fn started_ticks(pid: u32) -> Option<u64> {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is a name in brackets that may hold anything; what counts comes after it.
    let after_name = stat.rsplit_once(") ")?.1;
    after_name.split(' ').nth(19)?.parse().ok()
}
