//! What can be chosen about a server, and the way to a running one.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::certificates::Certificates;
use super::{PostgresServer, SUPERUSER, template};
use crate::directory::LabDirectory;
use crate::installation::{self, Installation};

/// How clients prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    Trust,
    /// By SCRAM-SHA-256; this is the superuser's password.
    Scram {
        /// The superuser's password.
        password: String,
    },
}

/// A server before it starts.
#[must_use]
#[derive(Clone, Debug)]
pub struct PostgresServerBuilder {
    installation: Option<Installation>,
    major: Option<u32>,
    settings: Vec<(String, String)>,
    auth: Auth,
    access_rules: Vec<String>,
    encoding: String,
    locale: String,
    tls: bool,
    socket_only: bool,
}

/// Small, quick to start and stop, able to be a source; slots cannot fill the disk.
const SETTINGS: [(&str, &str); 18] = [
    ("wal_level", "logical"),
    ("max_replication_slots", "30"),
    ("max_wal_senders", "30"),
    ("max_slot_wal_keep_size", "2GB"),
    ("max_worker_processes", "20"),
    ("max_logical_replication_workers", "10"),
    ("max_connections", "100"),
    ("shared_buffers", "64MB"),
    ("deadlock_timeout", "100ms"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "10min"),
    // Inside the directory, so that nothing is left in /dev/shm, which is tiny in containers.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ("logging_collector", "off"),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
];

/// How often another port is tried when somebody else has just taken ours.
const PORT_ATTEMPTS_MAX: usize = 5;

impl PostgresServerBuilder {
    pub(super) fn new() -> PostgresServerBuilder {
        PostgresServerBuilder {
            installation: None,
            major: None,
            settings: SETTINGS.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(),
            auth: Auth::Trust,
            access_rules: Vec::new(),
            encoding: "UTF8".to_owned(),
            locale: "C".to_owned(),
            tls: false,
            socket_only: false,
        }
    }

    /// The major version; without it the newest on this machine.
    pub fn major(mut self, major: u32) -> Self {
        self.major = Some(major);
        self
    }

    /// Exactly this installation.
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// A setting of `postgresql.conf`; replaces the lab's own.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Clients must know a password (SCRAM-SHA-256); this is the superuser's.
    pub fn scram(mut self, password: &str) -> Self {
        self.auth = Auth::Scram {
            password: password.to_owned(),
        };
        self
    }

    /// A line of `pg_hba.conf`, before those of the lab.
    pub fn access_rule(mut self, line: &str) -> Self {
        self.access_rules.push(line.to_owned());
        self
    }

    /// TLS with a certificate of an authority of its own, see [`PostgresServer::certificates`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The encoding of its databases, such as `LATIN1` or `SQL_ASCII`.
    pub fn encoding(mut self, encoding: &str) -> Self {
        encoding.clone_into(&mut self.encoding);
        self
    }

    /// The locale of its databases; `C` fits every encoding.
    pub fn locale(mut self, locale: &str) -> Self {
        locale.clone_into(&mut self.locale);
        self
    }

    /// Listens on the Unix socket in its directory alone.
    pub fn socket_only(mut self) -> Self {
        self.socket_only = true;
        self
    }

    /// Makes the data directory and starts the server; returns when it accepts connections.
    pub async fn start(self) -> Result<PostgresServer> {
        let installation = match (&self.installation, self.major) {
            (Some(installation), _) => installation.clone(),
            (None, Some(major)) => Installation::of_major(major)?,
            (None, None) => Installation::newest()?,
        };
        let (encoding, locale) = (self.encoding.clone(), self.locale.clone());
        let made = tokio::task::spawn_blocking({
            let installation = installation.clone();
            let with_tls = self.tls;
            move || -> Result<_> {
                let directory = LabDirectory::create()?;
                template::copy(&installation, &encoding, &locale, directory.path())?;
                let dir = directory.path();
                let certificates = with_tls.then(|| Certificates::make(dir)).transpose()?;
                Ok((directory, certificates))
            }
        });
        let (directory, certificates) = made.await??;
        let mut server = PostgresServer {
            installation,
            port: 0,
            socket_only: self.socket_only,
            auth: Auth::Trust,
            certificates,
            postmaster: Mutex::new(None),
            directory,
        };
        self.start_on_a_free_port(&mut server).await?;
        if let Auth::Scram { password } = &self.auth {
            let password = password.replace('\'', "''");
            server
                .execute(&format!("ALTER ROLE {SUPERUSER} PASSWORD '{password}'"))
                .await?;
            server.auth = self.auth.clone();
        }
        let rules = self
            .access_rules
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>();
        server.set_access_rules(&rules).await?;
        Ok(server)
    }

    async fn start_on_a_free_port(&self, server: &mut PostgresServer) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS_MAX {
            server.port = free_port()?;
            self.write_settings(server)?;
            let Err(error) = server.start().await else {
                return Ok(());
            };
            if !server.log().contains("Address already in use") {
                return Err(error);
            }
        }
        bail!("no free port after {PORT_ATTEMPTS_MAX} attempts")
    }

    fn write_settings(&self, server: &PostgresServer) -> Result<()> {
        let dir = server.directory();
        let listen = if self.socket_only { "" } else { "127.0.0.1" };
        let mut lines = vec![
            format!("listen_addresses = '{listen}'"),
            format!("port = {}", server.port),
            format!("unix_socket_directories = '{}'", dir.display()),
        ];
        if let Some(certificates) = &server.certificates {
            lines.extend(certificates.settings());
        }
        let of =
            |(name, value): &(String, String)| format!("{name} = '{}'", value.replace('\'', "''"));
        lines.extend(self.settings.iter().map(of));
        write_as_account(&server.data_directory().join("lab.conf"), &lines.join("\n"))
    }
}

/// Writes a file that the server's account owns.
pub(super) fn write_as_account(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, format!("{text}\n"))
        .with_context(|| format!("write {}", path.display()))?;
    if let Some(account) = installation::account() {
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
