//! Verification: both sides compared at one and the same log position, while writes go on.
//!
//! [`View`] is what either side is asked: one instant of it, digested or row by row. [`compare`]
//! holds the algorithm, down to the keys that differ ([`difference`]); [`standstill`] brings both sides to
//! the position, [`repair`] has the pipeline copy anew what differs, and [`again`] tells when a comparison
//! that failed is begun anew; [`progress`] says how far one is. Apart from all that, [`look`] shows a
//! person a few rows of both sides, as they are now.

pub mod again;
pub mod compare;
pub mod difference;
pub mod look;
pub mod progress;
pub mod repair;
pub mod standstill;

use async_trait::async_trait;

use crate::checkpoint::Chunk;
use crate::error::Result;
use crate::mapping::TableMapping;

use look::{Limits, ShownRow, Which};

/// One instant of one side. The source's view applies columns, filter and masks of the mapping, the
/// target's reads what is there, so that equal data give equal digests.
///
/// A table that was emptied, rewritten or replaced after the instant cannot be read as it was; that is
/// an error (`TABLE_REWRITTEN`), never a wrong answer. After an error that is not transient other
/// tables can still be read.
#[async_trait]
pub trait View: Send {
    /// How many rows a range has.
    async fn count(&mut self, mapping: &TableMapping, range: &Chunk) -> Result<u64>;

    /// Digest of the rows of a range, computed inside the database, independent of row order.
    async fn digest(&mut self, mapping: &TableMapping, range: &Chunk) -> Result<Digest>;

    /// Digests of the rows of a range by bucket of a hash over the key (over the whole row, without
    /// a key); `bucket_count` of them, in order. They are for telling buckets of both sides apart: the
    /// number of rows may end at 2^31 - 1.
    async fn bucket_digests(
        &mut self,
        mapping: &TableMapping,
        range: &Chunk,
        bucket_count: u32,
    ) -> Result<Vec<Digest>>;

    /// Keys and row hashes of some buckets, ordered by key and hash as [`RowDigest`] orders.
    async fn bucket_rows(
        &mut self,
        mapping: &TableMapping,
        range: &Chunk,
        buckets: &[u32],
        bucket_count: u32,
    ) -> Result<Vec<RowDigest>>;

    /// The rows with these keys, to show what differs; those that are there, in any order. Nothing
    /// for a table without a key.
    async fn rows(&mut self, mapping: &TableMapping, keys: &[Vec<String>]) -> Result<Vec<RowText>>;

    /// Some rows for a person who waits: the first ones by the key, or in any order where the key is masked
    /// or there is none. Cells that are equal on both sides have equal hashes. The server ends it
    /// after the time in `limits`; the view is good afterwards.
    async fn shown(
        &mut self,
        mapping: &TableMapping,
        which: Which<'_>,
        limits: &Limits,
    ) -> Result<Vec<ShownRow>>;
}

/// A row as text, for a person; masked where the mapping masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowText {
    /// Text of the key columns, as in [`RowDigest`].
    pub key: Vec<String>,
    /// The carried columns in the mapping's order; `None` for NULL.
    pub values: Vec<Option<String>>,
}

/// Count and order-independent sum of row hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Rows.
    pub rows: u64,
    /// Sum of a 64-bit hash of each row, modulo 2^64.
    pub sum: u64,
}

/// A row by key and hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowDigest {
    /// Text of the key columns; of no column for a table without a key.
    pub key: Vec<String>,
    /// Hash of the whole row.
    pub hash: u64,
}
