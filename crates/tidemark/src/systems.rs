//! The one place where all systems meet: a pipeline's file becomes a [`Source`] and a [`Target`].
//!
//! Nothing outside of this file knows which kinds of databases there are. What a verb needs beyond
//! the two traits (slots of other pipelines, running a remedy) is here too, by kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config::Secret;
use tidemark_core::config::{Endpoint, PipelineConfig, Place, Problem, Problems, Reach, System};
use tidemark_core::finding::Side;
use tidemark_core::schema::TableName;
use tidemark_core::source::{Slot, Source};
use tidemark_core::target::{Existing, Target};
use tidemark_core::{Context, Error, Result};
use tidemark_postgres::browse;
use tidemark_postgres::config::{ConnectConfig, Renewal};
use tidemark_postgres::cutover::objects::LeftBehind;
use tidemark_postgres::cutover::{fence, objects};
use tidemark_postgres::source::{PgSource, PgSourceOptions, RelayOptions};
use tidemark_postgres::target::{Origin, PgTarget, origin};
use tidemark_postgres::wire::{Connection, Role, quote_ident, quote_literal};
use tidemark_server::systems::{
    ColumnFound, Database, DatabaseAbout, Part, SchemaFound, TableFound,
};

use crate::problem::Failure;

pub(crate) use tidemark_postgres::cutover::silence::{Seen, Silence};

/// How long a look into a database may take, with connecting to it.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Reads a pipeline again, as it is defined by now, its secrets included; `None` where it cannot be read.
pub(crate) type ReadAgain = Arc<dyn Fn() -> Option<PipelineConfig> + Send + Sync>;

/// The source of a pipeline. Connects to nothing yet.
pub(crate) fn source(
    config: &PipelineConfig,
    file: &Path,
    again: Option<&ReadAgain>,
) -> Result<Arc<dyn Source>, Failure> {
    let connect = lasting(config, Side::Source, again)?;
    match config.source.endpoint.system {
        System::Postgres => {
            let postgres = &config.source.postgres;
            let mut options = PgSourceOptions::new(connect, &config.name);
            options.slot.clone_from(&postgres.slot);
            options.publication.clone_from(&postgres.publication);
            options.create = postgres.create;
            options.origin = postgres.origin;
            options.queue_bytes_max = config.memory.queue_bytes();
            options.held_bytes_max = config.memory.held_bytes();
            options.spool_bytes_max = config.memory.spool_bytes();
            options.slot_creation_timeout = postgres.slot_creation_timeout;
            if let Some(directory) = &config.stream.spool_dir {
                options.spool_dir = beside(file, directory);
            }
            options.relay = postgres.relay.as_ref().map(|relay| RelayOptions {
                directory: beside(file, &relay.directory),
                bytes_max: relay.bytes_max,
                key: relay.key.clone(),
                budget_bytes: postgres.max_retained_bytes.unwrap_or(u64::MAX),
            });
            Ok(Arc::new(PgSource::new(options)?))
        }
    }
}

/// A path that is relative to the pipeline file.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// The target of a pipeline. Connects to nothing yet.
pub(crate) fn target(
    config: &PipelineConfig,
    again: Option<&ReadAgain>,
) -> Result<Arc<dyn Target>, Failure> {
    let connect = lasting(config, Side::Target, again)?;
    match config.target.endpoint.system {
        System::Postgres => {
            let existing = if config.mode.loads() {
                config.target.existing
            } else {
                // Nothing is loaded, so rows that are there are the copy whose changes come.
                Existing::SkipLoaded
            };
            let origin = if config.target.mark_origin {
                Origin::Marked
            } else {
                Origin::Unmarked
            };
            let workers = if config.mode.loads() {
                let (tables, chunks) = config.load_workers();
                tables * chunks
            } else {
                0
            };
            let target = PgTarget::new(connect, &config.name)
                .existing(existing)
                .origin(origin)
                .load_workers(workers);
            Ok(Arc::new(target))
        }
    }
}

/// Where a side is, without any secret: `orders-db:5432/orders`, and the role there.
pub(crate) fn address(config: &PipelineConfig, side: Side) -> Result<(String, String), Failure> {
    let connect = connect_config(config, side)?;
    Ok((connect.address(), connect.user))
}

/// The check that tells a side's version.
pub(crate) fn version_check(side: Side) -> Code {
    match side {
        Side::Source => codes::SOURCE_VERSION,
        Side::Target => codes::TARGET_VERSION,
    }
}

/// Runs a statement on a side: a remedy that a person agreed to.
pub(crate) async fn execute(config: &PipelineConfig, side: Side, sql: &str) -> Result<(), Failure> {
    let connect = connect_config(config, side)?;
    let mut connection = Connection::connect(&connect, Role::Ordinary).await?;
    connection
        .run(sql)
        .await
        .context(|| format!("run on the {side}: {sql}"))?;
    connection.close().await;
    Ok(())
}

/// Everything of the kind of a slot on the source, ours or not.
pub(crate) async fn slots(config: &PipelineConfig) -> Result<Vec<Slot>, Failure> {
    let connect = connect_config(config, Side::Source)?;
    let mut connection = Connection::connect(&connect, Role::Ordinary).await?;
    let slots = tidemark_postgres::source::list_slots(&mut connection).await?;
    connection.close().await;
    Ok(slots)
}

/// Drops a slot of the source by name. The server refuses one that somebody reads.
pub(crate) async fn drop_slot(config: &PipelineConfig, name: &str) -> Result<(), Failure> {
    let connect = connect_config(config, Side::Source)?;
    let mut connection = Connection::connect(&connect, Role::Ordinary).await?;
    connection
        .execute("SELECT pg_drop_replication_slot($1)", &[Some(name)])
        .await
        .context(|| format!("drop slot {name}"))?;
    connection.close().await;
    Ok(())
}

/// The statements that remove what a pipeline has on its source, for a person to run there.
pub(crate) fn removal_of_log(config: &PipelineConfig) -> String {
    let postgres = &config.source.postgres;
    format!(
        "SELECT pg_drop_replication_slot({}); DROP PUBLICATION IF EXISTS {}",
        quote_literal(&postgres.slot),
        quote_ident(&postgres.publication)
    )
}

/// Whether the role of a side may mark what it applies there.
pub(crate) async fn may_mark(config: &PipelineConfig, side: Side) -> Result<bool, Failure> {
    let connect = connect_config(config, side)?;
    let mut connection = Connection::connect(&connect, Role::Ordinary).await?;
    let is_permitted = origin::is_permitted(&mut connection).await?;
    connection.close().await;
    Ok(is_permitted)
}

/// Whether a side's database is read-only by default.
pub(crate) async fn is_fenced(config: &PipelineConfig, side: Side) -> Result<bool, Failure> {
    let connect = connect_config(config, side)?;
    Ok(fence::is_raised(&connect).await?)
}

/// Why the source could not be fenced, if so.
pub(crate) async fn fence_obstacle(config: &PipelineConfig) -> Result<Option<String>, Failure> {
    let connect = connect_config(config, Side::Source)?;
    Ok(fence::obstacle(&connect).await?)
}

/// Has the source refuse writes, and ends the sessions that it lets write still.
pub(crate) async fn raise_fence(config: &PipelineConfig) -> Result<fence::Raised, Failure> {
    let connect = connect_config(config, Side::Source)?;
    Ok(fence::raise(&connect).await?)
}

/// Lets a side be written to again.
pub(crate) async fn lower_fence(config: &PipelineConfig, side: Side) -> Result<(), Failure> {
    let connect = connect_config(config, side)?;
    Ok(fence::lower(&connect).await?)
}

/// Watches the source's log for whoever writes.
pub(crate) async fn watch_source(
    config: &PipelineConfig,
    patience: Duration,
) -> Result<Silence, Failure> {
    let connect = connect_config(config, Side::Source)?;
    let postgres = &config.source.postgres;
    Ok(Silence::watch(&connect, &postgres.slot, &postgres.publication, patience).await?)
}

/// What stays behind on the source, with the statements that make it on the target.
pub(crate) async fn left_behind(
    config: &PipelineConfig,
    tables: &[TableName],
) -> Result<Vec<LeftBehind>, Failure> {
    let connect = connect_config(config, Side::Source)?;
    Ok(objects::left_behind(&connect, tables).await?)
}

/// A database by itself. Connects to nothing yet.
pub(crate) fn database(endpoint: &Endpoint, reach: &Reach) -> Result<Looked, Failure> {
    match endpoint.system {
        System::Postgres => {
            let mut connect = parse(endpoint, tidemark_postgres::config::Side::Source)?;
            if let Some(password) = &endpoint.password {
                connect.set_password(Secret::new(password.expose()));
            }
            connect.reach = reach.clone();
            Ok(Looked(connect))
        }
    }
}

/// A database that is looked into, each time by a connection of its own.
pub(crate) struct Looked(ConnectConfig);

impl Looked {
    /// Whether it has a socket or a file of this machine.
    pub(crate) fn is_of_this_machine(&self) -> bool {
        !self.0.of_this_machine().is_empty()
    }

    async fn open(&self) -> Result<Connection> {
        browse::open(&self.0).await
    }
}

/// A look, which ends by itself.
async fn within<T>(look: impl Future<Output = Result<T>>) -> Result<T> {
    let looked = tokio::time::timeout(LOOK_WITHIN, look).await;
    looked.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", LOOK_WITHIN.as_secs());
        Err(Error::transient(codes::API_TIMEOUT, text))
    })
}

#[async_trait]
impl Database for Looked {
    fn address(&self) -> (String, String) {
        (self.0.address(), self.0.user.clone())
    }

    async fn about(&self) -> Result<DatabaseAbout> {
        let about = within(async {
            let mut connection = self.open().await?;
            let about = browse::about(&mut connection).await;
            connection.close().await;
            about
        });
        let about = about.await?;
        Ok(DatabaseAbout {
            version: about.version,
            database: about.database,
            user: about.role,
            tls: about.is_encrypted,
            standby: about.is_standby,
            wal_level: about.wal_level,
            replication: about.may_replicate,
        })
    }

    async fn schemas(&self, part: &Part) -> Result<Vec<SchemaFound>> {
        let found = within(async {
            let mut connection = self.open().await?;
            let found = browse::schemas(&mut connection, &page(part)).await;
            connection.close().await;
            found
        });
        let found = found.await?.into_iter().map(|schema| SchemaFound {
            name: schema.name,
            tables: schema.tables,
        });
        Ok(found.collect())
    }

    async fn tables(&self, schema: &str, part: &Part) -> Result<Vec<TableFound>> {
        let found = within(async {
            let mut connection = self.open().await?;
            let found = browse::tables(&mut connection, schema, &page(part)).await;
            connection.close().await;
            found
        });
        let found = found.await?.into_iter().map(|table| TableFound {
            schema: table.schema,
            name: table.name,
            rows_estimated: table.rows_estimated,
            size_bytes: table.size_bytes,
            has_key: table.has_key,
        });
        Ok(found.collect())
    }

    async fn columns(&self, table: &TableName) -> Result<Vec<ColumnFound>> {
        let found = within(async {
            let mut connection = self.open().await?;
            let found = browse::columns(&mut connection, &table.schema, &table.name).await;
            connection.close().await;
            found
        });
        let found = found.await?.into_iter().map(|column| ColumnFound {
            name: column.name,
            data_type: column.data_type,
            nullable: column.is_nullable,
            key_position: column.key_position,
        });
        Ok(found.collect())
    }
}

fn page(part: &Part) -> browse::Part {
    browse::Part {
        after: part.after.clone(),
        limit: part.limit,
    }
}

/// How to connect to a side for as long as a run lasts: a password that is refused by then is read again.
fn lasting(
    config: &PipelineConfig,
    side: Side,
    again: Option<&ReadAgain>,
) -> Result<ConnectConfig, Failure> {
    let mut connect = connect_config(config, side)?;
    let (address, user) = (connect.address(), connect.user.clone());
    connect.renewal = again.cloned().map(|again| {
        Renewal::new(move || {
            let now = connect_config(&again()?, side).ok()?;
            // What belongs to another database or role is for the next run.
            let is_same = now.address() == address && now.user == user;
            now.password.filter(|_| is_same)
        })
    });
    Ok(connect)
}

/// How to connect to a side; what is wrong with the URL is shown where it was written.
fn connect_config(config: &PipelineConfig, side: Side) -> Result<ConnectConfig, Failure> {
    let (endpoint, postgres_side) = match side {
        Side::Source => (
            &config.source.endpoint,
            tidemark_postgres::config::Side::Source,
        ),
        Side::Target => (
            &config.target.endpoint,
            tidemark_postgres::config::Side::Target,
        ),
    };
    let mut connect = parse(endpoint, postgres_side)?;
    if let Some(password) = &endpoint.password {
        connect.set_password(Secret::new(password.expose()));
    }
    connect.set_pipeline(&config.name);
    connect.reach = config.reach.clone();
    Ok(connect)
}

/// Refuses what is on this machine, for a definition of somebody who has no business there.
pub(crate) fn confine(config: &PipelineConfig) -> Result<(), Failure> {
    let mut problems = Problems::new();
    let mut refuse = |text: String, place: Option<&Place>| {
        let problem = Problem::new(codes::CONFIG_CONFINED, text);
        problems.push(problem.at(place.cloned()).label("not for this tenant"));
    };
    for side in [Side::Source, Side::Target] {
        let connect = connect_config(config, side)?;
        if !connect.of_this_machine().is_empty() {
            let endpoint = match side {
                Side::Source => &config.source.endpoint,
                Side::Target => &config.target.endpoint,
            };
            let text = format!("the {side} has a socket or a file of the server's machine");
            refuse(text, endpoint.url.place.as_ref());
        }
    }
    let relay = config.source.postgres.relay.as_ref();
    for (key, is_said) in [
        ("source.postgres.relay_dir", relay.is_some()),
        ("stream.spool_dir", config.stream.spool_dir.is_some()),
    ] {
        if is_said {
            refuse(
                format!("`{key}` is a directory of the server's machine"),
                None,
            );
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::Config(problems))
    }
}

fn parse(
    endpoint: &Endpoint,
    side: tidemark_postgres::config::Side,
) -> Result<ConnectConfig, Failure> {
    ConnectConfig::parse(endpoint.url.value.expose(), side).map_err(|err| {
        let mut problems = Problems::new();
        problems.push(
            Problem::new(err.code(), err.message())
                .at(endpoint.url.place.clone())
                .label(""),
        );
        Failure::Config(problems)
    })
}
