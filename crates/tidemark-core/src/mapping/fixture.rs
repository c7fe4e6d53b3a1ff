//! Tables for the tests of filter and mapping.

use crate::schema::{Column, ReplicaIdentity, TableName, TableSchema, ValueClass};

/// What the PostgreSQL source says of a type, for the types that tests use.
pub(crate) fn class_of(type_name: &str) -> ValueClass {
    let base = type_name.split('(').next().unwrap_or_default();
    let is_zoned = type_name.ends_with("with time zone");
    match base {
        "smallint" | "integer" | "bigint" => ValueClass::Integer,
        "numeric" => ValueClass::Decimal,
        "real" | "double precision" => ValueClass::Float,
        "boolean" => ValueClass::Boolean,
        "text" | "character varying" | "character" | "name" | "citext" => ValueClass::Text,
        "date" => ValueClass::Date,
        _ if base.starts_with("timestamp") && is_zoned => ValueClass::TimestampTz,
        _ if base.starts_with("timestamp") => ValueClass::Timestamp,
        "uuid" => ValueClass::Uuid,
        "bytea" => ValueClass::Bytes,
        "json" | "jsonb" => ValueClass::Json,
        "mood" => ValueClass::Enum,
        _ => ValueClass::Other,
    }
}

/// A nullable column without default.
pub(crate) fn column(name: &str, type_name: &str) -> Column {
    Column {
        number: 1,
        class: class_of(type_name),
        is_binary_portable: true,
        is_toastable: false,
        ..Column::bare(name, type_name, 0)
    }
}

/// A table whose primary key is its first column.
pub(crate) fn table(name: &str, columns: &[(&str, &str)]) -> TableSchema {
    let (schema, table) = name.split_once('.').expect("tests write schema.table");
    TableSchema {
        columns: columns
            .iter()
            .map(|(name, type_name)| column(name, type_name))
            .collect(),
        primary_key: vec![0],
        identity: ReplicaIdentity::Key(vec![0]),
        ..TableSchema::bare(TableName::new(schema, table), 1)
    }
}
