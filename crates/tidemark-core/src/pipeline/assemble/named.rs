//! Partitions that the log names: right behind the table that they belong to, under whose name their rows
//! come (`maybe_send_schema`, PostgreSQL 15 pgoutput.c). No other table is announced between that table and a
//! row of it.

use crate::event::{Event, StreamTable};
use crate::pipeline::partitions::Written;
use crate::position::Position;
use crate::schema::TableName;

use super::Assembler;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// A partitioned table that was announced just now, and what was announced behind it.
    last: Option<(u32, TableName, Option<Written>)>,
    /// Of the open transaction.
    open: Vec<Written>,
    /// Until they are asked for.
    ended: Vec<(Written, Position)>,
}

impl Named {
    /// The open transaction is over, and counts.
    pub(super) fn ended(&mut self, end: Position) {
        let open = self.open.drain(..).map(|partition| (partition, end));
        self.ended.extend(open);
    }

    /// The open transaction does not count.
    pub(super) fn withdraw(&mut self) {
        self.last = None;
        self.open.clear();
    }
}

impl Assembler {
    /// Partitions that rows came from since this was last asked, and where their transactions ended.
    pub(in crate::pipeline) fn take_partitions(&mut self) -> Vec<(Written, Position)> {
        std::mem::take(&mut self.named.ended)
    }

    /// Takes note of a partition as soon as a row of it comes.
    pub(super) fn note_partitions(&mut self, event: &Event) {
        // Of most events there is nothing to note.
        let may_tell = matches!(event, Event::Table(_) | Event::Begin(_));
        if !may_tell && self.named.last.is_none() {
            return;
        }
        let last = self.named.last.take();
        match (event, last) {
            (Event::Table(table), Some((id, root, None))) if !self.is_partitioned(table) => {
                let partition = Written {
                    root: root.clone(),
                    name: table.name.clone(),
                    id: table.id,
                };
                self.named.last = Some((id, root, Some(partition)));
            }
            (Event::Table(table), _) if self.is_partitioned(table) => {
                self.named.last = Some((table.id, table.name.clone(), None));
            }
            (Event::Change(change), Some((id, _, Some(partition))))
                if change.table == id && !self.is_contained() =>
            {
                self.named.open.push(partition);
            }
            (Event::Begin(_), _) => self.named.open.clear(),
            _ => {}
        }
    }

    fn is_partitioned(&self, table: &StreamTable) -> bool {
        let route = self.router.named(&table.name);
        route.is_some_and(|route| self.router.route(route).mapping.schema.is_partitioned)
    }
}
