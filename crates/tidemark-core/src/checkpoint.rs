//! What the target has durably: position, load state per unit, and whose source it came from.
//!
//! It lives in the target's schema `tidemark` and is written in the same transaction as the data it
//! stands for (promise P2). Losing everything else loses nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalogue::Code;
use crate::error::Error;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::{
    Attribute, Column, ColumnDefault, TableName, TableSchema, TypeMembers, ValueClass,
};
use crate::source::Partition;
use crate::tidemark::Tidemark;

/// Which run owns the pipeline. Raised by whoever starts it; the target refuses commits of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// Which source a checkpoint belongs to. Another cluster at the same address is another source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// PostgreSQL: the system identifier of `IDENTIFY_SYSTEM`.
    pub system: String,
    /// PostgreSQL: the timeline.
    pub timeline: u32,
    /// The database's name.
    pub database: String,
}

/// Everything a start needs to know of what the target has.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The source it was read from.
    pub identity: SourceIdentity,
    /// Everything that committed before this is applied (to tables that are not loading).
    pub position: Position,
    /// The consistent point of the first load: `full_load_lsn`.
    pub load_position: Position,
    /// How far the first load is.
    pub phase: LoadPhase,
    /// State of each table.
    pub tables: Vec<TableCheckpoint>,
    /// The slot was released on purpose.
    pub release: Option<Release>,
    /// Where log may be that the source has been told to forget and that is not applied yet.
    pub relay: Option<RelayHome>,
}

/// Where a relay log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayHome {
    /// Tells its directory from another of the same name.
    pub id: String,
    /// On which machine.
    pub host: String,
    /// In which directory.
    pub directory: String,
}

/// Why the source keeps no log for the pipeline any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The checkpoint's position then: what it says counts for no other.
    pub position: Position,
    /// When, RFC 3339.
    pub at: String,
    /// In a sentence.
    pub reason: String,
    /// The load begins anew with another: nothing rests on what is in yet.
    #[serde(default)]
    pub is_to_begin_anew: bool,
    /// The source lacks what the target has, as its log once showed. Nothing goes on from here, although
    /// its log may have grown past the position since: what it says there is not what was applied.
    #[serde(default)]
    pub is_history_lost: bool,
}

/// How far the first load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadPhase {
    /// Rows are being copied; some units may be in.
    Loading,
    /// All rows are in; keys, indexes and foreign keys may be missing.
    Finishing,
    /// The load is complete.
    Loaded,
}

/// What the target has of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableCheckpoint {
    /// On the source.
    pub source: TableName,
    /// On the target.
    pub target: TableName,
    /// The source's number for it when it was loaded; tells a re-created table.
    pub source_id: u32,
    /// What becomes of its changes.
    pub state: TableState,
    /// Why it is parked.
    pub reason: Option<Reason>,
    /// How its rows were cut up, and what is in. Empty when nothing is loaded yet.
    pub units: Vec<Unit>,
    /// What it is like as far as the target has followed, for telling a schema change; `None` where
    /// nothing of it is on the target yet.
    pub shape: Option<KnownShape>,
}

/// Why a table is as it is. It is written as one text, in the target too, where the code stands first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The error's, where it is because of one.
    pub code: Option<Code>,
    /// In words.
    pub text: String,
}

impl Reason {
    /// Because of an error.
    pub fn of(err: &Error) -> Reason {
        Reason::coded(err.code(), err.to_string())
    }

    /// With a code, and in these words.
    pub fn coded(code: Code, text: impl Into<String>) -> Reason {
        Reason {
            code: Some(code),
            text: text.into(),
        }
    }

    /// Without an error.
    pub fn plain(text: impl Into<String>) -> Reason {
        Reason {
            code: None,
            text: text.into(),
        }
    }

    /// From how it is written. A code that is not known stays in the text.
    pub fn read(written: &str) -> Reason {
        let code = written.split_once(": ");
        let code = code.and_then(|(word, text)| {
            let code = Code::parse(word).filter(|code| code.to_string() == word)?;
            Some(Reason::coded(code, text))
        });
        code.unwrap_or_else(|| Reason::plain(written))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What becomes of a table's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Rows are to be copied; the stream has not begun to apply its changes.
    Loading,
    /// Changes are applied (minding the tidemarks of its units).
    Streaming,
    /// Rows are copied anew while other tables stream: changes are parked in order.
    Resyncing,
    /// A change could not be applied: it and all later ones are parked in order.
    Quarantined,
    /// Its rows could not be loaded, or not all of them: changes are parked in order, and only loading
    /// it anew brings it back.
    Unloaded,
    /// A person paused it: changes are parked in order.
    Paused,
    /// Loaded, and nothing more to come (full load only).
    Done,
}

impl TableState {
    /// Whether changes are put aside in order instead of being applied.
    pub fn is_parked(self) -> bool {
        matches!(
            self,
            TableState::Resyncing
                | TableState::Quarantined
                | TableState::Unloaded
                | TableState::Paused
        )
    }

    /// Whether its rows are those of some state of the source, so that its parked changes bring it up
    /// to date. While a table is loaded they are not.
    pub fn has_rows(self) -> bool {
        !matches!(
            self,
            TableState::Loading | TableState::Resyncing | TableState::Unloaded
        )
    }
}

/// A table as last known: what the target has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownShape {
    /// Its columns.
    pub columns: Vec<KnownColumn>,
    /// [`crate::schema::TableSchema::storage`] at that time.
    pub storage: Option<i64>,
    /// [`crate::schema::TableSchema::attributes`] at that time.
    #[serde(default)]
    pub attributes: Vec<Attribute>,
    /// [`crate::schema::TableSchema::types`] at that time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<TypeMembers>,
}

impl KnownShape {
    /// Of a table that is loaded by this mapping.
    pub fn of(mapping: &TableMapping) -> KnownShape {
        KnownShape::of_table(&mapping.schema)
    }

    /// Of a table as the catalog has it. The log does not announce generated columns.
    pub fn of_table(table: &TableSchema) -> KnownShape {
        let announced = |column: &&Column| !matches!(column.default, ColumnDefault::Generated(_));
        let columns = table.columns.iter().filter(announced);
        KnownShape {
            columns: columns
                .map(|column| KnownColumn {
                    name: column.name.clone(),
                    number: column.number,
                    type_id: column.type_id,
                    type_modifier: column.type_modifier,
                    is_not_null: column.is_not_null,
                    class: Some(column.class),
                })
                .collect(),
            storage: table.storage,
            attributes: table.attributes.clone(),
            types: table.types.clone(),
        }
    }
}

/// A column as last known, by which a schema change is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KnownColumn {
    /// Its name on the source.
    pub name: String,
    /// The catalog's number for it, by which a rename is told; 0 where that is not known.
    pub number: i16,
    /// The source's number for its type.
    pub type_id: u32,
    /// The type's modifier.
    pub type_modifier: i32,
    /// Whether the source refused NULL.
    #[serde(default)]
    pub is_not_null: bool,
    /// What kind of values it held, for the masks and filters that speak of it once it is gone. It was
    /// not always recorded, and tells nothing that the type does not.
    #[serde(default)]
    pub class: Option<ValueClass>,
}

impl PartialEq for KnownColumn {
    fn eq(&self, other: &KnownColumn) -> bool {
        let told = |it: &KnownColumn| (it.number, it.type_id, it.type_modifier, it.is_not_null);
        self.name == other.name && told(self) == told(other)
    }
}

impl Eq for KnownColumn {}

/// One unit of loaded data: a chunk, whether it is in, and what it has seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Its number within the table, from 0.
    pub number: u32,
    /// Which rows.
    pub chunk: Chunk,
    /// What it has seen; `None` while it is not in, or once the stream has passed it.
    pub tidemark: Option<Tidemark>,
    /// Whether its rows are in the target.
    pub is_loaded: bool,
    /// How many rows were copied. Where they took the place of others (a repair) all units of the table together
    /// have what its load had brought.
    pub rows: u64,
}

/// Which rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chunk {
    /// All of them.
    Whole,
    /// By physical place: blocks `from..to` of a heap (`to` = `None`: to its end). All such chunks
    /// of a table share one snapshot.
    Blocks {
        /// The partition that holds them, where the table is partitioned.
        leaf: Option<TableName>,
        /// First block.
        from: u32,
        /// Block after the last.
        to: Option<u32>,
    },
    /// By the leading key column, whose order is the same everywhere. Text forms; `None` is open.
    Keys {
        /// Source name of the column.
        column: String,
        /// Lowest value, included.
        from: Option<String>,
        /// Upper bound, excluded.
        to: Option<String>,
    },
    /// These rows, by the text of their key columns: what a repair moves.
    Rows {
        /// Source names of the key columns.
        columns: Vec<String>,
        /// Their values, a list for each row.
        keys: Vec<Vec<String>>,
    },
}

impl Chunk {
    /// Source names of the columns by which it tells its rows one by one.
    pub fn key_columns(&self) -> Option<&[String]> {
        match self {
            Chunk::Rows { columns, .. } => Some(columns),
            _ => None,
        }
    }
}

/// What a commit records besides the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckpointUpdate {
    /// Everything that committed before this is in.
    pub position: Option<Position>,
    /// Tables whose state changes with this commit.
    pub states: Vec<TableStateChange>,
    /// Tables whose tidemarks the stream has passed with this commit.
    pub passed: Vec<TableName>,
    /// Tables that are now known to be like this.
    pub shapes: Vec<(TableName, KnownShape)>,
    /// Partitions of tables, nothing of which is in doubt.
    pub partitions: Vec<(TableName, Vec<Partition>)>,
    /// Partitioned tables that these transactions of the source emptied as a whole.
    pub emptied: Vec<(TableName, u32)>,
}

/// What is recorded of a table's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPartitions {
    /// On the source.
    pub table: TableName,
    /// As they were when nothing of them was in doubt; `None` where that was not recorded yet.
    pub partitions: Option<Vec<Partition>>,
    /// The last transaction that emptied all of them, and whose changes are in.
    pub emptied_by: Option<u32>,
}

/// A table's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStateChange {
    /// On the source.
    pub table: TableName,
    /// On the target; with `source_id` what is recorded for a table that was not known before.
    pub target: TableName,
    /// The source's number for it.
    pub source_id: u32,
    /// What becomes of its changes from here on.
    pub state: TableState,
    /// Why.
    pub reason: Option<Reason>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::codes;

    #[test]
    fn a_reason_is_what_it_was_when_it_is_read_again() {
        let long = Reason::coded(codes::TARGET_VALUE, "TM1001: of another: too long");
        assert_eq!(long.to_string(), "TM2041: TM1001: of another: too long");
        let words = [
            "paused",
            "",
            "12: x",
            "TM9999: by a later program",
            "2041: x",
        ];
        let plain = words.map(Reason::plain);
        for reason in plain.into_iter().chain([long]) {
            assert_eq!(Reason::read(&reason.to_string()), reason);
        }
    }
}
