//! A row's hash as an SQL expression.
//!
//! # What it must hold
//! Equal rows give equal hashes on both sides, whatever the major version (14 to 18), the order of
//! columns or the physical form; rows that differ in anything a copy must keep differ in the hash:
//! NULL from the empty string, `1.0` from `1.00`, a value in one column from the same in another.
//!
//! # How
//! ```text
//!   row hash = mix( h(v1, seed 1) xor h(v2, seed 2) xor … )
//! ```
//! Each value is hashed by itself with its column's own seed, so a value that moves to another column
//! changes the hash. The outer `mix` is needed because rows are summed: without it two rows could
//! exchange a value and the sum would stay. NULL is 0, which no value gives but by a chance of 2^-64.
//!
//! # Traps
//! - `hashint8extended` folds the number to 32 bits before it hashes: -1 and 4294967295 are one, as in
//!   each column that has the same error. The number is part of its own seed, which is not folded; and
//!   the outer `mix` hashes a constant with the combined hashes as its seed.
//! - `hash_numeric_extended` looks at no sign and no scale, and powers of 10,000 only flip the same few
//!   bits in every column. Numerics are hashed by their text, which costs as much as putting these in.
//! - `timestamp_hash_extended` folds, too, and nothing that is cheap unfolds it: of two moments that
//!   differ by chance one pair in 2^32 looks alike. An error of a time zone, or of whole hours up to
//!   four days, never does: two that look alike are a multiple of 2^32 microseconds apart, give or
//!   take a second.
//!
//! # Why not the row's text
//! Five million rows of eight columns (bigint, int, text, numeric, timestamptz, bool, varchar, uuid;
//! 543 MB; PostgreSQL 15, three processes, a busy machine, one run): `count(*)` 0.3 s, a sum over
//! `md5(t::text)` 12.5 s, this 1.4 s. Turning moments into text is what costs most, so they are hashed
//! as they are. `hash_record_extended` of the whole row was slower, and it is linear in its values,
//! see `mix`.
//!
//! What a value costs is mostly what is done to it before it is hashed. Of a million rows of TPC-H's
//! `lineitem` (16 columns, one process) dates by way of a record took 0.3 s more than as numbers of days,
//! and `character(n)` 0.9 s more with its spaces cut off than by the hash of its own type: 2.2 s in all,
//! 1.1 s now. Numbers that are sent (`numeric_send`), all in one record, cost as much as their texts.
//!
//! The functions are those of hash partitioning (`hash*extended`, documentation of PostgreSQL 15,
//! 38.16.3, table 38.4), whose results cannot change between majors, or `pg_upgrade` would scatter
//! partitioned tables. They do depend on byte order, which is little-endian on all that we run on.
//! Where two values are equal to PostgreSQL but not alike (`-0.0`, `interval`, `jsonb` numbers, arrays
//! with other bounds), or where the function is not to be had from SQL, the text of the value is hashed:
//! what its type prints, for that is what load and log carry. Of XML they carry no declaration without
//! an encoding of its own (`xml_out`, PostgreSQL 15).

use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};

use crate::schema::builtin;

/// What a hash is for; each has seeds of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// What a row holds.
    Digest,
    /// Which bucket a row is in.
    Bucket,
}

impl Use {
    /// Seeds of columns count up from here.
    fn seed(self) -> i64 {
        match self {
            Use::Digest => 0x51ED_0000_0000,
            Use::Bucket => 0x2B99_0000_0000,
        }
    }
}

/// A value and how it is hashed.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    /// The expression.
    pub(super) sql: String,
    pub(super) form: Form,
    pub(super) text: TextBytes,
}

/// Which bytes of a text are hashed: on both sides those that it has in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextBytes {
    /// Those that the database stores.
    Stored,
    /// The database has another encoding.
    Converted,
}

impl TextBytes {
    /// What `SQL_ASCII` stores is carried as it is.
    pub(super) fn of(server_encoding: Option<&str>) -> TextBytes {
        match server_encoding {
            Some("UTF8" | "SQL_ASCII") | None => TextBytes::Stored,
            Some(_) => TextBytes::Converted,
        }
    }

    /// A record of one value has that value's hash, and `bytea` is hashed as text in collation C is
    /// (`hash_record_extended`, `hashvarlenaextended`, `hashtextextended`; PostgreSQL 15).
    fn hash(self, text: &str, seed: i64) -> String {
        match self {
            TextBytes::Stored => format!("hashtextextended({text} COLLATE \"C\", {seed})"),
            TextBytes::Converted => {
                format!("hash_record_extended(ROW(convert_to({text}, 'UTF8')), {seed})")
            }
        }
    }

    /// The same of `character(n)`, without the spaces that pad it. These are of no account to
    /// `hashbpcharextended` (PostgreSQL 15), at a fraction of what it costs to take them away first.
    fn hash_padded(self, value: &str, seed: i64) -> String {
        match self {
            TextBytes::Stored => {
                format!("hashbpcharextended(({value})::bpchar COLLATE \"C\", {seed})")
            }
            TextBytes::Converted => self.hash(&format!("rtrim(({value})::text, ' ')"), seed),
        }
    }
}

/// Which hash fits a value; decided by the source's type, for both sides alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole numbers of any width.
    Integer,
    /// By bytes.
    Text,
    /// `character(n)`: without the spaces that pad it.
    Padded,
    Uuid,
    Boolean,
    Timestamp,
    TimestampTz,
    Date,
    Time,
    /// Its hash can only be had through a record.
    Bytes,
    /// By its text, which tells sign, scale and what is no number.
    Numeric,
    /// Floating point by its shortest text.
    Float,
    /// XML as it is printed, but for line breaks in front: each printing leaves one out.
    Xml,
    /// Anything else, as its type prints it.
    Printed,
}

impl Form {
    pub(super) fn of(mapping: &TableMapping, carried: &ColumnMapping) -> Form {
        if carried.target_type == TargetType::Text {
            return Form::Text;
        }
        match mapping.schema.columns[carried.source].type_id {
            builtin::INT2 | builtin::INT4 | builtin::INT8 => Form::Integer,
            builtin::NUMERIC => Form::Numeric,
            builtin::TEXT | builtin::VARCHAR => Form::Text,
            builtin::BPCHAR => Form::Padded,
            builtin::UUID => Form::Uuid,
            builtin::BOOL => Form::Boolean,
            builtin::TIMESTAMP => Form::Timestamp,
            builtin::TIMESTAMPTZ => Form::TimestampTz,
            builtin::DATE => Form::Date,
            builtin::TIME => Form::Time,
            builtin::BYTEA => Form::Bytes,
            builtin::FLOAT4 | builtin::FLOAT8 => Form::Float,
            builtin::XML => Form::Xml,
            _ => Form::Printed,
        }
    }

    /// A target column as this form wants it. `actual` is its type; where that is another one, the
    /// value goes through its text.
    pub(super) fn fitted(self, name: &str, actual: Option<u32>) -> String {
        let Some(actual) = actual else {
            // The column is not there: the server will say so.
            return name.to_owned();
        };
        let (fits, wanted): (&[u32], &str) = match self {
            Form::Integer => (&[builtin::INT2, builtin::INT4, builtin::INT8], "int8"),
            Form::Numeric => (&[builtin::NUMERIC], "numeric"),
            Form::Text => (&[builtin::TEXT, builtin::VARCHAR], "text"),
            Form::Padded => (&[builtin::BPCHAR, builtin::TEXT, builtin::VARCHAR], "text"),
            Form::Uuid => (&[builtin::UUID], "uuid"),
            Form::Boolean => (&[builtin::BOOL], "bool"),
            Form::Timestamp => (&[builtin::TIMESTAMP], "timestamp"),
            Form::TimestampTz => (&[builtin::TIMESTAMPTZ], "timestamptz"),
            Form::Date => (&[builtin::DATE], "date"),
            Form::Time => (&[builtin::TIME], "time"),
            Form::Bytes => (&[builtin::BYTEA], "bytea"),
            Form::Float => (&[builtin::FLOAT4, builtin::FLOAT8], "float8"),
            Form::Xml | Form::Printed => return name.to_owned(),
        };
        if fits.contains(&actual) {
            name.to_owned()
        } else {
            format!("({name}::text)::{wanted}")
        }
    }
}

impl Hashed {
    /// The hash of the value, never NULL.
    fn hash(&self, seed: i64) -> String {
        let v = &self.sql;
        let hash = match self.form {
            Form::Integer => {
                format!("hashint8extended(({v})::int8, {seed} # ({v})::int8)")
            }
            Form::Numeric | Form::Float => TextBytes::Stored.hash(&format!("({v})::text"), seed),
            Form::Text => self.text.hash(&format!("({v})::text"), seed),
            Form::Padded => self.text.hash_padded(v, seed),
            Form::Uuid => format!("uuid_hash_extended({v}, {seed})"),
            Form::Boolean => format!("hashint4extended(({v})::int4, {seed})"),
            Form::Timestamp => format!("timestamp_hash_extended({v}, {seed})"),
            // timestamptz has a hash function of its own since 18 only. By an interval, UTC is reached
            // without a calendar: twice as fast as a cast.
            Form::TimestampTz => {
                format!("timestamp_hash_extended(timezone(interval '0', {v}), {seed})")
            }
            Form::Date => format!("hashint4extended({}, {seed})", days(v)),
            Form::Time => format!("time_hash_extended({v}, {seed})"),
            // A record of NULL has a hash of its own.
            Form::Bytes => return format!("hash_record_extended(ROW({v}), {seed})"),
            Form::Xml => self
                .text
                .hash(&format!("ltrim({}, chr(10))", self.shown()), seed),
            // A record prints NULL as nothing and an empty text as "".
            Form::Printed => return self.text.hash(&format!("ROW({v})::text"), seed),
        };
        format!("coalesce({hash}, 0)")
    }

    /// The hash of the value by itself, whichever column it is in.
    pub(super) fn alone(&self) -> String {
        self.hash(Use::Digest.seed())
    }

    /// A key value as the stream has it: by its type's output function, which for some types is not
    /// what a cast to text gives.
    pub(super) fn printed(&self) -> String {
        let v = &self.sql;
        match self.form {
            Form::Boolean | Form::Padded | Form::Printed => format!("format('%s', {v})"),
            _ => format!("({v})::text"),
        }
    }

    /// The value for a person: as the type prints it.
    pub(super) fn shown(&self) -> String {
        let v = &self.sql;
        format!("CASE WHEN {v} IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', {v}) END")
    }
}

/// A date as its number of days, with which a record need not be made. No finite date is as far away as the
/// ends of an integer (PostgreSQL 15, 8.5, table 8.9), and days of an infinite one cannot be counted.
fn days(date: &str) -> String {
    const EPOCH: &str = "'2000-01-01'::date";
    format!(
        "CASE WHEN isfinite({date}) THEN {date} - {EPOCH} \
              WHEN {date} > {EPOCH} THEN {} WHEN {date} < {EPOCH} THEN {} END",
        i32::MAX,
        i32::MIN
    )
}

/// The hash of some values together.
pub(super) fn row(values: &[&Hashed], which: Use) -> String {
    let seed = which.seed();
    let hashes: Vec<String> = values
        .iter()
        .zip(seed + 1..)
        .map(|(value, seed)| value.hash(seed))
        .collect();
    format!("hashint8extended({seed}, {})", combined(&hashes))
}

/// Exclusive or, as a balanced tree: a chain of 1,600 columns would be as deep.
fn combined(hashes: &[String]) -> String {
    match hashes {
        [] => "0::int8".to_owned(),
        [one] => one.clone(),
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            format!("({} # {})", combined(left), combined(right))
        }
    }
}
