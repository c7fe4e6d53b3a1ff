//! Start-up message, authentication, and the session's settings (PostgreSQL 15, 55.2.1 and 55.3).

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};

use super::{fresh, not_postgresql};
use crate::config::{ChannelBinding, ConnectConfig, Host, Side};
use crate::error::{self, pick};
use crate::tls;
use crate::wire::{Connection, Role, ServerError, Stream};

/// Values that decide how text looks and is read, what may fail, and when the server gives up: the same
/// on every server, whatever its roles and databases have. Serializable transactions fail for reasons of
/// their own when many write at once. JIT spends seconds on questions to the catalog that run for
/// milliseconds, since the planner expects thousands of rows of a recursive query. `idle_session_timeout`
/// came with PostgreSQL 14, `transaction_timeout` with 17.
const SETTINGS: &str = "SET client_encoding = 'UTF8'; SET DateStyle = 'ISO'; \
     SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 3; \
     SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET array_nulls = on; \
     SET xmloption = content; SET standard_conforming_strings = on; \
     SET quote_all_identifiers = off; SET transform_null_equals = off; \
     SET default_transaction_isolation = 'read committed'; \
     SET default_transaction_deferrable = off; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET search_path = pg_catalog; \
     SET exit_on_error = off; SET jit = off;";
const SETTINGS_SINCE_14: &str = " SET idle_session_timeout = 0;";
const SETTINGS_SINCE_17: &str = " SET transaction_timeout = 0;";

/// Has the server look now and then whether we are still there. Whoever is stopped, killed or gives up
/// must not leave a statement behind that reads a large table for nobody, or that waits for a lock, keeps
/// others from the table meanwhile and is carried out minutes later. Since PostgreSQL 14; where the
/// server's system cannot tell, it refuses (20.3.2).
const NOTICE_OUR_END: &str = "SET client_connection_check_interval = '1s'";

/// Opens a session on a stream that is ready for the start-up message.
pub(super) async fn start(
    config: &ConnectConfig,
    host: &Host,
    stream: Stream,
    role: Role,
) -> Result<Connection> {
    let mut connection = fresh(stream, config);
    let name = config.application_name.as_deref().unwrap_or("tidemark");
    let mut parameters = vec![
        ("user", config.user.as_str()),
        ("database", config.database.as_str()),
        ("application_name", name),
        ("client_encoding", "UTF8"),
    ];
    if let Some(options) = &config.options {
        parameters.push(("options", options));
    }
    if role == Role::Replication {
        parameters.push(("replication", "database"));
    }
    let written = frontend::startup_message(parameters, connection.outbound_mut());
    error::unsendable(config.side, written)?;
    authenticate(&mut connection, config, host, role).await?;
    await_ready(&mut connection, config.side, host).await?;
    connection.lift_frame_limit();
    settle(&mut connection).await?;
    Ok(connection)
}

/// Sends the settings and finds out whether the process that answers queries is the one that
/// answered at start-up; a pooler gives a process number of its own making.
async fn settle(connection: &mut Connection) -> Result<()> {
    let mut sql = SETTINGS.to_owned();
    if connection.server_version() >= 140_000 {
        sql.push_str(SETTINGS_SINCE_14);
    }
    if connection.server_version() >= 170_000 {
        sql.push_str(SETTINGS_SINCE_17);
    }
    sql.push_str(" SELECT pg_backend_pid()");
    let notices_our_end = connection.server_version() >= 140_000;
    let doing = |error: Error| error.context("set up session");
    connection.send_query(&sql)?;
    if notices_our_end {
        // On its own: a refusal would undo the others.
        connection.send_query(NOTICE_OUR_END)?;
    }
    let sets = connection.result_sets().await.map_err(doing)?;
    if notices_our_end && let Err(refused) = connection.result_sets().await {
        if refused.sqlstate_code().is_none() {
            return Err(doing(refused));
        }
        tracing::debug!(side = %connection.side(), error = %refused, "the server will not notice our end");
    }
    if let Some(row) = sets.last().and_then(|set| set.rows.first()) {
        let pid: u32 = row.get(0)?;
        connection.session_mut().pooled = pid != connection.pid();
    }
    Ok(())
}

/// What is at the front of the buffer while the server may still prove not to be one.
async fn first_answer(connection: &mut Connection, host: &Host) -> Result<crate::wire::Header> {
    let side = connection.side();
    connection.answer().await.map_err(|error| {
        let code = pick(side, codes::SOURCE_PROTOCOL, codes::TARGET_PROTOCOL);
        if error.code() == code {
            return not_postgresql(side, host);
        }
        // With TLS 1.3 the server's verdict on our certificate arrives after the handshake.
        let reason = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|reason| tls::classify(side, reason));
        reason.unwrap_or_else(|| {
            let lost = pick(
                side,
                codes::SOURCE_CONNECTION_LOST,
                codes::TARGET_CONNECTION_LOST,
            );
            if error.code() != lost {
                return error;
            }
            let code = pick(side, codes::SOURCE_UNREACHABLE, codes::TARGET_UNREACHABLE);
            error
                .with_code(code)
                .context(format!("start session at {host}"))
        })
    })
}

async fn authenticate(
    connection: &mut Connection,
    config: &ConnectConfig,
    host: &Host,
    role: Role,
) -> Result<()> {
    let side = config.side;
    let mut proven = false;
    loop {
        let header = first_answer(connection, host).await?;
        match header.tag {
            b'E' => return Err(refused(connection, header, config, role)),
            // NegotiateProtocolVersion: fine, 3.0 without extensions is all we use.
            b'v' => {
                connection.skip(header);
                continue;
            }
            b'R' => {}
            _ => return Err(not_postgresql(side, host)),
        }
        let body = connection.body(header).to_vec();
        connection.skip(header);
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Err(not_postgresql(side, host));
        };
        let code = i32::from_be_bytes(*code);
        if config.channel_binding == ChannelBinding::Require && code != 10 && !proven {
            return Err(auth_error(
                side,
                "channel_binding=require, but the server does not ask \
                                         for SCRAM",
            ));
        }
        match code {
            0 => return Ok(()),
            3 => {
                let password = password(config)?;
                let written =
                    frontend::password_message(password.as_bytes(), connection.outbound_mut());
                error::unsendable(side, written)?;
            }
            5 => {
                let Some((salt, _)) = rest.split_first_chunk::<4>() else {
                    return Err(not_postgresql(side, host));
                };
                let hash = md5_hash(config.user.as_bytes(), password(config)?.as_bytes(), *salt);
                let written =
                    frontend::password_message(hash.as_bytes(), connection.outbound_mut());
                error::unsendable(side, written)?;
            }
            10 => {
                scram(connection, config, host, role, rest).await?;
                proven = true;
            }
            7 | 9 => return Err(auth_error(side, "the server asks for GSSAPI or SSPI")),
            _ => {
                return Err(auth_error(
                    side,
                    "the server asks for an unknown way of login",
                ));
            }
        }
    }
}

async fn scram(
    connection: &mut Connection,
    config: &ConnectConfig,
    host: &Host,
    role: Role,
    mechanisms: &[u8],
) -> Result<()> {
    let side = config.side;
    let offered = |name: &str| {
        mechanisms
            .split(|byte| *byte == 0)
            .any(|m| m == name.as_bytes())
    };
    let end_point = connection.server_end_point();
    let plus = offered(sasl::SCRAM_SHA_256_PLUS);
    let (mechanism, binding) = match (plus, end_point, config.channel_binding) {
        (true, Some(hash), ChannelBinding::Prefer | ChannelBinding::Require) => (
            sasl::SCRAM_SHA_256_PLUS,
            sasl::ChannelBinding::tls_server_end_point(hash),
        ),
        (_, _, ChannelBinding::Require) => {
            return Err(auth_error(
                side,
                "channel_binding=require, but the server does not offer it here",
            ));
        }
        // Tells a server that does offer it that somebody in between has hidden the offer.
        (false, Some(_), ChannelBinding::Prefer) => {
            (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())
        }
        _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    if !plus && !offered(sasl::SCRAM_SHA_256) {
        return Err(auth_error(
            side,
            "the server asks for an unknown SASL mechanism",
        ));
    }
    let mut exchange = ScramSha256::new(password(config)?.as_bytes(), binding);
    let first =
        frontend::sasl_initial_response(mechanism, exchange.message(), connection.outbound_mut());
    error::unsendable(side, first)?;
    let challenge = sasl_answer(connection, config, host, role, 11).await?;
    // Deriving the key takes milliseconds by design; that is no reason for another thread.
    exchange
        .update(&challenge)
        .map_err(|error| sasl_error(side, error))?;
    let second = frontend::sasl_response(exchange.message(), connection.outbound_mut());
    error::unsendable(side, second)?;
    let outcome = sasl_answer(connection, config, host, role, 12).await?;
    exchange
        .finish(&outcome)
        .map_err(|error| sasl_error(side, error))
}

async fn sasl_answer(
    connection: &mut Connection,
    config: &ConnectConfig,
    host: &Host,
    role: Role,
    wanted: i32,
) -> Result<Vec<u8>> {
    let header = first_answer(connection, host).await?;
    if header.tag == b'E' {
        return Err(refused(connection, header, config, role));
    }
    let body = connection.body(header);
    match body.split_first_chunk::<4>() {
        Some((code, rest)) if header.tag == b'R' && i32::from_be_bytes(*code) == wanted => {
            let rest = rest.to_vec();
            connection.skip(header);
            Ok(rest)
        }
        _ => Err(not_postgresql(config.side, host)),
    }
}

/// Reads what follows the login: the cancel key, settings, and `ReadyForQuery`.
async fn await_ready(connection: &mut Connection, side: Side, host: &Host) -> Result<()> {
    loop {
        let header = first_answer(connection, host).await?;
        match header.tag {
            b'Z' => {
                connection.skip(header);
                return Ok(());
            }
            b'K' => {
                if let Some((&[a, b, c, d], key)) = connection.body(header).split_first_chunk::<4>()
                    && let Some(&key) = key.first_chunk::<4>()
                {
                    let session = connection.session_mut();
                    session.pid = u32::from_be_bytes([a, b, c, d]);
                    session.cancel_key = u32::from_be_bytes(key);
                }
                connection.skip(header);
            }
            b'E' => return Err(connection.refusal(header)),
            b'v' => connection.skip(header),
            _ => return Err(error::protocol(side, "unknown message at start-up")),
        }
    }
}

/// An error during login. PgBouncer refuses `replication` as a start-up parameter it does not know
/// (08P01 "unsupported startup parameter"), or as a login it does not have.
fn refused(
    connection: &mut Connection,
    header: crate::wire::Header,
    config: &ConnectConfig,
    role: Role,
) -> Error {
    let said = ServerError::parse(connection.body(header));
    if said.sqlstate == "08P01" && role == Role::Replication {
        let side = config.side;
        let code = pick(side, codes::SOURCE_POOLER, codes::TARGET_POOLER);
        return Error::definite(code, format!("{side}: no replication through this address"))
            .sqlstate(said.sqlstate.clone())
            .caused_by(said);
    }
    connection.refusal(header)
}

fn password(config: &ConnectConfig) -> Result<&str> {
    if let Some(password) = &config.password {
        return Ok(password.expose());
    }
    let refused = auth_error(
        config.side,
        "the server asks for a password and none is given",
    );
    Err(match how_to_give_one(config.side) {
        Some(how) => refused.first_action(how),
        None => refused,
    })
}

fn how_to_give_one(side: Side) -> Option<String> {
    let variable = match side {
        Side::Source => "SOURCE_PASSWORD",
        Side::Target => "TARGET_PASSWORD",
        Side::Store => return None,
    };
    Some(format!(
        "give one: password = \"${{env:{variable}}}\" under [{side}] of the pipeline file, with that variable \
         set (or ${{file:…}}), or user:password@ in {side}.url"
    ))
}

fn auth_error(side: Side, what: &str) -> Error {
    let code = pick(
        side,
        codes::SOURCE_AUTHENTICATION,
        codes::TARGET_AUTHENTICATION,
    );
    Error::definite(code, format!("{side}: {what}"))
}

fn sasl_error(side: Side, error: std::io::Error) -> Error {
    auth_error(side, "SCRAM login fails").caused_by(error)
}
