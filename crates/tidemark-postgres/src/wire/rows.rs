//! Results of queries, as text.
//!
//! Made for the catalog: a few hundred rows, read by people-sized code. Bulk data does not come
//! this way (see [`crate::wire::CopyOut`]).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::{Error, Result};

use super::frame::Reader;
use crate::config::Side;
use crate::error;

/// One column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name or alias in the query.
    pub name: String,
    /// The type's OID.
    pub type_oid: u32,
}

/// What one statement answered.
#[derive(Clone, Debug)]
pub struct ResultSet {
    /// Empty for statements without rows.
    pub columns: Arc<[Column]>,
    /// All rows.
    pub rows: Vec<Row>,
    /// The command tag: `SELECT 3`, `CREATE TABLE`.
    pub tag: String,
}

impl ResultSet {
    /// Rows read or written, out of the tag.
    pub fn affected(&self) -> u64 {
        affected(&self.tag)
    }

    /// The first row, for queries that always have one.
    pub fn one(&self) -> Result<&Row> {
        self.rows.first().ok_or_else(|| {
            Error::definite(
                tidemark_core::catalogue::codes::INTERNAL,
                "a query gave no row",
            )
        })
    }
}

/// The count at the end of a command tag (`INSERT 0 5`, `COPY 5`), else 0.
pub(crate) fn affected(tag: &str) -> u64 {
    tag.rsplit(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// One row of text values.
#[derive(Clone)]
pub struct Row {
    columns: Arc<[Column]>,
    data: DataRow,
    side: Side,
}

impl Row {
    pub(crate) fn new(columns: Arc<[Column]>, data: DataRow, side: Side) -> Row {
        Row {
            columns,
            data,
            side,
        }
    }

    /// How many cells it has.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it has no cell at all.
    pub fn is_empty(&self) -> bool {
        self.data.len() == 0
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The place of a column by its name.
    pub fn index(&self, name: &str) -> Result<usize> {
        self.columns
            .iter()
            .position(|column| column.name == name)
            .ok_or_else(|| error::protocol(self.side, format_args!("no column {name} in result")))
    }

    /// The bytes of a cell; `None` is NULL.
    pub fn opt_bytes(&self, i: usize) -> Result<Option<&[u8]>> {
        self.data
            .cell(i)
            .ok_or_else(|| error::protocol(self.side, format_args!("no column {i} in result")))
    }

    /// The text of a cell; `None` is NULL.
    pub fn opt_str(&self, i: usize) -> Result<Option<&str>> {
        let Some(bytes) = self.opt_bytes(i)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|_| self.unreadable(i, "not UTF-8"))
    }

    /// The text of a cell that is never NULL.
    pub fn get_str(&self, i: usize) -> Result<&str> {
        self.opt_str(i)?.ok_or_else(|| self.unreadable(i, "NULL"))
    }

    /// A cell as anything that can be parsed; `None` is NULL. For `bool` use [`Row::get_bool`].
    pub fn opt<T: FromStr>(&self, i: usize) -> Result<Option<T>> {
        let Some(text) = self.opt_str(i)? else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| self.unreadable(i, "not of the expected type"))
    }

    /// A cell that is never NULL as anything that can be parsed.
    pub fn get<T: FromStr>(&self, i: usize) -> Result<T> {
        self.opt(i)?.ok_or_else(|| self.unreadable(i, "NULL"))
    }

    /// A boolean, which PostgreSQL writes `t` and `f` (`on` and `off` in settings).
    pub fn opt_bool(&self, i: usize) -> Result<Option<bool>> {
        match self.opt_str(i)? {
            None => Ok(None),
            Some("t" | "true" | "on") => Ok(Some(true)),
            Some("f" | "false" | "off") => Ok(Some(false)),
            Some(_) => Err(self.unreadable(i, "not a boolean")),
        }
    }

    /// A boolean that is never NULL.
    pub fn get_bool(&self, i: usize) -> Result<bool> {
        self.opt_bool(i)?.ok_or_else(|| self.unreadable(i, "NULL"))
    }

    fn unreadable(&self, i: usize, what: &str) -> Error {
        let name = self
            .columns
            .get(i)
            .map_or("?", |column| column.name.as_str());
        error::protocol(
            self.side,
            format_args!("column {name} of a result is {what}"),
        )
    }
}

impl fmt::Debug for Row {
    /// Cells may be anyone's data: only their number is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} cells)", self.len())
    }
}

/// The cells of one `DataRow` message, pointing into it.
#[derive(Clone)]
pub struct DataRow {
    body: Bytes,
    cells: Vec<Option<(u32, u32)>>,
}

impl DataRow {
    /// Splits a message body into cells; `None` if it is malformed.
    pub(crate) fn parse(body: Bytes) -> Option<DataRow> {
        let mut reader = Reader(&body);
        let count = usize::from(reader.u16()?);
        // Each cell takes four bytes at least, so this is bounded by what has arrived.
        let mut cells = Vec::with_capacity(count.min(body.len() / 4));
        for _ in 0..count {
            let length = reader.i32()?;
            if length == -1 {
                cells.push(None);
                continue;
            }
            let start = u32::try_from(body.len() - reader.0.len()).ok()?;
            let length = u32::try_from(length).ok()?;
            reader.bytes(length as usize)?;
            cells.push(Some((start, start + length)));
        }
        reader.0.is_empty().then_some(DataRow { body, cells })
    }

    /// How many cells it has.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.cells.len() * size_of::<Option<(u32, u32)>>()
    }

    /// Whether it has no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// A cell: `None` if there is none at `i`, `Some(None)` if it is NULL.
    pub fn cell(&self, i: usize) -> Option<Option<&[u8]>> {
        let range = self.cells.get(i)?;
        Some(range.map(|(start, end)| &self.body[start as usize..end as usize]))
    }

    /// The same, to be held on to without a copy.
    pub fn held_cell(&self, i: usize) -> Option<Option<Bytes>> {
        let range = self.cells.get(i)?;
        Some(range.map(|(start, end)| self.body.slice(start as usize..end as usize)))
    }
}

impl fmt::Debug for DataRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataRow({} cells)", self.len())
    }
}

/// Reads a `RowDescription` body; `None` if it is malformed.
pub(crate) fn parse_columns(body: &[u8]) -> Option<Arc<[Column]>> {
    let mut reader = Reader(body);
    let count = usize::from(reader.u16()?);
    let mut columns = Vec::with_capacity(count.min(body.len() / 19));
    for _ in 0..count {
        let name = reader.string()?;
        // table OID, attribute number
        reader.bytes(6)?;
        let type_oid = reader.u32()?;
        // type size, type modifier, format
        reader.bytes(8)?;
        columns.push(Column { name, type_oid });
    }
    reader.0.is_empty().then(|| columns.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(cells: &[Option<&str>]) -> Row {
        let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    body.extend_from_slice(&i32::try_from(text.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(text.as_bytes());
                }
            }
        }
        let columns = (0..cells.len())
            .map(|i| Column {
                name: format!("c{i}"),
                type_oid: 25,
            })
            .collect::<Vec<_>>();
        Row::new(
            columns.into(),
            DataRow::parse(body.into()).unwrap(),
            Side::Source,
        )
    }

    #[test]
    fn cells_are_read_by_type() {
        let row = row(&[Some("42"), None, Some("t"), Some("")]);
        assert_eq!(row.get::<i64>(0).unwrap(), 42);
        assert_eq!(row.opt::<i64>(1).unwrap(), None);
        assert!(row.get_bool(2).unwrap());
        assert_eq!(row.get_str(3).unwrap(), "");
        assert_eq!(row.index("c2").unwrap(), 2);
        assert!(row.get_str(1).is_err());
        assert!(row.get::<i64>(2).is_err());
        assert!(row.get_str(9).is_err());
    }

    #[test]
    fn counts_come_from_the_tag() {
        assert_eq!(affected("INSERT 0 5"), 5);
        assert_eq!(affected("COPY 17"), 17);
        assert_eq!(affected("CREATE TABLE"), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(row) = DataRow::parse(Bytes::from(bytes.clone())) {
                for i in 0..row.len() {
                    prop_assert!(row.cell(i).is_some());
                }
            }
            let _ = parse_columns(&bytes);
            let _ = super::super::ServerError::parse(&bytes);
        }
    }
}
