//! The URL itself, from text to [`ConnectConfig`].
//!
//! Strict where libpq guesses: an unescaped `@`, `/` or `#` in a password shifts every later part,
//! and a wrong host would be reported instead of the cause. Problems are told without quoting the
//! text.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tidemark_core::config::problem::suggestion;
use tidemark_core::config::{Reach, Secret};

use super::{ChannelBinding, ConnectConfig, Host, RootCertificates, SessionAttrs, Side, SslMode};

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const ESCAPE_HINT: &str = "if the password holds one of @ : / ? # %, write it percent-encoded \
                           (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25) or give it \
                           separately as `password`";

const PARAMETERS: [&str; 15] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "ssl",
    "target_session_attrs",
    "user",
];

/// Schemes that people paste by mistake and that may be named in a message.
const FOREIGN_SCHEMES: [&str; 12] = [
    "mysql",
    "mariadb",
    "sqlserver",
    "mssql",
    "oracle",
    "http",
    "https",
    "mongodb",
    "redis",
    "kafka",
    "s3",
    "jdbc",
];

/// What the parts of a URL say, before they are put together.
#[derive(Default)]
struct Parts {
    hosts: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<Secret>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_root: Option<RootCertificates>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    channel_binding: Option<ChannelBinding>,
    application_name: Option<String>,
    options: Option<String>,
    connect_timeout: Option<Duration>,
    session_attrs: Option<SessionAttrs>,
}

pub(super) fn parse(text: &str, side: Side) -> Result<ConnectConfig, String> {
    let rest = strip_scheme(text.trim())?;
    if rest.contains('#') {
        return Err(format!("has an unescaped #; {ESCAPE_HINT}"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    if authority.matches('@').count() > 1 || path.contains('@') {
        return Err(format!("has an unescaped @; {ESCAPE_HINT}"));
    }
    let mut parts = Parts::default();
    let host_list = match authority.split_once('@') {
        Some((login, hosts)) => {
            read_login(login, &mut parts)?;
            hosts
        }
        None => authority,
    };
    // Without `user@` in front, a later @ means that the password cut the URL short.
    let misplaced = query.contains('@') && parts.user.is_none();
    let hinted = |problem: String| {
        if misplaced {
            format!("{problem}; {ESCAPE_HINT}")
        } else {
            problem
        }
    };
    read_hosts(host_list, &mut parts).map_err(hinted)?;
    let database = path.trim_start_matches('/');
    if database.contains('/') {
        return Err(format!("has more than one / after the host; {ESCAPE_HINT}"));
    }
    if !database.is_empty() {
        parts.database = Some(decode(database, "database name")?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(hinted("has a parameter without =".to_owned()));
        };
        read_parameter(key, value, &mut parts).map_err(hinted)?;
    }
    assemble(parts, side)
}

fn strip_scheme(text: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("is not a URL; write postgres://user@host:5432/database".to_owned());
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme == "postgres" || scheme == "postgresql" {
        return Ok(rest);
    }
    let first = scheme.split(':').next().unwrap_or_default();
    Err(
        match FOREIGN_SCHEMES.iter().find(|known| **known == first) {
            Some(known) => format!("scheme {known}: is not PostgreSQL; write postgres://…"),
            None => "the scheme is not PostgreSQL's; write postgres://…".to_owned(),
        },
    )
}

fn read_login(login: &str, parts: &mut Parts) -> Result<(), String> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    if !user.is_empty() {
        parts.user = Some(decode(user, "user name")?);
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        parts.password = Some(Secret::new(decode(password, "password")?));
    }
    Ok(())
}

fn read_hosts(list: &str, parts: &mut Parts) -> Result<(), String> {
    for item in list.split(',').filter(|item| !item.is_empty()) {
        let (host, port) = if let Some(bracketed) = item.strip_prefix('[') {
            let (host, after) = bracketed
                .split_once(']')
                .ok_or("has an address with [ but without ]")?;
            (host, after.strip_prefix(':').unwrap_or(after))
        } else {
            item.split_once(':').unwrap_or((item, ""))
        };
        if !port.is_empty() {
            read_port(port)?;
        }
        parts.hosts.push(decode(host, "host name")?);
        parts.ports.push(port.to_owned());
    }
    Ok(())
}

fn read_port(text: &str) -> Result<u16, String> {
    text.parse::<u16>()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("the port must be a number from 1 to 65535; {ESCAPE_HINT}"))
}

fn read_parameter(key: &str, raw: &str, parts: &mut Parts) -> Result<(), String> {
    let value = decode(raw, "parameter")?;
    match key {
        "application_name" => parts.application_name = Some(value),
        "channel_binding" => {
            parts.channel_binding = Some(one_of(
                key,
                &value,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            )?);
        }
        "connect_timeout" => {
            let seconds = value.parse::<u64>().ok().filter(|s| (1..=3600).contains(s));
            let seconds = seconds.ok_or("connect_timeout must be 1 to 3600 seconds")?;
            parts.connect_timeout = Some(Duration::from_secs(seconds));
        }
        "dbname" => parts.database = Some(value),
        "host" => {
            parts.hosts = value.split(',').map(str::to_owned).collect();
            parts.ports.resize(parts.hosts.len(), String::new());
        }
        "options" => parts.options = Some(value),
        "password" => parts.password = Some(Secret::new(value)),
        "port" => parts.ports = value.split(',').map(str::to_owned).collect(),
        "ssl" if value == "true" => parts.ssl_mode = Some(SslMode::VerifyFull),
        "ssl" => return Err("ssl must be true; use sslmode".to_owned()),
        "sslcert" => parts.ssl_cert = Some(PathBuf::from(value)),
        "sslkey" => parts.ssl_key = Some(PathBuf::from(value)),
        "sslmode" => parts.ssl_mode = Some(read_ssl_mode(&value)?),
        "sslrootcert" if value == "system" => parts.ssl_root = Some(RootCertificates::System),
        "sslrootcert" => parts.ssl_root = Some(RootCertificates::File(PathBuf::from(value))),
        "target_session_attrs" => parts.session_attrs = Some(read_session_attrs(&value)?),
        "user" => parts.user = Some(value),
        unknown => return Err(unknown_parameter(unknown, parts.user.is_some())),
    }
    Ok(())
}

fn read_ssl_mode(value: &str) -> Result<SslMode, String> {
    one_of(
        "sslmode",
        value,
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
    )
}

fn read_session_attrs(value: &str) -> Result<SessionAttrs, String> {
    one_of(
        "target_session_attrs",
        value,
        &[
            ("any", SessionAttrs::Any),
            ("read-write", SessionAttrs::ReadWrite),
            ("read-only", SessionAttrs::ReadOnly),
            ("primary", SessionAttrs::Primary),
            ("standby", SessionAttrs::Standby),
            ("prefer-standby", SessionAttrs::PreferStandby),
        ],
    )
}

fn one_of<T: Copy>(key: &str, value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            format!("{key} must be one of {}", names.join(", "))
        })
}

/// Names the key only when the login before it was whole and it looks like a key: in a broken URL
/// part of the password may stand here.
fn unknown_parameter(key: &str, login_known: bool) -> String {
    let plain = login_known && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let what = if plain {
        format!("parameter {key}")
    } else {
        "parameter".to_owned()
    };
    match suggestion(key, PARAMETERS) {
        Some(known) => format!("unknown {what}; did you mean {known}?"),
        None => format!("unknown {what}; known are {}", PARAMETERS.join(", ")),
    }
}

fn decode(text: &str, what: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(i, byte)| {
        *byte == b'%'
            && !bytes
                .get(i + 1..i + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        return Err(format!(
            "the {what} has a % that is not an escape; {ESCAPE_HINT}"
        ));
    }
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| format!("the {what} is not UTF-8 after decoding"))?;
    if decoded.contains('\0') {
        return Err(format!("the {what} holds a zero byte"));
    }
    Ok(decoded.into_owned())
}

fn assemble(parts: Parts, side: Side) -> Result<ConnectConfig, String> {
    let user = parts
        .user
        .ok_or("names no user; write postgres://user@host:5432/database")?;
    if parts.hosts.is_empty() {
        return Err("names no host; for a Unix socket add ?host=/path/of/directory".to_owned());
    }
    let hosts = parts
        .hosts
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let port = match parts.ports.len() {
                1 => parts.ports.first(),
                _ => parts.ports.get(i),
            };
            let port = match port.map(String::as_str) {
                None | Some("") => DEFAULT_PORT,
                Some(port) => read_port(port)?,
            };
            if name.is_empty() {
                return Err("has an empty host name".to_owned());
            }
            if !name.starts_with('/') && name.contains(char::is_whitespace) {
                return Err("has a space in its host name".to_owned());
            }
            Ok(if name.starts_with('/') {
                Host::Unix {
                    directory: PathBuf::from(name),
                    port,
                }
            } else {
                Host::Tcp {
                    name: name.clone(),
                    port,
                }
            })
        })
        .collect::<Result<Vec<Host>, String>>()?;
    let ssl_client = match (parts.ssl_cert, parts.ssl_key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err("has sslcert without sslkey".to_owned()),
        (None, Some(_)) => return Err("has sslkey without sslcert".to_owned()),
    };
    // libpq (PostgreSQL 16, 34.1.2): the system's roots vouch for names only.
    let ssl_mode = match (&parts.ssl_root, parts.ssl_mode) {
        (Some(RootCertificates::System), None) => Some(SslMode::VerifyFull),
        (Some(RootCertificates::System), Some(mode)) if mode != SslMode::VerifyFull => {
            return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
        }
        (_, mode) => mode,
    };
    Ok(ConnectConfig {
        side,
        hosts,
        database: parts.database.unwrap_or_else(|| user.clone()),
        user,
        password: parts.password,
        ssl_mode,
        ssl_root: parts.ssl_root,
        ssl_client,
        channel_binding: parts.channel_binding.unwrap_or(ChannelBinding::Prefer),
        application_name: parts.application_name,
        options: parts.options,
        connect_timeout: parts.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        session_attrs: parts.session_attrs.unwrap_or(SessionAttrs::Any),
        reach: Reach::default(),
        renewal: None,
    })
}
