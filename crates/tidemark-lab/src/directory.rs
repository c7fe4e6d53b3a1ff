//! A temporary directory that goes away with its owner, and what runs in it too.
//!
//! A small shell, the supervisor, reads a pipe whose other end only the owner holds. However the
//! owner ends (return, panic, `kill -9`), the pipe closes, and the supervisor ends every process
//! whose working directory lies here and removes the directory. Dropping a [`LabDirectory`] closes
//! the pipe and waits, so there is one way of cleaning up and it is used every time.
//!
//! Should the supervisor be killed as well, the next lab that starts finds the leftover: the name
//! carries the owner's pid and start time, and the owner holds a lock on `owner` while it lives
//! (which also tells across process namespaces that share a directory for temporary files).

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result};

use crate::{installation, process};

const PREFIX: &str = "tidemark-lab-";

/// A directory, its supervisor, and the lock that says we live.
#[derive(Debug)]
pub(crate) struct LabDirectory {
    path: PathBuf,
    supervisor: Child,
    pipe: Option<ChildStdin>,
    _lock: File,
}

impl LabDirectory {
    /// Makes one, after removing what dead owners left.
    pub(crate) fn create() -> Result<LabDirectory> {
        static REAPED: Once = Once::new();
        let root = temporary_root();
        REAPED.call_once(|| reap(&root));
        let pid = std::process::id();
        let started = process::start_ticks(pid).unwrap_or(0);
        let path = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{pid}-{started}-"))
            .tempdir_in(&root)
            .with_context(|| format!("make a directory in {}", root.display()))?
            .keep();
        let lock = File::create(path.join("owner"))?;
        lock.lock().context("lock the lab's directory")?;
        if let Some(account) = installation::account() {
            std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))?;
        }
        let account = installation::account().map(|a| (a.uid, a.gid));
        let mut supervisor = supervise(&path, account, Stdio::piped())?;
        let pipe = supervisor.stdin.take();
        Ok(LabDirectory {
            path,
            supervisor,
            pipe,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends what runs here and removes everything; returns when it is gone.
    pub(crate) fn remove(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.supervisor.wait() {
            tracing::debug!(%error, "wait for the lab's supervisor");
        }
    }
}

impl Drop for LabDirectory {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What the supervisor does. `$1` is the directory. Processes are known by their working
/// directory: `postgres` and all it starts work in the data directory, `initdb` in ours. `continue`
/// of a zombie goes on with the next directory, which is none of its own.
/// An immediate shutdown lets the postmaster give back its shared memory; what does not follow in
/// three seconds is killed and its segment removed by the id in line 7 of postmaster.pid.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP QUIT
while read -r _; do :; done
dir=$1
each() {
  found=1
  for p in /proc/[0-9]*; do
    for d in "$dir" "$dir"/*/; do
      [ "$p/cwd" -ef "$d" ] || continue
      case $(sed -n 's/^State:[[:space:]]*//p' "$p/status" 2>/dev/null) in Z*) continue ;; esac
      kill -"$1" "${p#/proc/}" 2>/dev/null && found=0
    done
  done
  return $found
}
segment=$(sed -n '7s/.* //p' "$dir/data/postmaster.pid" 2>/dev/null)
each QUIT && each CONT
n=0
while each 0; do
  n=$((n + 1))
  if [ "$n" -gt 60 ]; then each KILL; fi
  sleep 0.05
done
if [ -n "$segment" ]; then ipcrm -m "$segment" 2>/dev/null; fi
n=0
while ! rm -rf "$dir" 2>/dev/null && [ "$n" -lt 20 ]; do n=$((n + 1)); sleep 0.05; done
"#;

fn supervise(dir: &Path, account: Option<(u32, u32)>, stdin: Stdio) -> Result<Child> {
    let mut command = Command::new("sh");
    command
        .args(["-c", SUPERVISOR, "supervisor"])
        .arg(dir)
        .current_dir("/");
    // A group of its own: Ctrl-C at the terminal reaches the owner, not the one that cleans up.
    command
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some((uid, gid)) = account {
        command.uid(uid).gid(gid);
    }
    command.spawn().context("start the lab's supervisor")
}

/// The directory for temporary files, or `/tmp` where a server's account cannot enter that or could
/// not remove there what it made.
fn temporary_root() -> PathBuf {
    let root = std::env::temp_dir();
    if installation::account_can_enter(&root) && installation::account_can_write(&root) {
        root
    } else {
        PathBuf::from("/tmp")
    }
}

/// Removes what dead owners left; what cannot be removed stays for its own user.
fn reap(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if is_leftover(&path)
            && let Err(error) = remove_leftover(&path)
        {
            tracing::debug!(%error, path = %path.display(), "remove a leftover of the lab");
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let Some(owner) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = owner.split('-');
    let pid = parts.next().and_then(|p| p.parse::<u32>().ok());
    let started = parts.next().and_then(|s| s.parse::<u64>().ok());
    let (Some(pid), Some(started)) = (pid, started) else {
        return false;
    };
    // A link in its place is not ours.
    let is_directory = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    is_directory && process::start_ticks(pid) != Some(started) && !is_locked(&path.join("owner"))
}

fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Lets the directory's own user remove it, so that root follows nobody's links.
fn remove_leftover(path: &Path) -> Result<()> {
    let metadata = path.symlink_metadata()?;
    let is_root = rustix::process::geteuid().is_root();
    let account = is_root.then(|| (metadata.uid(), metadata.gid()));
    supervise(path, account, Stdio::null())?.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::{LabDirectory, PREFIX, is_leftover, reap};
    use crate::process;

    /// A directory as an owner and a supervisor leave it that were both killed.
    fn leftover(root: &Path, pid: u32, started: u64) -> std::path::PathBuf {
        let path = root.join(format!("{PREFIX}{pid}-{started}-abcdef"));
        std::fs::create_dir_all(path.join("data")).unwrap();
        std::fs::write(path.join("owner"), "").unwrap();
        path
    }

    #[test]
    fn what_dead_owners_left_is_removed_with_what_runs_in_it() {
        let root = tempfile::tempdir().unwrap();
        let me = std::process::id();
        let started = process::start_ticks(me).unwrap();
        // A pid of ours with another start time: the number was given out again.
        let dead = leftover(root.path(), me, started + 1);
        let living = leftover(root.path(), me, started);
        let foreign = root.path().join("tidemark-lab-notes");
        std::fs::create_dir(&foreign).unwrap();
        let mut command = Command::new("sleep");
        let mut left = command
            .arg("600")
            .current_dir(dead.join("data"))
            .spawn()
            .unwrap();
        reap(root.path());
        assert!(!dead.exists() && living.exists() && foreign.exists());
        assert!(!left.wait().unwrap().success(), "it was not stopped");
    }

    #[test]
    fn a_locked_directory_has_an_owner_somewhere() {
        let root = tempfile::tempdir().unwrap();
        let path = leftover(root.path(), u32::MAX, 1);
        assert!(is_leftover(&path));
        let owner = std::fs::File::open(path.join("owner")).unwrap();
        owner.lock().unwrap();
        assert!(!is_leftover(&path));
    }

    #[test]
    fn removing_ends_what_ignores_polite_signals() {
        let mut directory = LabDirectory::create().unwrap();
        let script = "trap '' INT TERM HUP QUIT; echo ready; sleep 600 & wait; sleep 600";
        let mut stubborn = crate::installation::command("sh", directory.path());
        let mut stubborn = stubborn
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        let mut stdout = stubborn.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut ready).unwrap();
        directory.remove();
        assert!(!directory.path().exists());
        assert!(!stubborn.wait().unwrap().success());
    }
}
