//! How a table is cut up for a parallel load: by statistics, without scanning it.
//!
//! - *Key ranges* where the leading key column has an order that is the same everywhere and rows lie
//!   about in that order: units may then carry different tidemarks, and finished ones survive a crash.
//! - *Block ranges* otherwise: every worker reads its part of the heap in order, whatever the key.
//!   Rows may move between such ranges, so all of them belong to one snapshot.
//! - Partitioned tables leaf by leaf, in block ranges.
//!
//! Every row is in exactly one chunk: ranges follow each other, the first is open below and the last
//! above. Blocks that are added after the plan hold nothing that the snapshot sees, or rows of it
//! that are found there by the open end.

use tidemark_core::Result;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{Column, TableName, ValueClass};

use crate::schema::{is_order_safe, leaves_of};
use crate::wire::Connection;

/// No table is cut into more pieces: each is a row in the target's checkpoint.
const CHUNKS_MAX: u64 = 1024;
/// Rows lie in the order of the key (`pg_stats.correlation`, 1 or -1 for perfect order).
const CORRELATION_MIN: f64 = 0.9;
/// Key ranges cannot cut a single value in two; one that is larger than so many chunks speaks for
/// block ranges.
const SINGLE_VALUE_CHUNKS_MAX: f64 = 4.0;

/// Chunks of about `goal_bytes`.
pub(super) async fn plan(
    connection: &mut Connection,
    mapping: &TableMapping,
    goal_bytes: u64,
) -> Result<Vec<Chunk>> {
    let goal_bytes = goal_bytes.max(1);
    if mapping.schema.is_partitioned {
        return plan_leaves(connection, mapping, goal_bytes).await;
    }
    let size = size(connection, mapping.schema.id).await?;
    let count = count(size.bytes, goal_bytes);
    if count < 2 {
        return Ok(vec![Chunk::Whole]);
    }
    if let Some(column) = ordered_column(connection, mapping).await? {
        let statistics = statistics(connection, mapping.source(), column).await?;
        if let Some(cuts) = cuts(connection, mapping, column, statistics, count).await? {
            return Ok(key_ranges(&column.name, &cuts));
        }
    }
    Ok(block_ranges(None, size.blocks, count))
}

async fn plan_leaves(
    connection: &mut Connection,
    mapping: &TableMapping,
    goal_bytes: u64,
) -> Result<Vec<Chunk>> {
    let leaves = leaves_of(connection, mapping.schema.id).await?;
    if leaves.iter().map(|leaf| leaf.bytes).sum::<u64>() <= goal_bytes {
        return Ok(vec![Chunk::Whole]);
    }
    let mut chunks = Vec::new();
    for leaf in leaves {
        let count = count(leaf.bytes, goal_bytes);
        chunks.extend(block_ranges(Some(&leaf.name), leaf.blocks, count));
    }
    Ok(chunks)
}

fn count(bytes: u64, goal_bytes: u64) -> u64 {
    bytes.div_ceil(goal_bytes).clamp(1, CHUNKS_MAX)
}

struct Size {
    blocks: u32,
    bytes: u64,
}

async fn size(connection: &mut Connection, oid: u32) -> Result<Size> {
    let set = connection
        .query(
            "SELECT pg_relation_size($1::oid::regclass) / current_setting('block_size')::int8, \
                    pg_table_size($1::oid::regclass)",
            &[Some(&oid.to_string())],
        )
        .await?;
    let row = set.one()?;
    Ok(Size {
        blocks: row.opt(0)?.unwrap_or(0),
        bytes: row.opt(1)?.unwrap_or(0),
    })
}

/// The leading key column, if its order is the same everywhere and the log shows its values as they
/// are: changes are attributed to a chunk by it.
async fn ordered_column<'a>(
    connection: &mut Connection,
    mapping: &'a TableMapping,
) -> Result<Option<&'a Column>> {
    let Some(carried) = mapping.key.first().map(|key| &mapping.columns[*key]) else {
        return Ok(None);
    };
    let column = &mapping.schema.columns[carried.source];
    if carried.mask.is_some() || !column.is_not_null || !is_order_safe(column.type_id) {
        return Ok(None);
    }
    if column.class != ValueClass::Text {
        return Ok(Some(column));
    }
    // The log's values are compared by their bytes in UTF-8. These encodings order as that does.
    let encoding = connection.parameter("server_encoding");
    if !matches!(encoding, Some("UTF8" | "SQL_ASCII" | "LATIN1")) {
        return Ok(None);
    }
    let orders_by_bytes = match column.collation.as_deref() {
        None => default_orders_by_bytes(connection).await?,
        Some(collation) => ["pg_catalog.\"C\"", "pg_catalog.\"POSIX\""].contains(&collation),
    };
    Ok(orders_by_bytes.then_some(column))
}

/// Whether the database's own collation is that of bytes. Since 15 another provider than libc may
/// stand behind the same name; the builtin one of 17 compares bytes in all its locales
/// (PostgreSQL 17, 23.1.4).
async fn default_orders_by_bytes(connection: &mut Connection) -> Result<bool> {
    let provider = if connection.server_version() >= 150_000 {
        "datlocprovider"
    } else {
        "'c'"
    };
    let sql = format!(
        "SELECT CASE {provider} WHEN 'c' THEN datcollate IN ('C', 'POSIX') WHEN 'b' THEN true \
                ELSE false END FROM pg_database WHERE datname = current_database()"
    );
    connection.query(&sql, &[]).await?.one()?.get_bool(0)
}

/// What `ANALYZE` left about a column.
#[derive(Debug, Default)]
struct Statistics {
    correlation: Option<f64>,
    /// In the column's order.
    points: Vec<Point>,
    /// The share of the most frequent value.
    largest: f64,
}

/// A value that rows are known to lie around.
#[derive(Clone, Debug)]
struct Point {
    value: String,
    /// Share of the rows that lie between the point before and this value.
    below: f64,
    /// Share of the rows that have this very value.
    at: f64,
}

/// Histogram and most frequent values in one order. The histogram leaves the latter out and cuts the
/// rest into parts of equal weight (PostgreSQL 15, 54.27).
async fn statistics(
    connection: &mut Connection,
    table: &TableName,
    column: &Column,
) -> Result<Statistics> {
    let (element, order) = match column.class {
        ValueClass::Integer => ("int8", "v"),
        ValueClass::Uuid => ("uuid", "v"),
        ValueClass::Date => ("date", "v"),
        ValueClass::Timestamp => ("timestamp", "v"),
        ValueClass::TimestampTz => ("timestamptz", "v"),
        ValueClass::Bytes => ("bytea", "v"),
        _ => ("text", "v COLLATE \"C\""),
    };
    let sql = format!(
        "WITH s AS ( \
           SELECT correlation, most_common_freqs::float8[] AS freqs, \
                  most_common_vals::text::{element}[] AS vals, \
                  histogram_bounds::text::{element}[] AS bounds, \
                  1 - null_frac - coalesce((SELECT sum(f) FROM unnest(most_common_freqs) AS f), 0) \
                    AS rest \
           FROM pg_stats WHERE schemaname = $1 AND tablename = $2 AND attname = $3 \
             AND NOT inherited) \
         SELECT v, below, at, correlation FROM ( \
           SELECT v, 0 AS below, f AS at, correlation FROM s, unnest(vals, freqs) AS m (v, f) \
           UNION ALL \
           SELECT v, CASE WHEN n = 1 THEN 0 ELSE rest / (array_length(bounds, 1) - 1) END, 0, \
                  correlation \
           FROM s, unnest(bounds) WITH ORDINALITY AS h (v, n)) AS points \
         ORDER BY {order}"
    );
    let parameters = [&table.schema, &table.name, &column.name];
    let parameters = parameters.map(|text| Some(text.as_str()));
    let set = connection.query(&sql, &parameters).await?;
    let mut statistics = Statistics::default();
    for row in &set.rows {
        let point = Point {
            value: row.get(0)?,
            below: row.get(1)?,
            at: row.get(2)?,
        };
        statistics.correlation = row.opt(3)?;
        statistics.largest = statistics.largest.max(point.at);
        statistics.points.push(point);
    }
    Ok(statistics)
}

/// Where to cut; `None` where key ranges are not the way.
async fn cuts(
    connection: &mut Connection,
    mapping: &TableMapping,
    column: &Column,
    statistics: Statistics,
    count: u64,
) -> Result<Option<Vec<String>>> {
    let is_integer = column.class == ValueClass::Integer;
    let mut points = statistics.points;
    if points.is_empty() {
        if !is_integer {
            return Ok(None);
        }
        // Never analyzed: numbers are most likely given out in order.
        points = extremes(connection, mapping, column).await?;
    } else if statistics
        .correlation
        .is_none_or(|it| it.abs() < CORRELATION_MIN)
        || statistics.largest * count as f64 > SINGLE_VALUE_CHUNKS_MAX
    {
        return Ok(None);
    }
    if is_integer && (points.len() as u64) < count * 2 {
        points = finer(&points, count);
    }
    let cuts = choose(&points, count, |value| is_ordinary(column.class, value));
    Ok((!cuts.is_empty()).then_some(cuts))
}

/// Lowest and highest value, by two looks into the key's index.
async fn extremes(
    connection: &mut Connection,
    mapping: &TableMapping,
    column: &Column,
) -> Result<Vec<Point>> {
    let table = mapping.source();
    let sql = format!(
        "SELECT min({column}), max({column}) FROM ONLY {table}",
        column = crate::wire::quote_ident(&column.name),
        table = crate::wire::quote_qualified(&table.schema, &table.name),
    );
    let set = connection.query(&sql, &[]).await?;
    let row = set.one()?;
    let (Some(low), Some(high)) = (row.opt::<String>(0)?, row.opt::<String>(1)?) else {
        return Ok(Vec::new());
    };
    let point = |value, below| Point {
        value,
        below,
        at: 0.0,
    };
    Ok(vec![point(low, 0.0), point(high, 1.0)])
}

/// Whole numbers between points, as if rows lay evenly between them; where a table has more chunks
/// than its statistics have parts.
fn finer(points: &[Point], count: u64) -> Vec<Point> {
    let mut out: Vec<Point> = Vec::new();
    let parts = (count * 2).div_ceil(points.len() as u64).max(2);
    for pair in points.windows(2) {
        if out.is_empty() {
            out.push(pair[0].clone());
        }
        let numbers = (pair[0].value.parse::<i128>(), pair[1].value.parse::<i128>());
        let (Ok(low), Ok(high)) = numbers else {
            out.push(pair[1].clone());
            continue;
        };
        // No arithmetic in 64 bits: the distance may need 65.
        let distance = high - low;
        let steps = distance.clamp(1, i128::from(parts));
        let below = pair[1].below / steps as f64;
        for step in 1..steps {
            out.push(Point {
                value: (low + distance * step / steps).to_string(),
                below,
                at: 0.0,
            });
        }
        out.push(Point {
            below,
            ..pair[1].clone()
        });
    }
    out
}

/// Cuts in ascending order, none twice: whenever the rows below a point, since the last cut, are a
/// chunk's share.
fn choose(points: &[Point], count: u64, is_usable: impl Fn(&str) -> bool) -> Vec<String> {
    let share = 1.0 / count as f64;
    let mut cuts: Vec<String> = Vec::new();
    let mut weight = 0.0;
    for point in points {
        weight += point.below;
        let is_new = cuts.last().is_none_or(|last| *last != point.value);
        // A little less will do, or rounding would make half as many chunks twice as large.
        if weight >= share * 0.999 && is_new && is_usable(&point.value) {
            cuts.push(point.value.clone());
            weight = 0.0;
        }
        weight += point.at;
    }
    cuts
}

/// Infinite moments and years before Christ are left to the open ends, so that nobody has to compare
/// with them.
fn is_ordinary(class: ValueClass, value: &str) -> bool {
    match class {
        ValueClass::Date | ValueClass::Timestamp | ValueClass::TimestampTz => {
            !value.ends_with("infinity") && !value.ends_with("BC")
        }
        _ => true,
    }
}

/// Ranges between the cuts; the outer ones are open.
fn key_ranges(column: &str, cuts: &[String]) -> Vec<Chunk> {
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    let starts = [None].into_iter().chain(cuts.iter().cloned().map(Some));
    starts
        .zip(ends)
        .map(|(from, to)| Chunk::Keys {
            column: column.to_owned(),
            from,
            to,
        })
        .collect()
}

/// Ranges of about equally many blocks; the last is open.
fn block_ranges(leaf: Option<&TableName>, blocks: u32, count: u64) -> Vec<Chunk> {
    let count = u32::try_from(count)
        .unwrap_or(u32::MAX)
        .clamp(1, blocks.max(1));
    let boundary = |index: u32| {
        let block = u64::from(blocks) * u64::from(index) / u64::from(count);
        u32::try_from(block).expect("a part of a u32 is one")
    };
    (0..count)
        .map(|index| Chunk::Blocks {
            leaf: leaf.cloned(),
            from: boundary(index),
            to: (index + 1 < count).then(|| boundary(index + 1)),
        })
        .collect()
}

#[cfg(test)]
mod tests;
