//! Which rows of a batch the target refuses: they go into quarantine, all others of the batch are in.

use tidemark_core::batch::{Batch, Item};
use tidemark_core::catalogue::codes;
use tidemark_core::compact::{Segment, split};
use tidemark_core::mapping::TableMapping;
use tidemark_core::target::Applied;
use tidemark_core::{Error, ErrorKind, Result, failpoint};

use super::{Quarantine, cause_of};
use crate::target::apply::PgApplier;
use crate::target::apply::refusal;
use crate::target::apply::session::Step;
use crate::target::apply::stretch::{Ended, Pace, Work};
use crate::target::apply::table::lookup_key;
use crate::target::apply::transaction::{Stage, State, count_items};

/// SQLSTATE classes of refusals that are about a row: data exceptions, constraints, check options of
/// views, what a trigger raises, and limits that its values exceed.
const ROW_CLASSES: [&str; 5] = ["22", "23", "44", "54", "P0"];

/// Changes that are applied before it is known that all of them are taken: what one that is refused
/// costs.
const RUN: usize = 128;

/// Whether a refusal is about a row, and its table's rows go aside one by one.
fn is_about_a_row(mapping: &TableMapping, batch: &Batch, item: usize, error: &Error) -> bool {
    let class = error.sqlstate_code().and_then(|state| state.get(..2));
    mapping.on_row_error.is_by_row()
        && error.kind() == ErrorKind::Data
        && error.code() != codes::FILTER_UNDECIDABLE
        && class.is_some_and(|class| ROW_CLASSES.contains(&class))
        && batch.origin(item).is_some()
}

/// Whether a refused change may go aside alone. A refused set names no change; what in it is at fault is
/// looked for.
pub(in crate::target::apply) fn may_sift(batch: &Batch, step: Step, error: &Error) -> bool {
    let (table, item) = match step {
        Step::Change { table, item } => (table as usize, item as usize),
        Step::Set { table, .. } => (table as usize, 0),
        Step::Own | Step::Hooks | Step::Rows | Step::Sync => return false,
    };
    let mapping = &batch.tables()[table];
    is_about_a_row(mapping, batch, item, error) && !lookup_key(mapping).is_empty()
}

impl PgApplier {
    /// Applies a batch whose rows the target does not all take, from its beginning: in short runs one by
    /// one, so that a row that is refused costs one run, and all others of the batch are in.
    pub(in crate::target::apply) async fn sift(
        &mut self,
        batch: &Batch,
        stage: Stage,
    ) -> Result<Applied> {
        let (undo, opening) = stage.undoing();
        self.session.run(undo, Step::Own)?;
        self.session.sync();
        if let Some((_, said)) = self.session.finish().await?.refused {
            return Err(refusal::of_own(*said));
        }
        self.quarantine.reset();
        for mapping in batch.tables() {
            self.known.forget(&mut self.session, &mapping.target)?;
        }
        let mut applied = Applied::default();
        let quarantine = &mut self.quarantine;
        let mut work = Work {
            session: &mut self.session,
            known: &mut self.known,
            batch,
            met: Vec::new(),
            pace: Pace::Careful,
            opening,
        };
        for segment in split(batch) {
            match &segment {
                Segment::Barrier(item) => {
                    quarantine.pass(batch, &batch.items()[*item])?;
                    if let Ended::Refused(step, said) = work.barrier(*item).await? {
                        return Err(work.refused(step, *said));
                    }
                }
                Segment::Changes(stretch) => {
                    work.meet_all(stretch).await?;
                    work.open()?;
                    let (mut from, end) = (stretch.items.start, stretch.items.end);
                    let mut to = end.min(from + RUN);
                    while from < end {
                        let before = (quarantine.now.clone(), quarantine.pending.len());
                        match sift_run(&mut work, quarantine, from, to).await? {
                            Sifted::All(conflicts) => {
                                count_items(&mut applied, batch, from..to, &conflicts);
                                from = to;
                            }
                            Sifted::Refused(item, error) => {
                                quarantine.now = before.0;
                                quarantine.pending.truncate(before.1);
                                if item > from {
                                    to = item;
                                    continue;
                                }
                                quarantine.hold(batch, item, Some(cause_of(&error)))?;
                                failpoint::reached(failpoint::ROW_ASIDE);
                                from = item + 1;
                            }
                        }
                        to = end.min(from + RUN);
                    }
                }
            }
        }
        work.open()?;
        self.state = State::Open(stage.after_part());
        Ok(applied)
    }
}

enum Sifted {
    /// All are in, or wait; how many met other rows than the log implies.
    All(Vec<(u32, u64)>),
    /// The target refused this one; nothing of the run is in.
    Refused(usize, Error),
}

/// Applies items `from..to` behind a savepoint; what waits behind a row in quarantine goes there.
async fn sift_run(
    work: &mut Work<'_>,
    quarantine: &mut Quarantine,
    from: usize,
    to: usize,
) -> Result<Sifted> {
    let batch = work.batch;
    work.session.run("SAVEPOINT tidemark_run", Step::Own)?;
    for item in from..to {
        let Item::Change(change) = &batch.items()[item] else {
            continue;
        };
        if quarantine.waits(batch, change) {
            quarantine.hold(batch, item, None)?;
        } else {
            work.items(item..item + 1, |_| true).await?;
        }
    }
    work.session.sync();
    let outcome = work.session.finish().await?;
    let Some((step, said)) = outcome.refused else {
        work.session
            .run("RELEASE SAVEPOINT tidemark_run", Step::Own)?;
        return Ok(Sifted::All(work.unexpected(outcome.surprises)));
    };
    let error = work.refused(step, *said);
    let Step::Change { table, item } = step else {
        return Err(error);
    };
    let (mapping, item) = (&batch.tables()[table as usize], item as usize);
    if !is_about_a_row(mapping, batch, item, &error) || !tells_rows(work, table as usize) {
        return Err(error);
    }
    for sql in [
        "ROLLBACK TO SAVEPOINT tidemark_run",
        "RELEASE SAVEPOINT tidemark_run",
    ] {
        work.session.run(sql, Step::Own)?;
    }
    work.session.sync();
    match work.session.finish().await?.refused {
        Some((_, said)) => Err(refusal::of_own(*said)),
        None => Ok(Sifted::Refused(item, error)),
    }
}

/// Whether the text of a table's key tells its rows: equal keys are written in one way alone.
fn tells_rows(work: &Work<'_>, table: usize) -> bool {
    let Some(Some(met)) = work.met.get(table) else {
        return false;
    };
    let key = &met.table.key;
    !key.is_empty() && key.iter().all(|place| met.table.columns[*place].is_exact)
}
