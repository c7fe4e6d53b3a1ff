//! A file system of a test's own, a few megabytes in memory, that is full soon and grows when the test
//! says so.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tidemark_lab::skip::skipped;

/// A mounted file system; gone with its owner.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// `None` after saying so where the machine lets us mount nothing.
    pub(crate) fn mount(test: &str, megabytes: u32, owner: &Path) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(owner).unwrap();
        let options = format!(
            "size={megabytes}m,mode=0700,uid={},gid={}",
            owner.uid(),
            owner.gid()
        );
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk { directory }),
            _ => {
                skipped(test, "nothing can be mounted here: it needs root");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    pub(crate) fn resize(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-o", &options]).arg(self.directory.path());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        // A server may still have files open.
        unmount.arg("-l").arg(self.directory.path());
        if !unmount.status().is_ok_and(|status| status.success()) {
            skipped("umount", &self.directory.path().display().to_string());
        }
    }
}
