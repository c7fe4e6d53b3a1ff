//! A few rows for a person: each cell is one text, the hash of the value and as much of it as is shown.
//!
//! One text a cell, since a statement gives 1,664 columns at most and a table may have 1,600. A large
//! value stays where it is: only its size is told.

use tidemark_core::mapping::TableMapping;
use tidemark_core::verify::look::{CellText, Limits, ShownCell, ShownRow, Which, is_key_masked};

use crate::wire::{Row, quote_ident, quote_qualified};

use super::hash::Hashed;
use super::{Rows, Side};

/// Bytes in the table from which on a value is not read. What is compressed there may be some hundred
/// times as long, and still fits into a text (PostgreSQL 15: 1 GB).
const STORED_BYTES_MAX: u32 = 1_000_000;
/// Hexadecimal digits of a hash.
const HASH_DIGITS: usize = 16;

/// How long the statement may take, waiting for locks included.
pub(super) fn settings(limits: &Limits) -> String {
    format!(
        "SET LOCAL statement_timeout = {}",
        limits.within.as_millis().max(1)
    )
}

/// `None` where no row is asked for.
pub(super) fn sql(
    mapping: &TableMapping,
    rows: &Rows,
    side: &Side,
    which: Which<'_>,
    limits: &Limits,
) -> Option<String> {
    let key = rows.key.iter().map(|at| rows.values[*at].printed());
    let cells = rows.values.iter().map(|value| cell(value, limits));
    let columns: Vec<String> = key.chain(cells).collect();
    let (from, order) = match which {
        Which::First => (rows.all(), order(mapping, side)),
        Which::Keys([]) => return None,
        Which::Keys(_) if rows.key.is_empty() => return None,
        Which::Keys(keys) => {
            let wanted = rows.sought(mapping, keys);
            (rows.limited_by(&wanted), String::new())
        }
    };
    let (columns, rows_max) = (columns.join(", "), limits.rows_max);
    Some(format!("SELECT {columns} {from}{order} LIMIT {rows_max}"))
}

/// By the columns themselves, so that an index serves: a name alone would be that of a column of the output,
/// which is text. Of a masked key not even the order is told.
fn order(mapping: &TableMapping, side: &Side) -> String {
    if mapping.key.is_empty() || is_key_masked(mapping) {
        return String::new();
    }
    let name = |at: &usize| {
        let carried = &mapping.columns[*at];
        let (table, column) = match side {
            Side::Source => (mapping.source(), mapping.source_column(carried)),
            Side::Target(_) => (&mapping.target, carried.target.as_str()),
        };
        let table = quote_qualified(&table.schema, &table.name);
        format!("{table}.{}", quote_ident(column))
    };
    let names: Vec<String> = mapping.key.iter().map(name).collect();
    format!(" ORDER BY {}", names.join(", "))
}

fn cell(value: &Hashed, limits: &Limits) -> String {
    let (v, hash) = (&value.sql, value.alone());
    // One more than is shown tells that there is more.
    let chars = limits.chars_max + 1;
    format!(
        "CASE WHEN {v} IS NOT DISTINCT FROM NULL THEN NULL ELSE encode(int8send({hash}), 'hex') || \
         CASE WHEN pg_column_size({v}) > {STORED_BYTES_MAX} THEN 'l' || pg_column_size({v})::text \
              ELSE 't' || left(format('%s', {v}), {chars}) END END"
    )
}

/// A row of [`sql`]; `None` where it is not what that gives.
pub(super) fn row(row: &Row, key_len: usize, limits: &Limits) -> Option<ShownRow> {
    let text = |at: usize| row.opt::<String>(at).ok();
    let key = (0..key_len).map(|at| Some(text(at)?.unwrap_or_default()));
    let cells = (key_len..row.len()).map(|at| match text(at)? {
        None => Some(None),
        Some(packed) => Some(Some(unpacked(&packed, limits.chars_max)?)),
    });
    Some(ShownRow {
        key: key.collect::<Option<_>>()?,
        cells: cells.collect::<Option<_>>()?,
    })
}

fn unpacked(packed: &str, chars_max: usize) -> Option<ShownCell> {
    let (hash, rest) = packed.split_at_checked(HASH_DIGITS)?;
    let hash = u64::from_str_radix(hash, 16).ok()?;
    let text = if let Some(size) = rest.strip_prefix('l') {
        CellText::Large(size.parse().ok()?)
    } else {
        let text = rest.strip_prefix('t')?;
        match text.char_indices().nth(chars_max) {
            Some((end, _)) => CellText::Cut(text.get(..end)?.to_owned()),
            None => CellText::Whole(text.to_owned()),
        }
    };
    Some(ShownCell { hash, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_cut_by_characters_and_what_is_large_is_a_size() {
        let of = |packed: &str| unpacked(packed, 3);
        let whole = |text: &str| CellText::Whole(text.to_owned());
        let cell = |text| Some(ShownCell { hash: 255, text });
        assert_eq!(of("00000000000000fft"), cell(whole("")));
        assert_eq!(of("00000000000000fftäöü"), cell(whole("äöü")));
        assert_eq!(
            of("00000000000000fftäöüß"),
            cell(CellText::Cut("äöü".to_owned()))
        );
        assert_eq!(
            of("00000000000000ffl2000000"),
            cell(CellText::Large(2_000_000))
        );
        for wrong in [
            "",
            "00000000000000ff",
            "00000000000000ffx",
            "00000000000000ffl-",
            "äöüäöüäöüäöüt",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
