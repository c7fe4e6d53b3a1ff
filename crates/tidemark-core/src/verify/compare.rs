//! Comparing both sides at one position.
//!
//! # The problem
//! Both sides change all the time. Counting rows, or comparing "now" with "now", raises false alarms
//! for as long as anything is on its way, and proves nothing when it is silent.
//!
//! # What we do
//! 1. Transactions that have been open on the source for a while end. Then the pipeline is asked to hold
//!    between two transactions.
//! 2. The source opens its log once more, for as long as we look: that yields a position X and a
//!    snapshot of exactly X.
//! 3. The pipeline is let go up to X and holds there: nothing at or after X is applied.
//! 4. Views of the target are opened, the pipeline goes on, and says that it had stood still until then.
//!    Both sides are now read at X while the stream goes on.
//! 5. Digests by key range are compared; where they differ, digests by bucket of a hash over the key;
//!    where these differ, key and hash of each row. So a single row is found in three passes over
//!    its range, and equal data cost one. After a range that differs the next is digested by bucket
//!    at once. Nobody looks for more differences than are listed.
//!
//! A table without a key is compared as a multiset: its rows are told apart by their whole text.

use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, Chunk, TableState};
use crate::control::HoldId;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::schema::{Column, ColumnDefault, TableName};
use crate::source::{Snapshot, Source};
use crate::target::Target;

use super::difference::{Difference, differences};
use super::progress::Progress;
use super::standstill::{Ask, Standstill, standstill};
use super::{Digest, View};

/// About how many rows share a bucket, and how many buckets there are at most.
///
/// A bucket takes about 16 bytes on the way, a row of one that differs about 50. Where one row in a
/// thousand differs, scattered, the least is read between 16 and 32: 1.7 bytes for each row compared.
const BUCKET_ROWS: u64 = 24;
const BUCKETS_MAX: u64 = 1 << 19;

/// About how many rows, both sides together, are told apart at once.
const ROWS_AT_ONCE_MAX: u64 = 200_000;

/// How often tables are compared that are emptied or rewritten before they are read.
const ROUNDS_MAX: u32 = 3;

/// Why such a table was not compared in the end.
const LOADED_ANEW: &str = "being loaded anew";
const MOVED: &str = "emptied or rewritten before it could be read; verify it again";

/// About how much of a table is digested by one query.
const RANGE_BYTES: u64 = 512 << 20;

/// How much is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Numbers of rows.
    Counts,
    /// Every value.
    Deep,
}

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tables; others are left out.
    pub tables: Vec<Arc<TableMapping>>,
    /// How much.
    pub depth: Depth,
    /// Differences that are listed for one table at most. More are not looked for.
    pub differences_max: usize,
    /// By which the pipeline knows who holds it.
    pub hold: HoldId,
    /// Counts along.
    pub progress: Arc<Progress>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Both sides were read here.
    pub position: Position,
    /// Table by table.
    pub tables: Vec<TableReport>,
}

impl Report {
    /// Whether every table that could be compared is the same on both sides, and all could be.
    pub fn is_identical(&self) -> bool {
        self.tables
            .iter()
            .all(|table| table.outcome == Outcome::Identical)
    }

    /// The verdict in a word: `identical`, `different`, or `incomplete` where nothing differs and not all
    /// could be compared.
    pub fn word(&self) -> &'static str {
        let mut outcomes = self.tables.iter().map(|table| &table.outcome);
        if self.is_identical() {
            "identical"
        } else if outcomes.any(|outcome| *outcome == Outcome::Different) {
            "different"
        } else {
            "incomplete"
        }
    }

    /// Whether a table was not compared because its rows were on their way: it can be a moment later.
    pub fn is_early(&self) -> bool {
        let early = Outcome::NotCompared(LOADED_ANEW.into());
        self.tables.iter().any(|table| table.outcome == early)
    }

    /// Rows that were compared.
    pub fn rows(&self) -> u64 {
        let is_compared = |table: &&TableReport| !matches!(table.outcome, Outcome::NotCompared(_));
        let compared = self.tables.iter().filter(is_compared);
        compared.map(|table| table.source_rows).sum()
    }
}

impl Report {
    /// Worst first.
    fn sort(&mut self) {
        let tables = &mut self.tables;
        tables.sort_by(|a, b| (rank(&a.outcome), &a.source).cmp(&(rank(&b.outcome), &b.source)));
    }
}

/// What was found in one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableReport {
    /// On the source.
    pub source: TableName,
    /// On the target.
    pub target: TableName,
    /// Both sides of it were read here.
    pub position: Position,
    /// The verdict.
    pub outcome: Outcome,
    /// Rows on the source.
    pub source_rows: u64,
    /// Rows on the target.
    pub target_rows: u64,
    /// Rows that differ.
    pub different: u64,
    /// Whether that is all of them, or there may be more: nobody looks further than what is listed.
    pub is_counted: bool,
    /// Those that are listed.
    pub differences: Vec<Difference>,
}

impl TableReport {
    fn new(mapping: &TableMapping, position: Position) -> TableReport {
        TableReport {
            source: mapping.source().clone(),
            target: mapping.target.clone(),
            position,
            outcome: Outcome::Identical,
            source_rows: 0,
            target_rows: 0,
            different: 0,
            is_counted: true,
            differences: Vec::new(),
        }
    }

    /// Whether it was not compared only because it was emptied or rewritten meanwhile, each time.
    pub fn has_moved(&self) -> bool {
        self.outcome == Outcome::NotCompared(MOVED.into())
    }

    fn not_compared(&mut self, err: &Error) {
        let why = if err.code() == codes::TABLE_REWRITTEN {
            MOVED.to_owned()
        } else {
            format!("{}: {err}", err.code())
        };
        self.outcome = Outcome::NotCompared(why);
    }
}

/// A table's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same on both sides.
    Identical,
    /// Not the same.
    Different,
    /// It could not be compared; why.
    NotCompared(String),
}

/// Compares both sides of a pipeline that streams, at one position. A table that is emptied or
/// rewritten before it was read is compared at another one.
pub async fn verify(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
    request: &Request,
) -> Result<Report> {
    request.progress.begin(request.tables.len());
    let mut report = at_a_standstill(source, target, pipeline, request).await?;
    for _ in 1..ROUNDS_MAX {
        let moved = report.tables.extract_if(.., |table| table.has_moved());
        let moved: Vec<TableReport> = moved.collect();
        if moved.is_empty() {
            break;
        }
        let is_wanted = |mapping: &&Arc<TableMapping>| {
            moved.iter().any(|table| table.source == *mapping.source())
        };
        let again = Request {
            tables: request.tables.iter().filter(is_wanted).cloned().collect(),
            ..request.clone()
        };
        let again = at_a_standstill(source, target, pipeline, &again).await?;
        report.tables.extend(again.tables);
    }
    report.sort();
    Ok(report)
}

async fn at_a_standstill(
    source: &dyn Source,
    target: &dyn Target,
    pipeline: &dyn Ask,
    request: &Request,
) -> Result<Report> {
    let Standstill {
        position,
        snapshot,
        checkpoint,
        target_view,
    } = standstill(source, target, pipeline, request.hold).await?;
    let views = (snapshot.view().await?, target_view);
    let why_not = |mapping: &TableMapping| why_not(checkpoint.as_ref(), mapping);
    compare(snapshot.as_ref(), position, views, request, why_not).await
}

/// Compares both sides of a full load, which has no log to meet in: the source as it is now with the
/// target as it is now. What changed on the source since the load shows as a difference.
pub async fn verify_still(
    source: &dyn Source,
    target: &dyn Target,
    request: &Request,
) -> Result<Report> {
    let snapshot = source.snapshot().await?;
    let target_view = target.view().await?;
    let views = (snapshot.view().await?, target_view);
    let position = snapshot.tidemark().after;
    request.progress.begin(request.tables.len());
    let mut report = compare(snapshot.as_ref(), position, views, request, |_| None).await?;
    report.sort();
    Ok(report)
}

/// What is asked first of a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum First {
    /// Its digest, the least that tells whether both sides are equal.
    Digest,
    /// Digests of its buckets, for about so many rows: where the sides are likely to differ that saves one
    /// of three passes over the range.
    Buckets(u64),
}

impl First {
    /// Differences are seldom in one range alone.
    pub(crate) fn after(outcome: &Outcome, rows: u64) -> First {
        match outcome {
            Outcome::Different => First::Buckets(rows),
            Outcome::Identical | Outcome::NotCompared(_) => First::Digest,
        }
    }
}

/// Compares one range of a table on both sides, for whoever moves what differs.
pub(crate) async fn compare_range(
    source: &mut dyn View,
    target: &mut dyn View,
    mapping: &TableMapping,
    (range, first): (&Chunk, First),
    position: Position,
    differences_max: usize,
) -> Result<TableReport> {
    let mut report = TableReport::new(mapping, position);
    let mut sides = Sides {
        source,
        target,
        mapping,
        differences_max,
        progress: &Progress::default(),
    };
    let ranges = std::slice::from_ref(range);
    sides.table(ranges, Depth::Deep, first, &mut report).await?;
    Ok(report)
}

async fn compare(
    snapshot: &dyn Snapshot,
    position: Position,
    (mut source, mut target): (Box<dyn View>, Box<dyn View>),
    request: &Request,
    why_not: impl Fn(&TableMapping) -> Option<String>,
) -> Result<Report> {
    let mut tables = Vec::new();
    for mapping in &request.tables {
        let mut report = TableReport::new(mapping, position);
        if let Some(why) = why_not(mapping) {
            report.outcome = Outcome::NotCompared(why);
            tables.push(report);
            request.progress.table_done();
            continue;
        }
        let mut sides = Sides {
            source: source.as_mut(),
            target: target.as_mut(),
            mapping,
            differences_max: request.differences_max,
            progress: &request.progress,
        };
        let compared = async {
            let ranges = ranges(snapshot, mapping, request.depth).await?;
            let first = First::Digest;
            sides
                .table(&ranges, request.depth, first, &mut report)
                .await
        };
        match compared.await {
            Ok(()) => {}
            Err(err) if err.kind() == ErrorKind::Transient => {
                return Err(err.context(format!("compare {}", mapping.source())));
            }
            // Only this table cannot be read.
            Err(err) => report.not_compared(&err),
        }
        // One that moved is looked at again.
        if !report.has_moved() {
            request.progress.table_done();
        }
        tables.push(report);
    }
    Ok(Report { position, tables })
}

/// Why a table cannot be compared now, if so.
fn why_not(checkpoint: Option<&Checkpoint>, mapping: &TableMapping) -> Option<String> {
    let Some(checkpoint) = checkpoint else {
        return Some("the pipeline never started".into());
    };
    // Where all are generated there are none to carry, and rows are counted.
    let is_generated = |column: &Column| matches!(column.default, ColumnDefault::Generated(_));
    let nothing = mapping.columns.is_empty() && !mapping.schema.columns.iter().all(is_generated);
    match checkpoint
        .tables
        .iter()
        .find(|table| table.source == *mapping.source())
    {
        None => Some("not carried yet".into()),
        Some(table) => match table.state {
            TableState::Streaming | TableState::Done => {
                nothing.then(|| "no column of it can be carried as it is by now".into())
            }
            TableState::Loading => Some("being loaded".into()),
            TableState::Resyncing => Some(LOADED_ANEW.into()),
            TableState::Paused => Some("paused".into()),
            TableState::Quarantined | TableState::Unloaded => {
                let reason = table.reason.as_ref().map(ToString::to_string);
                let reason = reason.unwrap_or_else(|| "no reason recorded".to_owned());
                Some(format!("quarantined: {reason}"))
            }
        },
    }
}

fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Different => 0,
        Outcome::NotCompared(_) => 1,
        Outcome::Identical => 2,
    }
}

/// Key ranges where the key allows them: places of rows differ between the sides.
pub(crate) async fn ranges(
    snapshot: &dyn Snapshot,
    mapping: &TableMapping,
    depth: Depth,
) -> Result<Vec<Chunk>> {
    if depth == Depth::Counts || mapping.schema.bytes <= RANGE_BYTES {
        return Ok(vec![Chunk::Whole]);
    }
    let chunks = snapshot.chunks(mapping, RANGE_BYTES).await?;
    let by_keys = chunks
        .iter()
        .all(|chunk| matches!(chunk, Chunk::Keys { .. }));
    Ok(if by_keys { chunks } else { vec![Chunk::Whole] })
}

/// One table on both sides.
struct Sides<'a> {
    source: &'a mut dyn View,
    target: &'a mut dyn View,
    mapping: &'a TableMapping,
    differences_max: usize,
    progress: &'a Progress,
}

impl Sides<'_> {
    async fn table(
        &mut self,
        ranges: &[Chunk],
        depth: Depth,
        mut first: First,
        report: &mut TableReport,
    ) -> Result<()> {
        for range in ranges {
            let (rows, is_equal) = match (depth, first) {
                // Where no more are listed nobody looks for more either.
                (Depth::Deep, First::Buckets(rows)) if report.is_counted => {
                    let buckets = self.buckets(range, rows).await?;
                    if !buckets.is_equal() {
                        self.rows(range, &buckets, report).await?;
                    }
                    (buckets.rows(), buckets.is_equal())
                }
                _ => {
                    let (source, target) = self.digests(range, depth).await?;
                    let is_equal = source == target;
                    if !is_equal && depth == Depth::Counts {
                        report.different += source.rows.abs_diff(target.rows);
                    } else if !is_equal && report.is_counted {
                        let rows = source.rows.max(target.rows);
                        let buckets = self.buckets(range, rows).await?;
                        self.rows(range, &buckets, report).await?;
                    }
                    ([source.rows, target.rows], is_equal)
                }
            };
            let [on_source, on_target] = rows;
            self.progress.range_done(on_source.max(on_target));
            report.source_rows += on_source;
            report.target_rows += on_target;
            let mut outcome = Outcome::Identical;
            if !is_equal {
                outcome = Outcome::Different;
                report.outcome = Outcome::Different;
            }
            first = First::after(&outcome, on_source.max(on_target));
        }
        report.differences.sort();
        Ok(())
    }

    async fn digests(&mut self, range: &Chunk, depth: Depth) -> Result<(Digest, Digest)> {
        let mapping = self.mapping;
        let (source, target) = match depth {
            Depth::Deep => tokio::join!(
                self.source.digest(mapping, range),
                self.target.digest(mapping, range),
            ),
            Depth::Counts => {
                let of = |rows: Result<u64>| {
                    Ok(Digest {
                        rows: rows?,
                        sum: 0,
                    })
                };
                let (source, target) = tokio::join!(
                    self.source.count(mapping, range),
                    self.target.count(mapping, range),
                );
                (of(source), of(target))
            }
        };
        Ok((source?, target?))
    }

    /// Digests of a range's buckets, which has about so many rows.
    async fn buckets(&mut self, range: &Chunk, rows: u64) -> Result<Buckets> {
        let count = (rows / BUCKET_ROWS).clamp(1, BUCKETS_MAX);
        let count = u32::try_from(count).expect("at most 2^19");
        let (source, target) = tokio::join!(
            self.source.bucket_digests(self.mapping, range, count),
            self.target.bucket_digests(self.mapping, range, count),
        );
        Ok(Buckets {
            count,
            source: source?,
            target: target?,
        })
    }

    /// The rows that differ: those of the buckets that do, many at once.
    async fn rows(
        &mut self,
        range: &Chunk,
        buckets: &Buckets,
        report: &mut TableReport,
    ) -> Result<()> {
        let count = buckets.count;
        let mut different = buckets.different().peekable();
        while different.peek().is_some() {
            if report.differences.len() >= self.differences_max {
                report.is_counted = false;
                break;
            }
            let (mut buckets, mut rows) = (Vec::new(), 0);
            while let Some((bucket, more)) =
                different.next_if(|(_, more)| buckets.is_empty() || rows + more <= ROWS_AT_ONCE_MAX)
            {
                buckets.push(bucket);
                rows += more;
            }
            let (source, target) = tokio::join!(
                self.source
                    .bucket_rows(self.mapping, range, &buckets, count),
                self.target
                    .bucket_rows(self.mapping, range, &buckets, count),
            );
            for difference in differences(&source?, &target?) {
                report.different += 1;
                if report.differences.len() < self.differences_max {
                    report.differences.push(difference);
                }
            }
        }
        Ok(())
    }
}

/// A range by buckets, on both sides.
struct Buckets {
    count: u32,
    source: Vec<Digest>,
    target: Vec<Digest>,
}

impl Buckets {
    /// Rows on the source, and on the target.
    fn rows(&self) -> [u64; 2] {
        [&self.source, &self.target].map(|side| side.iter().map(|bucket| bucket.rows).sum())
    }

    fn is_equal(&self) -> bool {
        self.source == self.target
    }

    /// The buckets that differ, each with its rows on both sides together.
    fn different(&self) -> impl Iterator<Item = (u32, u64)> {
        let both = self.source.iter().zip(&self.target);
        let different = (0..self.count)
            .zip(both)
            .filter(|(_, (source, target))| source != target);
        different.map(|(bucket, (source, target))| (bucket, source.rows + target.rows))
    }
}

#[cfg(test)]
mod tests;
