//! From a refusal of the server to the error that the engine acts on.

use tidemark_core::batch::{Batch, Item};
use tidemark_core::catalogue::codes;
use tidemark_core::event::{OldRow, Op};
use tidemark_core::{Error, ErrorKind};

use super::barrier::explain_truncate;
use super::session::Step;
use super::stretch::Work;
use crate::config::Side;
use crate::error;
use crate::target::checkpoint;
use crate::wire::ServerError;

/// How a row is missed that must be there ([`super::shape::Shape::Must`]), or to be written; and how hooks are
/// found where there were none ([`super::table::NO_HOOKS`]).
pub(super) const DIVISION_BY_ZERO: &str = "22012";

/// How the server refuses to tell what it wrote where a rule does something instead.
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// Text that is not valid in the target's encoding, or has a character that it lacks.
const TEXT_UNFIT: [&str; 2] = ["22021", "22P05"];

/// What is shown of a value of a key, in characters.
const KEY_SHOWN_MAX: usize = 80;

/// Whether applying again in another way may help: anything that has to do with the data or the
/// table, and nothing that has to do with the server or other sessions.
pub(super) fn is_worth_a_replay(said: &ServerError) -> bool {
    let error = error::classify(Side::Target, said.clone());
    error.kind() != ErrorKind::Transient && !is_fence(said)
}

fn is_fence(said: &ServerError) -> bool {
    said.constraint.as_deref() == Some("generation_fence")
}

/// A refusal of something of ours: the checkpoint, the queue of parked changes, the commit.
pub(super) fn of_own(said: ServerError) -> Error {
    checkpoint::explain(error::classify(Side::Target, said))
}

impl Work<'_> {
    /// The error for a refusal: about a table, whatever the server thinks of it, as long as others
    /// may well go on.
    pub(super) fn refused(&self, step: Step, said: ServerError) -> Error {
        let (table, item) = match step {
            Step::Change { table, item } => (table as usize, Some(item as usize)),
            Step::Set { table, .. } => (table as usize, None),
            Step::Own | Step::Hooks | Step::Rows | Step::Sync => return of_own(said),
        };
        let mut error = error::classify(Side::Target, said);
        if error.kind() == ErrorKind::Transient {
            return error;
        }
        error = error.with_kind(ErrorKind::Data);
        let mapping = &self.batch.tables()[table];
        if error.sqlstate_code() == Some(DIVISION_BY_ZERO) && mapping.filter.is_some() {
            error = Error::data(
                codes::FILTER_UNDECIDABLE,
                "a row came into the row filter, and the log left its large values out",
            )
            .caused_by(error);
        }
        let met = self.met.get(table).and_then(Option::as_ref);
        let is_left_out = matches!(
            error.sqlstate_code(),
            Some(DIVISION_BY_ZERO | FEATURE_NOT_SUPPORTED)
        );
        if is_left_out && met.is_some_and(|met| met.table.has_hooks()) {
            error = Error::data(
                codes::ROW_LEFT_OUT,
                "a trigger or rule of the target's table would leave the row out",
            )
            .caused_by(error);
        }
        let doing = match item {
            Some(item) => describe(self.batch, item),
            None => "changes".to_owned(),
        };
        let is_text_unfit = TEXT_UNFIT.contains(&error.sqlstate_code().unwrap_or_default());
        let row_key = item
            .filter(|_| is_text_unfit)
            .and_then(|item| row_key(self.batch, item));
        let key = match met {
            _ if row_key.is_some() => format!(" (key {})", row_key.unwrap_or_default()),
            Some(met) if !met.table.key.is_empty() => {
                format!(" (key {})", met.table.key_names())
            }
            _ => String::new(),
        };
        if item.is_some_and(|item| matches!(self.batch.items()[item], Item::Truncate { .. })) {
            error = explain_truncate(error);
        }
        error
            .table(mapping.source().to_string())
            .context(format!("apply {doing} of {}{key}", mapping.target))
    }
}

/// The key of a changed row with its values, as far as they go to the target: masked ones are. Values
/// are told nowhere else, but text can only be mended on the source, and there one has to know where.
fn row_key(batch: &Batch, item: usize) -> Option<String> {
    let Item::Change(change) = &batch.items()[item] else {
        return None;
    };
    let mapping = &batch.tables()[change.table];
    let row = change.new.or(change.old.map(OldRow::row))?;
    let cells = batch.row(row);
    let one = |place: &usize| {
        let value = String::from_utf8_lossy(batch.value(*cells.get(*place)?)).into_owned();
        let value = match value.char_indices().nth(KEY_SHOWN_MAX) {
            Some((end, _)) => format!("{}…", value.get(..end)?),
            None => value,
        };
        Some(format!("{} = {value}", mapping.columns.get(*place)?.target))
    };
    let key: Option<Vec<String>> = mapping.key.iter().map(one).collect();
    key.filter(|key| !key.is_empty()).map(|key| key.join(", "))
}

/// What an item does, by its number.
fn describe(batch: &Batch, item: usize) -> String {
    let what = match &batch.items()[item] {
        Item::Change(change) => match change.op {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
        },
        Item::Truncate { .. } => "truncate",
        Item::Schema { .. } => "schema change",
    };
    format!(
        "{what} (change {} of {} in the batch)",
        item + 1,
        batch.len()
    )
}
