//! The store: what the server has to remember, in one SQLite file in its state directory.
//!
//! Definitions, who wants them to run, and what happened: never a position that matters. A pipeline's
//! checkpoint is in its target, so losing the store loses no data; a store that cannot be read is an
//! error with a code all the same, never a list with nothing in it.
//!
//! Every statement is in this module's children, once, in a text that is not SQLite's
//! alone ([`session`]); what is, is in `sqlite`. Calls are short and run on the runtime's threads for
//! blocking work.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};

use sqlite::Sqlite;

pub(crate) use access::{Answered, NewToken, TokenRow};
pub(crate) use alerts::{AlertMove, AlertRow, AlertState};
pub(crate) use history::{HistoryRow, Sample, Step};
pub(crate) use journal::{AuditRow, Cursor, Entry, EventRow, EventsWanted, Level, RunRow};
pub(crate) use operations::{OperationRow, VerificationRow};
pub(crate) use pipelines::{Desired, DesiredState, Key, NewPipeline, PipelineRow};
pub use seal::Seal;
pub(crate) use seal::{fill, hex};
pub(crate) use session::{Failed, Row, Session, params};
use sqlite::make_directory;

mod access;
mod alerts;
mod history;
mod journal;
mod migrations;
mod operations;
mod pipelines;
mod seal;
pub(crate) mod session;
mod sqlite;
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
    kept: Mutex<Sqlite>,
    seal: Seal,
    /// For messages.
    place: String,
}

impl Store {
    /// Opens the store of a state directory, makes it where there is none, and brings an older one to
    /// this version. Nobody else has it open on return.
    pub(crate) fn open(directory: &Path, seal: Seal) -> Result<Store> {
        let kept = Sqlite::open(directory, &seal)?;
        let place = kept.file.display().to_string();
        let kept = Mutex::new(kept);
        Ok(Store {
            inner: Arc::new(Inner { kept, seal, place }),
        })
    }

    /// Runs a piece of work on the store, all of it or nothing.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session<'_>, &Seal) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        self.on_kept(|kept, seal| kept.transact(|session| work(session, seal)))
            .await
    }

    /// Has what is kept to itself, on a thread for blocking work.
    async fn on_kept<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Sqlite, &Seal) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let worked = tokio::task::spawn_blocking(move || {
            let mut kept = inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut kept, &inner.seal)
        });
        let worked = worked.await.map_err(|died| {
            Error::definite(codes::INTERNAL, "work on the store died").caused_by(died)
        })?;
        worked.map_err(|failed| {
            let place = &self.inner.place;
            failed.0.context(format!("use the store {place}"))
        })
    }
}
