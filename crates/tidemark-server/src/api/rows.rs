//! Rows of a table on both sides, side by side: the first ones, or the one with a key.
//!
//! Values are shown masked as the pipeline masks them, to operators and administrators, bounded in rows
//! and bytes, and who looked is in the audit; the key that was asked for is not, since it is data. Both
//! sides are read in read-only transactions whose statements end after a while. What a difference
//! means is told in `tidemark_core::verify::look`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{ConnectInfo, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::pipeline::going_on::GoingOn;
use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::status::{PipelineState, TableStatus, TableStatusState};
use tidemark_core::verify::look::{
    self, CellText, Limits, Look, Pair, ShownCell, ShownRow, Sides, Which,
};
use tidemark_core::{Error, Result};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::extract::{Params, Route, table_name};
use super::guard::write_down;
use super::pipelines::member;
use super::problem::{Failure, Problem};
use super::quarantine::{KeptRowBody, body as kept_body, kept};
use crate::store::Cursor;
use crate::supervisor::{Member, open, word_of};
use crate::systems::Opened;

/// Rows of a side, by default and at most.
const ROWS: usize = 10;
const ROWS_MAX: usize = 50;
/// Characters of a row, shared out between its cells, and of a cell.
const ROW_CHARS: usize = 20_000;
const CELL_CHARS_MIN: usize = 20;
const CELL_CHARS_MAX: usize = 1_000;
/// Bytes of all that is shown.
const SHOWN_BYTES_MAX: usize = 1 << 20;
/// How long a statement may take on either side.
const STATEMENT_WITHIN: Duration = Duration::from_secs(5);
/// Comparisons that are searched for one of the table.
const COMPARISONS_MAX: usize = 20;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(preview))
        .routes(routes!(trace))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PreviewParams {
    /// A table of the source, as `schema.table`.
    table: Option<String>,
    /// So many rows of each side, 1 to 50.
    #[param(minimum = 1, maximum = 50)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TraceParams {
    /// A table of the source, as `schema.table`.
    table: Option<String>,
    /// Text of the key as the target has it; of several columns as `["a", "b"]`.
    key: Option<String>,
}

/// Rows of both sides.
#[derive(Debug, Serialize, ToSchema)]
struct RowsBody {
    pipeline_id: String,
    /// On the source.
    table: String,
    target: String,
    /// The table's state; `null` where it is not known.
    table_state: Option<String>,
    columns: Vec<ShownColumn>,
    /// Whether a filter leaves rows of the source out; they are not shown.
    is_filtered: bool,
    rows: Vec<PairBody>,
    /// `false` where rows were left out, since they would be too much to show.
    is_whole: bool,
    source_read_at: String,
    target_read_at: String,
    /// What the target had when that was asked for last.
    processed_lsn: Option<String>,
    gap_bytes: Option<u64>,
}

/// A column that is carried.
#[derive(Debug, Serialize, ToSchema)]
struct ShownColumn {
    source: String,
    target: String,
    r#type: String,
    is_key: bool,
    /// `hash`, `redact`, `null`, `partial` or `fixed`.
    mask: Option<&'static str>,
}

/// A row on both sides.
#[derive(Debug, Serialize, ToSchema)]
struct PairBody {
    /// Text of the key columns; empty without a key.
    key: Vec<String>,
    /// `same`, `changed`, `missing` (from the target), `extra` (not on the source) or `unpaired` (nothing tells
    /// which row of the other side it is).
    verdict: &'static str,
    /// Whether the verdict holds. Otherwise what differs may be a change on its way.
    is_settled: bool,
    /// In the order of `columns`; `null` where the source has no such row.
    source: Option<Vec<CellBody>>,
    target: Option<Vec<CellBody>>,
    /// Places in `columns` that differ.
    different: Vec<usize>,
}

/// A value.
#[derive(Debug, Serialize, ToSchema)]
struct CellBody {
    /// `null`, `text`, `cut` (its beginning), `large` (its size alone) or `hidden` (not what the mask makes of the
    /// source's value).
    kind: &'static str,
    text: Option<String>,
    /// Of one that is `large`, in the table.
    bytes: Option<u64>,
}

/// A row on both sides, and what else is known of it.
#[derive(Debug, Serialize, ToSchema)]
struct TraceBody {
    #[serde(flatten)]
    rows: RowsBody,
    /// What of the row is in quarantine.
    quarantine: Vec<KeptRowBody>,
    /// The last comparison of its table.
    compared: Option<ComparedBody>,
}

/// A comparison of a table.
#[derive(Debug, Serialize, ToSchema)]
struct ComparedBody {
    /// `identical`, `different` or `not_compared`.
    result: String,
    lsn: String,
    at: String,
}

#[utoipa::path(get, path = "/pipelines/{id}/preview", tag = "rows", params(("id" = String, Path), PreviewParams),
    responses((status = 200, description = "With values, masked; that it was looked at is in the audit", body = RowsBody),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn preview(
    State(app): State<Arc<App>>,
    caller: Caller,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Route(id): Route<String>,
    Params(params): Params<PreviewParams>,
) -> Result<Answer<RowsBody>, Failure> {
    let member = member(&app, &caller, &id)?;
    let asked = asked(&app, &caller, &member, params.table.as_deref()).await?;
    let rows_max = params.limit.unwrap_or(ROWS);
    if !(1..=ROWS_MAX).contains(&rows_max) {
        return Err(malformed(format!("limit is 1 to {ROWS_MAX}")));
    }
    let body = asked.look(&app, &member, Which::First, rows_max).await?;
    asked.write_down(&app, &caller, address, "preview").await?;
    Ok(Answer(body))
}

#[utoipa::path(get, path = "/pipelines/{id}/trace", tag = "rows", params(("id" = String, Path), TraceParams),
    responses((status = 200, description = "With values, masked; that it was looked at is in the audit, without the key",
            body = TraceBody),
        (status = 400, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
async fn trace(
    State(app): State<Arc<App>>,
    caller: Caller,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Route(id): Route<String>,
    Params(params): Params<TraceParams>,
) -> Result<Answer<TraceBody>, Failure> {
    let member = member(&app, &caller, &id)?;
    let asked = asked(&app, &caller, &member, params.table.as_deref()).await?;
    let key = key_of(&asked.mapping, params.key.as_deref())?;
    let keys = [key];
    let rows = asked.look(&app, &member, Which::Keys(&keys), ROWS).await?;
    let mut quarantine = kept(&app, &member).await?;
    // One value may be written in several ways; what is kept has it as the server writes it.
    let found = rows.rows.iter().map(|row| &row.key);
    let meant: Vec<&Vec<String>> = keys.iter().chain(found).collect();
    quarantine.retain(|row| {
        row.first().table == asked.table && row.keys.iter().any(|key| meant.contains(&key))
    });
    let compared = compared(&app, &member, &asked.table).await?;
    asked.write_down(&app, &caller, address, "trace").await?;
    Ok(Answer(TraceBody {
        rows,
        quarantine: quarantine.iter().map(|row| kept_body(row, true)).collect(),
        compared,
    }))
}

fn malformed(text: String) -> Failure {
    Failure::new(codes::API_MALFORMED, text)
}

/// A table that somebody may look at.
struct Asked {
    id: String,
    table: TableName,
    mapping: TableMapping,
    opened: Arc<Opened>,
}

async fn asked(
    app: &App,
    caller: &Caller,
    member: &Member,
    table: Option<&str>,
) -> Result<Asked, Failure> {
    caller.needs(Role::Operator)?;
    let table = table.ok_or_else(|| malformed("which table is said by `table`".to_owned()))?;
    let table = table_name(table)?;
    let opened = match member.alive() {
        Some(alive) => alive.opened,
        None => Arc::new(open(&app.supervisor.shared, member).await?),
    };
    let rules = &opened.config.rules;
    let schema = opened.source.describe(rules.selection()).await?;
    let begun = opened.target.checkpoint().await?;
    let going_on = GoingOn::of(rules, &schema, begun.as_ref())?;
    let mut mappings = going_on.mappings.into_iter();
    let mapping = mappings.find(|mapping| *mapping.source() == table);
    Ok(Asked {
        id: member.key.id.clone(),
        mapping: mapping.ok_or_else(|| Failure::not_found("table"))?,
        table,
        opened,
    })
}

impl Asked {
    async fn look(
        &self,
        app: &App,
        member: &Member,
        which: Which<'_>,
        rows_max: usize,
    ) -> Result<RowsBody, Failure> {
        let Ok(_place) = app.looks.try_acquire() else {
            let text = "others look at rows at this moment";
            return Err(Failure::new(codes::API_TOO_MANY, text).retry_after(1));
        };
        let columns = self.mapping.columns.len().max(1);
        let limits = Limits {
            rows_max,
            chars_max: (ROW_CHARS / columns).clamp(CELL_CHARS_MIN, CELL_CHARS_MAX),
            within: STATEMENT_WITHIN,
        };
        let processed = || processed(member, &self.table);
        let sides = Sides {
            source: self.opened.source.as_ref(),
            target: self.opened.target.as_ref(),
            processed: &processed,
        };
        let looked = look::look(&sides, &self.mapping, which, &limits).await;
        let found = looked.map_err(|err| self.told(err))?;
        Ok(self.body(member, &found))
    }

    /// What somebody who looks at rows has to do with it.
    fn told(&self, err: Error) -> Failure {
        match err.sqlstate_code() {
            Some("57014") => {
                let waited = STATEMENT_WITHIN.as_secs();
                let text = format!("{} was not read within {waited} s", self.table);
                Error::transient(codes::API_TIMEOUT, text).into()
            }
            Some(state) if state.starts_with("22") => malformed(format!(
                "the key does not fit the columns of {}",
                self.table
            )),
            _ => err.into(),
        }
    }

    fn body(&self, member: &Member, found: &Look) -> RowsBody {
        let mapping = &self.mapping;
        let status = member.view().status;
        let mut bytes = 0;
        let mut rows: Vec<PairBody> = found.pairs.iter().map(pair).collect();
        rows.retain(|row| {
            bytes += row.bytes();
            bytes <= SHOWN_BYTES_MAX
        });
        RowsBody {
            pipeline_id: self.id.clone(),
            table: self.table.to_string(),
            target: mapping.target.to_string(),
            table_state: table_of(&status.tables, &self.table).map(|table| word_of(&table.state)),
            columns: columns(mapping),
            is_filtered: mapping.filter.is_some(),
            is_whole: rows.len() == found.pairs.len(),
            rows,
            source_read_at: found.source_at.clone(),
            target_read_at: found.target_at.clone(),
            processed_lsn: status.processed_lsn.map(|lsn| lsn.to_string()),
            gap_bytes: status.gap_bytes,
        }
    }

    /// Nobody looks at values unseen.
    async fn write_down(
        &self,
        app: &App,
        caller: &Caller,
        address: SocketAddr,
        what: &str,
    ) -> Result<()> {
        let object = format!("/api/v1/pipelines/{}/{what}?table={}", self.id, self.table);
        write_down(app, caller, address, "GET", object, "200".to_owned()).await
    }
}

fn table_of<'a>(tables: &'a [TableStatus], name: &TableName) -> Option<&'a TableStatus> {
    let name = name.to_string();
    tables.iter().find(|table| table.source == name)
}

/// How far the target is with the changes of a table, as long as they come.
fn processed(member: &Member, table: &TableName) -> Option<Position> {
    let status = member.view().status;
    let comes = matches!(
        status.state,
        PipelineState::CatchingUp | PipelineState::Streaming
    );
    let table = table_of(&status.tables, table)?;
    let comes = comes && table.state == TableStatusState::Streaming;
    status.processed_lsn.filter(|_| comes)
}

fn columns(mapping: &TableMapping) -> Vec<ShownColumn> {
    let columns = mapping.columns.iter().enumerate();
    let columns = columns.map(|(at, column)| ShownColumn {
        source: mapping.source_column(column).to_owned(),
        target: column.target.clone(),
        r#type: mapping.schema.columns[column.source].type_name.clone(),
        is_key: mapping.key.contains(&at),
        mask: column.mask.as_ref().map(tidemark_core::mask::Mask::word),
    });
    columns.collect()
}

fn pair(pair: &Pair) -> PairBody {
    let cells = |row: &ShownRow| row.cells.iter().map(|shown| cell(shown.as_ref())).collect();
    PairBody {
        key: pair.key.clone(),
        verdict: pair.verdict.word(),
        is_settled: pair.is_settled,
        source: pair.source.as_ref().map(cells),
        target: pair.target.as_ref().map(cells),
        different: pair.different(),
    }
}

fn cell(shown: Option<&ShownCell>) -> CellBody {
    let (kind, text, bytes) = match shown.map(|cell| &cell.text) {
        None => ("null", None, None),
        Some(CellText::Whole(text)) => ("text", Some(text), None),
        Some(CellText::Cut(text)) => ("cut", Some(text), None),
        Some(CellText::Large(bytes)) => ("large", None, Some(*bytes)),
        Some(CellText::Hidden) => ("hidden", None, None),
    };
    CellBody {
        kind,
        text: text.cloned(),
        bytes,
    }
}

impl PairBody {
    fn bytes(&self) -> usize {
        let cells = self.source.iter().chain(&self.target).flatten();
        let cells = cells.map(|cell| cell.text.as_ref().map_or(0, String::len));
        cells.chain(self.key.iter().map(String::len)).sum()
    }
}

/// The key that is asked for.
fn key_of(mapping: &TableMapping, text: Option<&str>) -> Result<Vec<String>, Failure> {
    let table = mapping.source();
    let names: Vec<&str> = mapping
        .key
        .iter()
        .map(|at| mapping.source_column(&mapping.columns[*at]))
        .collect();
    if names.is_empty() {
        let text = format!("{table} has no key by which its rows are told");
        return Err(Failure::new(codes::API_CONFLICT, text));
    }
    let text = text.ok_or_else(|| malformed("which row is said by `key`".to_owned()))?;
    let parts = serde_json::from_str::<Vec<String>>(text);
    let key = parts.unwrap_or_else(|_| vec![text.to_owned()]);
    if key.len() != names.len() || key.iter().any(|part| part.contains('\0')) {
        let (count, names) = (names.len(), names.join(", "));
        let text =
            format!("the key of {table} has {count} columns, {names}; several as [\"a\", \"b\"]");
        return Err(malformed(text));
    }
    Ok(key)
}

/// The last comparison that had the table in it.
async fn compared(
    app: &App,
    member: &Member,
    table: &TableName,
) -> Result<Option<ComparedBody>, Failure> {
    let page = Cursor {
        before: None,
        limit: COMPARISONS_MAX,
    };
    let table = table.to_string();
    let word = |value: &Value, name: &str| value[name].as_str().map(str::to_owned);
    let comparisons = app.store.verifications(&member.key, None, page).await?;
    let mut found = comparisons.into_iter().filter_map(|comparison| {
        let mut tables = comparison.tables.as_array()?.iter();
        let of_table = tables.find(|one| one["source"] == table.as_str())?;
        Some(ComparedBody {
            result: word(of_table, "result")?,
            lsn: word(of_table, "lsn")?,
            at: comparison.at.clone(),
        })
    });
    Ok(found.next())
}
