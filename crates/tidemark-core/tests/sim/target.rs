//! The in-memory target. At every commit it compares what it holds with what the source held at the
//! committed position; an insert that finds its row, or a delete that finds none, ends the history.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tidemark_core::batch::{Batch, SchemaChange};
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{
    Checkpoint, CheckpointUpdate, Generation, LoadPhase, RelayHome, Release, TableCheckpoint,
    TableState, Unit,
};
use tidemark_core::control::Control;
use tidemark_core::error::{Error, Result};
use tidemark_core::finding::Finding;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::quarantine::{Aside, Chosen, Kept, Key, Released};
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::source::{RowFormat, SequenceValue};
use tidemark_core::target::{
    Applied, Applier, Existing, LoadStart, Loader, Origin, Owner, Parked, Place, Prepared, Target,
    TypeChanges, TypeHistory,
};
use tidemark_core::verify::View;

use crate::change::{SimChange, apply_change, by_table, is_refused, keys_of, name_of, to_batch};
use crate::door::SimControl;
use crate::source::table_of;
use crate::world::{Row, Rows, Shared, TABLES, World, has_key, lost, lsn};

mod load;

use load::SimLoader;

/// What survives a kill.
#[derive(Clone, Default)]
struct State {
    rows: [Rows; 3],
    beside: [Rows; 3],
    checkpoint: Option<Checkpoint>,
    generation: u64,
    parked: Vec<(usize, Origin, Vec<SimChange>)>,
    /// Which keys are in quarantine, and the changes of their rows in order.
    aside: Aside,
    kept: Vec<(usize, Vec<Key>, SimChange)>,
}

#[derive(Clone)]
pub(crate) struct SimTarget {
    pub(crate) world: Shared,
    state: Arc<Mutex<State>>,
    generation: Arc<Mutex<u64>>,
    pub(crate) door: SimControl,
}

impl SimTarget {
    pub(crate) fn new(world: Shared) -> SimTarget {
        SimTarget {
            world,
            state: Arc::default(),
            generation: Arc::default(),
            door: SimControl::default(),
        }
    }

    /// The same database, another process.
    pub(crate) fn reopened(&self) -> SimTarget {
        SimTarget {
            world: self.world.clone(),
            state: Arc::clone(&self.state),
            generation: Arc::default(),
            door: self.door.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rows(&self) -> [Rows; 3] {
        self.lock().rows.clone()
    }

    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    pub(crate) fn kept(&self) -> usize {
        self.lock().kept.len()
    }

    /// Whether every table follows the stream.
    pub(crate) fn is_following(&self) -> bool {
        let state = self.lock();
        let mut tables = state.checkpoint.iter().flat_map(|c| &c.tables);
        tables.all(|table| table.state == TableState::Streaming)
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.lock()
            .checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.position)
    }

    /// Makes a new state the state, unless an error comes first; an error may also come after it.
    async fn commit(&self, what: &str, change: impl FnOnce(&mut State)) -> Result<()> {
        self.world.call(what).await?;
        {
            let mut state = self.lock();
            let mut new = state.clone();
            change(&mut new);
            if state.generation != self.generation() {
                return Err(Error::definite(
                    codes::INTERNAL,
                    "an older generation commits",
                ));
            }
            let before = state.checkpoint.as_ref().map(|c| lsn(c.position));
            let after = new.checkpoint.as_ref().map(|c| lsn(c.position));
            assert!(
                before <= after,
                "a position went back: {before:?} to {after:?}"
            );
            *state = new;
        }
        self.check_state();
        // The answer may be lost.
        self.world.call(what).await
    }

    /// Invariant 3 and promise P3, at every commit.
    fn check_state(&self) {
        let state = self.lock().clone();
        let Some(checkpoint) = &state.checkpoint else {
            return;
        };
        let position = checkpoint.position;
        let world = self.world.lock();
        if let Some(slot) = &world.slot {
            assert!(
                slot.confirmed <= lsn(position),
                "acknowledged more than is durable"
            );
        }
        let expected = world.rows_before(lsn(position));
        for table in &checkpoint.tables {
            let index = TABLES
                .iter()
                .position(|t| *t == table.source.name)
                .expect("known");
            let is_loaded =
                !table.units.is_empty() && table.units.iter().all(|unit| unit.is_loaded);
            let is_passed = table.units.iter().all(|unit| {
                unit.tidemark
                    .as_ref()
                    .is_none_or(|mark| mark.is_passed(position))
            });
            if table.state == TableState::Streaming && is_loaded && is_passed {
                // With what waits in quarantine, in order, it is.
                let mut rows = state.rows[index].clone();
                for (_, _, change) in state.kept.iter().filter(|(of, ..)| *of == index) {
                    apply_change(&mut rows, index, change);
                }
                assert_eq!(
                    rows, expected[index],
                    "{} is not what the source held at {position}",
                    table.source
                );
            }
        }
    }

    fn table_mut<'a>(state: &'a mut State, name: &TableName) -> &'a mut TableCheckpoint {
        let checkpoint = state.checkpoint.as_mut().expect("started");
        checkpoint
            .tables
            .iter_mut()
            .find(|t| t.source == *name)
            .expect("recorded at the start")
    }
}

#[async_trait]
impl Target for SimTarget {
    async fn check(&self, _: &[TableMapping]) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.world.call("checkpoint").await?;
        Ok(self.lock().checkpoint.clone())
    }

    async fn acquire(&self, _: &Owner) -> Result<Generation> {
        self.world.call("acquire").await?;
        let mut state = self.lock();
        state.generation += 1;
        *self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = state.generation;
        Ok(Generation(state.generation))
    }

    async fn start_load(&self, start: &LoadStart) -> Result<()> {
        let checkpoint = Checkpoint {
            identity: start.identity.clone(),
            position: start.position,
            load_position: start.position,
            phase: start.phase,
            tables: start.tables.clone(),
            release: None,
            relay: None,
        };
        self.commit("start load", |new| new.checkpoint = Some(checkpoint))
            .await
    }

    async fn prepare_objects(
        &self,
        _: &SourceSchema,
        _: &[TableMapping],
        _: TypeChanges,
        _: &[TypeHistory],
    ) -> Result<bool> {
        self.world.call("prepare objects").await?;
        Ok(false)
    }

    async fn reshape(&self, _: &TableMapping, _: &[SchemaChange]) -> Result<bool> {
        // No table has another shape here.
        Ok(false)
    }

    async fn prepare(
        &self,
        mapping: &TableMapping,
        existing: Existing,
        place: Place,
        units: &[Unit],
    ) -> Result<Prepared> {
        self.world.room()?;
        let table = table_of(mapping);
        self.commit("prepare", |new| {
            match (place, existing) {
                (Place::Beside, _) => new.beside[table].clear(),
                (Place::InPlace, Existing::Truncate) => new.rows[table].clear(),
                (Place::InPlace, Existing::LoadIfEmpty) => assert!(new.rows[table].is_empty()),
                _ => {}
            }
            let recorded = SimTarget::table_mut(new, mapping.source());
            recorded.units = units.to_vec();
        })
        .await?;
        let loaded_units = units
            .iter()
            .filter(|u| u.is_loaded)
            .map(|u| u.number)
            .collect();
        Ok(Prepared {
            format: RowFormat::PgCopyText,
            is_skipped: false,
            loaded_units,
            place,
        })
    }

    async fn loader(&self) -> Result<Box<dyn Loader>> {
        self.world.call("loader").await?;
        self.world.room()?;
        Ok(Box::new(SimLoader {
            target: self.clone(),
            usable: true,
        }))
    }

    async fn finish(&self, _: &TableMapping, _: Place) -> Result<()> {
        self.world.room()?;
        self.world.call("finish").await
    }

    async fn finish_foreign_keys(&self, _: &[TableMapping]) -> Result<()> {
        self.world.call("foreign keys").await
    }

    async fn set_phase(&self, phase: LoadPhase) -> Result<()> {
        self.commit("set phase", |new| {
            new.checkpoint.as_mut().expect("started").phase = phase;
        })
        .await
    }

    async fn follow_timeline(&self, timeline: u32) -> Result<()> {
        self.commit("follow timeline", |new| {
            let checkpoint = new.checkpoint.as_mut().expect("started");
            checkpoint.identity.timeline = timeline;
        })
        .await
    }

    async fn record_release(&self, _: &Release) -> Result<()> {
        unreachable!("there is no budget here")
    }

    async fn record_relay(&self, _: &RelayHome) -> Result<()> {
        unreachable!("there is no budget here")
    }

    async fn swap(&self, mapping: &TableMapping) -> Result<()> {
        let table = table_of(mapping);
        self.commit("swap", |new| {
            new.rows[table] = std::mem::take(&mut new.beside[table]);
        })
        .await
    }

    async fn set_sequences(&self, _: &[SequenceValue], _: &[TableMapping]) -> Result<Vec<Error>> {
        Ok(Vec::new())
    }

    async fn applier(&self) -> Result<Box<dyn Applier>> {
        self.world.call("applier").await?;
        Ok(Box::new(SimApplier {
            target: self.clone(),
            open: None,
            durable: None,
        }))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        Err(lost("view"))
    }

    async fn control(&self) -> Result<Box<dyn Control>> {
        Ok(Box::new(self.door.clone()))
    }

    async fn forget(&self) -> Result<()> {
        self.lock().checkpoint = None;
        Ok(())
    }
}

struct SimApplier {
    target: SimTarget,
    open: Option<Open>,
    durable: Option<Position>,
}

/// What the open transaction changed so far; put on top of the state at commit, so that units that
/// were committed meanwhile stay.
#[derive(Default)]
struct Open {
    steps: Vec<Step>,
}

enum Step {
    Apply(usize, Vec<SimChange>),
    Park(usize, Origin, Vec<SimChange>),
    Unpark(usize, usize),
    Release(Chosen),
    Discard(Chosen),
}

#[async_trait]
impl Applier for SimApplier {
    async fn begin(&mut self) -> Result<()> {
        assert!(self.open.is_none(), "a transaction is open");
        self.open = Some(Open::default());
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<Applied> {
        self.target.world.call("apply").await?;
        for (table, changes) in by_table(batch) {
            self.open
                .as_mut()
                .expect("begun")
                .steps
                .push(Step::Apply(table, changes));
        }
        Ok(Applied::default())
    }

    async fn park(&mut self, batch: &Batch, origin: Origin) -> Result<()> {
        for (table, changes) in by_table(batch) {
            self.open
                .as_mut()
                .expect("begun")
                .steps
                .push(Step::Park(table, origin, changes));
        }
        Ok(())
    }

    async fn commit(&mut self, update: &CheckpointUpdate) -> Result<Applied> {
        let open = self.open.take().expect("begun");
        self.target.world.call("commit").await?;
        let quarantined;
        {
            let mut state = self.target.lock();
            if state.generation != self.target.generation() {
                return Err(Error::definite(
                    codes::INTERNAL,
                    "an older generation commits",
                ));
            }
            let mut new = state.clone();
            let world = self.target.world.lock();
            for step in open.steps {
                new.take(step, &world);
            }
            drop(world);
            quarantined = new.aside.changed_since(&state.aside);
            new.record(update);
            let position = new.checkpoint.as_ref().map(|c| c.position);
            assert!(
                state.checkpoint.as_ref().map(|c| c.position) <= position,
                "went back"
            );
            *state = new;
        }
        self.target.check_state();
        self.target.world.call("committed").await?;
        self.durable = self.target.position();
        Ok(Applied {
            quarantined,
            ..Applied::default()
        })
    }

    fn quarantined(&self) -> Vec<(TableName, Kept)> {
        self.target.lock().aside.all()
    }

    /// What becomes of it is told by the state at the commit.
    async fn release(&mut self, _: &[Arc<TableMapping>], chosen: &Chosen) -> Result<Released> {
        self.target.world.call("release").await?;
        let open = self.open.as_mut().expect("begun");
        open.steps.push(Step::Release(chosen.clone()));
        Ok(Released::default())
    }

    async fn discard(&mut self, chosen: &Chosen) -> Result<u64> {
        self.target.world.call("discard").await?;
        let open = self.open.as_mut().expect("begun");
        open.steps.push(Step::Discard(chosen.clone()));
        Ok(0)
    }

    async fn rollback(&mut self) -> Result<()> {
        self.open = None;
        Ok(())
    }

    fn durable(&self) -> Option<Position> {
        self.durable
    }

    async fn flush(&mut self) -> Result<()> {
        assert!(self.open.is_none(), "flush within a transaction");
        self.target.world.call("flush").await?;
        self.durable = self.target.position();
        Ok(())
    }

    async fn unpark(&mut self, table: &TableMapping, _: usize) -> Result<Option<Parked>> {
        self.target.world.call("unpark").await?;
        let index = table_of(table);
        let taken: Vec<(Origin, Vec<SimChange>)> = self
            .target
            .lock()
            .parked
            .iter()
            .filter(|(parked, ..)| *parked == index)
            .take(2)
            .map(|(_, origin, changes)| (*origin, changes.clone()))
            .collect();
        if taken.is_empty() {
            return Ok(None);
        }
        self.open
            .as_mut()
            .expect("begun")
            .steps
            .push(Step::Unpark(index, taken.len()));
        let mapping = Arc::new(table.clone());
        let batches = taken
            .iter()
            .map(|(origin, c)| (*origin, to_batch(&mapping, c)))
            .collect();
        Ok(Some(Parked { batches }))
    }
}

impl State {
    fn take(&mut self, step: Step, world: &World) {
        match step {
            Step::Apply(table, changes) => {
                for change in changes {
                    self.apply(table, change, world);
                }
            }
            Step::Release(chosen) => self.release(&chosen, world),
            Step::Discard(chosen) => {
                for table in 0..TABLES.len() {
                    if chosen.is(&name_of(table), &[]) {
                        self.clear(table);
                    }
                }
            }
            Step::Park(table, origin, changes) => self.parked.push((table, origin, changes)),
            Step::Unpark(table, mut count) => self.parked.retain(|(parked, ..)| {
                let taken = *parked == table && count > 0;
                count -= usize::from(taken);
                !taken
            }),
        }
    }

    /// A change that is refused, or has to wait, goes aside; a truncate discards what is there.
    fn apply(&mut self, table: usize, change: SimChange, world: &World) {
        let name = name_of(table);
        match keys_of(&change).filter(|_| has_key(table)) {
            Some(keys) if self.aside.waits(&name, &keys) || is_refused(&change, world) => {
                self.aside.hold(&name, &keys, 1);
                self.kept.push((table, keys, change));
            }
            _ => {
                if matches!(change, SimChange::Truncate) {
                    self.clear(table);
                }
                apply_change(&mut self.rows[table], table, &change);
            }
        }
    }

    fn clear(&mut self, table: usize) {
        self.aside.clear(&name_of(table));
        self.kept.retain(|(of, ..)| *of != table);
    }

    /// Each row by itself, as what its changes come to. Not those of a table that is being loaded.
    fn release(&mut self, chosen: &Chosen, world: &World) {
        let groups: BTreeSet<(usize, Option<u64>)> =
            self.kept.iter().map(|one| self.group(one)).collect();
        for (table, group) in groups {
            let name = name_of(table);
            let tables = self.checkpoint.iter().flat_map(|found| &found.tables);
            let mut states = tables.filter(|one| one.source == name).map(|one| one.state);
            if !states.all(TableState::has_rows) {
                continue;
            }
            let is_of = |one: &(usize, Vec<Key>, SimChange)| self.group(one) == (table, group);
            let changes: Vec<_> = self.kept.iter().filter(|one| is_of(one)).cloned().collect();
            let keys: Vec<Key> = changes
                .iter()
                .flat_map(|(_, keys, _)| keys.clone())
                .collect();
            if !chosen.is(&name, &keys) {
                continue;
            }
            let mut rows = self.rows[table].clone();
            for (_, _, change) in &changes {
                apply_change(&mut rows, table, change);
            }
            let is_its = |row: &Row| keys.iter().any(|key| Some(&key[0]) == row[0].as_ref());
            let is_bad = |row: &Row| row[1].as_ref().is_some_and(|value| world.refuses(value));
            if rows.keys().any(|row| is_its(row) && is_bad(row)) {
                continue;
            }
            self.rows[table] = rows;
            self.kept.retain(|(of, of_row, _)| {
                *of != table || !of_row.iter().any(|key| keys.contains(key))
            });
            let count = changes.len() as u64;
            self.aside.release(&name, &keys, count, count);
        }
    }

    fn group(&self, (table, keys, _): &(usize, Vec<Key>, SimChange)) -> (usize, Option<u64>) {
        (*table, self.aside.group(&name_of(*table), &keys[0]))
    }

    fn record(&mut self, update: &CheckpointUpdate) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        if let Some(position) = update.position {
            checkpoint.position = position;
        }
        for change in &update.states {
            let tables = &mut checkpoint.tables;
            let known = tables.iter_mut().find(|t| t.source == change.table);
            let Some(table) = known else {
                tables.push(TableCheckpoint {
                    source: change.table.clone(),
                    target: change.target.clone(),
                    source_id: change.source_id,
                    state: change.state,
                    reason: change.reason.clone(),
                    units: Vec::new(),
                    shape: None,
                });
                continue;
            };
            table.state = change.state;
            table.reason.clone_from(&change.reason);
        }
        for (name, shape) in &update.shapes {
            let table = checkpoint.tables.iter_mut().find(|t| t.source == *name);
            table.expect("known").shape = Some(shape.clone());
        }
        for name in &update.passed {
            let table = checkpoint
                .tables
                .iter_mut()
                .find(|t| t.source == *name)
                .expect("known");
            for unit in &mut table.units {
                unit.tidemark = None;
            }
        }
    }
}
