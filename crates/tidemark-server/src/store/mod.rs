//! The store: what the server has to remember, in one SQLite file in its state directory or in a
//! PostgreSQL database.
//!
//! Definitions, who wants them to run, and what happened: never a position that matters. A pipeline's
//! checkpoint is in its target, so losing the store loses no data; a store that cannot be read is an
//! error with a code all the same, never a list with nothing in it.
//!
//! Every statement is in this module's children, once, in a text that both kinds understand
//! ([`session`]); what is one kind's alone is in `sqlite`, `postgres` and `lease`. Calls are short and
//! run on the runtime's threads for blocking work.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::Secret;
use tidemark_core::target::{Lease, Owner};
use tidemark_core::{Error, Result};
use tidemark_postgres::config::{ConnectConfig, Side};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use postgres::{ANSWER_WITHIN, Postgres};
use sqlite::Sqlite;

pub(crate) use access::{ANSWERS_KEPT_DAYS, Answered, KeptAnswer, NewToken, TokenRow};
pub(crate) use alerts::{AlertMove, AlertRow, AlertState, Snooze};
pub(crate) use compared::Compared;
pub(crate) use connections::ConnectionRow;
pub(crate) use deliveries::{Attempted, DELIVERIES_KEPT_DAYS, DeliveryRow, NewDelivery};
pub(crate) use history::{HistoryRow, Sample, Step};
pub(crate) use journal::{
    AuditRow, Cursor, CursorInTime, EVENTS_KEPT, Entry, EventRow, EventsWanted, Level, RUNS_KEPT,
    RunRow,
};
pub(crate) use lease::Holder;
pub(crate) use operations::{Done, OperationRow, VERIFICATIONS_KEPT, VerificationRow};
pub(crate) use pipelines::{Desired, DesiredState, Key, NewPipeline, PipelineRow};
pub(crate) use schedules::{RunState, ScheduleRun, Standing, Told};
pub use seal::Seal;
pub(crate) use seal::{fill, hex};
pub(crate) use session::{Failed, Row, Session, params};
pub(crate) use sqlite::make_directory;

mod access;
mod alerts;
mod compared;
mod connections;
mod deliveries;
mod history;
mod journal;
mod lease;
mod migrations;
mod operations;
mod pipelines;
mod postgres;
mod schedules;
mod seal;
pub(crate) mod session;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// Its name in the state directory.
pub(crate) const FILE: &str = "tidemark.db";

/// How long an older store may take to be brought to this version.
const MIGRATE_WITHIN: Duration = Duration::from_mins(30);

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    kept: Kept,
    seal: Seal,
    /// For messages.
    place: String,
    /// Under which this server has it, where others could.
    lease: Option<Lease>,
    held: Arc<lease::Kept>,
    /// Makes the lease longer, where there is one.
    keeping: OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(keeping) = self.keeping.get() {
            keeping.abort();
        }
    }
}

/// Where it is.
enum Kept {
    Sqlite(Arc<Mutex<Sqlite>>),
    Postgres(Arc<tokio::sync::Mutex<Postgres>>),
}

impl Store {
    /// Opens the store of a state directory, makes it where there is none, and brings an older one to
    /// this version. Nobody else has it open on return.
    pub(crate) fn open(directory: &Path, seal: Seal) -> Result<Store> {
        let kept = Sqlite::open(directory, &seal)?;
        let place = kept.file.display().to_string();
        Ok(Store::of(
            Kept::Sqlite(Arc::new(Mutex::new(kept))),
            seal,
            place,
        ))
    }

    /// Opens the store in a PostgreSQL database, makes it where there is none, waits until no other
    /// server has it (saying who has), and brings an older one to this version.
    pub(crate) async fn open_shared(
        url: &Secret,
        seal: Seal,
        owner: &Owner,
        address: &str,
        patience: Option<Duration>,
        waits: &watch::Sender<Option<Holder>>,
    ) -> Result<Store> {
        let mut config = ConnectConfig::parse(url.expose(), Side::Store)?;
        config.set_pipeline("serve");
        let place = config.address();
        let mut kept = Postgres::new(config.clone());
        let waited = async {
            kept.make(Instant::now() + ANSWER_WITHIN).await?;
            lease::wait(&mut kept, owner, address, patience, waits).await
        };
        let opening = |err: Error| err.context(format!("open the store {place}"));
        let lease = waited.await.map_err(opening)?;
        let generation = lease.generation;
        let kept = Kept::Postgres(Arc::new(tokio::sync::Mutex::new(kept)));
        let mut store = Store::of(kept, seal, place.clone());
        if let Some(inner) = Arc::get_mut(&mut store.inner) {
            inner.lease = Some(lease);
        }
        let keeping = lease::keep(config, generation, Arc::clone(&store.inner.held));
        let keeping = tokio::spawn(keeping).abort_handle();
        store.inner.keeping.set(keeping).ok();
        let opened = async {
            if let Kept::Postgres(kept) = &store.inner.kept {
                let within = Instant::now() + MIGRATE_WITHIN;
                kept.lock().await.migrate(migrations::ALL, within).await?;
            }
            store.with(|session, seal| seal.check(session)).await
        };
        if let Err(err) = opened.await {
            store.close().await;
            return Err(opening(err));
        }
        Ok(store)
    }

    /// Its kind, and where it is, without secrets.
    pub(crate) fn place(&self) -> (&'static str, &str) {
        let kind = match &self.inner.kept {
            Kept::Sqlite(_) => "sqlite",
            Kept::Postgres(_) => "postgres",
        };
        (kind, &self.inner.place)
    }

    fn of(kept: Kept, seal: Seal, place: String) -> Store {
        Store {
            inner: Arc::new(Inner {
                kept,
                seal,
                place,
                lease: None,
                held: Arc::new(lease::Kept::new()),
                keeping: OnceLock::new(),
            }),
        }
    }

    /// Under which this server has it, where others could.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.inner.lease.as_ref()
    }

    /// Whether no other server can have it at this moment.
    pub(crate) fn is_certain(&self) -> bool {
        self.inner.lease.is_none() || self.inner.held.is_certain()
    }

    /// Waits until another server has it; for ever where that cannot be.
    pub(crate) async fn taken_over(&self) -> Error {
        let mut taken = self.inner.held.taken.subscribe();
        taken.wait_for(|taken| *taken).await.ok();
        let text = "another server has taken it over";
        let place = &self.inner.place;
        Error::definite(codes::STORE_TAKEN_OVER, text).context(format!("use the store {place}"))
    }

    /// Lets the next server have it at once.
    pub(crate) async fn close(&self) {
        if let Some(keeping) = self.inner.keeping.get() {
            keeping.abort();
        }
        if let Kept::Postgres(kept) = &self.inner.kept
            && let Err(err) = lease::give_back(&mut *kept.lock().await).await
        {
            tracing::debug!(error = %err, "the lease of the store was not given back");
        }
    }

    /// Whether what is written down is kept.
    pub(crate) async fn keeps(&self) -> Result<()> {
        if let Kept::Sqlite(kept) = &self.inner.kept {
            let kept = Arc::clone(kept);
            let kept = on_thread(move || {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.keeps()
            });
            return kept.await;
        }
        // Looking for what is not there shows that it answers.
        self.pipeline(&Key::new("", "")).await.map(drop)
    }

    /// Runs a piece of work on the store, all of it or nothing.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session<'_>, &Seal) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let worked = match &self.inner.kept {
            Kept::Sqlite(kept) => {
                let kept = Arc::clone(kept);
                on_thread(move || {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.transact(|session| work(session, &inner.seal))
                })
                .await
            }
            Kept::Postgres(kept) => {
                let deadline = Instant::now() + ANSWER_WITHIN;
                let free = timeout_at(deadline, Arc::clone(kept).lock_owned()).await;
                let busy = |_| {
                    let text = "others wait for it, and its database does not answer";
                    Error::transient(codes::STORE_UNREACHABLE, text)
                };
                match free.map_err(busy) {
                    Ok(mut kept) => {
                        let runtime = Handle::current();
                        on_thread(move || {
                            kept.transact(&runtime, deadline, |session| work(session, &inner.seal))
                        })
                        .await
                    }
                    Err(err) => Err(err),
                }
            }
        };
        worked.map_err(|err| err.context(format!("use the store {}", self.inner.place)))
    }
}

/// Runs on a thread for blocking work.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failed> + Send + 'static,
) -> Result<T> {
    let worked = tokio::task::spawn_blocking(work).await;
    let worked = worked.map_err(|died| {
        Error::definite(codes::INTERNAL, "work on the store died").caused_by(died)
    })?;
    worked.map_err(|failed| failed.0)
}
