//! Servers, data, pipeline file and traffic of the demo.

use std::path::{Path, PathBuf};

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_lab::demo::Shop;
use tidemark_lab::traffic::{Pace, Traffic, TrafficReport};
use tidemark_lab::{Installation, PostgresServer, Proxy};

use super::lab;

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "shop";
/// The same customers every time.
const SEED: u64 = 7;

/// Both servers. The pipeline reaches the target by way of a proxy that can be cut.
pub(crate) struct Servers {
    pub(crate) source: PostgresServer,
    pub(crate) target: PostgresServer,
    pub(crate) wire: Proxy,
}

/// PostgreSQL's programs on this machine, or the line that installs them.
pub(crate) fn installation() -> Result<Installation, Error> {
    Installation::newest().map_err(|err| {
        Error::definite(codes::DEMO_NO_SERVER, format!("{err:#}"))
            .first_action(tidemark_lab::installation::install_hint())
    })
}

/// The source: on a private socket, with a log that can be decoded.
pub(crate) async fn source(installation: &Installation) -> Result<PostgresServer, Error> {
    let server = PostgresServer::builder()
        .installation(installation.clone())
        .socket_only();
    let server = server.start().await.map_err(|err| lab(&err))?;
    server
        .execute(&format!("CREATE DATABASE {PIPELINE}"))
        .await
        .map_err(|err| lab(&err))?;
    Ok(server)
}

/// The target, empty.
pub(crate) async fn target(installation: &Installation) -> Result<(PostgresServer, Proxy), Error> {
    let server = PostgresServer::builder().installation(installation.clone());
    let server = server.start().await.map_err(|err| lab(&err))?;
    server
        .execute("CREATE DATABASE dw")
        .await
        .map_err(|err| lab(&err))?;
    let wire = Proxy::start(server.port()).await.map_err(|err| lab(&err))?;
    Ok((server, wire))
}

impl Servers {
    pub(crate) fn source_url(&self) -> String {
        self.source.url_to(PIPELINE)
    }

    pub(crate) fn target_url(&self) -> String {
        self.target.url_to("dw")
    }

    /// Where the demo's own files are; it goes away with the source.
    pub(crate) fn directory(&self) -> &Path {
        self.source.directory()
    }

    /// Makes the shop.
    pub(crate) async fn fill(&self, shop: &Shop) -> Result<(), Error> {
        shop.create(&self.source.config_to(PIPELINE))
            .await
            .map_err(|err| lab(&err))
    }

    /// Customers come in.
    pub(crate) fn open_shop(&self, shop: &Shop, transactions_per_second: f64) -> Customers {
        let pace = Pace::at(transactions_per_second, SEED);
        Customers {
            traffic: Traffic::start(&self.source.config_to(PIPELINE), shop, pace),
        }
    }

    /// Writes the pipeline file: a renamed table, a column left out, masks, everything else as it is.
    pub(crate) fn write_file(&self) -> Result<PathBuf, Error> {
        let file = self.directory().join(format!("{PIPELINE}.toml"));
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
            target = quoted(&self.target.url_through(self.wire.address(), "dw")),
        );
        std::fs::write(&file, text).map_err(|err| {
            Error::definite(
                codes::CLI_MACHINE,
                format!("write {}: {err}", file.display()),
            )
        })?;
        Ok(file)
    }

    /// Changes a table of the source while everything runs.
    pub(crate) async fn change_source(&self, sql: &str) -> Result<(), Error> {
        self.source
            .execute_in(PIPELINE, sql)
            .await
            .map_err(|err| lab(&err))
    }

    /// Changes a table of the target, as somebody might who should not.
    pub(crate) async fn change_target(&self, sql: &str) -> Result<(), Error> {
        self.target
            .execute_in("dw", sql)
            .await
            .map_err(|err| lab(&err))
    }

    /// Every process of the target stands still.
    pub(crate) fn freeze_target(&self) -> Result<(), Error> {
        self.target.freeze().map_err(|err| lab(&err))
    }

    /// And goes on.
    pub(crate) fn thaw_target(&self) -> Result<(), Error> {
        self.target.thaw().map_err(|err| lab(&err))
    }

    /// One value of the target, as text; for seeing that something arrived.
    pub(crate) async fn ask_target(&self, sql: &str) -> Result<String, Error> {
        let client = self.target.client_to("dw").await.map_err(|err| lab(&err))?;
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
