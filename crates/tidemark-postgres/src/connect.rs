//! From a [`ConnectConfig`] to a session that is ready for queries.
//!
//! Hosts of the URL are tried in order, each with all addresses its name resolves to. A server that
//! refuses us with good reason (password, database) ends the search; one that cannot be reached or
//! has the wrong role does not. Then TLS as the mode says, start-up, authentication, and the
//! settings that make text the same everywhere.
//!
//! Settings are given by `SET` after start-up and not in the start-up message: poolers refuse
//! start-up parameters they do not know, and older servers settings they do not have.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postgres_protocol::message::frontend;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{ConnectConfig, Host, SessionAttrs, Side, SslMode};
use crate::error::{self, pick};
use crate::tls;
use crate::wire::{Connection, Role, STARTUP_FRAME_MAX, Socket, Stream};

#[cfg(any(test, fuzzing))]
pub(crate) mod knock;
mod startup;

#[cfg(test)]
mod tests;

/// Idle time before the kernel asks whether the peer is still there, and between its questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;
/// Written data that nobody confirms for this long breaks the connection.
const TCP_USER_TIMEOUT_MS: u32 = 60_000;

/// Whether to ask for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered(SslMode),
    Always(SslMode),
}

impl Connection {
    /// Opens a session. A password that is refused is looked up again ([`Renewal`]), and one that is another by
    /// now tried, once.
    pub async fn connect(config: &ConnectConfig, role: Role) -> Result<Connection> {
        let Some(renewal) = &config.renewal else {
            return Connection::connect_with(config, role).await;
        };
        let mut config = config.clone();
        config.password = renewal.newer().or(config.password.take());
        let refused = match Connection::connect_with(&config, role).await {
            Err(error) if is_refused_login(&error) => error,
            opened => return opened,
        };
        let Some(password) = renewal.after(config.password.as_ref()) else {
            return Err(refused);
        };
        config.set_password(password.clone());
        let connection = Connection::connect_with(&config, role).await?;
        if renewal.lets_in(password) {
            let side = config.side;
            tracing::info!(%side, "the {side} has another password, which was looked up again");
        }
        Ok(connection)
    }

    async fn connect_with(config: &ConnectConfig, role: Role) -> Result<Connection> {
        let mut first_failure = None;
        let mut fallback = None;
        for (index, host) in config.hosts.iter().enumerate() {
            match connect_host(config, host, role).await {
                Ok(mut connection) => {
                    connection.session_mut().host_index = index;
                    match suits(&mut connection, config.session_attrs).await? {
                        Fit::Yes => return Ok(connection),
                        Fit::IfNoOther if fallback.is_none() => fallback = Some(connection),
                        Fit::IfNoOther | Fit::No => {}
                    }
                }
                Err(error) if error.kind() == ErrorKind::Transient => {
                    first_failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(connection) = fallback {
            return Ok(connection);
        }
        Err(first_failure.unwrap_or_else(|| {
            let side = config.side;
            let code = pick(
                side,
                codes::SOURCE_SESSION_ATTRS,
                codes::TARGET_SESSION_ATTRS,
            );
            Error::transient(
                code,
                format!("{side}: no host of {} will do", config.address()),
            )
        }))
    }
}

fn is_refused_login(error: &Error) -> bool {
    [codes::SOURCE_AUTHENTICATION, codes::TARGET_AUTHENTICATION].contains(&error.code())
}

enum Fit {
    Yes,
    IfNoOther,
    No,
}

async fn suits(connection: &mut Connection, wanted: SessionAttrs) -> Result<Fit> {
    if wanted == SessionAttrs::Any {
        return Ok(Fit::Yes);
    }
    let sets = connection
        .simple("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool")
        .await?;
    let Some(row) = sets.first().and_then(|set| set.rows.first()) else {
        return Ok(Fit::No);
    };
    let (standby, read_only) = (row.get_bool(0)?, row.get_bool(1)?);
    let fits = match wanted {
        SessionAttrs::Any => true,
        SessionAttrs::ReadWrite => !read_only,
        SessionAttrs::ReadOnly => read_only,
        SessionAttrs::Primary => !standby,
        SessionAttrs::Standby | SessionAttrs::PreferStandby => standby,
    };
    Ok(match (fits, wanted) {
        (true, _) => Fit::Yes,
        (false, SessionAttrs::PreferStandby) => Fit::IfNoOther,
        (false, _) => Fit::No,
    })
}

/// Tries the ways that the mode allows, in libpq's order (PostgreSQL 15, table 34.1).
async fn connect_host(config: &ConnectConfig, host: &Host, role: Role) -> Result<Connection> {
    let mode = config.ssl_mode_for(host);
    match mode {
        SslMode::Disable => connect_by(config, host, role, Encryption::Never).await,
        SslMode::Allow => match connect_by(config, host, role, Encryption::Never).await {
            Err(error) if wants_the_other_way(&error) => {
                connect_by(config, host, role, Encryption::Always(mode)).await
            }
            other => other,
        },
        SslMode::Prefer => {
            match connect_by(config, host, role, Encryption::IfOffered(mode)).await {
                Err(error) if wants_the_other_way(&error) => {
                    // The refusal of the way that was asked for tells more than that of the other.
                    connect_by(config, host, role, Encryption::Never)
                        .await
                        .map_err(|_| error)
                }
                other => other,
            }
        }
        _ => connect_by(config, host, role, Encryption::Always(mode)).await,
    }
}

/// `pg_hba.conf` has no line for this kind of connection, or TLS itself does not work.
fn wants_the_other_way(error: &Error) -> bool {
    error.sqlstate_code() == Some("28000")
        || [codes::SOURCE_TLS_FAILED, codes::TARGET_TLS_FAILED].contains(&error.code())
}

async fn connect_by(
    config: &ConnectConfig,
    host: &Host,
    role: Role,
    encryption: Encryption,
) -> Result<Connection> {
    let mut failure = None;
    for address in addresses(config, host).await? {
        let attempt = async {
            let stream = open(config, host, &address, encryption).await?;
            startup::start(config, host, stream, role).await
        };
        match within(config, host, attempt).await {
            Err(error) if error.kind() == ErrorKind::Transient => failure = Some(error),
            other => return other,
        }
    }
    Err(failure.unwrap_or_else(|| unresolved(config.side, host)))
}

/// A stream to the host that a session is on, for a cancel request. Of several addresses the first
/// that answers: they are one server under several addresses, or several that ignore each other's
/// keys.
pub(crate) async fn open_stream(
    config: &ConnectConfig,
    host_index: usize,
    encrypted: bool,
) -> Result<Stream> {
    let side = config.side;
    let host = config
        .hosts
        .get(host_index)
        .ok_or_else(|| error::closed(side))?;
    let encryption = match config.ssl_mode_for(host) {
        mode if encrypted => Encryption::Always(mode),
        _ => Encryption::Never,
    };
    let mut failure = None;
    for address in addresses(config, host).await? {
        match within(config, host, open(config, host, &address, encryption)).await {
            Err(error) => failure = Some(error),
            stream => return stream,
        }
    }
    Err(failure.unwrap_or_else(|| unresolved(side, host)))
}

/// One way to a host.
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

async fn addresses(config: &ConnectConfig, host: &Host) -> Result<Vec<Address>> {
    match host {
        Host::Unix { directory, port } => Ok(vec![Address::Unix(
            directory.join(format!(".s.PGSQL.{port}")),
        )]),
        Host::Tcp { name, port } => {
            let found = resolve(config, host, name, *port).await?;
            Ok(found.into_iter().map(Address::Tcp).collect())
        }
    }
}

async fn open(
    config: &ConnectConfig,
    host: &Host,
    address: &Address,
    encryption: Encryption,
) -> Result<Stream> {
    let unreachable = |error| unreachable(config.side, host, error);
    match address {
        Address::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(unreachable)?;
            Ok(Stream::Plain(Socket::Unix(socket)))
        }
        Address::Tcp(address) => {
            let socket = dial(*address).await.map_err(unreachable)?;
            encrypt(config, host, socket, encryption).await
        }
    }
}

async fn within<T, F>(config: &ConnectConfig, host: &Host, attempt: F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    timeout(config.connect_timeout, Box::pin(attempt))
        .await
        .unwrap_or_else(|_| {
            let side = config.side;
            let code = pick(side, codes::SOURCE_UNREACHABLE, codes::TARGET_UNREACHABLE);
            let seconds = config.connect_timeout.as_secs();
            Err(Error::transient(
                code,
                format!("{side}: no answer from {host} within {seconds} s"),
            ))
        })
}

async fn resolve(
    config: &ConnectConfig,
    host: &Host,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>> {
    let lookup = timeout(
        config.connect_timeout,
        tokio::net::lookup_host((name, port)),
    )
    .await;
    match lookup {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            if addresses.is_empty() {
                return Err(unresolved(config.side, host));
            }
            refuse_out_of_reach(config, host, &addresses)?;
            Ok(addresses)
        }
        Ok(Err(error)) => Err(unresolved(config.side, host).caused_by(error)),
        Err(_) => Err(unresolved(config.side, host)),
    }
}

/// Just what was looked at is connected to. One address that is not allowed, among those of a name, is
/// enough to refuse.
fn refuse_out_of_reach(
    config: &ConnectConfig,
    host: &Host,
    addresses: &[SocketAddr],
) -> Result<()> {
    let is_forbidden = |address: &&SocketAddr| !config.reach.allows(address.ip());
    let Some(address) = addresses.iter().find(is_forbidden) else {
        return Ok(());
    };
    let text = format!(
        "{}: {host} is at {}, which the server's file does not allow",
        config.side,
        address.ip()
    );
    Err(Error::definite(codes::DATABASE_FORBIDDEN, text))
}

fn unresolved(side: Side, host: &Host) -> Error {
    let code = pick(side, codes::SOURCE_UNRESOLVED, codes::TARGET_UNRESOLVED);
    Error::transient(code, format!("{side}: cannot resolve the name in {host}"))
}

fn unreachable(side: Side, host: &Host, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            let code = pick(side, codes::SOURCE_REFUSED, codes::TARGET_REFUSED);
            Error::transient(code, format!("{side}: nothing listens at {host}")).caused_by(error)
        }
        _ => {
            let code = pick(side, codes::SOURCE_UNREACHABLE, codes::TARGET_UNREACHABLE);
            Error::transient(code, format!("{side}: cannot reach {host}")).caused_by(error)
        }
    }
}

/// Something answers, but not PostgreSQL.
fn not_postgresql(side: Side, host: &Host) -> Error {
    let code = pick(
        side,
        codes::SOURCE_NOT_POSTGRESQL,
        codes::TARGET_NOT_POSTGRESQL,
    );
    Error::definite(code, format!("{side}: {host} does not speak PostgreSQL"))
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&socket, TCP_USER_TIMEOUT_MS)?;
    Ok(socket)
}

/// Asks for TLS and shakes hands (PostgreSQL 15, 55.2.10).
async fn encrypt(
    config: &ConnectConfig,
    host: &Host,
    mut socket: TcpStream,
    encryption: Encryption,
) -> Result<Stream> {
    let side = config.side;
    let (Encryption::IfOffered(mode) | Encryption::Always(mode)) = encryption else {
        return Ok(Stream::Plain(Socket::Tcp(socket)));
    };
    let tls_config = tls::client_config(config, mode)?;
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    // Exactly one byte is read: what follows belongs to TLS, or was smuggled in (CVE-2021-23222).
    let mut answer = [0_u8];
    let asked = async {
        socket.write_all(&request).await?;
        socket.read_exact(&mut answer).await
    };
    asked
        .await
        .map_err(|error| unreachable(side, host, error))?;
    match answer {
        [b'S'] => {}
        [b'N'] if matches!(encryption, Encryption::IfOffered(_)) => {
            return Ok(Stream::Plain(Socket::Tcp(socket)));
        }
        [b'N'] => {
            let code = pick(
                side,
                codes::SOURCE_TLS_NOT_OFFERED,
                codes::TARGET_TLS_NOT_OFFERED,
            );
            return Err(Error::definite(
                code,
                format!("{side}: {host} does not offer TLS"),
            ));
        }
        // The server could not even fork.
        [b'E'] => {
            let code = pick(side, codes::SOURCE_RESOURCES, codes::TARGET_RESOURCES);
            return Err(Error::transient(
                code,
                format!("{side}: {host} cannot take connections"),
            ));
        }
        _ => return Err(not_postgresql(side, host)),
    }
    let Host::Tcp { name, .. } = host else {
        return Err(not_postgresql(side, host));
    };
    let server_name = tls::server_name(side, name)?;
    let handshake = TlsConnector::from(tls_config).connect(server_name, Socket::Tcp(socket));
    match handshake.await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(handshake_failure(side, host, error)),
    }
}

/// A failed handshake: TLS's own reason, no TLS at all, or the network.
fn handshake_failure(side: Side, host: &Host, error: io::Error) -> Error {
    let reason = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match reason {
        Some(reason) => tls::classify(side, reason).unwrap_or_else(|| not_postgresql(side, host)),
        None => unreachable(side, host, error),
    }
}

/// A connection whose messages are still kept short.
fn fresh(stream: Stream, config: &ConnectConfig) -> Connection {
    Connection::new(stream, config, STARTUP_FRAME_MAX)
}
