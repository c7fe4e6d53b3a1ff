//! A directory in which a test works as a person would who is not root.
//!
//! Servers refuse root, and what a document tells its reader to do must work for anybody. The directory
//! goes with its owner, and so does whatever still runs in it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::directory::LabDirectory;
use crate::installation;

/// See the module's text.
#[derive(Debug)]
pub struct Workplace {
    directory: LabDirectory,
}

impl Workplace {
    /// Makes one.
    pub fn create() -> Result<Workplace> {
        let directory = LabDirectory::create()?;
        Ok(Workplace { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a directory in it whose files can be removed with it, whoever writes them.
    pub fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(account) = installation::account() {
            std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))?;
        }
        Ok(path)
    }

    /// A command that works here, not as root.
    pub fn command(&self, program: &str) -> Command {
        installation::command(program, self.path())
    }
}
