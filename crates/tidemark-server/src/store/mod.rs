//! The store: what the server has to remember, in one SQLite file in its state directory.
//!
//! Definitions, who wants them to run, and what happened: never a position that matters. A pipeline's
//! checkpoint is in its target, so losing the store loses no data; a store that cannot be read is an
//! error with a code all the same, never a list with nothing in it.
//!
//! Everything that touches the file is in this module and its children: another store is another
//! `Store`. Calls are short and run on the runtime's threads for blocking work.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};

pub(crate) use access::{Answered, NewToken, TokenRow};
pub(crate) use alerts::{AlertMove, AlertRow, AlertState};
pub(crate) use history::{HistoryRow, Sample, Step};
pub(crate) use journal::{AuditRow, Cursor, Entry, EventRow, EventsWanted, Level, RunRow};
pub(crate) use operations::{OperationRow, VerificationRow};
pub(crate) use pipelines::{Desired, DesiredState, Key, NewPipeline, PipelineRow};
pub use seal::Seal;
pub(crate) use seal::{fill, hex};

mod access;
mod alerts;
mod history;
mod journal;
mod migrations;
mod operations;
mod pipelines;
mod seal;
#[cfg(test)]
mod tests;

/// Its name in the state directory.
pub(crate) const FILE: &str = "tidemark.db";

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Mutex<Connection>,
    seal: Seal,
    file: PathBuf,
}

impl Store {
    /// Opens the store of a state directory, makes it where there is none, and brings an older one to
    /// this version. Nobody else has it open on return.
    pub(crate) fn open(directory: &Path, seal: Seal) -> Result<Store> {
        make_directory(directory)?;
        let file = directory.join(FILE);
        let is_new = make_file(&file)?;
        if !is_new && fs::metadata(&file).is_ok_and(|found| found.len() == 0) {
            let text = "the file is empty, and was not when it was made";
            return Err(Error::definite(codes::STORE_DAMAGED, text).context(opening(&file)));
        }
        let opened = open_file(&file, &seal, is_new);
        if opened.is_err() && is_new {
            // Half a store would be taken for a damaged one.
            fs::remove_file(&file).ok();
        }
        let connection = opened.map_err(|err| err.context(opening(&file)))?;
        let connection = Mutex::new(connection);
        Ok(Store {
            inner: Arc::new(Inner {
                connection,
                seal,
                file,
            }),
        })
    }

    /// Runs a piece of work on the store, all of it or nothing.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>, &Seal) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let worked = tokio::task::spawn_blocking(move || {
            let mut connection = inner
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let transaction = connection.transaction().map_err(Failed::from)?;
            let done = work(&transaction, &inner.seal)?;
            transaction.commit().map_err(Failed::from)?;
            Ok(done)
        });
        let worked = worked.await.map_err(|died| {
            Error::definite(codes::INTERNAL, "work on the store died").caused_by(died)
        })?;
        worked.map_err(|failed: Failed| {
            let file = self.inner.file.display();
            failed.0.context(format!("use the store {file}"))
        })
    }
}

fn opening(file: &Path) -> String {
    format!("open the store {}", file.display())
}

/// An error on the way through the store; lets `?` take SQLite's.
pub(crate) struct Failed(Error);

impl From<Error> for Failed {
    fn from(err: Error) -> Failed {
        Failed(err)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(err: rusqlite::Error) -> Failed {
        Failed(classify(&err))
    }
}

/// The one place that knows SQLite's errors.
fn classify(err: &rusqlite::Error) -> Error {
    let (kind, code) = match err.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ErrorKind::Transient, codes::STORE_FULL),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Definite, codes::STORE_IN_USE)
        }
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::SystemIoFailure,
        ) => (ErrorKind::Definite, codes::STORE_UNWRITABLE),
        _ => (ErrorKind::Definite, codes::STORE_DAMAGED),
    };
    Error::new(kind, code, err.to_string())
}

fn make_directory(directory: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(directory)
        .map_err(|err| unwritable(directory, &err))
}

/// Makes the file, so that it is ours alone from the first byte. Whether it was not there before.
fn make_file(file: &Path) -> Result<bool> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match made {
        Ok(_) => Ok(true),
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = fs::metadata(file).map_err(|err| unwritable(file, &err))?;
            if found.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(file, Permissions::from_mode(0o600))
                    .map_err(|err| unwritable(file, &err))?;
            }
            Ok(false)
        }
        Err(err) => Err(unwritable(file, &err)),
    }
}

fn unwritable(path: &Path, err: &std::io::Error) -> Error {
    let code = match err.kind() {
        std::io::ErrorKind::StorageFull => codes::STORE_FULL,
        _ => codes::STORE_UNWRITABLE,
    };
    Error::definite(code, format!("{}: {err}", path.display()))
}

fn open_file(file: &Path, seal: &Seal, is_new: bool) -> Result<Connection> {
    let open = || -> Result<Connection, Failed> {
        let mut connection = Connection::open(file)?;
        // One server has one store: the lock is held as long as the file is open.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        connection.busy_timeout(std::time::Duration::ZERO)?;
        if !is_new {
            let found: String =
                connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found != "ok" {
                return Err(Error::definite(codes::STORE_DAMAGED, found).into());
            }
        }
        migrations::migrate(&mut connection, file, migrations::ALL)?;
        seal.check(&connection)?;
        Ok(connection)
    };
    open().map_err(|failed| failed.0)
}
