//! Connections that have a name: made, changed, tested, looked into. Those of a file are shown as well, and
//! changed there.
//!
//! Secrets go in and never come out. What pipelines use stays as long as they do; a change is taken over by
//! those that run as a change of their own definition would be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role};
use super::bodies::shown;
use super::extract::{Json, Params, Route, table_name, to_toml};
use super::lists::{cut, next_page};
use super::merge::{refuse_masks, unmask};
use super::pipelines::{if_matches, limit, refuse_another_ground};
use super::problem::{Failure, Problem};
use crate::endpoints::{connection, users};
use crate::store::{ConnectionRow, Key, Level};
use crate::supervisor::{Shared, open_definition};
use crate::systems::{
    ColumnFound, Connection, Database, DatabaseAbout, Part, Place, SchemaFound, TableFound,
};

/// Connections that a tenant may have: all of them are in memory, and in one list.
const CONNECTIONS_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, put, delete))
        .routes(routes!(test))
        .routes(routes!(schemas))
        .routes(routes!(tables))
        .routes(routes!(columns))
}

/// A database, as a pipeline file says it in `[source]`. Secrets may be references, `${env:NAME}`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionKeys {
    /// By which pipelines use it: `connection = "orders"`. It stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where it is, or its parts in place of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// `***` keeps the one that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sslmode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sslrootcert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sslcert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sslkey: Option<String>,
}

/// A connection that has a name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NamedBody {
    name: String,
    /// Where it is, without secrets; `null` where that cannot be told.
    address: Option<String>,
    /// As whom.
    user: Option<String>,
    /// What it says, as it would be sent back: secrets are `***`, references stay. `null` where a file
    /// says it.
    #[schema(value_type = Option<Object>)]
    keys: Option<Value>,
    /// Pipelines that name it.
    used_by: Vec<String>,
    /// Why no pipeline can use it, if so.
    problem: Option<String>,
    /// The file that has it; it is read-only here then.
    file: Option<String>,
    /// RFC 3339; `null` where a file has it.
    created_at: Option<String>,
    created_by: Option<String>,
    updated_at: Option<String>,
    /// What `If-Match` wants.
    etag: Option<String>,
}

/// Where one is.
enum Found {
    File(Connection, PathBuf),
    Store(ConnectionRow),
}

fn etag(row: &ConnectionRow) -> String {
    format!("\"{}-{}\"", row.version, row.updated_at)
}

/// Its keys as a section of a pipeline file, where what hides secrets knows them.
fn section(keys: &str) -> String {
    format!("[source]\n{keys}")
}

/// The keys of a section again.
fn keys_of(section: &str) -> Result<String, Failure> {
    let tree: Value = toml::from_str(section)
        .map_err(|_| Failure::new(codes::CONFIG_SYNTAX, "the connection is not TOML"))?;
    to_toml(&tree["source"])
}

/// What was sent, as keys of a file.
fn written(sent: &ConnectionKeys) -> Result<String, Failure> {
    let mut keys = json!(sent);
    if let Value::Object(keys) = &mut keys {
        keys.remove("name");
    }
    to_toml(&keys)
}

/// The directories whose `connections.toml` counts for pipelines of a tenant.
fn directories(app: &App, caller: &Caller) -> Vec<PathBuf> {
    let Place::Store(own) = app.supervisor.shared.place(&caller.tenant) else {
        return Vec::new();
    };
    let members = app.supervisor.members_of(&caller.tenant).into_iter();
    let files = members.filter_map(|member| member.row().file);
    let beside: BTreeSet<PathBuf> = files
        .filter_map(|file| Some(Path::new(&file).parent()?.to_path_buf()))
        .collect();
    let mut all = vec![own];
    all.extend(beside);
    all.dedup();
    all
}

/// Those of files, each with its file.
async fn of_files(app: &App, caller: &Caller) -> Result<Vec<(Connection, PathBuf)>, Error> {
    let (systems, directories) = (
        Arc::clone(&app.supervisor.shared.systems),
        directories(app, caller),
    );
    let read = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        for directory in directories {
            found.extend(systems.connections_beside(&directory)?);
        }
        Ok(found)
    });
    read.await.map_err(|died| {
        Error::definite(codes::INTERNAL, "reading connections died").caused_by(died)
    })?
}

async fn look_up(app: &App, caller: &Caller, name: &str) -> Result<Option<Found>, Failure> {
    let files = of_files(app, caller).await?;
    let mut files = files.into_iter();
    if let Some((found, file)) = files.find(|(known, _)| known.name == name) {
        return Ok(Some(Found::File(found, file)));
    }
    let key = Key::new(caller.tenant.as_str(), name);
    let found = app.supervisor.shared.endpoints.find(&key);
    Ok(found.map(Found::Store))
}

async fn find(app: &App, caller: &Caller, name: &str) -> Result<Found, Failure> {
    let found = look_up(app, caller, name).await?;
    found.ok_or_else(|| Failure::not_found("connection"))
}

/// One of the store, or the refusal to change what a file has.
async fn of_store(app: &App, caller: &Caller, name: &str) -> Result<ConnectionRow, Failure> {
    match find(app, caller, name).await? {
        Found::Store(row) => Ok(row),
        Found::File(_, file) => Err(file_managed(name, &file)),
    }
}

fn file_managed(name: &str, file: &Path) -> Failure {
    let text = format!("the connection {name} is defined by {}", file.display());
    Error::definite(codes::API_FILE_MANAGED, text)
        .first_action("change it in the file")
        .into()
}

/// What is wrong with it, or how to reach it. Connects to nothing.
async fn opened(shared: &Shared, connection: Connection) -> Result<Arc<dyn Database>, Error> {
    let systems = Arc::clone(&shared.systems);
    let opened = tokio::task::spawn_blocking(move || systems.database(&connection)).await;
    opened.map_err(|died| {
        Error::definite(codes::INTERNAL, "reading the connection died").caused_by(died)
    })?
}

/// One of the list of all, which knows what else is called so.
pub(super) struct Listed {
    found: Found,
    /// The file that has one of this name too, and is asked first.
    hidden_by: Option<PathBuf>,
}

impl Listed {
    /// Where it is in the list, by name: those of files before one of the store.
    pub(super) fn place(&self) -> (String, bool, String) {
        match &self.found {
            Found::File(found, file) => (found.name.clone(), false, file.display().to_string()),
            Found::Store(row) => (row.key.id.clone(), true, String::new()),
        }
    }
}

/// Every connection that has a name, and why those of files are not known, if so.
pub(super) async fn all(app: &App, caller: &Caller) -> (Vec<Listed>, Option<String>) {
    let (files, problem) = match of_files(app, caller).await {
        Ok(files) => (files, None),
        Err(err) => (Vec::new(), Some(format!("{}: {err}", err.code()))),
    };
    let mut first: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut listed = Vec::new();
    for (found, file) in files {
        let known = first
            .entry(found.name.clone())
            .or_insert_with(|| file.clone());
        listed.push(Listed {
            hidden_by: (*known != file).then(|| known.clone()),
            found: Found::File(found, file),
        });
    }
    let rows = app.supervisor.shared.endpoints.of(&caller.tenant);
    listed.extend(rows.into_iter().map(|row| Listed {
        hidden_by: first.get(&row.key.id).cloned(),
        found: Found::Store(row),
    }));
    listed.sort_by_cached_key(Listed::place);
    (listed, problem)
}

/// One of them, as it is told.
pub(super) async fn told(app: &App, caller: &Caller, listed: Listed) -> NamedBody {
    let mut body = body(app, caller, listed.found).await;
    if let Some(file) = listed.hidden_by {
        body.problem = Some(format!("{} has one of this name too", file.display()));
    }
    body
}

async fn body(app: &App, caller: &Caller, found: Found) -> NamedBody {
    let shared = &app.supervisor.shared;
    let (reads, file, row) = match found {
        Found::File(found, file) => (found, Some(file), None),
        Found::Store(row) => {
            let place = shared.place(&caller.tenant);
            (connection(&row.key.id, &row.keys, place), None, Some(row))
        }
    };
    let name = reads.name.clone();
    let used_by = if let Some(row) = &row {
        users(&app.supervisor, &row.key)
    } else {
        let mut members = app.supervisor.members_of(&caller.tenant);
        members.retain(|member| member.connections().contains(&name));
        members
    };
    let (address, problem) = match opened(shared, reads).await {
        Ok(database) => (Some(database.address()), None),
        Err(err) => (None, Some(format!("{}: {err}", err.code()))),
    };
    let (address, user) = address.unzip();
    let keys = row.as_ref().map(|row| {
        let section: Value = toml::from_str(&shown(&section(&row.keys))).unwrap_or_default();
        section["source"].clone()
    });
    NamedBody {
        name,
        address,
        user,
        keys,
        used_by: used_by.iter().map(|member| member.key.id.clone()).collect(),
        problem,
        file: file.map(|file| file.display().to_string()),
        etag: row.as_ref().map(etag),
        created_at: row.as_ref().map(|row| row.created_at.clone()),
        created_by: row.as_ref().map(|row| row.created_by.clone()),
        updated_at: row.map(|row| row.updated_at),
    }
}

async fn answer(app: &App, caller: &Caller, status: StatusCode, found: Found) -> Response {
    let body = body(app, caller, found).await;
    let tag = body.etag.clone();
    let mut response = (status, Answer(body)).into_response();
    let tag = tag.and_then(|tag| tag.parse().ok());
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[utoipa::path(post, path = "/connections", tag = "connections", request_body = ConnectionKeys,
    responses((status = 201, body = NamedBody), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(sent): Json<ConnectionKeys>,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let shared = &app.supervisor.shared;
    let name = sent
        .name
        .clone()
        .ok_or_else(|| Failure::new(codes::API_MALFORMED, "a connection has a `name`"))?;
    let keys = written(&sent)?;
    refuse_masks(&section(&keys))?;
    let _held = shared.endpoints.hold().await;
    match look_up(&app, &caller, &name).await? {
        Some(Found::File(_, file)) => return Err(file_managed(&name, &file)),
        Some(Found::Store(_)) => return Err(there_is(&name)),
        None => {}
    }
    if shared.endpoints.of(&caller.tenant).len() >= CONNECTIONS_MAX {
        let text = format!("{} has {CONNECTIONS_MAX} connections", caller.tenant);
        return Err(Failure::new(codes::TENANT_FULL, text));
    }
    opened(
        shared,
        connection(&name, &keys, shared.place(&caller.tenant)),
    )
    .await?;
    let key = Key::new(caller.tenant.as_str(), name.as_str());
    let row = app.store.add_connection(key, keys, caller.name.clone());
    let row = row.await?.ok_or_else(|| there_is(&name))?;
    shared.endpoints.keep(row.clone());
    let mut response = answer(&app, &caller, StatusCode::CREATED, Found::Store(row)).await;
    if let Ok(place) = format!("/api/v1/connections/{name}").parse() {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

fn there_is(name: &str) -> Failure {
    let text = format!("there is a connection {name} already");
    Error::definite(codes::API_CONFLICT, text)
        .first_action("choose another name, or change the one that is there")
        .into()
}

#[utoipa::path(get, path = "/connections/{id}", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = NamedBody), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
) -> Result<Response, Failure> {
    let found = find(&app, &caller, &name).await?;
    Ok(answer(&app, &caller, StatusCode::OK, found).await)
}

#[utoipa::path(put, path = "/connections/{id}", tag = "connections",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = ConnectionKeys,
    responses((status = 200, description = "Pipelines that run with it stop in order and go on with it as it \
        is now", body = NamedBody), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 412, body = Problem), (status = 422, body = Problem), (status = 428, body = Problem)))]
async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
    headers: HeaderMap,
    Json(sent): Json<ConnectionKeys>,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let shared = &app.supervisor.shared;
    let _held = shared.endpoints.hold().await;
    let row = of_store(&app, &caller, &name).await?;
    if_matches(&headers, &etag(&row))?;
    if sent.name.as_ref().is_some_and(|said| *said != name) {
        let text = format!("it is named {name}; a name stays");
        return Err(Failure::new(codes::API_CONFLICT, text));
    }
    let keys = keys_of(&unmask(&section(&written(&sent)?), &section(&row.keys))?)?;
    let place = shared.place(&caller.tenant);
    let changed = connection(&name, &keys, place);
    opened(shared, changed.clone()).await?;
    if keys == row.keys {
        // Nothing that runs stops for it.
        return Ok(answer(&app, &caller, StatusCode::OK, Found::Store(row)).await);
    }
    let users = users(&app.supervisor, &row.key);
    for member in &users {
        let mut definition = shared.definition(&member.row()).await?;
        definition.connections.retain(|known| known.name != name);
        definition.connections.push(changed.clone());
        let new = open_definition(shared, definition).await?;
        refuse_another_ground(member, &new)?;
    }
    let keys_of_users = users.iter().map(|member| member.key.clone()).collect();
    let changed = app
        .store
        .change_connection(row.key, row.version, keys, keys_of_users);
    let (row, pipelines) = changed
        .await?
        .ok_or_else(|| Failure::new(codes::API_CHANGED, "somebody changed it meanwhile"))?;
    shared.endpoints.keep(row.clone());
    for pipeline in pipelines {
        if let Some(member) = app.supervisor.begin_anew(pipeline) {
            let text = format!("the connection {name} was changed");
            let by = Some(caller.name.clone());
            app.supervisor
                .note(&member, Level::Info, "definition", text, by);
        }
    }
    Ok(answer(&app, &caller, StatusCode::OK, Found::Store(row)).await)
}

#[utoipa::path(delete, path = "/connections/{id}", tag = "connections",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204, description = "It is gone"), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "Pipelines use it, or a file has it"),
        (status = 412, body = Problem), (status = 428, body = Problem)))]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    caller.needs(Role::Admin)?;
    let shared = &app.supervisor.shared;
    let _held = shared.endpoints.hold().await;
    let row = of_store(&app, &caller, &name).await?;
    if_matches(&headers, &etag(&row))?;
    let users = users(&app.supervisor, &row.key);
    if !users.is_empty() {
        let users: Vec<&str> = users.iter().map(|member| member.key.id.as_str()).collect();
        let text = format!("the connection {name} is used by {}", users.join(", "));
        return Err(Failure::new(codes::CONNECTION_USED, text));
    }
    let removed = app.store.remove_connection(row.key.clone(), row.version);
    if !removed.await? {
        let text = "somebody changed it meanwhile";
        return Err(Failure::new(codes::API_CHANGED, text));
    }
    shared.endpoints.forget(&row.key);
    Ok(StatusCode::NO_CONTENT)
}

/// What came of a try to connect.
#[derive(Debug, Serialize, ToSchema)]
struct TestBody {
    /// Whether the database answered.
    ok: bool,
    /// What it says of itself; `null` where it did not answer.
    about: Option<DatabaseAbout>,
    /// How long it took.
    seconds: f64,
    /// Why not: a catalogue code, a sentence, what to do first.
    code: Option<String>,
    detail: Option<String>,
    action: Option<String>,
}

/// The database of a connection, for somebody who may look into it.
async fn database(app: &App, caller: &Caller, name: &str) -> Result<Arc<dyn Database>, Failure> {
    let shared = &app.supervisor.shared;
    let reads = match find(app, caller, name).await? {
        Found::File(found, _) => found,
        Found::Store(row) => connection(name, &row.keys, shared.place(&caller.tenant)),
    };
    caller.needs(Role::Operator)?;
    Ok(opened(shared, reads).await?)
}

/// Looks into a database: so many at once, and none for long.
macro_rules! look {
    ($app:expr, $look:expr) => {{
        let Ok(_place) = $app.looks.try_acquire() else {
            let text = "others look into databases at this moment";
            return Err(Failure::new(codes::API_TOO_MANY, text).retry_after(1));
        };
        $look.await
    }};
}

#[utoipa::path(post, path = "/connections/{id}/test", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, description = "It was tried; `ok` tells whether the database answered",
        body = TestBody), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn test(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
) -> Result<Answer<TestBody>, Failure> {
    let database = database(&app, &caller, &name).await?;
    let began = std::time::Instant::now();
    let tried = look!(app, database.about());
    let seconds = began.elapsed().as_secs_f64();
    Ok(Answer(match tried {
        Ok(about) => TestBody {
            ok: true,
            about: Some(about),
            seconds,
            code: None,
            detail: None,
            action: None,
        },
        Err(err) => TestBody {
            ok: false,
            about: None,
            seconds,
            code: Some(err.code().to_string()),
            detail: Some(err.to_string()),
            action: Some(err.action()),
        },
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SchemasParams {
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TablesParams {
    /// Of this schema; `public` without it.
    schema: Option<String>,
    /// At most so many, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// From `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ColumnsParams {
    /// `schema.table`; required.
    table: Option<String>,
}

/// A page of schemas that the role may use, by name.
#[derive(Debug, Serialize, ToSchema)]
struct SchemaList {
    schemas: Vec<SchemaFound>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// A page of tables of a schema, by name.
#[derive(Debug, Serialize, ToSchema)]
struct FoundTableList {
    tables: Vec<TableFound>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

/// The columns of a table, in its order.
#[derive(Debug, Serialize, ToSchema)]
struct ColumnList {
    columns: Vec<ColumnFound>,
}

/// A page and one more, by which it is known whether there is another.
fn part(wanted: Option<usize>, cursor: Option<String>) -> Result<Part, Failure> {
    Ok(Part {
        after: name_of_database(cursor.unwrap_or_default())?,
        limit: limit(wanted)? + 1,
    })
}

/// No database has such a name.
fn name_of_database(name: String) -> Result<String, Failure> {
    if name.contains('\0') {
        return Err(Failure::new(codes::API_MALFORMED, "a name has no NUL"));
    }
    Ok(name)
}

#[utoipa::path(get, path = "/connections/{id}/schemas", tag = "connections",
    params(("id" = String, Path), SchemasParams),
    responses((status = 200, body = SchemaList), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn schemas(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
    Params(params): Params<SchemasParams>,
) -> Result<Answer<SchemaList>, Failure> {
    let part = part(params.limit, params.cursor)?;
    let database = database(&app, &caller, &name).await?;
    let mut schemas = look!(app, database.schemas(&part))?;
    let next_cursor = cut(&mut schemas, part.limit - 1, |schema| schema.name.clone());
    Ok(Answer(SchemaList {
        next: next_page(next_cursor.as_deref()),
        schemas,
        next_cursor,
    }))
}

#[utoipa::path(get, path = "/connections/{id}/tables", tag = "connections",
    params(("id" = String, Path), TablesParams),
    responses((status = 200, body = FoundTableList), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn tables(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
    Params(params): Params<TablesParams>,
) -> Result<Answer<FoundTableList>, Failure> {
    let part = part(params.limit, params.cursor)?;
    let schema = params.schema.unwrap_or_else(|| "public".to_owned());
    let schema = name_of_database(schema)?;
    let database = database(&app, &caller, &name).await?;
    let mut tables = look!(app, database.tables(&schema, &part))?;
    let next_cursor = cut(&mut tables, part.limit - 1, |table| table.name.clone());
    Ok(Answer(FoundTableList {
        next: next_page(next_cursor.as_deref()),
        tables,
        next_cursor,
    }))
}

#[utoipa::path(get, path = "/connections/{id}/columns", tag = "connections",
    params(("id" = String, Path), ColumnsParams),
    responses((status = 200, body = ColumnList), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem)))]
async fn columns(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(name): Route<String>,
    Params(params): Params<ColumnsParams>,
) -> Result<Answer<ColumnList>, Failure> {
    let database = database(&app, &caller, &name).await?;
    let table = params.table.unwrap_or_default();
    let table = table_name(&name_of_database(table)?)?;
    let columns = look!(app, database.columns(&table))?;
    if columns.is_empty() {
        return Err(Failure::not_found("table"));
    }
    Ok(Answer(ColumnList { columns }))
}
