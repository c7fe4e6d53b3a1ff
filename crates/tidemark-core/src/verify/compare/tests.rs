//! What is asked of two sides range by range, and that it finds what differs whatever was asked first.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::mapping::Rules;
use crate::mapping::fixture::table;
use crate::position::Lsn;
use crate::verify::difference::DifferenceKind;
use crate::verify::look::{Limits, ShownRow, Which};
use crate::verify::{RowDigest, RowText};

/// Rows in memory, by key, each with its hash; and what was asked of them.
struct Rows {
    rows: BTreeMap<u32, u64>,
    asked: Vec<&'static str>,
}

impl Rows {
    fn of(rows: &BTreeMap<u32, u64>) -> Rows {
        Rows {
            rows: rows.clone(),
            asked: Vec::new(),
        }
    }

    fn in_range(&self, range: &Chunk) -> impl Iterator<Item = (u32, u64)> {
        let Chunk::Keys { from, to, .. } = range else {
            panic!("a range of keys: {range:?}");
        };
        let bound = |text: &Option<String>| text.as_ref().map(|text| text.parse::<u32>().unwrap());
        let (from, to) = (bound(from), bound(to));
        let rows = self.rows.iter().map(|(key, hash)| (*key, *hash));
        rows.filter(move |(key, _)| {
            from.is_none_or(|from| *key >= from) && to.is_none_or(|to| *key < to)
        })
    }
}

fn bucket(key: u32, count: u32) -> u32 {
    key.wrapping_mul(2_654_435_761) % count
}

fn sum(rows: impl Iterator<Item = (u32, u64)>) -> Digest {
    rows.fold(Digest::default(), |sum, (_, hash)| Digest {
        rows: sum.rows + 1,
        sum: sum.sum.wrapping_add(hash),
    })
}

#[async_trait]
impl View for Rows {
    async fn count(&mut self, _: &TableMapping, range: &Chunk) -> Result<u64> {
        self.asked.push("count");
        Ok(self.in_range(range).count() as u64)
    }

    async fn digest(&mut self, _: &TableMapping, range: &Chunk) -> Result<Digest> {
        self.asked.push("digest");
        Ok(sum(self.in_range(range)))
    }

    async fn bucket_digests(
        &mut self,
        _: &TableMapping,
        range: &Chunk,
        count: u32,
    ) -> Result<Vec<Digest>> {
        self.asked.push("buckets");
        let of = |n| {
            sum(self
                .in_range(range)
                .filter(|(key, _)| bucket(*key, count) == n))
        };
        Ok((0..count).map(of).collect())
    }

    async fn bucket_rows(
        &mut self,
        _: &TableMapping,
        range: &Chunk,
        buckets: &[u32],
        count: u32,
    ) -> Result<Vec<RowDigest>> {
        self.asked.push("rows");
        let rows = self.in_range(range);
        let rows = rows.filter(|(key, _)| buckets.contains(&bucket(*key, count)));
        let mut rows: Vec<RowDigest> = rows
            .map(|(key, hash)| RowDigest {
                key: vec![key.to_string()],
                hash,
            })
            .collect();
        rows.sort();
        Ok(rows)
    }

    async fn rows(&mut self, _: &TableMapping, _: &[Vec<String>]) -> Result<Vec<RowText>> {
        panic!("a comparison reads no values")
    }

    async fn shown(&mut self, _: &TableMapping, _: Which<'_>, _: &Limits) -> Result<Vec<ShownRow>> {
        panic!("a comparison reads no values")
    }
}

fn mapping() -> TableMapping {
    let schema = table("public.t", &[("id", "integer")]);
    Rules::default().map_table(&schema).unwrap()
}

/// Ranges of a hundred keys.
fn ranges(count: u32) -> Vec<Chunk> {
    let cut = |n: u32| (n > 0 && n < count).then(|| (n * 100).to_string());
    let range = |n| Chunk::Keys {
        column: "id".to_owned(),
        from: cut(n),
        to: cut(n + 1),
    };
    (0..count).map(range).collect()
}

fn all(count: u32) -> BTreeMap<u32, u64> {
    let hash = |key: u32| (u64::from(key) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..count * 100).map(|key| (key, hash(key))).collect()
}

/// The report, and what each side was asked.
async fn compared(
    source: &BTreeMap<u32, u64>,
    target: &BTreeMap<u32, u64>,
    differences_max: usize,
) -> (TableReport, Vec<&'static str>) {
    let mapping = mapping();
    let (mut source, mut target) = (Rows::of(source), Rows::of(target));
    let mut report = TableReport::new(&mapping, Position::PgLsn(Lsn(1)));
    let progress = Progress::default();
    let mut sides = Sides {
        source: &mut source,
        target: &mut target,
        mapping: &mapping,
        differences_max,
        progress: &progress,
    };
    let ranges = ranges(5);
    let table = sides.table(&ranges, Depth::Deep, First::Digest, &mut report);
    table.await.unwrap();
    assert_eq!(source.asked, target.asked);
    let compared = report.source_rows.max(report.target_rows);
    assert!(progress.rows() >= compared, "{progress:?}");
    (report, source.asked)
}

#[tokio::test]
async fn a_range_is_asked_by_bucket_at_once_after_one_that_differs() {
    let source = all(5);
    let (report, asked) = compared(&source, &source, 100).await;
    assert_eq!(report.outcome, Outcome::Identical);
    assert_eq!(asked, ["digest"; 5]);

    // In the second, the third and the last range.
    let mut target = source.clone();
    target.insert(150, 7);
    target.remove(&250);
    target.insert(1000, 7);
    let (report, asked) = compared(&source, &target, 100).await;
    let (second, third, fourth) = (
        ["digest", "buckets", "rows"],
        ["buckets", "rows"],
        ["buckets"],
    );
    let wanted = [&["digest"][..], &second, &third, &fourth, &second].concat();
    assert_eq!(asked, wanted);
    assert_eq!((report.source_rows, report.target_rows), (500, 500));
    let found: Vec<(&str, DifferenceKind)> = report
        .differences
        .iter()
        .map(|found| (found.key[0].as_str(), found.kind))
        .collect();
    assert_eq!(
        found,
        [
            ("1000", DifferenceKind::Extra),
            ("150", DifferenceKind::Changed),
            ("250", DifferenceKind::Missing),
        ]
    );
    assert!(report.is_counted && report.outcome == Outcome::Different);
}

/// Where no more are listed the rest is only counted, row by row on both sides.
#[tokio::test]
async fn nobody_looks_for_more_than_is_listed() {
    let source = all(5);
    let target = source.keys().map(|key| (*key, 7)).collect();
    let (report, asked) = compared(&source, &target, 10).await;
    assert!(!report.is_counted);
    assert_eq!(report.differences.len(), 10);
    assert_eq!((report.source_rows, report.target_rows), (500, 500));
    assert_eq!(asked.iter().filter(|asked| **asked == "rows").count(), 1);
}

proptest! {
    #[test]
    fn what_differs_is_found_wherever_it_is(
        changed in prop::collection::btree_set(0_u32..500, 0..20),
        gone in prop::collection::btree_set(0_u32..500, 0..20),
        new in prop::collection::btree_set(500_u32..600, 0..20),
    ) {
        let source = all(5);
        let mut target = source.clone();
        target.extend(changed.iter().chain(&new).map(|key| (*key, 7)));
        target.retain(|key, _| !gone.contains(key));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (report, _) = runtime.block_on(compared(&source, &target, 1000));
        let kind = |key: &u32| if gone.contains(key) {
            DifferenceKind::Missing
        } else if new.contains(key) {
            DifferenceKind::Extra
        } else {
            DifferenceKind::Changed
        };
        let keys: BTreeSet<&u32> = changed.iter().chain(&gone).chain(&new).collect();
        let mut wanted: Vec<Difference> = keys
            .into_iter()
            .map(|key| Difference { key: vec![key.to_string()], kind: kind(key) })
            .collect();
        wanted.sort();
        prop_assert_eq!(report.different, wanted.len() as u64);
        prop_assert_eq!(report.differences, wanted);
        let rows = (source.len() as u64, target.len() as u64);
        prop_assert_eq!((report.source_rows, report.target_rows), rows);
    }
}
