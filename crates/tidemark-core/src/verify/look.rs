//! A few rows of both sides, side by side, as they are now: for a person, not for a proof.
//!
//! # What a difference means here
//! Both sides are read one after the other, while writes go on. So a row that differs may only be a
//! change on its way. It is looked at again: once the target has everything up to a position that was
//! the log's end *after* the source was read, the target is read, and then the source a second
//! time. Where the source's row is as it was before, it was so at every position in between, the target's
//! among them: then a difference is one ([`Pair::is_settled`]). Otherwise nothing is claimed.
//!
//! # Masks
//! The source's view masks in the source itself. The target holds what the mask made of a value, if
//! all is well; a value of a masked column is shown only where it is exactly that, so that rows from a
//! time before the mask do not show what it hides.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock;
use crate::error::Result;
use crate::mapping::TableMapping;
use crate::position::Position;
use crate::source::Source;
use crate::target::Target;

use super::View;

/// How long the target may take to come to the position that makes a difference one. Where the source is idle
/// its position is written every few seconds only.
const CATCH_UP_MAX: Duration = Duration::from_secs(12);
const CATCH_UP_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// The first ones.
    First,
    /// Those with these keys, in text form, masked where the mapping masks. None without a key.
    Keys(&'a [Vec<String>]),
}

/// How much is read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of a side.
    pub rows_max: usize,
    /// Characters of a cell.
    pub chars_max: usize,
    /// How long a statement may take.
    pub within: Duration,
}

/// A row as a person is shown it, masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRow {
    /// Text of the key columns.
    pub key: Vec<String>,
    /// The carried columns in the mapping's order; `None` for NULL.
    pub cells: Vec<Option<ShownCell>>,
}

/// A value that is not NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCell {
    /// Equal for equal values, on either side.
    pub hash: u64,
    /// What is shown of it.
    pub text: CellText,
}

/// What is shown of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CellText {
    /// All of it.
    Whole(String),
    /// Its beginning.
    Cut(String),
    /// Nothing: it takes so many bytes in the table.
    Large(u64),
    /// Nothing: it is not what the mask makes of the source's value.
    Hidden,
}

/// A row on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Text of the key columns; of none where the table has no key.
    pub key: Vec<String>,
    /// As the source has it.
    pub source: Option<ShownRow>,
    /// As the target has it.
    pub target: Option<ShownRow>,
    /// What follows from the two.
    pub verdict: PairVerdict,
    /// Whether the verdict holds, or may be a change on its way.
    pub is_settled: bool,
}

/// How the two sides of a row compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairVerdict {
    /// Equal.
    Same,
    /// On both, with other values.
    Changed,
    /// On the source, not on the target.
    Missing,
    /// On the target, not on the source.
    Extra,
    /// Without a key nothing tells which row of the other side belongs to it.
    Unpaired,
}

impl PairVerdict {
    /// Its word in answers.
    pub fn word(self) -> &'static str {
        match self {
            PairVerdict::Same => "same",
            PairVerdict::Changed => "changed",
            PairVerdict::Missing => "missing",
            PairVerdict::Extra => "extra",
            PairVerdict::Unpaired => "unpaired",
        }
    }
}

/// Rows of both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// In the source's order; what only the target has comes last.
    pub pairs: Vec<Pair>,
    /// When the source was read first.
    pub source_at: String,
    /// When the target was read first.
    pub target_at: String,
}

/// Both sides, and how far the target is.
pub struct Sides<'a> {
    /// Where rows come from.
    pub source: &'a dyn Source,
    /// Where rows go.
    pub target: &'a dyn Target,
    /// What the target has of the table's changes by now; `None` where they do not come at present.
    pub processed: &'a (dyn Fn() -> Option<Position> + Send + Sync),
}

/// Whether a mask is on a column by which rows are told.
pub fn is_key_masked(mapping: &TableMapping) -> bool {
    let mut key = mapping.key.iter();
    key.any(|at| mapping.columns[*at].mask.is_some())
}

/// Looks at rows of a table on both sides.
pub async fn look(
    sides: &Sides<'_>,
    mapping: &TableMapping,
    which: Which<'_>,
    limits: &Limits,
) -> Result<Look> {
    let mut source = sides.source.view().await?;
    let source_at = clock::now();
    let mut ours = source.shown(mapping, which, limits).await?;
    let mut target = sides.target.view().await?;
    let target_at = clock::now();
    let mut pairs = if mapping.key.is_empty() {
        let theirs = target.shown(mapping, which, limits).await?;
        unpaired(ours, theirs)
    } else {
        let theirs = if is_key_masked(mapping) {
            // The target is asked for what the source gave: nobody tries keys out on it that it may have
            // in clear.
            the_others(target.as_mut(), mapping, &ours, &[], limits).await?
        } else {
            let mut theirs = target.shown(mapping, which, limits).await?;
            if which == Which::First {
                let more = the_others(source.as_mut(), mapping, &theirs, &ours, limits).await?;
                ours.extend(more);
                let more = the_others(target.as_mut(), mapping, &ours, &theirs, limits).await?;
                theirs.extend(more);
            }
            theirs
        };
        paired(ours, theirs)
    };
    // An instant of a side that is kept open holds its vacuum back.
    drop((source, target));
    if !mapping.key.is_empty() && !is_key_masked(mapping) {
        settle(sides, mapping, &mut pairs, limits).await?;
    }
    hide(mapping, &mut pairs);
    Ok(Look {
        pairs,
        source_at,
        target_at,
    })
}

/// Rows with the keys of `found` that `known` does not have.
async fn the_others(
    view: &mut dyn View,
    mapping: &TableMapping,
    found: &[ShownRow],
    known: &[ShownRow],
    limits: &Limits,
) -> Result<Vec<ShownRow>> {
    let keys: Vec<Vec<String>> = found
        .iter()
        .filter(|row| !known.iter().any(|other| other.key == row.key))
        .map(|row| row.key.clone())
        .collect();
    let limits = Limits {
        rows_max: limits.rows_max.max(keys.len()),
        ..*limits
    };
    view.shown(mapping, Which::Keys(&keys), &limits).await
}

fn unpaired(source: Vec<ShownRow>, target: Vec<ShownRow>) -> Vec<Pair> {
    let pair = |source, target| Pair {
        key: Vec::new(),
        source,
        target,
        verdict: PairVerdict::Unpaired,
        is_settled: false,
    };
    let ours = source.into_iter().map(|row| pair(Some(row), None));
    let theirs = target.into_iter().map(|row| pair(None, Some(row)));
    ours.chain(theirs).collect()
}

fn paired(source: Vec<ShownRow>, target: Vec<ShownRow>) -> Vec<Pair> {
    let mut theirs: HashMap<Vec<String>, Vec<ShownRow>> = HashMap::new();
    for row in target {
        theirs.entry(row.key.clone()).or_default().push(row);
    }
    let mut pairs = Vec::new();
    for row in source {
        let other = theirs.get_mut(&row.key).and_then(Vec::pop);
        pairs.push(Pair::of(row.key.clone(), Some(row), other));
    }
    let mut rest: Vec<ShownRow> = theirs.into_values().flatten().collect();
    rest.sort_by(|a, b| a.key.cmp(&b.key));
    pairs.extend(
        rest.into_iter()
            .map(|row| Pair::of(row.key.clone(), None, Some(row))),
    );
    pairs
}

impl Pair {
    fn of(key: Vec<String>, source: Option<ShownRow>, target: Option<ShownRow>) -> Pair {
        let verdict = match (&source, &target) {
            (Some(source), Some(target)) if is_alike(source, target) => PairVerdict::Same,
            (Some(_), Some(_)) => PairVerdict::Changed,
            (Some(_), None) => PairVerdict::Missing,
            (None, _) => PairVerdict::Extra,
        };
        Pair {
            key,
            source,
            target,
            is_settled: verdict == PairVerdict::Same,
            verdict,
        }
    }

    /// Columns in which the two sides differ, by their place in the mapping.
    pub fn different(&self) -> Vec<usize> {
        let (Some(source), Some(target)) = (&self.source, &self.target) else {
            return Vec::new();
        };
        let cells = source.cells.iter().zip(&target.cells).enumerate();
        let differ = cells.filter(|(_, (a, b))| hash_of(a.as_ref()) != hash_of(b.as_ref()));
        differ.map(|(at, _)| at).collect()
    }
}

fn hash_of(cell: Option<&ShownCell>) -> Option<u64> {
    cell.map(|cell| cell.hash)
}

fn is_alike(a: &ShownRow, b: &ShownRow) -> bool {
    let hashes = |row: &ShownRow| -> Vec<_> {
        let cells = row.cells.iter();
        cells.map(|cell| hash_of(cell.as_ref())).collect()
    };
    hashes(a) == hashes(b)
}

/// Tells what differs from what is on its way, see the module's text.
async fn settle(
    sides: &Sides<'_>,
    mapping: &TableMapping,
    pairs: &mut Vec<Pair>,
    limits: &Limits,
) -> Result<()> {
    let doubtful = pairs.iter().filter(|pair| !pair.is_settled);
    let keys: Vec<Vec<String>> = doubtful.map(|pair| pair.key.clone()).collect();
    if keys.is_empty() || !caught_up(sides).await? {
        return Ok(());
    }
    let limits = Limits {
        rows_max: limits.rows_max.max(keys.len()),
        ..*limits
    };
    let mut view = sides.target.view().await?;
    let target = view.shown(mapping, Which::Keys(&keys), &limits).await?;
    let mut view = sides.source.view().await?;
    let source = view.shown(mapping, Which::Keys(&keys), &limits).await?;
    let of = |rows: &[ShownRow], key: &Vec<String>| rows.iter().find(|r| r.key == *key).cloned();
    for pair in pairs.iter_mut().filter(|pair| !pair.is_settled) {
        let now = of(&source, &pair.key);
        let is_as_it_was = match (&pair.source, &now) {
            (Some(before), Some(now)) => is_alike(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        let looked = Pair::of(pair.key.clone(), now, of(&target, &pair.key));
        *pair = Pair {
            is_settled: looked.is_settled || is_as_it_was,
            ..looked
        };
    }
    // What was deleted meanwhile is no row of either side any more.
    pairs.retain(|pair| pair.source.is_some() || pair.target.is_some());
    Ok(())
}

/// Waits until the target has what the source had when this was called; `false` where it does not come
/// to that in time.
async fn caught_up(sides: &Sides<'_>) -> Result<bool> {
    if (sides.processed)().is_none() {
        return Ok(false);
    }
    let head = sides.source.head().await?;
    // An idle source has nothing to send that would tell how far the target is.
    sides.source.heartbeat().await?;
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        match (sides.processed)() {
            None => return Ok(false),
            Some(at) if at >= head => return Ok(true),
            Some(_) if Instant::now() >= deadline => return Ok(false),
            Some(_) => sleep(CATCH_UP_LOOK_EVERY).await,
        }
    }
}

/// Takes out of the target's rows what no mask made.
fn hide(mapping: &TableMapping, pairs: &mut [Pair]) {
    for pair in pairs {
        let Some(target) = &mut pair.target else {
            continue;
        };
        for (at, column) in mapping.columns.iter().enumerate() {
            if column.mask.is_none() {
                continue;
            }
            let ours = pair
                .source
                .as_ref()
                .map(|row| hash_of(row.cells[at].as_ref()));
            let cell = &mut target.cells[at];
            if ours == Some(hash_of(cell.as_ref())) {
                continue;
            }
            let hash = hash_of(cell.as_ref()).unwrap_or_default();
            *cell = Some(ShownCell {
                hash,
                text: CellText::Hidden,
            });
        }
    }
}
