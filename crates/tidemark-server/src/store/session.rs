//! What a statement is: a text, values in, rows out.
//!
//! Every statement of the store goes through here, in a text that SQLite and PostgreSQL both understand,
//! so that a store of another kind needs no statement written twice: parameters are `$1`, `$2`, …, each
//! used at least once; `ON CONFLICT` with its columns, `RETURNING`, `CASE` instead of functions that only
//! one has.

use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};

/// An error on the way through the store.
pub(crate) struct Failed(pub(super) Error);

impl From<Error> for Failed {
    fn from(err: Error) -> Failed {
        Failed(err)
    }
}

/// What kind of value it is, which one that is not there has too: some stores must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Integer,
    Real,
    Text,
    Bytes,
}

/// A value that goes in or comes out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null(Kind),
    Integer(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The values of a statement's parameters, from what they are in Rust.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::session::ToValue::to_value(&$value)),*][..]
    };
}
pub(crate) use params;

/// What a parameter may be.
pub(crate) trait ToValue {
    const KIND: Kind;

    fn to_value(&self) -> Value;
}

impl ToValue for i64 {
    const KIND: Kind = Kind::Integer;

    fn to_value(&self) -> Value {
        Value::Integer(*self)
    }
}

impl ToValue for u16 {
    const KIND: Kind = Kind::Integer;

    fn to_value(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl ToValue for bool {
    const KIND: Kind = Kind::Integer;

    fn to_value(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl ToValue for f64 {
    const KIND: Kind = Kind::Real;

    fn to_value(&self) -> Value {
        Value::Real(*self)
    }
}

impl ToValue for str {
    const KIND: Kind = Kind::Text;

    fn to_value(&self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl ToValue for String {
    const KIND: Kind = Kind::Text;

    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl ToValue for Vec<u8> {
    const KIND: Kind = Kind::Bytes;

    fn to_value(&self) -> Value {
        Value::Bytes(self.clone())
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    const KIND: Kind = T::KIND;

    fn to_value(&self) -> Value {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    const KIND: Kind = T::KIND;

    fn to_value(&self) -> Value {
        self.as_ref()
            .map_or(Value::Null(T::KIND), ToValue::to_value)
    }
}

/// A row that a statement gave.
#[derive(Clone, Debug)]
pub(crate) struct Row(pub(super) Vec<Value>);

impl Row {
    /// A cell as what it is to be in Rust.
    pub(crate) fn get<T: FromValue>(&self, index: usize) -> Result<T, Failed> {
        let found = self.0.get(index).and_then(T::from_value);
        found.ok_or_else(|| {
            let text = format!("column {index} of a row is not what it was made to be");
            Error::definite(codes::STORE_DAMAGED, text).into()
        })
    }
}

/// What a cell may be.
pub(crate) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for i64 {
    fn from_value(value: &Value) -> Option<i64> {
        match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for u16 {
    fn from_value(value: &Value) -> Option<u16> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<bool> {
        i64::from_value(value).map(|number| number != 0)
    }
}

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<f64> {
        match value {
            Value::Real(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<String> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Option<Vec<u8>> {
        match value {
            Value::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Option<T>> {
        match value {
            Value::Null(_) => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// How many rows a statement brings at most: what it costs is mostly its way there and back.
pub(super) const WRITTEN_AT_ONCE: usize = 50;

/// Rows for one `INSERT`.
#[derive(Default)]
pub(super) struct Rows {
    texts: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl Rows {
    pub(super) fn push(&mut self, row: &[Value]) {
        let first = self.values.len() + 1;
        let numbers = (first..first + row.len()).map(|number| format!("${number}"));
        let numbers = numbers.collect::<Vec<_>>();
        self.texts.push(format!("({})", numbers.join(", ")));
        self.values.extend_from_slice(row);
    }

    /// What stands after `VALUES`.
    pub(super) fn text(&self) -> String {
        self.texts.join(", ")
    }
}

/// What came of a statement.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) rows: Vec<Row>,
    /// Rows that were written.
    pub(super) written: u64,
}

/// One kind of store, in a transaction.
pub(super) trait Statements {
    fn statement(&mut self, sql: &str, values: &[Value]) -> Result<Said, Failed>;
}

/// A transaction on the store.
pub(crate) struct Session<'a> {
    pub(super) statements: &'a mut dyn Statements,
}

impl Session<'_> {
    /// Writes. How many rows.
    pub(crate) fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, Failed> {
        Ok(self.statements.statement(sql, values)?.written)
    }

    /// Reads all rows.
    pub(crate) fn query<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(&Row) -> Result<T, Failed>,
    ) -> Result<Vec<T>, Failed> {
        let said = self.statements.statement(sql, values)?;
        said.rows.iter().map(read).collect()
    }

    /// Reads the first row, if there is one.
    pub(crate) fn optional<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(&Row) -> Result<T, Failed>,
    ) -> Result<Option<T>, Failed> {
        let said = self.statements.statement(sql, values)?;
        said.rows.first().map(read).transpose()
    }

    /// Reads a row that is always there, as that of `RETURNING`.
    pub(crate) fn one<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        read: impl FnMut(&Row) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let found = self.optional(sql, values, read)?;
        found.ok_or_else(|| Error::definite(codes::STORE_DAMAGED, "a row is missing").into())
    }
}
