//! What a table looks like: columns, key, identity, indexes, constraints.
//!
//! Filled by the source from its catalog, read by the mapping and by the target. Where source and
//! target are the same engine, definitions are carried in the engine's own words
//! ([`Column::type_name`], [`Index::columns`], …); a target of another engine maps
//! [`Column::class`] instead and lists what it loses.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::selection::quoted;

/// A table's name in its database, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema; what MySQL calls a database.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> TableName {
        TableName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// Both parts with a dot between, whatever is in them: as queries of a catalog put them together, and as
    /// names are hashed. Two tables may have one.
    pub fn unquoted(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// As a pipeline file names it, so that no two tables have one text, and what is shown can be asked for.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// A table of the source. `id` is the source's own number for it (PostgreSQL: the oid), by which a
/// table that was dropped and made again under the same name is told apart.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// Its name.
    pub name: TableName,
    /// The source's own number for it.
    pub id: u32,
    /// Columns in catalog order, dropped ones left out.
    pub columns: Vec<Column>,
    /// Positions in `columns` of the primary key's columns, in key order; empty without one.
    pub primary_key: Vec<usize>,
    /// How the log identifies an old row.
    pub identity: ReplicaIdentity,
    /// Indexes, the primary key's and those of unique and exclusion constraints included.
    pub indexes: Vec<Index>,
    /// Check constraints.
    pub checks: Vec<Check>,
    /// Foreign keys that leave this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Estimated rows, from statistics; `None` where there are none.
    pub rows: Option<u64>,
    /// Size on disk with TOAST, without indexes, in bytes.
    pub bytes: u64,
    /// Whether it is the root of a partitioned table.
    pub is_partitioned: bool,
    /// Another number whenever the source has rewritten the rows; `None` where it does not tell.
    pub storage: Option<i64>,
    /// All columns that there ever were, dropped and generated ones included; empty where the source does
    /// not tell.
    pub attributes: Vec<Attribute>,
    /// Types that its columns rest on and that have members with names.
    pub types: Vec<TypeMembers>,
    /// What domains demand that its columns rest on.
    pub domains: Vec<DomainRule>,
    /// Tables whose rows are values of its columns: they have to be there before it.
    pub rests_on: Vec<TableName>,
    /// Those of the types that its columns rest on which have rows of those tables in them, each after what it
    /// rests on: they are made right before it.
    pub late_types: Vec<SchemaObject>,
    /// Statements (comment, storage parameters and the like) that the same engine replays after the
    /// table exists; `{name}` stands for the quoted target name.
    pub notes: Vec<String>,
}

impl TableSchema {
    /// A table of which nothing else is known: no columns, and nothing that tells its old rows.
    #[must_use]
    pub fn bare(name: TableName, id: u32) -> TableSchema {
        TableSchema {
            name,
            id,
            columns: Vec::new(),
            primary_key: Vec::new(),
            identity: ReplicaIdentity::Nothing,
            indexes: Vec::new(),
            checks: Vec::new(),
            foreign_keys: Vec::new(),
            rows: None,
            bytes: 0,
            is_partitioned: false,
            storage: None,
            attributes: Vec::new(),
            types: Vec::new(),
            domains: Vec::new(),
            rests_on: Vec::new(),
            late_types: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A column as the catalog counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its number, which is given once.
    pub number: i16,
    /// Another number whenever its definition was written.
    pub version: u32,
}

/// A type whose values name its members, or hold one value for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeMembers {
    /// The source's own number for it.
    pub id: u32,
    /// Its name.
    pub name: TableName,
    /// What they are.
    pub kind: MemberKind,
    /// In their order.
    pub members: Vec<Member>,
}

/// What a type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// An enumeration: a value is one of them, by its name.
    Labels,
    /// A composite type: a value has one for each, by their places.
    Attributes,
}

/// A label or an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The source's number for it, which stays when it is renamed (PostgreSQL: `pg_enum.oid`, `attnum`).
    pub number: u32,
    /// Its name.
    pub name: String,
}

/// Something that a domain demands of its values, or its default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DomainRule {
    /// The domain in the source's own words.
    pub type_name: String,
    /// The constraint's name; `None` where it is that they are not NULL, or the default.
    pub name: Option<String>,
    /// `CHECK (…)`, `NOT NULL`, or `DEFAULT …`.
    pub demand: String,
    /// Columns that rest on the domain.
    pub columns: Vec<String>,
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The catalog's number for it, stable when it is renamed.
    pub number: i16,
    /// The type in the source's own words, with modifiers: `numeric(8,2)`, `"Mood"[]`.
    pub type_name: String,
    /// The source's number for the type.
    pub type_id: u32,
    /// The type's modifier as the log tells it; -1 for none.
    pub type_modifier: i32,
    /// What kind of values it holds, for filters, masks and other engines.
    pub class: ValueClass,
    /// Whether NULL is refused.
    pub is_not_null: bool,
    /// Default, generation or identity.
    pub default: ColumnDefault,
    /// The collation in the source's words where it is not the type's own.
    pub collation: Option<String>,
    /// Whether its binary form holds nothing of the source's catalog, so that bytes may be passed
    /// through to the same type elsewhere (false for arrays of user-defined types, composite types,
    /// `reg*` types, and base types of extensions that we do not know).
    pub is_binary_portable: bool,
    /// Whether large values are kept apart, so that the log may leave an unchanged one out.
    pub is_toastable: bool,
    /// Its comment.
    pub comment: Option<String>,
}

impl Column {
    /// A column of which nothing else is known: it may be NULL, and its values pass as text.
    #[must_use]
    pub fn bare(name: impl Into<String>, type_name: impl Into<String>, type_id: u32) -> Column {
        Column {
            name: name.into(),
            number: 0,
            type_name: type_name.into(),
            type_id,
            type_modifier: -1,
            class: ValueClass::Other,
            is_not_null: false,
            default: ColumnDefault::None,
            collation: None,
            is_binary_portable: false,
            is_toastable: true,
            comment: None,
        }
    }
}

/// What fills a column that an insert leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnDefault {
    /// NULL.
    None,
    /// An expression in the source's words.
    Expression(String),
    /// Computed and stored by the database; never written by us.
    Generated(String),
    /// From a sequence of its own.
    Identity {
        /// `GENERATED ALWAYS` rather than `BY DEFAULT`.
        always: bool,
        /// The sequence's options in the source's words: `START WITH 1 INCREMENT BY 1 …`.
        options: String,
    },
}

/// Kinds of values, as far as a filter, a mask or another engine must tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueClass {
    /// Whole numbers up to 64 bits.
    Integer,
    /// Exact decimals.
    Decimal,
    /// Binary floating point.
    Float,
    /// true or false.
    Boolean,
    /// Character strings.
    Text,
    /// A calendar date.
    Date,
    /// Date and time without zone.
    Timestamp,
    /// An instant.
    TimestampTz,
    /// A UUID.
    Uuid,
    /// Byte strings.
    Bytes,
    /// JSON in either form.
    Json,
    /// Labels of an enumeration; their order is in the catalog.
    Enum,
    /// Everything else: equality of the text form is all that is known.
    Other,
}

/// How the log identifies the old row of an update or delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    /// By the columns at these positions of [`TableSchema::columns`] (primary key or an index).
    Key(Vec<usize>),
    /// By the whole old row.
    Full,
    /// Not at all: updates and deletes cannot be replicated (the source refuses them).
    Nothing,
}

/// An index or a constraint backed by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: IndexKind,
    /// Access method: `btree`, `gin`, …
    pub method: String,
    /// Key columns or expressions in order.
    pub columns: Vec<IndexColumn>,
    /// Names of columns that are carried along (`INCLUDE`).
    pub included: Vec<String>,
    /// `WHERE` of a partial index, in the source's words.
    pub predicate: Option<String>,
    /// Whether NULLs are equal to each other (`NULLS NOT DISTINCT`).
    pub is_nulls_not_distinct: bool,
    /// `DEFERRABLE …`, as it stands behind a constraint; empty for none.
    pub deferral: String,
    /// For an exclusion constraint (and keys `WITHOUT OVERLAPS`) its definition in the source's
    /// words, to stand behind `ADD CONSTRAINT name`.
    pub exclusion: Option<String>,
    /// Storage parameters in the source's words (`fillfactor=70, fastupdate=off`); empty for none.
    pub parameters: String,
}

/// What an index is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// The primary key.
    PrimaryKey,
    /// A `UNIQUE` constraint.
    UniqueConstraint,
    /// A unique index without a constraint.
    Unique,
    /// An exclusion constraint.
    Exclusion,
    /// For speed alone.
    Plain,
}

/// One key column of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexColumn {
    /// The column's name, `None` for an expression.
    pub column: Option<String>,
    /// The expression in the source's words where it is not a column.
    pub expression: Option<String>,
    /// Operator class, collation and order as they stand behind the column; often empty.
    pub options: String,
}

/// A check constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// `CHECK (…)` with its flags, in the source's words.
    pub definition: String,
    /// Columns it speaks of.
    pub columns: Vec<String>,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// Referencing columns.
    pub columns: Vec<String>,
    /// The table they point to, on the source.
    pub references: TableName,
    /// Its columns, in the order of `columns`.
    pub referenced_columns: Vec<String>,
    /// `MATCH … ON DELETE … DEFERRABLE …` as it stands behind the reference.
    pub options: String,
}

/// All that a source tells about the selected tables and what stands around them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceSchema {
    /// Selected tables by name.
    pub tables: Vec<TableSchema>,
    /// Types, sequences and the like that the tables need, in an order in which they can be made.
    /// Their definitions, and those of columns, indexes and checks, name types and sequences as the
    /// source does, schema included. Sequences of identity columns are not among them.
    pub objects: Vec<SchemaObject>,
    /// What stands in the selected schemas and is not carried: views, functions, triggers, …
    pub not_carried: Vec<NotCarried>,
    /// Tables that are not selected, for telling what a misspelt name may have meant.
    pub unselected: Vec<TableName>,
}

impl SourceSchema {
    /// Why a table that was selected is not among `tables` although the source has it.
    pub fn why_not_carried(&self, table: &TableName) -> Option<&str> {
        let name = table.unquoted();
        let mut left = self.not_carried.iter();
        left.find(|left| left.kind.ends_with("table") && left.name == name)
            .map(|left| left.note.as_str())
    }
}

impl DomainRule {
    /// The default, if it is that.
    pub fn default(&self) -> Option<&str> {
        let rest = self.demand.strip_prefix("DEFAULT ");
        rest.filter(|_| self.name.is_none())
    }
}

/// Something other than a table that the target needs, in the source's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaObject {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: TableName,
    /// Statement that makes it; `{name}` stands for the quoted target name. An extension's names
    /// itself; its schema must exist.
    pub definition: String,
    /// For a sequence: the column that owns it.
    pub owner: Option<(TableName, String)>,
}

/// Kinds of [`SchemaObject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// An extension; made only if the target offers it.
    Extension,
    /// A collation.
    Collation,
    /// An enumeration.
    Enum,
    /// A domain.
    Domain,
    /// A composite type.
    Composite,
    /// A range type.
    Range,
    /// A sequence; its value is set after the load.
    Sequence,
}

/// One thing that is not carried, for `plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCarried {
    /// `view`, `trigger`, `function`, `grant`, `large object`, …
    pub kind: String,
    /// Which one, or how many.
    pub name: String,
    /// What that means, in a short sentence.
    pub note: String,
}
