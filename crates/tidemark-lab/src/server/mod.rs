//! A PostgreSQL server of its own: started in a temporary directory, gone with its owner.
//!
//! It listens on a free loopback port and on a Unix socket in its directory. Dropping it stops the
//! server and removes the directory; so does the end of the process, however it comes (see
//! [`crate::directory`]).
//!
//! Durability of the machine is switched off (`fsync`), durability of the processes is not: after
//! [`PostgresServer::kill9`] everything that was committed is there.
//!
//! - [`builder`]: what can be chosen, and the way to a running server
//! - [`control`]: stop, kill, freeze, restart, measure
//! - [`template`]: one `initdb` per process and kind, copied with an identity of its own
//! - [`certificates`]: an authority and certificates for TLS
//! - [`upgrade`]: the way to another major

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::directory::LabDirectory;
use crate::installation::{self, Installation};

mod builder;
mod certificates;
mod control;
mod identity;
mod standby;
mod template;
mod upgrade;

pub use builder::{Auth, PostgresServerBuilder};
pub use certificates::Certificates;
pub use control::Shutdown;

pub use crate::process::ServerProcess;

/// The superuser of every server of the lab.
pub const SUPERUSER: &str = "postgres";

/// A running server (or one that was stopped on purpose).
#[derive(Debug)]
pub struct PostgresServer {
    installation: Installation,
    port: u16,
    socket_only: bool,
    auth: Auth,
    certificates: Option<Certificates>,
    postmaster: Mutex<Option<Child>>,
    directory: LabDirectory,
}

impl PostgresServer {
    /// What can be chosen before it starts.
    pub fn builder() -> PostgresServerBuilder {
        PostgresServerBuilder::new()
    }

    /// One server for all tests of a process, as the builder makes it without any wish; use a
    /// [`fresh_database`](Self::fresh_database) on it. It ends with the process.
    pub async fn shared() -> Result<&'static PostgresServer> {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async { PostgresServer::builder().start().await })
            .await
    }

    /// What it runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// 15 for 15.8.
    pub fn major(&self) -> u32 {
        self.installation.major
    }

    /// The loopback port; with [`socket_only`](PostgresServerBuilder::socket_only) only the number
    /// in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The temporary directory: the data directory, the log and the socket are in it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// Everything the server has written to its log.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The certificates made for it, when it was started with TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// A URL for the superuser and the database `postgres`.
    pub fn url(&self) -> String {
        self.url_to("postgres")
    }

    /// A URL for the superuser and this database.
    pub fn url_to(&self, database: &str) -> String {
        let password = match &self.auth {
            Auth::Trust => None,
            Auth::Scram { password } => Some(password.as_str()),
        };
        self.url_with(SUPERUSER, password, database)
    }

    /// A URL for any role and the database `postgres`.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url_with(user, Some(password), "postgres")
    }

    /// A URL for any role, with or without a password, and any database.
    pub fn url_with(&self, user: &str, password: Option<&str>, database: &str) -> String {
        let host = if self.socket_only {
            None
        } else {
            Some(format!("127.0.0.1:{}", self.port))
        };
        let mut url = format!("postgres://{}", encoded(user));
        if let Some(password) = password {
            url.push(':');
            url.push_str(&encoded(password));
        }
        url.push('@');
        url.push_str(host.as_deref().unwrap_or_default());
        url.push('/');
        url.push_str(&encoded(database));
        if host.is_none() {
            let directory = encoded(&self.directory().display().to_string());
            url.push_str("?host=");
            url.push_str(&directory);
            url.push_str("&port=");
            url.push_str(&self.port.to_string());
        }
        url
    }

    /// The same URL by way of another address, such as that of a [`crate::Proxy`].
    pub fn url_through(&self, address: std::net::SocketAddr, database: &str) -> String {
        let direct = format!("@127.0.0.1:{}/", self.port);
        self.url_to(database)
            .replace(&direct, &format!("@{address}/"))
    }

    /// A session of the superuser in the database `postgres`, over the socket.
    pub async fn client(&self) -> Result<Client> {
        self.client_to("postgres").await
    }

    /// A session of the superuser in this database, over the socket.
    pub async fn client_to(&self, database: &str) -> Result<Client> {
        let config = self.config_to(database);
        let (client, connection) = config
            .connect(NoTls)
            .await
            .context("connect to the server")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session of the lab ended");
            }
        });
        Ok(client)
    }

    /// How the superuser reaches this database over the socket.
    pub fn config_to(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.directory())
            .port(self.port)
            .user(SUPERUSER)
            .dbname(database);
        config.application_name("tidemark-lab");
        if let Auth::Scram { password } = &self.auth {
            config.password(password);
        }
        config
    }

    /// Runs statements in the database `postgres`.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.execute_in("postgres", sql).await
    }

    /// Runs statements in this database.
    pub async fn execute_in(&self, database: &str, sql: &str) -> Result<()> {
        let client = self.client_to(database).await?;
        client
            .batch_execute(sql)
            .await
            .with_context(|| format!("execute in {database}"))
    }

    /// Creates a database and returns its name, which begins with `prefix` and is not taken.
    pub async fn fresh_database(&self, prefix: &str) -> Result<String> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = self.client().await?;
        let sql = format!("CREATE DATABASE {} TEMPLATE template0", quoted(&name));
        client
            .batch_execute(&sql)
            .await
            .with_context(|| format!("create database {name}"))?;
        Ok(name)
    }

    /// Runs a script through `psql` as the superuser and returns what it printed, unaligned and
    /// without headers. Unlike [`execute`](Self::execute) it knows backslash commands.
    pub async fn psql(&self, database: &str, script: &str) -> Result<String> {
        use std::io::Write;
        let program = self.installation.client_program("psql")?;
        let mut command = installation::command(program, self.directory());
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command
            .arg("-h")
            .arg(self.directory())
            .args(["-p", &self.port.to_string()]);
        command.args(["-U", SUPERUSER, "-d", database]);
        if let Auth::Scram { password } = &self.auth {
            command.env("PGPASSWORD", password);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let script = script.to_owned();
        let output = tokio::task::spawn_blocking(move || -> Result<std::process::Output> {
            let mut child = command.spawn().context("start psql")?;
            let mut stdin = child.stdin.take().context("psql has no stdin")?;
            let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
            let output = child.wait_with_output()?;
            // psql stops reading at the first error, which it tells better than a closed pipe.
            drop(writer.join());
            Ok(output)
        })
        .await??;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.directory.remove();
        // The directory's supervisor has ended it; this takes note, so that no zombie stays.
        if let Some(mut child) = self.postmaster().take()
            && let Err(error) = child.wait()
        {
            tracing::debug!(%error, "wait for the postmaster");
        }
    }
}

/// An identifier in double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Percent-encoding of everything that could mean something in a URL.
fn encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let escape = [
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ];
            encoded.extend(escape.map(char::from));
        }
    }
    encoded
}
