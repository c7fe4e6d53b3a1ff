//! One `initdb` per process and kind of cluster; every server gets a copy.
//!
//! A copy is several times cheaper than `initdb`, but it would share the system identifier, by which
//! a source and a target are told apart, so each copy gets one of its own (see [`super::identity`]).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};

use super::{SUPERUSER, identity};
use crate::directory::LabDirectory;
use crate::installation::{self, Installation};

type Kind = (PathBuf, String, String);
type Made = Arc<Mutex<Option<LabDirectory>>>;

/// Makes `dir/data`.
pub(super) fn copy(
    installation: &Installation,
    encoding: &str,
    locale: &str,
    dir: &Path,
) -> Result<()> {
    static TEMPLATES: OnceLock<Mutex<HashMap<Kind, Made>>> = OnceLock::new();
    let templates = TEMPLATES.get_or_init(Mutex::default);
    let kind = (
        installation.bin.clone(),
        encoding.to_owned(),
        locale.to_owned(),
    );
    let made = {
        let mut templates = templates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(templates.entry(kind).or_default())
    };
    // Held while it is made, so that several servers of one kind wait for one initdb.
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_none() {
        let directory = LabDirectory::create()?;
        initdb(
            installation,
            encoding,
            locale,
            &directory.path().join("template"),
        )?;
        *made = Some(directory);
    }
    let template = made
        .as_ref()
        .context("the template was just made")?
        .path()
        .join("template");
    drop(made);
    let data = dir.join("data");
    run(installation::command("cp", dir)
        .arg("-a")
        .arg(template)
        .arg(&data))?;
    identity::renew(&data)
}

fn initdb(installation: &Installation, encoding: &str, locale: &str, data: &Path) -> Result<()> {
    use std::io::Write;
    let dir = data.parent().context("a data directory has a parent")?;
    let mut command = installation::command(installation.program("initdb"), dir);
    command
        .arg("-D")
        .arg(data)
        .args(["-U", SUPERUSER, "-A", "trust", "--no-sync"]);
    command
        .arg(format!("--encoding={encoding}"))
        .arg(format!("--locale={locale}"));
    run(&mut command)?;
    let settings = data.join("postgresql.conf");
    let mut file = std::fs::File::options().append(true).open(settings)?;
    writeln!(file, "include_if_exists = 'lab.conf'")?;
    Ok(())
}

/// Runs a command to its end; when it fails the error holds what it said.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
