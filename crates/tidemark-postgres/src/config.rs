//! Where a PostgreSQL server is and how to reach it, read from a URL.
//!
//! Parameters have libpq's names and meaning (PostgreSQL 15, 34.1.1 and 34.1.2), with one
//! difference: without `sslmode` a host that is not on this machine gets `require` instead of
//! `prefer`, so that nothing goes over a network in the clear unasked. A text that cannot be parsed
//! is never echoed, since any part of it may be the password.
//!
//! Neighbours: [`crate::connect`] opens what is described here, [`crate::tls`] reads the files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::config::{Reach, Secret};
use tidemark_core::{Error, Result};

mod renewal;
mod url;

pub use renewal::Renewal;

#[cfg(test)]
mod tests;

/// Which end of a pipeline a connection belongs to, or none: decides the catalogue codes of its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The database that is read.
    Source,
    /// The database that is written.
    Target,
    /// Where a server keeps its store. Its errors have the codes of a target, until the server gives
    /// them its own.
    Store,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
            Side::Store => "store",
        })
    }
}

/// `sslmode`, as libpq means it (PostgreSQL 15, 34.19.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Without TLS; with TLS if the server refuses that.
    Allow,
    /// With TLS; without if the server has none or refuses it.
    Prefer,
    /// TLS, whoever the server is.
    Require,
    /// TLS, and the certificate comes from a known authority.
    VerifyCa,
    /// TLS, a known authority, and the certificate names the host.
    VerifyFull,
}

/// `channel_binding`: whether SCRAM must prove that nobody sits between us and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Not used.
    Disable,
    /// Used where the server offers it.
    Prefer,
    /// Anything else is refused.
    Require,
}

/// `target_session_attrs`: which of several hosts will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAttrs {
    /// The first that answers.
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not accept writes.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby, else any.
    PreferStandby,
}

/// Where trusted authorities come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// What the operating system trusts.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// One place where the server may listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or address.
    Tcp {
        /// As written in the URL, without brackets.
        name: String,
        /// Default 5432.
        port: u16,
    },
    /// A directory that holds `.s.PGSQL.<port>`.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// Part of the socket's name.
        port: u16,
    },
}

impl Host {
    /// Whether bytes to it never leave this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Host::Unix { .. } => true,
            Host::Tcp { name, .. } => {
                name.eq_ignore_ascii_case("localhost")
                    || name
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp { name, port } => write!(f, "{name}:{port}"),
            Host::Unix { directory, port } => {
                write!(f, "{}/.s.PGSQL.{port}", directory.display())
            }
        }
    }
}

/// Everything needed to open a connection.
#[derive(Clone, Debug)]
pub struct ConnectConfig {
    /// Which end of the pipeline it is.
    pub side: Side,
    /// Tried in order; at least one.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// From the URL, or given separately by [`ConnectConfig::set_password`].
    pub password: Option<Secret>,
    /// The database; the user's name if the URL has none, as in libpq.
    pub database: String,
    /// As given; see [`ConnectConfig::ssl_mode_for`].
    pub ssl_mode: Option<SslMode>,
    /// `sslrootcert`.
    pub ssl_root: Option<RootCertificates>,
    /// `sslcert` and `sslkey`.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    /// `channel_binding`, default prefer.
    pub channel_binding: ChannelBinding,
    /// As given; see [`ConnectConfig::set_pipeline`].
    pub application_name: Option<String>,
    /// Sent to the server as they are (`-c geqo=off`).
    pub options: Option<String>,
    /// For one address, until the server is ready for queries.
    pub connect_timeout: Duration,
    /// Which of several hosts will do.
    pub session_attrs: SessionAttrs,
    /// Which addresses its hosts may have.
    pub reach: Reach,
    /// Where a password is looked up again that is refused.
    pub renewal: Option<Renewal>,
}

impl ConnectConfig {
    /// Reads a `postgres://` URL.
    pub fn parse(text: &str, side: Side) -> Result<ConnectConfig> {
        url::parse(text, side).map_err(|problem| {
            Error::definite(codes::CONNECTION_URL, format!("{side}.url: {problem}"))
        })
    }

    /// A password given apart from the URL; wins over the one inside.
    pub fn set_password(&mut self, password: Secret) {
        self.password = Some(password);
    }

    /// Names the pipeline in `pg_stat_activity`, unless the URL chose a name itself.
    pub fn set_pipeline(&mut self, pipeline: &str) {
        if self.application_name.is_none() {
            self.application_name = Some(format!("tidemark {pipeline}"));
        }
    }

    /// The mode for one host: as given, else `prefer` on this machine and `require` elsewhere.
    /// As in libpq, `require` together with a file of authorities verifies against it.
    pub fn ssl_mode_for(&self, host: &Host) -> SslMode {
        match (self.ssl_mode, host) {
            (_, Host::Unix { .. }) => SslMode::Disable,
            (Some(SslMode::Require), _)
                if matches!(self.ssl_root, Some(RootCertificates::File(_))) =>
            {
                SslMode::VerifyCa
            }
            (Some(mode), _) => mode,
            (None, host) if host.is_local() => SslMode::Prefer,
            (None, _) if matches!(self.ssl_root, Some(RootCertificates::File(_))) => {
                SslMode::VerifyCa
            }
            (None, _) => SslMode::Require,
        }
    }

    /// What it names on this machine: sockets and files.
    pub fn of_this_machine(&self) -> Vec<&Path> {
        let sockets = self.hosts.iter().filter_map(|host| match host {
            Host::Unix { directory, .. } => Some(directory.as_path()),
            Host::Tcp { .. } => None,
        });
        let root = match &self.ssl_root {
            Some(RootCertificates::File(file)) => Some(file.as_path()),
            Some(RootCertificates::System) | None => None,
        };
        let client = self.ssl_client.iter();
        let client = client.flat_map(|(cert, key)| [cert.as_path(), key.as_path()]);
        sockets.chain(root).chain(client).collect()
    }

    /// `host:port/database`, for messages.
    pub fn address(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        format!("{}/{}", hosts.join(","), self.database)
    }
}
