//! The applier's task: takes work, gives back what became of it. One target transaction at a time.
//!
//! It runs beside the stream so that the next batch is assembled while this one is applied. The
//! channel to it holds one piece of work: more would only make memory and latency larger.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::batch::{Batch, Item, SchemaChange};
use crate::catalogue::codes;
use crate::checkpoint::CheckpointUpdate;
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::quarantine::{Chosen, Kept, Released};
use crate::schema::TableName;
use crate::target::{Applied, Applier, Origin};

use super::assemble::{Unseen, Work, new_key, old_key, unseen_part};
use super::router::Router;

mod aside;

/// What the applier is asked to do.
pub(crate) enum Task {
    /// Apply (a part of) a batch.
    Apply(Box<Work>),
    /// Undo the parts of the open transaction, if it has any.
    Undo,
    /// Make everything committed durable.
    Flush,
    /// Take parked changes of a table back and apply them, up to about `bytes_max`.
    Drain {
        mapping: Arc<TableMapping>,
        /// Knows which tidemarks the table minds; asked for each transaction.
        router: Box<Router>,
        bytes_max: usize,
    },
    /// Apply rows in quarantine again.
    Release {
        mappings: Vec<Arc<TableMapping>>,
        chosen: Chosen,
    },
    /// Discard rows in quarantine.
    Discard(Chosen),
}

/// What became of a task.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) outcome: DoneOutcome,
    /// The highest position that is durable now.
    pub(crate) durable: Option<Position>,
}

#[derive(Debug)]
pub(crate) enum DoneOutcome {
    /// A part is in; the transaction is open.
    Part(Work),
    /// Committed.
    Committed {
        work: Work,
        applied: Applied,
        began: Instant,
        took: std::time::Duration,
    },
    /// The target has nothing of the transaction that was open.
    Undone,
    /// Flushed.
    Flushed,
    /// Parked changes were applied; `is_empty`: none are left.
    Drained { is_empty: bool, applied: Applied },
    /// Rows in quarantine were applied again.
    Released(Released, Applied),
    /// So many rows in quarantine were discarded.
    Discarded(u64, Applied),
    /// Nothing was taken back: the log does not hold what is needed.
    NotInLog(NotInLog),
}

/// What the log does not hold of a table of which only some rows have seen a change.
#[derive(Debug)]
pub(crate) enum NotInLog {
    /// A row that has moved out of those rows, its large value left out: by its key.
    Row(Vec<String>),
    /// Which rows a truncate has left.
    Rows,
}

/// The stream's end of the applier.
pub(crate) struct ApplierHandle {
    tasks: mpsc::Sender<Task>,
    done: mpsc::Receiver<Result<Done>>,
    is_busy: bool,
    /// The transaction that its task is of, where that is not decided.
    undecided: Option<u32>,
    /// Whether it has failed, and not at something undecided.
    pub(crate) has_failed_at_decided: bool,
    /// What tables have in quarantine when it starts.
    pub(crate) quarantined: Vec<(TableName, Kept)>,
    task: JoinSet<()>,
}

impl ApplierHandle {
    pub(crate) fn start(applier: Box<dyn Applier>) -> ApplierHandle {
        let (tasks, tasks_in) = mpsc::channel(1);
        let (done_out, done) = mpsc::channel(1);
        let quarantined = applier.quarantined();
        let mut task = JoinSet::new();
        task.spawn(run(applier, tasks_in, done_out).in_current_span());
        ApplierHandle {
            tasks,
            done,
            is_busy: false,
            undecided: None,
            has_failed_at_decided: false,
            quarantined,
            task,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Gives it a task; only when it is not busy.
    pub(crate) fn give(&mut self, task: Task) {
        self.give_of(None, task);
    }

    /// The same for a task that may be of a transaction that is not decided.
    pub(crate) fn give_of(&mut self, undecided: Option<u32>, task: Task) {
        debug_assert!(!self.is_busy);
        self.is_busy = true;
        self.undecided = undecided;
        // A task that cannot be taken means that the applier is gone; `done` says why.
        drop(self.tasks.try_send(task));
    }

    /// What became of the task. Cancel-safe.
    pub(crate) async fn done(&mut self) -> Result<Done> {
        let Some(done) = self.done.recv().await else {
            return Err(match self.task.join_next().await {
                Some(Err(err)) => super::task_died(err),
                _ => Error::definite(codes::INTERNAL, "the applier has ended"),
            });
        };
        self.is_busy = false;
        self.has_failed_at_decided = done.is_err() && self.undecided.is_none();
        done
    }
}

async fn run(
    mut applier: Box<dyn Applier>,
    mut tasks: mpsc::Receiver<Task>,
    done: mpsc::Sender<Result<Done>>,
) {
    let mut is_open = false;
    let mut applied = Applied::default();
    while let Some(task) = tasks.recv().await {
        let outcome = match task {
            Task::Apply(work) => apply(applier.as_mut(), &mut is_open, &mut applied, *work).await,
            Task::Undo => undo(applier.as_mut(), &mut is_open, &mut applied).await,
            Task::Flush => flush(applier.as_mut()).await,
            Task::Drain {
                mapping,
                router,
                bytes_max,
            } => drain(applier.as_mut(), &mapping, *router, bytes_max).await,
            Task::Release { mappings, chosen } => {
                aside::release(applier.as_mut(), &mappings, &chosen).await
            }
            Task::Discard(chosen) => aside::discard(applier.as_mut(), &chosen).await,
        };
        let outcome = outcome.map(|outcome| Done {
            outcome,
            durable: applier.durable(),
        });
        let failed = outcome.is_err();
        if done.send(outcome).await.is_err() || failed {
            break;
        }
    }
    if is_open {
        // The stream is over in the middle of a transaction; the connection's end would do it too.
        drop(applier.rollback().await);
    }
}

async fn apply(
    applier: &mut dyn Applier,
    is_open: &mut bool,
    applied: &mut Applied,
    mut work: Work,
) -> Result<DoneOutcome> {
    let began = Instant::now();
    if !*is_open {
        applier
            .begin()
            .await
            .context(|| "begin a target transaction")?;
        *is_open = true;
        failpoint::reached(failpoint::APPLY_BEGUN);
    }
    if !work.batch.is_empty() {
        add(
            applied,
            applier
                .apply(&work.batch)
                .await
                .context(|| "apply a batch")?,
        );
    }
    for park in &work.parks {
        applier
            .park(&park.batch, park.origin)
            .await
            .context(|| "put changes aside")?;
        failpoint::reached(failpoint::PARKED);
    }
    let Some(update) = &work.end else {
        failpoint::reached(failpoint::PART_APPLIED);
        work.batch.clear();
        return Ok(DoneOutcome::Part(work));
    };
    failpoint::reached(failpoint::COMMIT_DUE);
    add(
        applied,
        applier.commit(update).await.context(|| "commit a batch")?,
    );
    failpoint::reached(failpoint::COMMITTED);
    *is_open = false;
    let applied = std::mem::take(applied);
    Ok(DoneOutcome::Committed {
        work,
        applied,
        began,
        took: began.elapsed(),
    })
}

async fn undo(
    applier: &mut dyn Applier,
    is_open: &mut bool,
    applied: &mut Applied,
) -> Result<DoneOutcome> {
    if std::mem::take(is_open) {
        applier
            .rollback()
            .await
            .context(|| "undo a transaction that the source has not decided")?;
        failpoint::reached(failpoint::UNDONE);
    }
    *applied = Applied::default();
    Ok(DoneOutcome::Undone)
}

async fn flush(applier: &mut dyn Applier) -> Result<DoneOutcome> {
    applier.flush().await?;
    failpoint::reached(failpoint::FLUSHED);
    Ok(DoneOutcome::Flushed)
}

/// Applies parked changes as far as the table has not seen them, oldest first.
async fn drain(
    applier: &mut dyn Applier,
    mapping: &Arc<TableMapping>,
    mut router: Router,
    bytes_max: usize,
) -> Result<DoneOutcome> {
    applier.begin().await?;
    let parked = applier
        .unpark(mapping, bytes_max)
        .await
        .context(|| "take changes back")?;
    let is_empty = parked.is_none();
    let mut applied = Applied::default();
    for (origin, batch) in parked.into_iter().flat_map(|parked| parked.batches) {
        let unseen = match unseen_of(&mut router, mapping, origin, batch) {
            Ok(unseen) => unseen,
            Err(missing) => {
                applier.rollback().await?;
                return Ok(DoneOutcome::NotInLog(missing));
            }
        };
        if !unseen.is_empty() {
            let done = applier.apply(&unseen).await;
            add(&mut applied, done.context(|| "apply changes taken back")?);
        }
    }
    failpoint::reached(failpoint::DRAIN_DUE);
    let done = applier.commit(&CheckpointUpdate::default()).await?;
    add(&mut applied, done);
    failpoint::reached(failpoint::DRAINED);
    Ok(DoneOutcome::Drained { is_empty, applied })
}

/// A parked batch without what the table's load has seen.
fn unseen_of(
    router: &mut Router,
    mapping: &Arc<TableMapping>,
    origin: Origin,
    mut batch: Batch,
) -> std::result::Result<Batch, NotInLog> {
    let begin = crate::event::Begin {
        xid: origin.xid,
        commit: origin.commit,
        committed_at_us: 0,
    };
    router.begin(&begin);
    let Some(index) = router.named(mapping.source()) else {
        batch.come_from(origin);
        return Ok(batch);
    };
    let mut kept = Vec::with_capacity(batch.len());
    for item in batch.items() {
        match item {
            Item::Change(change) => {
                // Of the shape that the table had when the change was put aside.
                let mapping = &batch.tables()[change.table];
                let old = || old_key(&batch, mapping, change);
                let new = || new_key(&batch, mapping, change);
                let way = router.way(index, old, new);
                match unseen_part(&batch, *change, way) {
                    Unseen::Part(change) => kept.push(Item::Change(change)),
                    Unseen::Nothing => {}
                    Unseen::NotInLog => {
                        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                        let key = new().unwrap_or_default();
                        return Err(NotInLog::Row(key.into_iter().map(text).collect()));
                    }
                }
            }
            Item::Truncate { .. } | Item::Schema { .. } => match router.truncate_seen(index) {
                Some(false) => kept.push(item.clone()),
                Some(true) => {
                    kept.extend(still_to_drop(item, |name| router.came_without(index, name)));
                }
                None => return Err(NotInLog::Rows),
            },
        }
    }
    batch.replace_items(kept);
    batch.come_from(origin);
    Ok(batch)
}

/// Columns that the source has dropped and rows that were loaded since came without: the table that they
/// came into may have them still.
fn still_to_drop(item: &Item, came_without: impl Fn(&str) -> bool) -> Option<Item> {
    let Item::Schema { table, changes } = item else {
        return None;
    };
    let drops = |change: &&SchemaChange| match change {
        SchemaChange::DropColumn { name } => came_without(name),
        _ => false,
    };
    let changes: Vec<_> = changes.iter().filter(drops).cloned().collect();
    let table = *table;
    (!changes.is_empty()).then_some(Item::Schema { table, changes })
}

fn add(total: &mut Applied, part: Applied) {
    total.inserts += part.inserts;
    total.updates += part.updates;
    total.deletes += part.deletes;
    total.conflicts.extend(part.conflicts);
    total.quarantined.extend(part.quarantined);
    total.refused.extend(part.refused);
}
