//! Where a change goes: which mapping, which tidemarks, applied or parked.
//!
//! The router knows every table of the pipeline by the source's number for it and answers, for one
//! change of one transaction, what becomes of it ([`Way`]). Whether a transaction is covered by a
//! tidemark is asked once per transaction and tidemark, not per row; a table whose tidemarks the
//! stream has passed asks nothing at all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::{Chunk, KnownShape, TableCheckpoint, TableState, Unit};
use crate::event::{Begin, StreamColumn, StreamTable};
use crate::mapping::{Projection, TableMapping};
use crate::position::Position;
use crate::schema::{TableName, ValueClass};
use crate::tidemark::Tidemark;

use super::away;

/// All tables of the pipeline.
pub(crate) struct Router {
    routes: Vec<Route>,
    /// Routes by the names of their tables on the source, which they keep.
    by_name: HashMap<TableName, usize>,
    /// A route has one number at a time: that of the table which the log means by its name.
    by_id: HashMap<u32, usize>,
    /// What the log has described so far, tables included that nobody carries (yet).
    described: HashMap<u32, Arc<StreamTable>>,
    /// Which of these has a name.
    described_by_name: HashMap<TableName, u32>,
    marks: Vec<Mark>,
}

/// One table's way through the pipeline.
pub(crate) struct Route {
    pub(crate) mapping: Arc<TableMapping>,
    /// The source's number for the table whose rows the target has.
    pub(crate) source_id: u32,
    /// From the log's columns to the mapping's; made when the log announces the table.
    pub(crate) projection: Option<Projection>,
    pub(crate) state: TableState,
    /// Whether its rows are those of some state of the source: see [`TableState::has_rows`].
    pub(crate) has_rows: bool,
    /// As far as the target has followed.
    pub(crate) shape: KnownShape,
    /// As the log announced it last, and in which transaction.
    pub(crate) announced: Option<Arc<StreamTable>>,
    announced_in: Option<Begin>,
    /// As the log announced it, where nobody has looked at what it means for the target: there was
    /// nothing to carry then, or no such table. It does not come again before the next change.
    pub(crate) unlooked: Option<Arc<StreamTable>>,
    /// It is called otherwise for now: its changes are kept until it is called as before.
    pub(crate) is_away: bool,
    seen: SeenBy,
    /// How this run loaded the rows that are there.
    loaded: Option<Arc<TableMapping>>,
}

/// A tidemark, and whether the present transaction is covered by it.
struct Mark {
    tidemark: Tidemark,
    covers: bool,
}

/// What has seen how much of a table.
#[derive(Clone)]
enum SeenBy {
    /// Nothing that the stream still brings.
    Nobody,
    /// The whole table was read at one instant.
    All(usize),
    /// Ranges were read at different instants.
    Ranges(Vec<(Chunk, Option<usize>)>),
}

/// What becomes of the old and the new side of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The rows have seen the old side's removal already.
    pub(crate) old_seen: bool,
    /// The rows have seen the new side already.
    pub(crate) new_seen: bool,
}

impl Way {
    pub(crate) const UNSEEN: Way = Way {
        old_seen: false,
        new_seen: false,
    };
}

impl Router {
    pub(crate) fn new(
        mappings: &[Arc<TableMapping>],
        tables: &[TableCheckpoint],
        applied: Position,
    ) -> Router {
        let mut router = Router::empty();
        let recorded: HashMap<&TableName, &TableCheckpoint> =
            tables.iter().map(|table| (&table.source, table)).collect();
        for mapping in mappings {
            if let Some(table) = recorded.get(mapping.source()) {
                let index = router.add(mapping, table.state, table.shape.clone());
                router.routes[index].source_id = table.source_id;
                router.routes[index].is_away = away::is_told(table);
                // Parked changes lie before the position; they ask all tidemarks when taken back.
                let applied = (!table.state.is_parked()).then_some(applied);
                router.set_units(index, &table.units, applied);
            }
        }
        router
    }

    fn empty() -> Router {
        Router {
            routes: Vec::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            described: HashMap::new(),
            described_by_name: HashMap::new(),
            marks: Vec::new(),
        }
    }

    /// Adds a table; gives its index.
    pub(crate) fn add(
        &mut self,
        mapping: &Arc<TableMapping>,
        state: TableState,
        shape: Option<KnownShape>,
    ) -> usize {
        let index = self.routes.len();
        self.by_name.insert(mapping.source().clone(), index);
        self.routes.push(Route {
            mapping: Arc::clone(mapping),
            source_id: mapping.schema.id,
            projection: None,
            state,
            has_rows: state.has_rows(),
            shape: shape.unwrap_or_else(|| KnownShape::of(mapping)),
            announced: None,
            announced_in: None,
            unlooked: None,
            is_away: false,
            seen: SeenBy::Nobody,
            loaded: None,
        });
        self.take_number(index);
        index
    }

    /// The table was made anew on the source.
    pub(crate) fn replace(&mut self, index: usize, mapping: &Arc<TableMapping>) {
        self.by_id.retain(|_, at| *at != index);
        let route = &mut self.routes[index];
        route.mapping = Arc::clone(mapping);
        route.source_id = mapping.schema.id;
        route.shape = KnownShape::of(mapping);
        route.projection = None;
        route.announced = None;
        route.unlooked = None;
        route.has_rows = false;
        route.seen = SeenBy::Nobody;
        self.take_number(index);
    }

    /// A route gets the number that the catalog has for its table, unless the log, which the catalog may
    /// be ahead of, means another table by it.
    fn take_number(&mut self, index: usize) {
        let route = &mut self.routes[index];
        let id = route.mapping.schema.id;
        match self.described.get(&id) {
            Some(table) if table.name == *route.mapping.source() => {
                route.unlooked = Some(Arc::clone(table));
                self.by_id.insert(id, index);
            }
            Some(_) => {}
            None => {
                self.by_id.entry(id).or_insert(index);
            }
        }
    }

    /// The table was loaded by this mapping, at a snapshot that has seen this. What the log announced
    /// after the snapshot is newer, anything before is not. Gives whether the mapping is the table's now.
    pub(crate) fn loaded(
        &mut self,
        index: usize,
        mapping: &Arc<TableMapping>,
        tidemark: &Tidemark,
    ) -> bool {
        let route = &mut self.routes[index];
        route.loaded = Some(Arc::clone(mapping));
        let is_newer = |begin: &Begin| !tidemark.covers(begin.xid, begin.commit);
        if route.announced_in.as_ref().is_some_and(is_newer) {
            return false;
        }
        route.shape = KnownShape::of(mapping);
        if route.mapping.carries_alike(mapping) {
            // What is put aside by the one mapping stays in order with what will be.
            return true;
        }
        route.mapping = Arc::clone(mapping);
        // Rows of another shape are older than the snapshot, which has seen them.
        let announced = route.announced.as_deref();
        let announced = announced.filter(|table| has_shape(&route.shape, table));
        route.projection = announced.and_then(|table| Projection::new(mapping, table).ok());
        true
    }

    /// The log has announced a table: in this form its rows come from now on.
    pub(crate) fn announce(
        &mut self,
        index: usize,
        table: &Arc<StreamTable>,
        begin: Option<Begin>,
    ) {
        let route = &mut self.routes[index];
        route.announced = Some(Arc::clone(table));
        route.announced_in = begin;
        route.unlooked = None;
    }

    /// The table that the log means by this number.
    pub(crate) fn find(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Makes the log's number for a table known: a re-created table has another one, a renamed table
    /// the same, until another table takes its name.
    pub(crate) fn bind(&mut self, table: &Arc<StreamTable>) -> Option<usize> {
        // One that had this name was dropped, or is described under another before its next change
        // (PostgreSQL 15, Logical Replication Protocol Message Flow).
        let name = table.name.clone();
        match self.described_by_name.insert(name, table.id) {
            Some(before) if before != table.id => drop(self.described.remove(&before)),
            _ => {}
        }
        match self.described.insert(table.id, Arc::clone(table)) {
            Some(before) if before.name != table.name => {
                self.described_by_name.remove(&before.name);
            }
            _ => {}
        }
        let index = self.named(&table.name).or_else(|| self.find(table.id))?;
        if self.find(table.id) != Some(index) {
            self.by_id.retain(|_, at| *at != index);
            self.by_id.insert(table.id, index);
        }
        Some(index)
    }

    /// Whether binding the table changes nothing: it is known by this number, or not known at all.
    pub(crate) fn knows(&self, table: &StreamTable) -> bool {
        let bound = self.named(&table.name).or_else(|| self.find(table.id));
        bound == self.find(table.id)
    }

    pub(crate) fn named(&self, name: &TableName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn route(&self, index: usize) -> &Route {
        &self.routes[index]
    }

    pub(crate) fn route_mut(&mut self, index: usize) -> &mut Route {
        &mut self.routes[index]
    }

    /// The tables' names on the source.
    pub(crate) fn names(&self) -> Vec<TableName> {
        let name = |route: &Route| route.mapping.source().clone();
        self.routes.iter().map(name).collect()
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = (usize, &Route)> {
        self.routes.iter().enumerate()
    }

    /// Takes over what a table's units have seen; what the stream has passed at `applied` does not
    /// count any more.
    pub(crate) fn set_units(&mut self, index: usize, units: &[Unit], applied: Option<Position>) {
        let ranges: Vec<(Chunk, Option<usize>)> = units
            .iter()
            .map(|unit| {
                let is_passed = |mark: &Tidemark| applied.is_some_and(|at| mark.is_passed(at));
                let tidemark = unit.tidemark.as_ref().filter(|mark| !is_passed(mark));
                (
                    unit.chunk.clone(),
                    tidemark.map(|tidemark| self.mark(tidemark)),
                )
            })
            .collect();
        let first = ranges.first().and_then(|(_, mark)| *mark);
        let is_whole = !ranges
            .iter()
            .any(|(chunk, _)| matches!(chunk, Chunk::Rows { .. }));
        self.routes[index].seen = if ranges.iter().all(|(_, mark)| mark.is_none()) {
            SeenBy::Nobody
        } else if is_whole && ranges.iter().all(|(_, mark)| *mark == first) {
            first.map_or(SeenBy::Nobody, SeenBy::All)
        } else {
            SeenBy::Ranges(ranges)
        };
    }

    /// The chunks of a table of which only some rows have seen more than the others; `None` where
    /// it is not cut by rows.
    pub(crate) fn rows_apart(&self, index: usize) -> Option<Vec<Chunk>> {
        let SeenBy::Ranges(ranges) = &self.routes[index].seen else {
            return None;
        };
        let is_rows = |chunk: &Chunk| matches!(chunk, Chunk::Rows { .. });
        let chunks: Vec<Chunk> = ranges.iter().map(|(chunk, _)| chunk.clone()).collect();
        chunks.iter().all(is_rows).then_some(chunks)
    }

    /// A router that knows one table and its tidemarks, for changes that are taken back elsewhere.
    pub(crate) fn for_draining(&self, index: usize) -> Router {
        let route = &self.routes[index];
        let mut router = Router::empty();
        router.add(&route.mapping, TableState::Streaming, None);
        router.marks = self
            .marks
            .iter()
            .map(|mark| Mark {
                tidemark: mark.tidemark.clone(),
                covers: false,
            })
            .collect();
        router.routes[0].seen = route.seen.clone();
        router.routes[0].loaded.clone_from(&route.loaded);
        router
    }

    fn mark(&mut self, tidemark: &Tidemark) -> usize {
        let known = self
            .marks
            .iter()
            .position(|mark| mark.tidemark == *tidemark);
        known.unwrap_or_else(|| {
            self.marks.push(Mark {
                tidemark: tidemark.clone(),
                covers: false,
            });
            self.marks.len() - 1
        })
    }

    /// A transaction begins: asks each tidemark once.
    pub(crate) fn begin(&mut self, begin: &Begin) {
        for mark in &mut self.marks {
            mark.covers = mark.tidemark.covers(begin.xid, begin.commit);
        }
    }

    /// Whether any table still minds a tidemark.
    pub(crate) fn minds_tidemarks(&self) -> bool {
        self.routes
            .iter()
            .any(|route| !matches!(route.seen, SeenBy::Nobody))
    }

    /// Whether any table that follows the stream has a load that the stream has not passed. One that is
    /// set aside passes nothing, and keeps nobody waiting.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.routes
            .iter()
            .any(|route| !route.state.is_parked() && !matches!(route.seen, SeenBy::Nobody))
    }

    /// Whether any table is set aside.
    pub(crate) fn has_parked(&self) -> bool {
        self.routes.iter().any(|route| route.state.is_parked())
    }

    /// Whether the stream has passed all that a table's load has seen.
    pub(crate) fn has_passed(&self, source: &TableName) -> bool {
        let route = self.named(source).map(|index| &self.routes[index]);
        route.is_some_and(|route| matches!(route.seen, SeenBy::Nobody))
    }

    /// Drops what the stream has passed once everything before `position` is applied; gives the
    /// tables that mind nothing any more.
    pub(crate) fn pass(&mut self, position: Position) -> Vec<usize> {
        if self.marks.is_empty() {
            return Vec::new();
        }
        let passed: Vec<bool> = self
            .marks
            .iter()
            .map(|mark| mark.tidemark.is_passed(position))
            .collect();
        let mut freed = Vec::new();
        for (index, route) in self.routes.iter_mut().enumerate() {
            let is_free = match &route.seen {
                SeenBy::Nobody => false,
                SeenBy::All(mark) => passed[*mark],
                SeenBy::Ranges(ranges) => ranges
                    .iter()
                    .all(|(_, mark)| mark.is_none_or(|mark| passed[mark])),
            };
            // A parked table's changes ask its tidemarks when they are taken back.
            if is_free && !route.state.is_parked() {
                route.seen = SeenBy::Nobody;
                freed.push(index);
            }
        }
        if !self.minds_tidemarks() {
            self.marks.clear();
        }
        freed
    }

    /// What becomes of a change of the present transaction. `old` and `new` are the text of the
    /// mapping's key columns before and after; asked for only where ranges differ.
    pub(crate) fn way<'a>(
        &self,
        index: usize,
        old: impl FnOnce() -> Option<Vec<&'a [u8]>>,
        new: impl FnOnce() -> Option<Vec<&'a [u8]>>,
    ) -> Way {
        let route = &self.routes[index];
        match &route.seen {
            SeenBy::Nobody => Way::UNSEEN,
            SeenBy::All(mark) => {
                let seen = self.marks[*mark].covers;
                Way {
                    old_seen: seen,
                    new_seen: seen,
                }
            }
            SeenBy::Ranges(ranges) => {
                let new = new();
                let old = old().or_else(|| new.clone());
                let seen = |key: &Option<Vec<&[u8]>>| {
                    key.as_ref()
                        .is_some_and(|key| self.is_seen(&route.mapping, ranges, key))
                };
                Way {
                    old_seen: seen(&old),
                    new_seen: seen(&new),
                }
            }
        }
    }

    /// Whether the rows that are there were loaded without this column of the target.
    pub(crate) fn came_without(&self, index: usize, column: &str) -> bool {
        let loaded = &self.routes[index].loaded;
        let has = |mapping: &Arc<TableMapping>| mapping.columns.iter().any(|c| c.target == column);
        loaded.as_ref().is_some_and(|mapping| !has(mapping))
    }

    /// What has seen a truncate of the present transaction: everything, nothing, or (`None`) some
    /// ranges and not others.
    pub(crate) fn truncate_seen(&self, index: usize) -> Option<bool> {
        match &self.routes[index].seen {
            SeenBy::Nobody => Some(false),
            SeenBy::All(mark) => Some(self.marks[*mark].covers),
            SeenBy::Ranges(ranges) => {
                let covers =
                    |mark: &Option<usize>| mark.is_some_and(|mark| self.marks[mark].covers);
                let is_whole = !ranges
                    .iter()
                    .any(|(chunk, _)| matches!(chunk, Chunk::Rows { .. }));
                let seen = ranges.iter().filter(|(_, mark)| covers(mark)).count();
                match seen {
                    0 => Some(false),
                    _ if is_whole && seen == ranges.len() => Some(true),
                    _ => None,
                }
            }
        }
    }

    fn is_seen(
        &self,
        mapping: &TableMapping,
        ranges: &[(Chunk, Option<usize>)],
        key: &[&[u8]],
    ) -> bool {
        ranges
            .iter()
            .find(|(chunk, _)| holds(mapping, chunk, key))
            .and_then(|(_, mark)| *mark)
            .is_some_and(|mark| self.marks[mark].covers)
    }
}

/// Whether a table is announced with the columns that are known, in whatever order.
pub(crate) fn has_shape(known: &KnownShape, table: &StreamTable) -> bool {
    let is_known = |column: &StreamColumn| {
        known.columns.iter().any(|known| {
            known.name == column.name
                && known.type_id == column.type_id
                && known.type_modifier == column.type_modifier
        })
    };
    known.columns.len() == table.columns.len() && table.columns.iter().all(is_known)
}

/// Whether a chunk holds the row with this key (text of the mapping's key columns).
fn holds(mapping: &TableMapping, chunk: &Chunk, key: &[&[u8]]) -> bool {
    let position = |name: &str| {
        mapping
            .key
            .iter()
            .position(|at| mapping.source_column(&mapping.columns[*at]) == name)
    };
    match chunk {
        Chunk::Whole | Chunk::Blocks { .. } => true,
        Chunk::Keys { column, from, to } => {
            let Some(at) = position(column) else {
                return false;
            };
            let class = mapping.schema.columns[mapping.columns[mapping.key[at]].source].class;
            let value = key[at];
            let below = |bound: &String| is_below(class, value, bound.as_bytes());
            !from.as_ref().is_some_and(below) && to.as_ref().is_none_or(below)
        }
        Chunk::Rows { columns, keys } => keys.iter().any(|wanted| {
            columns.iter().zip(wanted).all(|(column, wanted)| {
                position(column).is_some_and(|at| key[at] == wanted.as_bytes())
            })
        }),
    }
}

/// Order of two values in their text form, for the classes whose order is the same everywhere.
fn is_below(class: ValueClass, value: &[u8], bound: &[u8]) -> bool {
    crate::filter::compare(class, value, bound).is_some_and(std::cmp::Ordering::is_lt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;
    use crate::schema::ReplicaIdentity;

    #[test]
    fn tables_that_are_made_and_dropped_all_day_under_one_name_are_one_description() {
        let mut router = Router::new(&[], &[], Position::PgLsn(Lsn(1)));
        let table = |id, name: &str| {
            Arc::new(StreamTable {
                id,
                name: TableName::new("public", name),
                columns: Vec::new(),
                identity: ReplicaIdentity::Nothing,
            })
        };
        router.bind(&table(1, "other"));
        for id in 2..1_000 {
            assert_eq!(router.bind(&table(id, "tmp")), None);
        }
        let described = |router: &Router| {
            let mut ids: Vec<u32> = router.described.keys().copied().collect();
            ids.sort_unstable();
            let names = &router.described_by_name;
            assert_eq!(names.len(), ids.len());
            assert!(
                names
                    .iter()
                    .all(|(name, id)| router.described[id].name == *name)
            );
            ids
        };
        assert_eq!(described(&router), [1, 999]);
        // The other table is called so now, and gets its name back.
        router.bind(&table(1, "tmp"));
        assert_eq!(described(&router), [1]);
        router.bind(&table(1_000, "other"));
        router.bind(&table(1, "other"));
        assert_eq!(described(&router), [1]);
    }
}
