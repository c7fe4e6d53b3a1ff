//! The API as a page, `docs/reference/api.md`; made anew by `UPDATE_DOCS=1 cargo test -p
//! tidemark-server reference`.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

const HEAD: &str = "\
# The API

<!-- The list of routes is made from the OpenAPI document; a test compares the two. -->

`tidemark serve` answers on `http://127.0.0.1:7070`. The document that describes every route and body (OpenAPI 3.1) is at
`/api/v1/openapi.json`, a page that shows it, with nothing of any other origin, at `/api/docs`. Bodies are JSON; a definition may also be the text of a pipeline file (`Content-Type:
application/toml`). Names of fields are those of `--json`, positions are text as the database writes them, times RFC 3339.

    curl http://127.0.0.1:7070/api/v1/monitoring/pipelines/shop/lag
    curl -X POST -H 'Content-Type: application/toml' --data-binary @shop.toml 'http://127.0.0.1:7070/api/v1/pipelines?start=true'
    curl -X POST http://127.0.0.1:7070/api/v1/pipelines/shop/actions/pause

- **Unknown is `null`**, never 0: `stale`, `unknown_reason` (a code) and `last_known` say why and what was known.
  A run that begins has the health `unknown`, and what it has not looked at yet as its `reason`, until it has read what the target has,
  the end of the source's log, and, unless it loads, once how far it is behind.
- **Errors** are problem documents (RFC 9457) with `code`, `effect`, `fix`, `retryable`, `request_id` and, where a definition
  has several faults, `errors` with all of them. `/problems/CODE` explains a code.
- **Actions** are answered with 202 and `Location: /api/v1/operations/ID`, where their end is told. `\"dry_run\": true`
  tells the effect of a resync, `retry`, `skip` or `drop` instead. `POST /api/v1/operations/ID/cancel` gives a verification up:
  both sides stop reading within seconds. What the pipeline was told to do is for the pipeline to end.
- **Changes** of a definition need `If-Match` with the `ETag` that was read: 428 without it, 412 if somebody was faster. A
  pipeline that a file defines is changed in the file: 409.
- **`Idempotency-Key`** on a POST: the same request again within a day gets the same answer. A change that was begun is carried
  to its end whether or not anybody waits for the answer, so who lost the connection sends it again with its key.
- **Lists** have pages: `limit` up to 500, `next_cursor`, and `next`, the same list from there on. A state, health or time that there cannot
  be is refused: it would find nothing. Each has an `ETag` of what it says: with `If-None-Match` it is answered with 304 and no body as long as
  it would say the same. `GET /api/v1/pipelines?tag=` is of those with a tag (`[pipeline] tags`); `not_known` are those that may have it.
- **News** as server-sent events on `/api/v1/events/stream`, with numbers: `Last-Event-ID` goes on where a reader was, the
  event `reset` says that it must look at everything anew. What is kept of them is bounded by number and by size. `tables` has the
  tables that are otherwise than they were told before; with `\"whole\": true` it has all of them, and there are no others.
- **A demo's server** (`tidemark demo`, `/api/v1/version` says so) has two routes more, and no other has them: `GET /api/v1/demo`
  tells what can be broken and what came of it last, `POST /api/v1/demo/breaks` with `{\"what\": \"kill\"}` breaks it.
- **Rows** of both sides: `preview` shows the first ones of a table, `trace` one by its key, with what differs. `is_settled` tells
  a difference from a change on its way: the row was looked at again once the target had everything up to a position
  after the first look. Read-only, each statement ends after 5 s, cells and answers are bounded. A value of a masked column is
  shown only where it is what the mask makes of the source's value.
- **Log lines** of a pipeline since the server began: `logs`, newest first, bounded; JSON lines on stderr carry the same ids
  (`tenant`, `pipeline`, `op_id`, `request_id`). `PUT /api/v1/admin/log-level` says how loud the process is until it ends.
- **A report** of a pipeline in one document, `report.html`: how it stands, charts, tables, verification, events, runs, log lines and
  its definition without secrets; no script and nothing of elsewhere, to be kept and sent. So is one of each comparison,
  `verifications/NUMBER/report.html`.
- **Connections** that have a name (`POST /api/v1/connections`) say where a database is once for all pipelines of a tenant that are made
  through the API: `[source]` with `connection = \"orders\"`. They are sealed at rest, and shown with `***`. `test` tries one and tells what the
  database says of itself, `schemas`, `tables` and `columns` what is in it. One that changes is taken over by the pipelines that run with
  it; one that pipelines use is not deleted (409). Those of a `connections.toml` are shown, and changed in the file.
- **Secrets** go in and never come out: a definition shows `***`, and `***` sent back keeps what was there. References
  (`${env:NAME}`) stay references.

## Who may

On an address of this machine alone whoever reaches the server may do everything. `--auth token` asks for
`Authorization: Bearer TOKEN`; any other address is refused without it. The first start leaves a token of an administrator
in `admin.token` of the state directory; `POST /api/v1/tokens` gives more out, each with a role and a tenant. A tenant sees
its own pipelines and nothing else; what is another's is answered like what is not there.
Its definitions name no file, variable or socket of the server's machine; where their databases may be is said in
[the server's file](config.md#the-servers-file), `[databases]`, and how many of them it may have, `[tenants]`.

| role | may |
|--|--|
| viewer | look; keys and values of rows are not shown |
| operator | act on pipelines; see rows (both sides side by side, masked as in the pipeline; those in quarantine), which is written down in the audit |
| admin | define pipelines, give tokens out, read the audit |

A browser signs in with `POST /api/v1/session`: the token is kept in a cookie that no script reads (`HttpOnly`,
`SameSite=Strict`), and what changes something then needs the header `x-tidemark`, which no other site can send.

The `Host` header must name the address that is listened on, or a `--host`; a request of a page of another origin changes
nothing. Wrong tokens are slowed down by address.

## Health and metrics

| route | tells |
|--|--|
| `/livez` | the process turns; touches nothing |
| `/readyz`, `/healthz`, `/startupz` | the store answers, and alerts, schedules and history are looked after; `?verbose` lists, `?pipelines=strict` is 503 while a pipeline that is to run does not, or is not connected |
| `/metrics` | Prometheus' text format; what is not known is absent. `[metrics]` in the server's file gives it an address or a door of its own |

What happens is measured once for each commit of the target: `tidemark_apply_batch_rows`,
`tidemark_apply_batch_duration_seconds`, `tidemark_commit_to_apply_seconds`, and by stage (`read`, `queue`, `apply`)
`tidemark_stage_latency_seconds`, all histograms; `tidemark_checkpoint_age_seconds`. Loads count
`tidemark_load_rows_total` and `tidemark_load_bytes_total`, verifications `tidemark_verify_rows_compared_total`; those of
all tables leave `tidemark_verify_rows_different` and `tidemark_verify_last_timestamp_seconds`. `tidemark_errors_total` is
by `code` and `class` (`transient`, `data`, `definite`). These begin with the server.

## Routes

| method and route | parameters |
|--|--|
";

fn page() -> String {
    let document = serde_json::to_value(super::openapi()).expect("a document is plain data");
    let mut page = HEAD.to_owned();
    let paths = document.get("paths").and_then(Value::as_object);
    for (path, methods) in paths.into_iter().flatten() {
        for (method, about) in methods.as_object().into_iter().flatten() {
            let parameters = about.get("parameters").and_then(Value::as_array);
            let queries = parameters.into_iter().flatten().filter_map(|parameter| {
                let name = parameter.get("name")?.as_str()?;
                let is_query = parameter.get("in")?.as_str()? == "query";
                is_query.then(|| format!("`{name}`"))
            });
            let queries: Vec<String> = queries.collect();
            let method = method.to_uppercase();
            writeln!(page, "| `{method} {path}` | {} |", queries.join(", ")).expect("grows");
        }
    }
    page
}

#[test]
fn reference_is_what_the_handlers_say() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/api.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == page,
        "docs/reference/api.md is not up to date: UPDATE_DOCS=1"
    );
}
