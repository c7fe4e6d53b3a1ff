//! A database of our own on a server that somebody else runs.
//!
//! It bears a comment that says who made it. By that, and by nobody being connected to it, a leftover
//! of a process that was killed is known and may go; any other database of that name is left alone.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, Config, NoTls};

use crate::server::quoted;
use crate::wait::wait_until;

/// A walsender that was told to end lets go of its slot.
const SLOTS_GONE_WITHIN: Duration = Duration::from_secs(10);

/// What stands in the comment of a database that was made here.
const MADE_HERE: &str = "made by tidemark demo, which removes it";

/// Settings of a URL that both of us understand; the others are for the pipeline alone.
const UNDERSTOOD: [&str; 5] = ["host", "port", "user", "password", "connect_timeout"];

/// See the module's text.
#[derive(Debug)]
pub struct GivenDatabase {
    name: String,
    url: String,
    server: Config,
    major: u32,
}

impl GivenDatabase {
    /// Makes the database `name` on the server that `url` leads to. The role needs CREATEDB. Sessions
    /// that are opened here are not encrypted: a server that insists on TLS is refused by name.
    pub async fn create(url: &str, name: &str) -> Result<GivenDatabase> {
        let server: Config = understood(url)
            .parse()
            .context("this is not a URL of PostgreSQL, postgres://USER@HOST/DATABASE")?;
        if ["sslmode=require", "sslmode=verify"]
            .iter()
            .any(|mode| url.contains(mode))
        {
            bail!("the demo's own sessions are not encrypted, and the URL asks for encryption");
        }
        let client = connect(&server).await?;
        let version: i32 = client
            .query_one("SELECT current_setting('server_version_num')::int", &[])
            .await?
            .get(0);
        remove_leftover(&client, name).await?;
        client
            .batch_execute(&format!(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'",
                quoted(name)
            ))
            .await
            .with_context(|| format!("create database {name}"))?;
        client
            .batch_execute(&format!(
                "COMMENT ON DATABASE {} IS '{MADE_HERE}'",
                quoted(name)
            ))
            .await?;
        Ok(GivenDatabase {
            name: name.to_owned(),
            url: with_database(url, name),
            server,
            major: u32::try_from(version / 10_000).unwrap_or_default(),
        })
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// How a pipeline reaches it: the URL that was given, with the database in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How our own sessions reach it.
    pub fn config(&self) -> Config {
        let mut config = self.server.clone();
        config.dbname(&self.name).application_name("tidemark-lab");
        config
    }

    /// Drops the database with its slots, whoever is connected. On return nothing of it is left.
    pub async fn remove(self) -> Result<()> {
        let client = connect(&self.server).await?;
        drop_database(&client, &self.name).await
    }
}

async fn remove_leftover(client: &Client, name: &str) -> Result<()> {
    let found = client
        .query_opt(
            "SELECT coalesce(shobj_description(oid, 'pg_database'), '') = $2,
               EXISTS (SELECT FROM pg_stat_activity WHERE datid = d.oid)
             FROM pg_database d WHERE datname = $1",
            &[&name, &MADE_HERE],
        )
        .await?;
    match found.map(|row| (row.get(0), row.get(1))) {
        None => Ok(()),
        Some((true, false)) => drop_database(client, name).await,
        Some((true, true)) => bail!("database {name} is in use by another demo"),
        Some((false, _)) => bail!("there is a database {name} that no demo made; it is left alone"),
    }
}

/// A slot keeps its database from being dropped, and is dropped only where it belongs.
async fn drop_database(client: &Client, name: &str) -> Result<()> {
    let slots = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                 WHERE database = $1 AND active_pid IS NOT NULL";
    client.execute(slots, &[&name]).await?;
    let drop_slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                      WHERE database = $1";
    wait_until(SLOTS_GONE_WITHIN, "the slots to be dropped", || async {
        client.execute(drop_slots, &[&name]).await?;
        Ok(true)
    })
    .await?;
    client
        .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", quoted(name)))
        .await
        .with_context(|| format!("drop database {name}"))
}

/// A session, unencrypted, that lives as long as the client.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .context("connect to the given server")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session on a given server ended");
        }
    });
    Ok(client)
}

/// The same URL for another database.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let begin = base.find("://").map_or(0, |at| at + 3);
    let end = base
        .get(begin..)
        .and_then(|rest| rest.find('/'))
        .map_or(base.len(), |at| begin + at);
    let server = base.get(..end).unwrap_or(base);
    let query = parameters(query, |key| key != "dbname");
    format!("{server}/{name}{query}")
}

/// The URL without what only a pipeline understands.
fn understood(url: &str) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let query = parameters(query, |key| UNDERSTOOD.contains(&key) || key == "dbname");
    format!("{base}{query}")
}

fn parameters(query: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let wanted: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && is_wanted(pair.split('=').next().unwrap_or_default()))
        .collect();
    if wanted.is_empty() {
        String::new()
    } else {
        format!("?{}", wanted.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::{understood, with_database};

    #[test]
    fn a_url_leads_to_another_database() {
        for (url, there) in [
            ("postgres://u@h", "postgres://u@h/d"),
            ("postgres://u:p@h:5/a", "postgres://u:p@h:5/d"),
            (
                "postgres://u@/a?host=/x&dbname=b",
                "postgres://u@/d?host=/x",
            ),
            (
                "postgres://u@h?sslrootcert=f",
                "postgres://u@h/d?sslrootcert=f",
            ),
        ] {
            assert_eq!(with_database(url, "d"), there);
        }
    }

    #[test]
    fn what_only_a_pipeline_understands_is_left_out() {
        assert_eq!(
            understood("postgres://u@h/a?sslrootcert=f&host=/x&channel_binding=disable"),
            "postgres://u@h/a?host=/x"
        );
        assert_eq!(understood("postgres://u@h/a"), "postgres://u@h/a");
    }
}
