//! Servers, data, pipeline file and traffic of the demo.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_lab::demo::Shop;
use tidemark_lab::traffic::{Pace, Traffic, TrafficReport};
use tidemark_lab::{GivenDatabase, Installation, PostgresServer, Proxy, Workplace, tokio_postgres};

use super::lab;

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "shop";
/// Directories of the demo's own.
const PIPELINES: &str = "pipelines.d";
const STATE: &str = "state";
/// The same customers every time.
const SEED: u64 = 7;

/// A database of the demo: on a server that it started, or on one that it was given.
pub(crate) enum Database {
    Own(PostgresServer),
    Given(GivenDatabase),
}

/// Both databases, and the directory of the demo's own files. A target of our own is reached by way
/// of a proxy that can be cut.
pub(crate) struct Servers {
    pub(crate) source: Database,
    pub(crate) target: Database,
    pub(crate) wire: Option<Proxy>,
    pub(crate) directory: Workplace,
}

/// PostgreSQL's programs on this machine, or the line that installs them.
pub(crate) fn installation() -> Result<Installation, Error> {
    Installation::newest().map_err(|err| {
        let hint = tidemark_lab::installation::install_hint();
        Error::definite(codes::DEMO_NO_SERVER, format!("{err:#}")).first_action(format!(
            "{hint}, or give two servers: tidemark demo --source URL --target URL"
        ))
    })
}

/// Starts a server of our own, makes its database, and says what it is.
pub(crate) async fn own(side: Side) -> Result<(Database, String), Error> {
    let installation = installation()?;
    let major = installation.major;
    let builder = PostgresServer::builder().installation(installation);
    let (builder, what) = match side {
        Side::Source => (
            builder.socket_only(),
            "temporary, private socket, wal_level=logical",
        ),
        Side::Target => (builder, "temporary"),
    };
    let server = builder.start().await.map_err(|err| lab(&err))?;
    server
        .execute(&format!("CREATE DATABASE {}", side.own_name()))
        .await
        .map_err(|err| lab(&err))?;
    Ok((Database::Own(server), format!("PostgreSQL {major}, {what}")))
}

/// Makes a database on the server that this URL leads to, and says what it is.
pub(crate) async fn given(side: Side, url: &str) -> Result<(Database, String), Error> {
    let name = side.given_name();
    let database = GivenDatabase::create(url, name)
        .await
        .map_err(|err| Error::definite(codes::DEMO_GIVEN, format!("--{}: {err:#}", side.word())))?;
    let text = format!("PostgreSQL {}, yours, database {name}", database.major());
    Ok((Database::Given(database), text))
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

impl Side {
    /// The database on a server of our own.
    fn own_name(self) -> &'static str {
        match self {
            Side::Source => PIPELINE,
            Side::Target => "dw",
        }
    }

    /// The database on a server that is somebody's.
    fn given_name(self) -> &'static str {
        match self {
            Side::Source => "tidemark_demo_shop",
            Side::Target => "tidemark_demo_dw",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

impl Database {
    fn url(&self, side: Side) -> String {
        match self {
            Database::Own(server) => server.url_to(side.own_name()),
            Database::Given(database) => database.url().to_owned(),
        }
    }

    fn config(&self, side: Side) -> tokio_postgres::Config {
        match self {
            Database::Own(server) => server.config_to(side.own_name()),
            Database::Given(database) => database.config(),
        }
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        match self {
            Database::Own(server) => server.major(),
            Database::Given(database) => database.major(),
        }
    }

    async fn client(&self, side: Side) -> Result<tokio_postgres::Client, Error> {
        tidemark_lab::given::connect(&self.config(side))
            .await
            .map_err(|err| lab(&err))
    }

    async fn execute(&self, side: Side, sql: &str) -> Result<(), Error> {
        let client = self.client(side).await?;
        client.batch_execute(sql).await.map_err(|err| {
            let text = format!("change the demo's {}", side.word());
            Error::definite(codes::CLI_MACHINE, text).caused_by(err)
        })
    }

    /// Removes it from a server that is not ours.
    pub(crate) async fn remove(self) {
        if let Database::Given(database) = self
            && let Err(err) = database.remove().await
        {
            tracing::warn!(error = format!("{err:#}"), "remove the demo's database");
        }
    }

    /// A way to it that can be cut, where it is ours.
    pub(crate) async fn wire(&self) -> Result<Option<Proxy>, Error> {
        match self {
            Database::Own(server) => Proxy::start(server.port())
                .await
                .map(Some)
                .map_err(|err| lab(&err)),
            Database::Given(_) => Ok(None),
        }
    }

    /// The server, where it is ours to freeze.
    fn own_server(&self) -> Result<&PostgresServer, Error> {
        match self {
            Database::Own(server) => Ok(server),
            Database::Given(_) => Err(not_ours()),
        }
    }
}

/// What cannot be broken because it belongs to somebody.
fn not_ours() -> Error {
    Error::definite(
        codes::CLI_REFUSED,
        "the target is a server that was given to the demo: it is not cut off and not frozen",
    )
    .first_action("tidemark demo, without --target, breaks a server of its own")
}

impl Servers {
    pub(crate) fn source_url(&self) -> String {
        self.source.url(Side::Source)
    }

    pub(crate) fn target_url(&self) -> String {
        self.target.url(Side::Target)
    }

    /// Where the demo's own files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the pipeline's file is.
    pub(crate) fn pipelines(&self) -> PathBuf {
        self.directory().join(PIPELINES)
    }

    /// Where the server keeps its store.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory().join(STATE)
    }

    /// The wire to a target of our own.
    pub(crate) fn wire(&self) -> Result<&Proxy, Error> {
        self.wire.as_ref().ok_or_else(not_ours)
    }

    /// How the pipeline reaches the target.
    fn target_url_of_pipeline(&self) -> String {
        match (&self.target, &self.wire) {
            (Database::Own(server), Some(wire)) => {
                server.url_through(wire.address(), Side::Target.own_name())
            }
            (target, _) => target.url(Side::Target),
        }
    }

    /// Removes what was made on servers that are not ours. Those that are go when this is dropped.
    pub(crate) async fn remove(self) {
        self.source.remove().await;
        self.target.remove().await;
    }

    /// Makes the shop.
    pub(crate) async fn fill(&self, shop: &Shop) -> Result<(), Error> {
        shop.create(&self.source.config(Side::Source))
            .await
            .map_err(|err| lab(&err))
    }

    /// Customers come in.
    pub(crate) fn open_shop(&self, shop: &Shop, transactions_per_second: f64) -> Customers {
        let pace = Pace::at(transactions_per_second, SEED);
        Customers {
            traffic: Traffic::start(&self.source.config(Side::Source), shop, pace),
        }
    }

    /// Writes the pipeline file: a renamed table, a column left out, masks, everything else as it is.
    pub(crate) fn write_file(&self) -> Result<PathBuf, Error> {
        let made = |name| self.directory.make_directory(name).map_err(|err| lab(&err));
        made(STATE)?;
        let file = made(PIPELINES)?.join(format!("{PIPELINE}.toml"));
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let text = format!(
            "version = 1\n\n\
             [pipeline]\n\
             name = \"{PIPELINE}\"\n\
             mode = \"full_load_and_cdc\"\n\n\
             [source]\n\
             url = {source}\n\n\
             [target]\n\
             url = {target}\n\
             schema = \"dw\"\n\n\
             [tables]\n\
             include = [\"public.*\"]\n\n\
             [[table]]\n\
             source = \"public.order_items\"\n\
             target = \"dw.order_lines\"\n\
             rename = {{ qty = \"quantity\", oid = \"order_id\" }}\n\
             drop_columns = [\"internal_note\"]\n\n\
             [[mask]]\n\
             columns = [\"public.customers.email\", \"*.*.phone\"]\n\
             with = \"hash\"\n\
             salt = \"demo\"\n\n\
             # the demo compares by itself\n\
             [verify]\n\
             after_load = \"off\"\n",
            source = quoted(&self.source_url()),
            target = quoted(&self.target_url_of_pipeline()),
        );
        // It may hold a password that came with a URL.
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)?;
            file.write_all(text.as_bytes())
        })();
        written.map_err(|err: std::io::Error| {
            Error::definite(
                codes::CLI_MACHINE,
                format!("write {}: {err}", file.display()),
            )
        })?;
        Ok(file)
    }

    /// Changes a table of the source while everything runs.
    pub(crate) async fn change_source(&self, sql: &str) -> Result<(), Error> {
        self.source.execute(Side::Source, sql).await
    }

    /// Changes a table of the target, as somebody might who should not.
    pub(crate) async fn change_target(&self, sql: &str) -> Result<(), Error> {
        self.target.execute(Side::Target, sql).await
    }

    /// Every process of the target stands still.
    pub(crate) fn freeze_target(&self) -> Result<(), Error> {
        self.target.own_server()?.freeze().map_err(|err| lab(&err))
    }

    /// And goes on.
    pub(crate) fn thaw_target(&self) -> Result<(), Error> {
        self.target.own_server()?.thaw().map_err(|err| lab(&err))
    }

    /// One value of the target, as text; for seeing that something arrived.
    pub(crate) async fn ask_target(&self, sql: &str) -> Result<String, Error> {
        let client = self.target.client(Side::Target).await?;
        let row = client.query_one(sql, &[]).await.map_err(|err| {
            Error::definite(codes::CLI_MACHINE, "ask the demo's target").caused_by(err)
        })?;
        Ok(row.get(0))
    }
}

/// Customers at work; they leave when this is dropped.
pub(crate) struct Customers {
    traffic: Traffic,
}

impl Customers {
    /// What they did so far.
    pub(crate) fn report(&self) -> TrafficReport {
        self.traffic.report()
    }

    /// Lets them finish what they are at.
    pub(crate) async fn leave(self) -> Result<TrafficReport, Error> {
        self.traffic.stop().await.map_err(|err| lab(&err))
    }
}
