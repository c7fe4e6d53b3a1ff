//! A mapping as SQL: which rows of a table, which columns, masked how.
//!
//! The one place that does it, so that load, repair and verification read the same rows. The stream
//! does the same to the log's text forms (core's filter and mask), and the two must agree to the
//! byte; that is why a mask sees a value's *output* form, which for some types is not `col::text`:
//! booleans (`t`, not `true`), `character(n)` (padded) and `inet` (without `/32`).
//!
//! Salts never stand in a statement, where anyone who may see `pg_stat_activity` could read them:
//! they are session settings ([`set_salts`]), set through parameters before a statement refers to them.

use tidemark_core::checkpoint::Chunk;
use tidemark_core::filter::{Column as FilterColumn, Expr, Literal, LiteralForm, Operand};
use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::mask::Mask;
use tidemark_core::schema::{Column, TableName, ValueClass};
use tidemark_core::source::RowFormat;
use tidemark_core::{Error, Result};

use crate::schema::{FIRST_USER_OID, builtin};
use crate::wire::{Connection, quote_ident, quote_literal, quote_qualified};

/// `COPY … TO STDOUT` of a chunk's rows, mapped. A table is copied by itself where nothing is done
/// to its rows: that is faster than a query.
pub(crate) fn copy_out(mapping: &TableMapping, chunk: &Chunk, format: RowFormat) -> Result<String> {
    let format = match format {
        RowFormat::PgCopyBinary => "binary",
        RowFormat::PgCopyText => "text",
    };
    let what = match whole_relation(mapping, chunk) {
        Some(relation) => format!("{} ({})", qualified(relation), plain_columns(mapping)),
        None => format!("({})", rows(mapping, chunk)?),
    };
    Ok(format!("COPY {what} TO STDOUT (FORMAT {format})"))
}

/// `SELECT` of a chunk's rows, mapped.
pub(crate) fn rows(mapping: &TableMapping, chunk: &Chunk) -> Result<String> {
    let columns: Vec<String> = mapping
        .columns
        .iter()
        .map(|column| expression(mapping, column))
        .collect();
    let from = from_where(mapping, chunk)?;
    Ok(format!("SELECT {} {from}", columns.join(", ")))
}

/// The relation that a chunk is all of, where its rows pass as they are.
fn whole_relation<'a>(mapping: &'a TableMapping, chunk: &'a Chunk) -> Option<&'a TableName> {
    if !mapping.is_verbatim() || mapping.columns.is_empty() {
        return None;
    }
    match chunk {
        Chunk::Whole if !mapping.schema.is_partitioned => Some(mapping.source()),
        Chunk::Blocks {
            leaf,
            from: 0,
            to: None,
        } => Some(leaf.as_ref().unwrap_or_else(|| mapping.source())),
        _ => None,
    }
}

fn plain_columns(mapping: &TableMapping) -> String {
    let names = mapping.columns.iter();
    let names: Vec<String> = names
        .map(|column| quote_ident(mapping.source_column(column)))
        .collect();
    names.join(", ")
}

/// `FROM … WHERE …` of a chunk's rows.
pub(crate) fn from_where(mapping: &TableMapping, chunk: &Chunk) -> Result<String> {
    Ok(where_all(
        &from(mapping, chunk),
        &conditions(mapping, chunk)?,
    ))
}

/// `FROM` the relation that holds a chunk's rows. `ONLY`, since rows of inheritance children are
/// those of another table.
pub(crate) fn from(mapping: &TableMapping, chunk: &Chunk) -> String {
    match chunk {
        Chunk::Blocks {
            leaf: Some(leaf), ..
        } => format!("FROM ONLY {}", qualified(leaf)),
        _ if mapping.schema.is_partitioned => format!("FROM {}", qualified(mapping.source())),
        _ => format!("FROM ONLY {}", qualified(mapping.source())),
    }
}

/// What must be true of a chunk's rows.
pub(crate) fn conditions(mapping: &TableMapping, chunk: &Chunk) -> Result<Vec<String>> {
    let filter = mapping.filter.as_ref();
    let filter = filter.map(|filter| condition(mapping, &filter.expr));
    Ok(filter
        .into_iter()
        .chain(chunk_condition(mapping, chunk)?)
        .collect())
}

/// A `FROM` clause with these conditions.
pub(crate) fn where_all(from: &str, conditions: &[String]) -> String {
    match conditions {
        [] => from.to_owned(),
        _ => format!("{from} WHERE {}", conditions.join(" AND ")),
    }
}

fn chunk_condition(mapping: &TableMapping, chunk: &Chunk) -> Result<Option<String>> {
    match chunk {
        Chunk::Whole => Ok(None),
        // A TID range scan reads these blocks alone (PostgreSQL 14 and newer).
        Chunk::Blocks { from, to, .. } => {
            let mut bounds = Vec::new();
            if *from > 0 {
                bounds.push(format!("ctid >= '({from},0)'::tid"));
            }
            if let Some(to) = to {
                bounds.push(format!("ctid < '({to},0)'::tid"));
            }
            Ok((!bounds.is_empty()).then(|| bounds.join(" AND ")))
        }
        Chunk::Keys { column, from, to } => {
            let column = key_column(mapping, column)?;
            let name = quote_ident(&column.name);
            let (from, to) = (from.as_deref(), to.as_deref());
            Ok(key_range(column, &name, from, to, !column.is_not_null))
        }
        Chunk::Rows { columns, keys } => {
            let values = columns
                .iter()
                .map(|column| {
                    let carried = carried(mapping, column)?;
                    Ok(sought(mapping, carried, expression(mapping, carried)))
                })
                .collect::<Result<Vec<String>>>()?;
            Ok(Some(these_rows(&values, keys)))
        }
    }
}

/// The condition of a chunk on the target, where columns bear other names, may have another collation, where
/// the order of bytes is asked for, and may be NULL whatever the source's are.
pub(crate) fn target_condition(mapping: &TableMapping, chunk: &Chunk) -> Result<Option<String>> {
    match chunk {
        Chunk::Whole => Ok(None),
        Chunk::Keys { column, from, to } => {
            let source = key_column(mapping, column)?;
            let mut name = quote_ident(&carried(mapping, column)?.target);
            if source.class == ValueClass::Text {
                name.push_str(" COLLATE \"C\"");
            }
            let (from, to) = (from.as_deref(), to.as_deref());
            Ok(key_range(source, &name, from, to, true))
        }
        Chunk::Rows { columns, keys } => {
            let names = columns
                .iter()
                .map(|column| {
                    let carried = carried(mapping, column)?;
                    Ok(sought(mapping, carried, quote_ident(&carried.target)))
                })
                .collect::<Result<Vec<String>>>()?;
            Ok(Some(these_rows(&names, keys)))
        }
        Chunk::Blocks { .. } => Err(internal("blocks of the source mean nothing on the target")),
    }
}

/// A value of the key, here or on the target, as rows are looked for by it. By itself, but for a type that is
/// not PostgreSQL's own: its equality lies in the schema of its extension, where our search path does not
/// look, and a composite type takes no text. What such a type prints tells its rows as well.
pub(crate) fn sought(mapping: &TableMapping, carried: &ColumnMapping, value: String) -> String {
    let column = &mapping.schema.columns[carried.source];
    if column.type_id < FIRST_USER_OID || column.class != ValueClass::Other {
        return value;
    }
    format!("CASE WHEN {value} IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', {value}) END")
}

/// Rows by the text of their key, which is as it is on the target: masked. Each value is as [`sought`] has it.
/// Literals take the type of what they are compared with, so that an index serves.
pub(crate) fn these_rows(values: &[String], keys: &[Vec<String>]) -> String {
    if keys.is_empty() || values.is_empty() {
        return "false".to_owned();
    }
    let row = |key: &Vec<String>| {
        let literals: Vec<String> = key.iter().map(|value| quote_literal(value)).collect();
        format!("({})", literals.join(", "))
    };
    let rows: Vec<String> = keys.iter().map(row).collect();
    format!("({}) IN ({})", values.join(", "), rows.join(", "))
}

/// The carried column of this name on the source.
fn carried<'a>(mapping: &'a TableMapping, name: &str) -> Result<&'a ColumnMapping> {
    let mut columns = mapping.columns.iter();
    columns
        .find(|column| mapping.source_column(column) == name)
        .ok_or_else(|| internal(format!("column {name} of {} is left out", mapping.source())))
}

fn key_column<'a>(mapping: &'a TableMapping, name: &str) -> Result<&'a Column> {
    let mut columns = mapping.schema.columns.iter();
    columns
        .find(|column| column.name == name)
        .ok_or_else(|| internal(format!("{} has no column {name}", mapping.source())))
}

/// NULLs, where there may be any, belong to the range that is open below.
fn key_range(
    column: &Column,
    name: &str,
    from: Option<&str>,
    to: Option<&str>,
    has_nulls: bool,
) -> Option<String> {
    let literal = |value: &str| format!("{}::{}", quote_literal(value), literal_type(column));
    let low = from.map(|from| format!("{name} >= {}", literal(from)));
    let high = to.map(|to| format!("{name} < {}", literal(to)));
    match (low, high) {
        (None, None) => None,
        (None, Some(high)) if !has_nulls => Some(high),
        (None, Some(high)) => Some(format!("({high} OR {name} IS NULL)")),
        (Some(low), None) => Some(low),
        (Some(low), Some(high)) => Some(format!("{low} AND {high}")),
    }
}

/// The type of a bound: one that compares with the column by the column's own operators, so that
/// its index serves.
fn literal_type(column: &Column) -> &'static str {
    match column.class {
        ValueClass::Integer => "int8",
        ValueClass::Uuid => "uuid",
        ValueClass::Date => "date",
        ValueClass::Timestamp => "timestamp",
        ValueClass::TimestampTz => "timestamptz",
        ValueClass::Bytes => "bytea",
        _ => "text",
    }
}

/// A carried column's value, masked.
pub(crate) fn expression(mapping: &TableMapping, carried: &ColumnMapping) -> String {
    let column = &mapping.schema.columns[carried.source];
    let name = quote_ident(&column.name);
    let type_name = match carried.target_type {
        TargetType::AsSource => column.type_name.as_str(),
        TargetType::Text => "text",
    };
    match (&carried.mask, carried.target_type) {
        (None, TargetType::AsSource) => name,
        (None, TargetType::Text) => text_form(column),
        (Some(Mask::Null), _) => format!("NULL::{type_name}"),
        (Some(Mask::Fixed { value }), _) => format!("{}::{type_name}", quote_literal(value)),
        (Some(Mask::Redact { constant }), _) => {
            let constant = format!("{}::{type_name}", quote_literal(constant));
            unless_null(column, &constant)
        }
        (Some(Mask::Hash { .. }), _) => {
            let salt = quote_literal(&salt_setting(carried));
            let text = text_form(column);
            format!("encode(sha256(convert_to(current_setting({salt}) || {text}, 'UTF8')), 'hex')")
        }
        (Some(Mask::Partial), _) => {
            let text = format!("({}) COLLATE \"C\"", text_form(column));
            let masked = format!(
                "CASE WHEN strpos({text}, '@') > 1 \
                      THEN '***' || substr({text}, strpos({text}, '@')) \
                      WHEN char_length({text}) >= 8 THEN '***' || right({text}, 4) \
                      ELSE '***' END"
            );
            unless_null(column, &masked)
        }
    }
}

/// A value as the log has it: what the type's output function prints.
fn text_form(column: &Column) -> String {
    let name = quote_ident(&column.name);
    let casts_alike = matches!(
        column.type_id,
        builtin::TEXT
            | builtin::VARCHAR
            | builtin::NAME
            | builtin::INT2
            | builtin::INT4
            | builtin::INT8
            | builtin::NUMERIC
            | builtin::FLOAT4
            | builtin::FLOAT8
            | builtin::DATE
            | builtin::TIMESTAMP
            | builtin::TIMESTAMPTZ
            | builtin::UUID
            | builtin::BYTEA
            | builtin::JSON
            | builtin::JSONB
    );
    if casts_alike {
        return format!("{name}::text");
    }
    unless_null(column, &format!("format('%s', {name})"))
}

/// `IS NULL` is true of a composite value whose fields are all NULL; `IS NOT DISTINCT FROM NULL` is
/// not (PostgreSQL 15, 9.2).
fn unless_null(column: &Column, value: &str) -> String {
    let name = quote_ident(&column.name);
    format!("CASE WHEN {name} IS NOT DISTINCT FROM NULL THEN NULL ELSE {value} END")
}

fn salt_setting(carried: &ColumnMapping) -> String {
    format!("tidemark.salt_{}", carried.source)
}

/// Sets the salts that expressions of this mapping refer to, for the session.
pub(crate) async fn set_salts(connection: &mut Connection, mapping: &TableMapping) -> Result<()> {
    for carried in &mapping.columns {
        if let Some(Mask::Hash { salt }) = &carried.mask {
            let name = salt_setting(carried);
            connection
                .query(
                    "SELECT set_config($1, $2, false)",
                    &[Some(&name), Some(salt.expose())],
                )
                .await?;
        }
    }
    Ok(())
}

/// A filter as a condition.
fn condition(mapping: &TableMapping, expr: &Expr) -> String {
    let name = |column: &FilterColumn| quote_ident(&mapping.schema.columns[column.index].name);
    let operand = |operand: &Operand| match operand {
        Operand::Column(column) => name(column),
        Operand::Literal(it) => literal(it),
    };
    let not = |negated: &bool| if *negated { "NOT " } else { "" };
    match expr {
        Expr::Compare { column, op, with } => {
            format!("({} {} {})", name(column), op.sql(), operand(with))
        }
        Expr::Distinct {
            column,
            with,
            negated,
        } => format!(
            "({} IS {}DISTINCT FROM {})",
            name(column),
            not(negated),
            operand(with)
        ),
        Expr::In {
            column,
            list,
            negated,
        } => {
            let list: Vec<String> = list.iter().map(literal).collect();
            format!(
                "({} {}IN ({}))",
                name(column),
                not(negated),
                list.join(", ")
            )
        }
        Expr::Like {
            column,
            pattern,
            negated,
        } => format!(
            "({} {}LIKE {})",
            name(column),
            not(negated),
            quote_literal(&pattern.text)
        ),
        Expr::IsNull { column, negated } => format!("({} IS {}NULL)", name(column), not(negated)),
        Expr::Flag(column) => name(column),
        Expr::Constant(Some(true)) => "TRUE".to_owned(),
        Expr::Constant(Some(false)) => "FALSE".to_owned(),
        Expr::Constant(None) => "NULL::bool".to_owned(),
        Expr::Not(inner) => format!("(NOT {})", condition(mapping, inner)),
        Expr::And(terms) => joined(mapping, terms, " AND "),
        Expr::Or(terms) => joined(mapping, terms, " OR "),
    }
}

fn joined(mapping: &TableMapping, terms: &[Expr], between: &str) -> String {
    let terms: Vec<String> = terms.iter().map(|term| condition(mapping, term)).collect();
    format!("({})", terms.join(between))
}

/// A minus sign needs parentheses: `a - -1` begins a comment otherwise, and casts bind tighter.
fn literal(literal: &Literal) -> String {
    match &literal.form {
        LiteralForm::Number(number) if number.starts_with('-') => format!("({number})"),
        LiteralForm::Number(number) => number.clone(),
        LiteralForm::Text(text) => quote_literal(text),
        LiteralForm::Boolean(true) => "TRUE".to_owned(),
        LiteralForm::Boolean(false) => "FALSE".to_owned(),
        LiteralForm::Null => "NULL".to_owned(),
    }
}

fn qualified(name: &TableName) -> String {
    quote_qualified(&name.schema, &name.name)
}

fn internal(message: impl Into<String>) -> Error {
    Error::definite(tidemark_core::catalogue::codes::INTERNAL, message)
}
