//! One target transaction: held back and sent in one flight, or open and applied part by part.
//!
//! The state machine behind [`super::PgApplier`]; the module's text tells why there are two ways.

use std::ops::Range;

use tidemark_core::batch::{Batch, Item};
use tidemark_core::compact::{Segment, Stretch, TableChanges, split};
use tidemark_core::event::Op;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::target::{Applied, Parked};
use tidemark_core::{Error, Result};

use super::aside;
use super::known::{KnownTables, Went};
use super::parked::Parcel;
use super::refusal;
use super::session::Step;
use super::stretch::{Ended, LIKE_MIN, Pace, Work};
use super::{PgApplier, out_of_turn};
use crate::wire::ServerError;

/// A batch up to this size is held back for a single flight.
const LIGHT_ITEMS: usize = 32;
/// The same in bytes, parked changes included.
const LIGHT_BYTES: usize = 256 * 1024;
/// Where the transaction stands.
#[derive(Debug)]
pub(super) enum State {
    /// There is none.
    Idle,
    /// Begun; nothing is sent yet.
    Held(Vec<Part>),
    /// Changes are applied as they come.
    Open(Stage),
}

/// How far an open transaction is on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The server knows nothing of it.
    Unbegun,
    /// It is begun.
    Begun,
    /// It is begun, and the last part stands behind a savepoint.
    Saved,
}

impl Stage {
    /// What makes the next part one that can be undone.
    fn opening(self) -> &'static [&'static str] {
        match self {
            Stage::Unbegun => &["BEGIN"],
            Stage::Begun => &["SAVEPOINT tidemark_part"],
            Stage::Saved => &["RELEASE SAVEPOINT tidemark_part", "SAVEPOINT tidemark_part"],
        }
    }

    /// What undoes the part, and what makes another try one that can be undone.
    pub(super) fn undoing(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Stage::Unbegun => ("ROLLBACK", &["BEGIN"]),
            Stage::Begun | Stage::Saved => ("ROLLBACK TO SAVEPOINT tidemark_part", &[]),
        }
    }

    pub(super) fn after_part(self) -> Stage {
        match self {
            Stage::Unbegun => Stage::Begun,
            Stage::Begun | Stage::Saved => Stage::Saved,
        }
    }
}

/// What a transaction holds back.
#[derive(Debug)]
pub(super) enum Part {
    /// Changes to apply.
    Changes(Batch),
    /// Changes to put aside.
    Parcel(Parcel),
}

/// How an attempt to apply a batch ended.
enum Attempt {
    Done(Applied),
    /// What the server said, and what it means for the engine.
    Refused(Step, Box<ServerError>, Error),
}

/// Whether a batch can be held back, with what is held already. One batch at most: the parts of a
/// large transaction are not worth it.
pub(super) fn is_light(parts: &[Part], batch: &Batch) -> bool {
    let held: usize = parts.iter().map(Part::bytes).sum();
    let mut like = 0;
    let is_single = |item: &Item| match item {
        Item::Change(change) => {
            let is_like = batch.tables()[change.table].key.is_empty() && change.op != Op::Insert;
            like += usize::from(is_like);
            true
        }
        Item::Truncate { .. } | Item::Schema { .. } => false,
    };
    batch.len() <= LIGHT_ITEMS
        && held + batch.bytes() <= LIGHT_BYTES
        && !parts.iter().any(|part| matches!(part, Part::Changes(_)))
        && batch.items().iter().all(is_single)
        && like < LIKE_MIN
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Changes(batch) => batch.bytes(),
            Part::Parcel(parcel) => parcel.bytes(),
        }
    }
}

impl PgApplier {
    /// Keeps a part back.
    pub(super) fn hold(&mut self, part: Part) {
        if let State::Held(parts) = &mut self.state {
            parts.push(part);
        }
    }

    /// Applies a batch in the open transaction.
    pub(super) async fn apply_now(&mut self, batch: &Batch) -> Result<Applied> {
        let stage = self.open_server().await?;
        self.quarantine.mark();
        let rest = if self.quarantine.concerns(batch) {
            self.quarantine.without_waiting(batch)?
        } else {
            None
        };
        self.part(rest.as_ref().unwrap_or(batch), batch, stage)
            .await
    }

    /// Puts a parcel aside, now or with the commit.
    pub(super) async fn park_now(&mut self, parcel: Parcel) -> Result<()> {
        if let State::Held(parts) = &self.state {
            let held: usize = parts.iter().map(Part::bytes).sum();
            if held + parcel.bytes() <= LIGHT_BYTES {
                self.hold(Part::Parcel(parcel));
                return Ok(());
            }
        }
        let stage = self.open_server().await?;
        self.send_parcel(&parcel, stage).await
    }

    async fn send_parcel(&mut self, parcel: &Parcel, stage: Stage) -> Result<()> {
        if stage == Stage::Unbegun {
            self.session.run("BEGIN", Step::Own)?;
            self.state = State::Open(Stage::Begun);
        }
        parcel.send(&mut self.session, &self.writer.pipeline)?;
        self.session.sync();
        match self.session.finish().await?.refused {
            Some((_, said)) => Err(refusal::of_own(*said)),
            None => Ok(()),
        }
    }

    /// Takes parked changes out, in the open transaction.
    pub(super) async fn unpark_now(
        &mut self,
        table: &TableMapping,
        bytes_max: usize,
    ) -> Result<Option<Parked>> {
        if self.open_server().await? == Stage::Unbegun {
            self.session.run("BEGIN", Step::Own)?;
            self.state = State::Open(Stage::Begun);
        }
        let pipeline = &self.writer.pipeline;
        self.old_shapes
            .unpark(&mut self.session, pipeline, table, bytes_max)
            .await
    }

    /// From holding back to applying: what was held comes first.
    pub(super) async fn open_server(&mut self) -> Result<Stage> {
        match std::mem::replace(&mut self.state, State::Open(Stage::Unbegun)) {
            State::Idle => {
                self.state = State::Idle;
                return Err(out_of_turn("a change without begin"));
            }
            State::Open(stage) => self.state = State::Open(stage),
            State::Held(parts) => {
                for part in parts {
                    let applied = self.unhold(part, Pace::Fast).await?;
                    merge(&mut self.early, applied);
                }
            }
        }
        match self.state {
            State::Open(stage) => Ok(stage),
            State::Idle | State::Held(_) => Err(out_of_turn("a transaction that is lost")),
        }
    }

    /// Applies a part that was held back.
    pub(super) async fn unhold(&mut self, part: Part, pace: Pace) -> Result<Applied> {
        let State::Open(stage) = self.state else {
            return Err(out_of_turn("a part without a transaction"));
        };
        match part {
            Part::Parcel(parcel) => {
                self.send_parcel(&parcel, stage).await?;
                Ok(Applied::default())
            }
            Part::Changes(batch) => {
                self.quarantine.mark();
                let applied = match pace {
                    Pace::Fast => self.part(&batch, &batch, stage).await,
                    Pace::Careful | Pace::Net => {
                        self.careful(&batch, &batch, stage, stage.opening()).await
                    }
                };
                self.spare = batch;
                applied
            }
        }
    }

    /// Applies a batch as a part: fast, and if the server refuses that, carefully. `whole` has what waits
    /// behind rows in quarantine too.
    async fn part(&mut self, batch: &Batch, whole: &Batch, stage: Stage) -> Result<Applied> {
        match self.attempt(batch, Pace::Fast, stage.opening()).await? {
            Attempt::Done(applied) => {
                self.state = State::Open(stage.after_part());
                Ok(applied)
            }
            Attempt::Refused(_, said, error) if !refusal::is_worth_a_replay(&said) => Err(error),
            Attempt::Refused(step, said, error) => {
                self.note_refusal(batch, step, &said);
                if aside::may_sift(batch, step, &error) {
                    return self.sift(whole, stage).await;
                }
                let (undo, opening) = stage.undoing();
                self.session.run(undo, Step::Own)?;
                self.session.sync();
                if let Some((_, said)) = self.session.finish().await?.refused {
                    return Err(refusal::of_own(*said));
                }
                self.careful(batch, whole, stage, opening).await
            }
        }
    }

    /// Applies a batch one change at a time; what is refused now is refused for good, and goes aside or
    /// ends the transaction.
    async fn careful(
        &mut self,
        batch: &Batch,
        whole: &Batch,
        stage: Stage,
        opening: &'static [&'static str],
    ) -> Result<Applied> {
        for mapping in batch.tables() {
            self.known.forget(&mut self.session, &mapping.target)?;
        }
        match self.attempt(batch, Pace::Careful, opening).await? {
            Attempt::Done(applied) => {
                self.state = State::Open(stage.after_part());
                Ok(applied)
            }
            Attempt::Refused(step, _, error) if aside::may_sift(batch, step, &error) => {
                self.sift(whole, stage).await
            }
            Attempt::Refused(_, _, error) => Err(error),
        }
    }

    pub(super) fn note_refusal(&mut self, batch: &Batch, step: Step, said: &ServerError) {
        if let Step::Change { table, .. } | Step::Set { table, .. } = step {
            let target = &batch.tables()[table as usize].target;
            tracing::debug!(table = %target, sqlstate = said.sqlstate, "applied again row by row");
            self.known.note(target, Went::Wrong);
        }
    }

    async fn attempt(
        &mut self,
        batch: &Batch,
        pace: Pace,
        opening: &'static [&'static str],
    ) -> Result<Attempt> {
        let mut work = self.work(batch, pace, opening);
        let mut applied = Applied::default();
        for segment in split(batch) {
            let ended = match &segment {
                Segment::Changes(stretch) => work.stretch(stretch).await?,
                Segment::Barrier(item) => work.barrier(*item).await?,
            };
            match (ended, &segment) {
                (Ended::Refused(step, said), _) => {
                    let error = work.refused(step, ServerError::clone(&said));
                    return Ok(Attempt::Refused(step, said, error));
                }
                (Ended::Done(conflicts), Segment::Changes(stretch)) => {
                    count(&mut applied, batch, stretch, &conflicts);
                    if pace == Pace::Fast {
                        went_well(work.known, batch, stretch);
                    }
                }
                (Ended::Done(_), Segment::Barrier(_)) => {}
            }
        }
        work.open()?;
        Ok(Attempt::Done(applied))
    }

    /// Gives up whatever is open or queued.
    pub(super) async fn abandon(&mut self) -> Result<()> {
        self.state = State::Idle;
        if !self.session.is_in_transaction() && !self.session.is_adrift() {
            return Ok(());
        }
        // Without a transaction this is a warning, and ends what is queued all the same.
        self.session.run("ROLLBACK", Step::Own)?;
        self.session.sync();
        self.session.finish().await.map(drop)
    }

    pub(super) fn work<'a>(
        &'a mut self,
        batch: &'a Batch,
        pace: Pace,
        opening: &'static [&'static str],
    ) -> Work<'a> {
        Work {
            session: &mut self.session,
            known: &mut self.known,
            batch,
            met: Vec::new(),
            pace,
            opening,
        }
    }
}

pub(super) fn went_well(known: &mut KnownTables, batch: &Batch, stretch: &Stretch) {
    for changes in &stretch.tables {
        known.note(&batch.tables()[changes.table].target, Went::Well);
    }
}

/// Adds what a stretch did: what the log asked for, however it was folded.
pub(super) fn count(
    applied: &mut Applied,
    batch: &Batch,
    stretch: &Stretch,
    conflicts: &[(u32, u64)],
) {
    let total = |count: fn(&TableChanges) -> usize| stretch.tables.iter().map(count).sum::<usize>();
    applied.inserts += total(|changes| changes.inserts) as u64;
    applied.updates += total(|changes| changes.updates) as u64;
    applied.deletes += total(|changes| changes.deletes) as u64;
    for (table, count) in conflicts {
        add_conflicts(applied, batch.tables()[*table as usize].source(), *count);
    }
}

/// The same of changes that were applied one by one; those that wait count as well, as the log has them.
pub(super) fn count_items(
    applied: &mut Applied,
    batch: &Batch,
    items: Range<usize>,
    conflicts: &[(u32, u64)],
) {
    for item in &batch.items()[items] {
        if let Item::Change(change) = item {
            match change.op {
                Op::Insert => applied.inserts += 1,
                Op::Update => applied.updates += 1,
                Op::Delete => applied.deletes += 1,
            }
        }
    }
    for (table, count) in conflicts {
        add_conflicts(applied, batch.tables()[*table as usize].source(), *count);
    }
}

fn add_conflicts(applied: &mut Applied, table: &TableName, count: u64) {
    match applied.conflicts.iter_mut().find(|(name, _)| name == table) {
        Some((_, known)) => *known += count,
        None => applied.conflicts.push((table.clone(), count)),
    }
}

pub(super) fn merge(applied: &mut Applied, more: Applied) {
    applied.inserts += more.inserts;
    applied.updates += more.updates;
    applied.deletes += more.deletes;
    for (table, count) in more.conflicts {
        add_conflicts(applied, &table, count);
    }
}
