//! The tables this session has met, described once.
//!
//! A mapping is told by its address: the pipeline makes one for each shape of a table and shares
//! it. The description holds the mapping, so an address cannot come to mean another one.

use std::collections::HashMap;
use std::sync::Arc;

use tidemark_core::Result;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;

use super::caution::Caution;
use super::session::{Session, Step};
use super::table::{Kind, NO_HOOKS, NO_HOOKS_PLAIN, TargetTable, firing};
use super::text::ListWriter;
use crate::target::Triggers;

/// See the module's text.
#[derive(Debug)]
pub(super) struct KnownTables {
    triggers: Triggers,
    by_address: HashMap<usize, Arc<TargetTable>>,
    /// Those without hooks that the transaction has met, by their numbers.
    unhooked: HashMap<u32, Arc<TargetTable>>,
    /// By name on the target: outlives a description.
    cautions: HashMap<TableName, Caution>,
    next_number: u32,
    /// How many may be known before those that nobody uses are forgotten.
    sweep_at: usize,
}

/// A table as a batch meets it.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) table: Arc<TargetTable>,
    /// Inserts must be ready to meet the row they bring, and order is kept.
    pub(super) is_cautious: bool,
}

const SWEEP_FIRST: usize = 1_000;

impl KnownTables {
    pub(super) fn new(triggers: Triggers) -> KnownTables {
        KnownTables {
            triggers,
            by_address: HashMap::new(),
            unhooked: HashMap::new(),
            cautions: HashMap::new(),
            next_number: 0,
            sweep_at: SWEEP_FIRST,
        }
    }

    /// The table of a mapping, described now if it was not yet.
    pub(super) async fn meet(
        &mut self,
        session: &mut Session,
        mapping: &Arc<TableMapping>,
    ) -> Result<Met> {
        let address = Arc::as_ptr(mapping) as usize;
        let is_cautious = self
            .cautions
            .get(&mapping.target)
            .is_some_and(|caution| caution.is_due());
        let table = match self.by_address.get(&address) {
            Some(known) => Arc::clone(known),
            None => self.describe(session, mapping).await?,
        };
        if !table.has_hooks() {
            self.unhooked
                .entry(table.number)
                .or_insert_with(|| Arc::clone(&table));
        }
        Ok(Met { table, is_cautious })
    }

    async fn describe(
        &mut self,
        session: &mut Session,
        mapping: &Arc<TableMapping>,
    ) -> Result<Arc<TargetTable>> {
        self.sweep(session)?;
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        let described = TargetTable::describe(number, session, mapping, self.triggers).await;
        let table = Arc::new(described?);
        let address = Arc::as_ptr(mapping) as usize;
        self.by_address.insert(address, Arc::clone(&table));
        Ok(table)
    }

    /// A transaction begins, and has met no table yet.
    pub(super) fn begin(&mut self) {
        self.unhooked.clear();
    }

    /// Queues the question whether each table that was met without hooks still is without: to be the last
    /// before the checkpoint. By then the transaction has locked what it has written, so that nothing can
    /// come to it until the commit: whoever makes a trigger or a rule waits for writers, and they for him
    /// (PostgreSQL 15, 13.3.1). What came before fails it with `division_by_zero`.
    pub(super) fn ask_for_hooks(&self, session: &mut Session) -> Result<()> {
        if self.unhooked.is_empty() {
            return Ok(());
        }
        let mut tables = self.unhooked.values();
        let question = if tables.any(|table| table.kind == Kind::Partitioned) {
            NO_HOOKS
        } else {
            NO_HOOKS_PLAIN
        };
        let statement = session.own_statement(question)?;
        let mut bind = session.bind(statement, 2);
        bind.written(|out| {
            let mut names = ListWriter::begin(out, b',', false);
            for table in self.unhooked.values() {
                names.put(Some(table.name.as_bytes()));
            }
            names.end();
        });
        bind.value(Some(firing(self.triggers).as_bytes()));
        bind.execute(Step::Hooks, 0)
    }

    /// The source's name of a table by its name on the target.
    pub(super) fn source_of(&self, schema: &str, name: &str) -> Option<TableName> {
        let mut tables = self.by_address.values();
        let found = tables.find(|table| {
            let target = &table.mapping.target;
            target.schema == schema && target.name == name
        });
        found.map(|table| table.mapping.source().clone())
    }

    /// Forgets what is known of a table on the target; it will be described again.
    pub(super) fn forget(&mut self, session: &mut Session, target: &TableName) -> Result<()> {
        self.drop_where(session, |table| table.mapping.target == *target)
    }

    /// Notes how a stretch went for a table.
    pub(super) fn note(&mut self, target: &TableName, went: Went) {
        match (self.cautions.get_mut(target), went) {
            (Some(caution), Went::Well) => caution.lower(),
            (Some(caution), Went::Wrong) => caution.raise(),
            (None, Went::Well) => {}
            (None, Went::Wrong) => {
                let mut caution = Caution::default();
                caution.raise();
                self.cautions.insert(target.clone(), caution);
            }
        }
    }

    /// Mappings that were replaced are known to us alone.
    fn sweep(&mut self, session: &mut Session) -> Result<()> {
        if self.by_address.len() >= self.sweep_at {
            self.drop_where(session, |table| Arc::strong_count(&table.mapping) == 1)?;
            self.sweep_at = (self.by_address.len() * 2).max(SWEEP_FIRST);
        }
        Ok(())
    }

    fn drop_where(
        &mut self,
        session: &mut Session,
        is_gone: impl Fn(&TargetTable) -> bool,
    ) -> Result<()> {
        let gone = self.by_address.iter().filter(|(_, table)| is_gone(table));
        let gone: Vec<(usize, u32)> = gone.map(|(at, table)| (*at, table.number)).collect();
        for (address, number) in gone {
            self.by_address.remove(&address);
            session.forget_table(number)?;
        }
        Ok(())
    }
}

/// How applying a table's changes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// As planned.
    Well,
    /// The server refused, and they were applied in order.
    Wrong,
}
