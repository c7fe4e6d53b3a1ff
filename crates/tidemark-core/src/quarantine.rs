//! Rows in quarantine: which changes were put aside, and which have to wait behind them.
//!
//! # The rule
//! A change that the target refuses for its values goes aside, and its key with it. Every later change
//! of that key waits behind it, in order, and so does one that moves a row from or to the key: from then
//! on both keys stand for one row ([`Aside`] keeps them as one group). All other rows and tables go on.
//! A group is applied again as one: what its changes come to, so that a value that the source has
//! corrected meanwhile, or a row that it has deleted, is mended by that alone.
//!
//! Where the target checks foreign keys in our session, a row that refers to one that is not there is
//! refused itself, and waits for the same reason.
//!
//! Nothing here does I/O: the target keeps the changes in the transaction of everything else.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Change};
use crate::catalogue::codes;
use crate::control::Answer;
use crate::event::{Cell, CellKind, Op};
use crate::mapping::TableMapping;
use crate::schema::TableName;

/// What becomes of a row that the target refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRowError {
    /// The pipeline stops: strict order over all tables.
    StopPipeline,
    /// Its table is set aside, its changes kept in order; the others go on.
    #[default]
    StopTable,
    /// The row alone is put aside, with what waits behind it, up to a bound.
    QuarantineRow(Bounds),
}

/// How much of a table may be in quarantine before the table is set aside as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Rows.
    pub rows_max: u64,
    /// Bytes of changes.
    pub bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            rows_max: 1_000,
            bytes_max: 16 << 20,
        }
    }
}

impl OnRowError {
    /// Whether rows go aside one by one.
    pub fn is_by_row(self) -> bool {
        matches!(self, OnRowError::QuarantineRow(_))
    }

    /// The bound that counts: rows may be left over from another policy.
    pub fn bounds(self) -> Bounds {
        match self {
            OnRowError::QuarantineRow(bounds) => bounds,
            OnRowError::StopPipeline | OnRowError::StopTable => Bounds::default(),
        }
    }
}

/// A row's key: the text of its key columns.
pub type Key = Vec<String>;

/// What a table has in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Rows.
    pub rows: u64,
    /// Changes of them.
    pub changes: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// Which rows are meant by a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Of these tables of the source; empty for all.
    pub tables: Vec<TableName>,
    /// Of this key alone.
    pub key: Option<Key>,
}

impl Chosen {
    /// Whether a row of these keys is meant.
    pub fn is(&self, table: &TableName, keys: &[Key]) -> bool {
        let is_table = self.tables.is_empty() || self.tables.contains(table);
        is_table && self.key.as_ref().is_none_or(|key| keys.contains(key))
    }
}

/// Why a change was put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Catalogue code.
    pub code: String,
    /// The server's.
    pub sqlstate: String,
    /// What it said.
    pub text: String,
}

/// A change in quarantine, for a person.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeptChange {
    /// In this order they are applied again.
    pub number: i64,
    /// On the source.
    pub table: TableName,
    /// On the target.
    pub target: String,
    /// The row's key; two where the change moves it.
    pub keys: Vec<Key>,
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// The transaction on the source.
    pub xid: u32,
    /// Where it committed.
    pub position: String,
    /// When it was put aside, RFC 3339.
    pub since: String,
    /// Why; `None` for one that waits behind another.
    pub cause: Option<Cause>,
    /// The new row: columns of the target that the log has, in text form, masked as they are there.
    pub row: BTreeMap<String, Option<String>>,
}

/// One row in quarantine, for a person: its changes, the one that was refused first.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptRow {
    /// In order; there is at least one.
    pub changes: Vec<KeptChange>,
    /// Every key that the row has or had.
    pub keys: Vec<Key>,
}

impl KeptRow {
    /// The change that was refused.
    pub fn first(&self) -> &KeptChange {
        &self.changes[0]
    }

    /// The key that the row has, or had last.
    pub fn key(&self) -> String {
        let last = self.changes.last().and_then(|change| change.keys.last());
        last.map_or_else(String::new, |key| key.join(","))
    }

    /// Whether a person means this row by a text: its key with commas between, or as a JSON array.
    pub fn is_of(&self, text: &str) -> bool {
        is_one_of(&self.keys, text)
    }

    /// By which this row alone is chosen.
    pub fn chosen(&self) -> Chosen {
        Chosen {
            tables: vec![self.first().table.clone()],
            key: self.keys.first().cloned(),
        }
    }
}

/// Whether a text is one of these keys: with commas between its parts, or as a JSON array.
pub fn is_one_of(keys: &[Key], text: &str) -> bool {
    let parsed: Option<Key> = serde_json::from_str(text).ok();
    let is_it = |key: &Key| key.join(",") == text || Some(key) == parsed.as_ref();
    keys.iter().any(is_it)
}

/// What is in quarantine, in order, row by row: by when the first change of each came.
pub fn rows_of(changes: Vec<KeptChange>) -> Vec<KeptRow> {
    let mut aside = Aside::default();
    for change in &changes {
        aside.hold(&change.table, &change.keys, 0);
    }
    let mut found: BTreeMap<(TableName, Option<u64>), KeptRow> = BTreeMap::new();
    for change in changes {
        let keys = change.keys.first();
        let group = keys.and_then(|key| aside.group(&change.table, key));
        let row = found
            .entry((change.table.clone(), group))
            .or_insert_with(|| KeptRow {
                changes: Vec::new(),
                keys: Vec::new(),
            });
        for key in &change.keys {
            if !row.keys.contains(key) {
                row.keys.push(key.clone());
            }
        }
        row.changes.push(change);
    }
    let mut found: Vec<KeptRow> = found.into_values().collect();
    found.sort_by_key(|row| row.first().number);
    found
}

/// What became of rows that were to be applied again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Released {
    /// So many rows are in.
    pub rows: u64,
    /// These were refused again, and stay: table, key and why.
    pub refused: Vec<(TableName, Key, Cause)>,
}

impl Released {
    /// What is told to whoever asked for it; so many tables go on with it.
    pub fn answer(&self, tables: usize) -> Answer {
        let mut text = match self.rows {
            1 => "1 row is in".to_owned(),
            rows => format!("{rows} rows are in"),
        };
        if tables > 0 {
            let go_on = if tables == 1 {
                "table goes on"
            } else {
                "tables go on"
            };
            text = format!("{text}; {tables} {go_on} with the changes that were kept");
        }
        let Some((table, key, cause)) = self.refused.first() else {
            return Answer {
                ok: true,
                text,
                code: None,
            };
        };
        let count = self.refused.len();
        let stay = if count == 1 { "stays" } else { "stay" };
        let (key, why) = (key.join(", "), &cause.text);
        Answer {
            ok: false,
            text: format!("{text}, {count} {stay} in quarantine, such as {table} ({key}): {why}"),
            code: Some(codes::ROW_QUARANTINED.to_string()),
        }
    }
}

/// What is told to whoever had rows discarded.
pub fn discarded(count: u64) -> String {
    match count {
        0 => "nothing was in quarantine there".to_owned(),
        1 => "1 row is discarded: the target differs from the source there".to_owned(),
        rows => format!("{rows} rows are discarded: the target differs from the source there"),
    }
}

/// The keys by which a change finds and leaves its row, the old one first where it moves. `None` where
/// the table has no key, or the log does not tell it.
pub fn keys_of(batch: &Batch, change: &Change, key: &[usize]) -> Option<Vec<Key>> {
    if key.is_empty() {
        return None;
    }
    let old = change.old.map(|old| batch.row(old.row()));
    let new = change.new.map(|new| batch.row(new));
    let value = |cells: &[Cell], at: usize| -> Option<String> {
        let mut cell = cells[at];
        if cell.kind == CellKind::Unchanged {
            cell = old?[at];
        }
        let text = (cell.kind == CellKind::Text).then(|| batch.value(cell))?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let of = |cells: &[Cell]| -> Option<Key> { key.iter().map(|at| value(cells, *at)).collect() };
    let mut keys = Vec::new();
    if let Some(old) = old.filter(|_| change.op != Op::Insert) {
        keys.push(of(old)?);
    }
    if let Some(new) = new.filter(|_| change.op != Op::Delete) {
        let new = of(new)?;
        if !keys.contains(&new) {
            keys.push(new);
        }
    }
    (!keys.is_empty()).then_some(keys)
}

/// A change alone, in a batch of its own.
pub fn alone(batch: &Batch, change: &Change) -> Batch {
    let mut one = Batch::default();
    one.append(batch, change);
    one
}

/// How much of each table is in quarantine.
pub fn count(changes: &[KeptChange]) -> Vec<(TableName, Kept)> {
    let mut aside = Aside::default();
    for change in changes {
        aside.hold(&change.table, &change.keys, 0);
    }
    aside.all()
}

/// Which keys are in quarantine, of all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    tables: HashMap<TableName, Groups>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Groups {
    /// The group that a key belongs to.
    of: HashMap<Key, u64>,
    next: u64,
    changes: u64,
    bytes: u64,
}

impl Aside {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether a table has rows in quarantine.
    pub fn has(&self, table: &TableName) -> bool {
        self.tables.contains_key(table)
    }

    /// Whether any table of a batch has.
    pub fn concerns(&self, batch: &Batch) -> bool {
        let has = |mapping: &std::sync::Arc<TableMapping>| self.has(mapping.source());
        !self.is_empty() && batch.tables().iter().any(has)
    }

    /// Whether a change of these keys has to wait.
    pub fn waits(&self, table: &TableName, keys: &[Key]) -> bool {
        let groups = self.tables.get(table);
        groups.is_some_and(|groups| keys.iter().any(|key| groups.of.contains_key(key)))
    }

    /// Puts a change of these keys aside: from now on they are one row.
    pub fn hold(&mut self, table: &TableName, keys: &[Key], bytes: u64) {
        let groups = self.tables.entry(table.clone()).or_default();
        groups.changes += 1;
        groups.bytes += bytes;
        let known: HashSet<u64> = keys
            .iter()
            .filter_map(|k| groups.of.get(k))
            .copied()
            .collect();
        let group = known.iter().min().copied().unwrap_or(groups.next);
        groups.next = groups.next.max(group + 1);
        if known.len() > 1 {
            let others = groups.of.values_mut().filter(|of| known.contains(of));
            others.for_each(|of| *of = group);
        }
        for key in keys {
            groups.of.insert(key.clone(), group);
        }
    }

    /// A table has none any more.
    pub fn clear(&mut self, table: &TableName) {
        self.tables.remove(table);
    }

    /// Keys of one row are free again, with so many changes and bytes.
    pub fn release(&mut self, table: &TableName, keys: &[Key], changes: u64, bytes: u64) {
        if let Some(groups) = self.tables.get_mut(table) {
            groups.of.retain(|key, _| !keys.contains(key));
            groups.changes = groups.changes.saturating_sub(changes);
            groups.bytes = groups.bytes.saturating_sub(bytes);
            if groups.of.is_empty() {
                self.tables.remove(table);
            }
        }
    }

    /// The group of a key, by which changes of one row are told.
    pub fn group(&self, table: &TableName, key: &Key) -> Option<u64> {
        self.tables.get(table)?.of.get(key).copied()
    }

    /// What a table has in quarantine.
    pub fn kept(&self, table: &TableName) -> Kept {
        let Some(groups) = self.tables.get(table) else {
            return Kept::default();
        };
        let rows: HashSet<u64> = groups.of.values().copied().collect();
        Kept {
            rows: rows.len() as u64,
            changes: groups.changes,
            bytes: groups.bytes,
        }
    }

    /// The same of all tables that have any.
    pub fn all(&self) -> Vec<(TableName, Kept)> {
        let all = self.tables.keys();
        all.map(|table| (table.clone(), self.kept(table))).collect()
    }

    /// Tables of which there is more or less than before.
    pub fn changed_since(&self, before: &Aside) -> Vec<(TableName, Kept)> {
        let names: HashSet<&TableName> = self.tables.keys().chain(before.tables.keys()).collect();
        let is_changed =
            |table: &&&TableName| self.tables.get(**table) != before.tables.get(**table);
        let changed = names.iter().filter(is_changed);
        changed
            .map(|table| ((*table).clone(), self.kept(table)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        vec![text.to_owned()]
    }

    #[test]
    fn what_moves_from_or_to_a_key_waits_and_is_one_row_with_it() {
        let table = TableName::new("public", "t");
        let mut aside = Aside::default();
        assert!(!aside.waits(&table, &[key("1")]));
        aside.hold(&table, &[key("1")], 10);
        aside.hold(&table, &[key("5")], 10);
        assert!(aside.waits(&table, &[key("1"), key("2")]));
        assert!(!aside.waits(&table, &[key("2")]));
        aside.hold(&table, &[key("1"), key("2")], 10);
        assert!(aside.waits(&table, &[key("2")]));
        let rows = |aside: &Aside| (aside.kept(&table).rows, aside.kept(&table).changes);
        assert_eq!(rows(&aside), (2, 3));
        aside.hold(&table, &[key("2"), key("5")], 10);
        assert_eq!(rows(&aside), (1, 4), "two rows that met are one");
        assert_eq!(
            aside.group(&table, &key("1")),
            aside.group(&table, &key("5"))
        );
        let before = aside.clone();
        aside.release(&table, &[key("1"), key("2"), key("5")], 4, 40);
        assert!(aside.is_empty() && !aside.waits(&table, &[key("2")]));
        assert_eq!(aside.changed_since(&before), [(table, Kept::default())]);
    }

    #[test]
    fn changes_of_one_row_are_one_row_whatever_keys_it_had() {
        let change = |number, table: &str, keys: &[&str]| KeptChange {
            number,
            table: TableName::new("public", table),
            target: table.to_owned(),
            keys: keys.iter().map(|text| key(text)).collect(),
            op: "update".to_owned(),
            xid: 1,
            position: String::new(),
            since: String::new(),
            cause: None,
            row: BTreeMap::new(),
        };
        let rows = rows_of(vec![
            change(1, "t", &["7"]),
            change(2, "a", &["1"]),
            change(3, "a", &["2"]),
            change(4, "t", &["7", "8"]),
            change(5, "a", &["1"]),
        ]);
        let found: Vec<(i64, usize, String)> = rows
            .iter()
            .map(|row| (row.first().number, row.changes.len(), row.key()))
            .collect();
        let expected = [(1, 2, "8"), (2, 2, "1"), (3, 1, "2")];
        assert_eq!(
            found,
            expected.map(|(n, count, key)| (n, count, key.to_owned()))
        );
        assert!(rows[0].is_of("7") && rows[0].is_of("[\"8\"]") && !rows[0].is_of("9"));
        assert!(
            rows[0]
                .chosen()
                .is(&TableName::new("public", "t"), &[key("7")])
        );
    }

    #[test]
    fn rows_are_chosen_by_table_and_key() {
        let (one, other) = (TableName::new("public", "t"), TableName::new("public", "u"));
        let keys = [key("1"), key("2")];
        assert!(Chosen::default().is(&one, &keys));
        let chosen = Chosen {
            tables: vec![one.clone()],
            key: Some(key("2")),
        };
        assert!(chosen.is(&one, &keys));
        assert!(!chosen.is(&other, &keys) && !chosen.is(&one, &keys[..1]));
    }
}
