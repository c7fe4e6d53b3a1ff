//! The in-memory source: snapshots that tell what they have seen, a slot, a stream in commit order.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::error::Result;
use tidemark_core::event::{
    Begin, Block, Cell, CellKind, Event, OldRow, Op, Row as CellRow, RowChange, StreamColumn,
    StreamTable, Truncate,
};
use tidemark_core::finding::Finding;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::selection::Selection;
use tidemark_core::source::{
    ChangeStream, ColumnType, Fill, GiveUndecided, Keep, LogState, Partition, Retyped, RowBlock,
    RowFormat, RowStream, SequenceValue, Slot, Snapshot, SnapshotReader, Source, StreamedColumn,
    StreamedShape, WillStream, Within,
};
use tidemark_core::tidemark::{PgSnapshot, Seen, Tidemark};
use tidemark_core::verify::View;

use crate::world::{
    Row, Shared, SimSlot, TABLES, Transaction, World, Write, at, has_key, identity, lost, lsn,
    schema,
};

pub(crate) struct SimSource(pub(crate) Shared);

#[async_trait]
impl Source for SimSource {
    async fn check(&self, _: &[TableMapping], _: WillStream) -> Result<Vec<Finding>> {
        self.0.call("check").await?;
        Ok(Vec::new())
    }

    async fn describe(&self, _: &Selection) -> Result<SourceSchema> {
        self.0.call("describe").await?;
        Ok(SourceSchema {
            tables: (0..self.0.lock().tables).map(schema).collect(),
            ..Default::default()
        })
    }

    async fn log_state(&self) -> Result<LogState> {
        self.0.call("log state").await?;
        let world = self.0.lock();
        let slot = world.slot.as_ref().map(|slot| Slot {
            name: "sim".into(),
            database: "sim".into(),
            foreign: None,
            holder: None,
            confirmed: at(slot.confirmed),
            restart: at(slot.confirmed),
            retained_bytes: 0,
            safe_bytes: None,
            wal_status: "reserved".into(),
            lost: None,
        });
        Ok(LogState {
            is_standby: false,
            earlier_timelines: Vec::new(),
            identity: identity(),
            head: at(world.head),
            slot,
            clock_us: 0,
            running: world.snapshot().xip,
            slot_made_by: None,
            committing: world.snapshot().xip,
            pins: Vec::new(),
            relayed: None,
            other_target: None,
        })
    }

    async fn announce(&self, _: &[TableName]) -> Result<()> {
        self.0.call("announce").await
    }

    async fn unannounced(&self, _: &[TableName], _: Within) -> Result<Vec<TableName>> {
        self.0.call("unannounced").await?;
        Ok(Vec::new())
    }

    async fn partitions(&self, _: &[TableName]) -> Result<Vec<(TableName, Vec<Partition>)>> {
        self.0.call("partitions").await?;
        Ok(Vec::new())
    }

    /// A slot is built when every transaction that was running has ended, as PostgreSQL does it; so
    /// its snapshot has seen exactly what committed before its position.
    async fn open_log(&self, _: Keep) -> Result<(Position, Box<dyn Snapshot>)> {
        self.0.call("open log").await?;
        let snapshot = {
            let mut world = self.0.lock();
            let to_begin = std::mem::take(&mut world.to_begin);
            while world.transactions.iter().any(|t| !t.is_visible) {
                world.step();
            }
            world.to_begin = to_begin;
            world.head += 1;
            let position = world.head;
            assert!(
                world.slot.is_none(),
                "a slot must be removed before another is made"
            );
            world.slot = Some(SimSlot {
                confirmed: position,
                start: position,
            });
            SimSnapshot::now(&self.0, &world)
        };
        // Killed or cut here, the slot is there and nobody knows.
        self.0.call("slot made").await?;
        let start = self.0.lock().slot.as_ref().expect("made above").start;
        Ok((at(start), Box::new(snapshot)))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.0.call("snapshot").await?;
        let mut world = self.0.lock();
        // Between what was asked for and the snapshot for it the source may have done much.
        for _ in 0..world.rng.below(30) {
            world.step();
        }
        Ok(Box::new(SimSnapshot::now(&self.0, &world)))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        Err(lost("view"))
    }

    async fn changes(&self, after: Position) -> Result<Box<dyn ChangeStream>> {
        self.0.call("changes").await?;
        let world = self.0.lock();
        let slot = world
            .slot
            .as_ref()
            .expect("streams from a slot that is there");
        assert!(
            slot.confirmed <= lsn(after),
            "the slot has forgotten what is asked for"
        );
        // A server gives everything after what it was told; now and then more, as after a crash of
        // the source, so what is contained already has to be skipped.
        let from = if world.transactions.len().is_multiple_of(2) {
            slot.confirmed
        } else {
            lsn(after)
        };
        Ok(Box::new(SimStream {
            world: self.0.clone(),
            after: lsn(after),
            next: from,
            give: GiveUndecided::No,
            undecided: None,
            announced: false,
            is_idle: false,
        }))
    }

    async fn head(&self) -> Result<Position> {
        self.0.call("head").await?;
        Ok(at(self.0.lock().head))
    }

    async fn shape_of(&self, table: &StreamTable) -> Result<StreamedShape> {
        self.0.call("shape").await?;
        let schema = schema((table.id - schema(0).id) as usize);
        let key = schema.primary_key.iter();
        let primary_key = key.map(|at| schema.columns[*at].name.clone()).collect();
        let columns = schema.columns.into_iter().map(|column| StreamedColumn {
            column,
            fill: Fill::Null,
        });
        let columns: Vec<StreamedColumn> = columns.collect();
        Ok(StreamedShape {
            present: columns
                .iter()
                .map(|found| (found.column.name.clone(), found.column.number))
                .collect(),
            columns,
            primary_key,
            storage: schema.storage,
            attributes: schema.attributes,
            types: schema.types,
            is_ahead: false,
        })
    }

    fn retyped(&self, _: ColumnType, _: ColumnType) -> Retyped {
        Retyped::Changed
    }

    async fn heartbeat(&self) -> Result<Option<i64>> {
        Ok(None)
    }

    async fn sequences(&self, _: &[TableName]) -> Result<Vec<SequenceValue>> {
        Ok(Vec::new())
    }

    async fn release_slot(&self) -> Result<Option<String>> {
        self.0.call("release slot").await?;
        self.0.lock().slot = None;
        Ok(Some("slot".into()))
    }

    async fn take_back(&self) -> Result<Vec<String>> {
        self.0.call("take back").await?;
        self.0.lock().slot = None;
        Ok(vec!["slot".into()])
    }

    async fn release(&self) -> Result<Vec<String>> {
        self.0.call("release").await?;
        self.0.lock().slot = None;
        Ok(vec!["slot".into()])
    }
}

/// One instant, by what it has seen.
struct SimSnapshot {
    world: Shared,
    seen: PgSnapshot,
    tidemark: Tidemark,
}

impl SimSnapshot {
    fn now(shared: &Shared, world: &crate::world::World) -> SimSnapshot {
        let seen = world.snapshot();
        let tidemark = Tidemark {
            seen: Seen::PgSnapshot(seen.clone()),
            after: at(world.head + 1),
        };
        SimSnapshot {
            world: shared.clone(),
            seen,
            tidemark,
        }
    }
}

#[async_trait]
impl Snapshot for SimSnapshot {
    fn tidemark(&self) -> &Tidemark {
        &self.tidemark
    }

    async fn chunks(&self, mapping: &TableMapping, _: u64) -> Result<Vec<Chunk>> {
        self.world.call("chunks").await?;
        let keys = |from: Option<&str>, to: Option<&str>| Chunk::Keys {
            column: "id".into(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let blocks = |from, to| Chunk::Blocks {
            leaf: None,
            from,
            to,
        };
        Ok(match mapping.source().name.as_str() {
            "ranges" => {
                vec![
                    keys(None, Some("9")),
                    keys(Some("9"), Some("31")),
                    keys(Some("31"), None),
                ]
            }
            "blocks" => vec![blocks(0, Some(1)), blocks(1, None)],
            _ => vec![Chunk::Whole],
        })
    }

    async fn reader(&self) -> Result<Box<dyn SnapshotReader>> {
        self.world.call("reader").await?;
        Ok(Box::new(SimReader {
            world: self.world.clone(),
            seen: self.seen.clone(),
        }))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        Err(lost("view"))
    }
}

struct SimReader {
    world: Shared,
    seen: PgSnapshot,
}

#[async_trait]
impl SnapshotReader for SimReader {
    async fn read(
        &mut self,
        mapping: &TableMapping,
        chunk: &Chunk,
        _: RowFormat,
    ) -> Result<Box<dyn RowStream + '_>> {
        self.world.call("read").await?;
        let table = table_of(mapping);
        let world = self.world.lock();
        let rows = world.rows_seen(|t| self.seen.sees(low(t.xid)))[table].clone();
        let mut left: Vec<Row> = rows
            .into_iter()
            .flat_map(|(row, count)| std::iter::repeat_n(row, count as usize))
            .filter(|row| in_chunk(row, chunk))
            .collect();
        left.reverse();
        Ok(Box::new(SimRows {
            world: self.world.clone(),
            left,
        }))
    }

    async fn let_go(&mut self) -> Result<()> {
        self.world.call("let go").await
    }
}

fn in_chunk(row: &Row, chunk: &Chunk) -> bool {
    let id: u64 = row[0]
        .as_deref()
        .expect("ids are set")
        .parse()
        .expect("ids are numbers");
    let number = |bound: &Option<String>| bound.as_ref().map(|b| b.parse::<u64>().expect("number"));
    match chunk {
        Chunk::Whole => true,
        // "Place" has nothing to do with the key here: any fixed rule will do.
        Chunk::Blocks { from, .. } => u64::from(*from) == id % 2,
        Chunk::Keys { from, to, .. } => {
            number(from).is_none_or(|from| id >= from) && number(to).is_none_or(|to| id < to)
        }
        Chunk::Rows { keys, .. } => keys.iter().any(|key| key[0] == id.to_string()),
    }
}

struct SimRows {
    world: Shared,
    left: Vec<Row>,
}

#[async_trait]
impl RowStream for SimRows {
    async fn next(&mut self) -> Result<Option<RowBlock>> {
        self.world.call("rows").await?;
        if self.left.is_empty() {
            return Ok(None);
        }
        let count = 1 + self.world.lock().rng.below(8) as usize;
        let at = self.left.len().saturating_sub(count);
        let rows = self.left.split_off(at);
        let json: Vec<String> = rows
            .iter()
            .map(|row| serde_json::json!(row).to_string())
            .collect();
        Ok(Some(RowBlock {
            bytes: Bytes::from(json.join("\n") + "\n"),
            rows: rows.len() as u64,
        }))
    }
}

struct SimStream {
    world: Shared,
    /// Nothing that commits before this is given undecided.
    after: u64,
    next: u64,
    give: GiveUndecided,
    /// The transaction that is given undecided, and how many of its writes were.
    undecided: Option<(u64, usize)>,
    announced: bool,
    is_idle: bool,
}

#[async_trait]
impl ChangeStream for SimStream {
    async fn next(&mut self) -> Result<Block> {
        loop {
            self.world.call("next").await?;
            if self.is_idle {
                // Time passes only while nobody has anything to do.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            let shared = self.world.clone();
            let mut world = shared.lock();
            let head = at(world.head);
            let mut due: Vec<&Transaction> = world
                .transactions
                .iter()
                .filter(|t| t.commit.is_some_and(|(start, _)| start >= self.next))
                .collect();
            due.sort_by_key(|t| t.commit);
            let due: Vec<Transaction> = due.into_iter().take(3).cloned().collect();
            let mut builder = BlockBuilder::default();
            if !self.announced {
                builder.announce();
                self.announced = true;
            }
            if self.go_on_undecided(&mut world, &due, &mut builder) {
                if builder.events.is_empty() {
                    self.is_idle = true;
                    world.step();
                    continue;
                }
                return Ok(builder.build(head));
            }
            self.is_idle = due.is_empty();
            if due.is_empty() {
                // Nothing committed between `next` and the head.
                if world.head < self.next {
                    world.step();
                    continue;
                }
                self.next = world.head;
                builder.events.push(Event::Quiet { position: head });
            }
            for transaction in &due {
                builder.transaction(transaction);
                self.next = transaction.commit.expect("committed").1;
            }
            self.begin_undecided(&mut world, &mut builder);
            return Ok(builder.build(head));
        }
    }

    fn give_undecided(&mut self, give: GiveUndecided) {
        self.give = give;
    }

    fn acknowledge(&mut self, position: Position) {
        let mut world = self.world.lock();
        let slot = world
            .slot
            .as_mut()
            .expect("acknowledges to a slot that is there");
        slot.confirmed = slot.confirmed.max(lsn(position));
    }

    async fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl SimStream {
    /// Now and then a transaction is given before its turn: one that runs, or the next to come.
    fn begin_undecided(&mut self, world: &mut World, builder: &mut BlockBuilder) {
        if self.give == GiveUndecided::No || !world.rng.once_in(3) {
            return;
        }
        let mut open: Vec<&Transaction> = world
            .transactions
            .iter()
            .filter(|t| t.commit.is_none_or(|(start, _)| start >= self.next))
            .collect();
        open.sort_by_key(|t| t.commit.unwrap_or((u64::MAX, u64::MAX)));
        let is_new = |t: &Transaction| t.commit.is_none_or(|(start, _)| start >= self.after);
        let Some(xid) = open.first().filter(|t| is_new(t)).map(|t| t.xid) else {
            return;
        };
        builder.events.push(Event::Undecided { xid: low(xid) });
        self.undecided = Some((xid, 0));
    }

    /// Whether there is a transaction that is given undecided, and what becomes of it: more of it
    /// comes, it is decided, or something is in its way and it is withdrawn.
    fn go_on_undecided(
        &mut self,
        world: &mut World,
        due: &[Transaction],
        builder: &mut BlockBuilder,
    ) -> bool {
        let Some((xid, given)) = self.undecided.take() else {
            return false;
        };
        let is_other_first = due.first().is_some_and(|first| first.xid != xid);
        if self.give == GiveUndecided::No || is_other_first || world.rng.once_in(8) {
            builder.events.push(Event::Withdrawn);
            return true;
        }
        let known = world.transactions.iter().find(|t| t.xid == xid);
        let transaction = known.expect("it runs or has committed").clone();
        match transaction.commit {
            Some((start, end)) if given == transaction.writes.len() => {
                builder.events.push(Event::Decided(begin(xid, start)));
                builder.events.push(Event::Commit { end: at(end) });
                self.next = end;
            }
            _ => {
                let left = transaction.writes.len() - given;
                let more = left.min(1 + world.rng.below(6) as usize);
                for write in &transaction.writes[given..given + more] {
                    builder.write(write);
                }
                self.undecided = Some((xid, given + more));
            }
        }
        true
    }
}

fn low(xid: u64) -> u32 {
    u32::try_from(xid & 0xFFFF_FFFF).expect("masked")
}

fn begin(xid: u64, start: u64) -> Begin {
    Begin {
        xid: low(xid),
        commit: at(start),
        committed_at_us: 0,
    }
}

#[derive(Default)]
struct BlockBuilder {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    events: Vec<Event>,
}

impl BlockBuilder {
    fn announce(&mut self) {
        for table in 0..TABLES.len() {
            let schema = schema(table);
            let column = |c: &tidemark_core::schema::Column| StreamColumn {
                name: c.name.clone(),
                type_id: c.type_id,
                type_modifier: c.type_modifier,
            };
            self.events.push(Event::Table(Arc::new(StreamTable {
                id: schema.id,
                name: schema.name.clone(),
                columns: schema.columns.iter().map(column).collect(),
                identity: schema.identity.clone(),
            })));
        }
    }

    fn transaction(&mut self, transaction: &Transaction) {
        let (start, end) = transaction
            .commit
            .expect("only committed transactions are streamed");
        self.events
            .push(Event::Begin(begin(transaction.xid, start)));
        for write in &transaction.writes {
            self.write(write);
        }
        self.events.push(Event::Commit { end: at(end) });
    }

    fn write(&mut self, write: &Write) {
        let id = |table: usize| 100 + table as u32;
        let event = match write {
            Write::Insert { table, new } => {
                let new = Some(self.row(new, None));
                Event::Change(RowChange {
                    table: id(*table),
                    op: Op::Insert,
                    old: None,
                    new,
                })
            }
            Write::Update { table, old, new } => {
                let old_row = if !has_key(*table) {
                    Some(OldRow::Full(self.row(old, None)))
                } else if old[0] != new[0] {
                    Some(OldRow::Key(self.row(&[old[0].clone(), None, None], None)))
                } else {
                    None
                };
                // A large value that did not change is left out.
                let unchanged = (old[2] == new[2] && new[2].is_some()).then_some(2);
                let new = Some(self.row(new, unchanged));
                Event::Change(RowChange {
                    table: id(*table),
                    op: Op::Update,
                    old: old_row,
                    new,
                })
            }
            Write::Delete { table, old } => {
                let old = if has_key(*table) {
                    OldRow::Key(self.row(&[old[0].clone(), None, None], None))
                } else {
                    OldRow::Full(self.row(old, None))
                };
                Event::Change(RowChange {
                    table: id(*table),
                    op: Op::Delete,
                    old: Some(old),
                    new: None,
                })
            }
            Write::Truncate { table } => Event::Truncate(Truncate {
                tables: vec![id(*table)],
                cascade: false,
                restart_identity: false,
            }),
        };
        self.events.push(event);
    }

    fn row(&mut self, row: &Row, unchanged: Option<usize>) -> CellRow {
        let start = self.cells.len() as u32;
        for (at, value) in row.iter().enumerate() {
            let cell = match value {
                _ if unchanged == Some(at) => Cell::UNCHANGED,
                None => Cell::NULL,
                Some(text) => {
                    let start = self.bytes.len() as u32;
                    self.bytes.extend_from_slice(text.as_bytes());
                    Cell {
                        kind: CellKind::Text,
                        start,
                        len: text.len() as u32,
                    }
                }
            };
            self.cells.push(cell);
        }
        CellRow { start, len: 3 }
    }

    fn build(self, head: Position) -> Block {
        Block {
            bytes: Bytes::from(self.bytes),
            cells: self.cells,
            events: self.events,
            head,
        }
    }
}

pub(crate) fn table_of(mapping: &TableMapping) -> usize {
    let name = &mapping.source().name;
    TABLES
        .iter()
        .position(|table| table == name)
        .expect("a table of the history")
}
