//! From what PostgreSQL, the network or TLS says to the project's [`Error`].
//!
//! [`classify`] is the one function that decides by SQLSTATE; [`RULES`] is its table, to be read
//! from top to bottom, longest prefix first. What is not in it is transient: trying again is
//! visible and harms nothing, giving up on something that would have passed does.
//!
//! SQLSTATEs: PostgreSQL 15, appendix A.

use std::io;

use tidemark_core::catalogue::{Code, codes};
use tidemark_core::schema::TableName;
use tidemark_core::{Error, ErrorKind, Result};

use crate::config::Side;
use crate::wire::ServerError;

use ErrorKind::{Data, Definite, Transient};

/// The catalogue's codes for source and target.
type Codes = (Code, Code);

const AUTHENTICATION: Codes = (codes::SOURCE_AUTHENTICATION, codes::TARGET_AUTHENTICATION);
const CANCELLED: Codes = (codes::SOURCE_CANCELLED, codes::TARGET_CANCELLED);
const CHECK: Codes = (codes::SOURCE_VALUE, codes::TARGET_CHECK);
const CONFLICT: Codes = (codes::SOURCE_CONFLICT, codes::TARGET_CONFLICT);
const CONNECTION_LOST: Codes = (codes::SOURCE_CONNECTION_LOST, codes::TARGET_CONNECTION_LOST);
const DISK_FULL: Codes = (codes::SOURCE_DISK_FULL, codes::TARGET_DISK_FULL);
const FOREIGN_KEY: Codes = (codes::SOURCE_VALUE, codes::TARGET_FOREIGN_KEY);
const NO_DATABASE: Codes = (codes::SOURCE_NO_DATABASE, codes::TARGET_NO_DATABASE);
const NO_OBJECT: Codes = (codes::SOURCE_NO_OBJECT, codes::TARGET_NO_OBJECT);
const NOT_NULL: Codes = (codes::SOURCE_VALUE, codes::TARGET_NOT_NULL);
const PERMISSION: Codes = (codes::SOURCE_PERMISSION, codes::TARGET_PERMISSION);
const PROTOCOL: Codes = (codes::SOURCE_PROTOCOL, codes::TARGET_PROTOCOL);
const READ_ONLY: Codes = (codes::SOURCE_READ_ONLY, codes::TARGET_READ_ONLY);
const REFUSED: Codes = (
    codes::SOURCE_REFUSED_STATEMENT,
    codes::TARGET_REFUSED_STATEMENT,
);
const RESOURCES: Codes = (codes::SOURCE_RESOURCES, codes::TARGET_RESOURCES);
const SHUTDOWN: Codes = (codes::SOURCE_SHUTDOWN, codes::TARGET_SHUTDOWN);
const SYSTEM: Codes = (codes::SOURCE_SYSTEM, codes::TARGET_SYSTEM);
const TOO_MANY: Codes = (
    codes::SOURCE_TOO_MANY_CONNECTIONS,
    codes::TARGET_TOO_MANY_CONNECTIONS,
);
const UNIQUE: Codes = (codes::SOURCE_VALUE, codes::TARGET_UNIQUE);
const VALUE: Codes = (codes::SOURCE_VALUE, codes::TARGET_VALUE);

/// A SQLSTATE or its beginning, what follows from it, how it is explained, and a sentence.
type Rule = (&'static str, ErrorKind, Codes, &'static str);

const RULES: &[Rule] = &[
    // Connections.
    ("08P01", Definite, PROTOCOL, "protocol violation"),
    ("08", Transient, CONNECTION_LOST, "connection lost"),
    ("28P01", Definite, AUTHENTICATION, "authentication failed"),
    ("28", Definite, AUTHENTICATION, "login refused"),
    ("3D000", Definite, NO_DATABASE, "no such database"),
    // Resources.
    ("53100", Transient, DISK_FULL, "disk full"),
    ("53300", Transient, TOO_MANY, "too many connections"),
    ("53", Transient, RESOURCES, "out of resources"),
    ("54", Definite, REFUSED, "limit of the server exceeded"),
    // Operators.
    ("57014", Transient, CANCELLED, "statement cancelled"),
    ("57P04", Definite, NO_DATABASE, "database dropped"),
    (
        "57P05",
        Transient,
        CONNECTION_LOST,
        "session ended by its time limit",
    ),
    ("57", Transient, SHUTDOWN, "server is stopping or starting"),
    ("58", Transient, SYSTEM, "system error on the server"),
    // Other sessions, and time limits that end a session.
    ("40", Transient, CONFLICT, "conflict with another session"),
    ("55P03", Transient, CONFLICT, "lock not granted in time"),
    ("55006", Transient, CONFLICT, "object in use"),
    (
        "25P03",
        Transient,
        CONNECTION_LOST,
        "session ended by its time limit",
    ),
    (
        "25P04",
        Transient,
        CONNECTION_LOST,
        "session ended by its time limit",
    ),
    // Privileges and objects.
    // A start is refused by its check; later it is a failover under way, or somebody at work.
    ("25006", Transient, READ_ONLY, "server is read-only"),
    ("42501", Definite, PERMISSION, "permission denied"),
    ("42P01", Definite, NO_OBJECT, "no such table"),
    ("42703", Definite, NO_OBJECT, "no such column"),
    ("42704", Definite, NO_OBJECT, "no such object"),
    ("42883", Definite, NO_OBJECT, "no such function"),
    ("3F000", Definite, NO_OBJECT, "no such schema"),
    ("0A", Definite, REFUSED, "not supported by the server"),
    ("25", Definite, REFUSED, "invalid transaction state"),
    ("42", Definite, REFUSED, "statement refused"),
    ("55", Definite, REFUSED, "not possible in the present state"),
    // Data.
    ("23502", Data, NOT_NULL, "null where none is allowed"),
    ("23503", Data, FOREIGN_KEY, "foreign key violation"),
    ("23505", Data, UNIQUE, "unique violation"),
    ("23", Data, CHECK, "constraint violation"),
    ("44", Data, CHECK, "check option violation"),
    ("22", Data, VALUE, "value does not fit"),
    ("P0001", Data, CHECK, "refused by a trigger or function"),
    // The server's own inconsistencies; retrying harms nothing and is visible.
    ("XX", Transient, SYSTEM, "internal error of the server"),
];

/// PgBouncer ends every connection with 08P01 and `FATAL`, whatever it is for (1.18, `disconnect_client`):
/// a server that restarts, a time limit, a shutdown of its own. What it says of the login is meant; a
/// message with `server login failed` hands on what the server said, which may be that it starts.
const OF_A_POOLER: &[Rule] = &[
    (
        "unsupported startup parameter",
        Definite,
        PROTOCOL,
        "protocol violation",
    ),
    (
        "no such database",
        Definite,
        NO_DATABASE,
        "no such database",
    ),
    ("no such user", Definite, AUTHENTICATION, "login refused"),
    ("login rejected", Definite, AUTHENTICATION, "login refused"),
    (
        "",
        Transient,
        CONNECTION_LOST,
        "connection ended by what answers in place of the server",
    ),
];

/// A database that takes no connections is refused like a statement that does not fit the moment
/// (PostgreSQL 15, `CheckMyDatabase`): somebody restores or moves it.
const CLOSED: Rule = (
    "55000",
    Definite,
    NO_DATABASE,
    "the database takes no connections",
);

fn of_a_pooler(message: &str) -> Option<&'static Rule> {
    if !message.starts_with("server login failed") && message.contains("authentication failed") {
        return RULES.iter().find(|rule| rule.0 == "28P01");
    }
    OF_A_POOLER.iter().find(|rule| message.starts_with(rule.0))
}

/// Decides what an error of a server means for the pipeline.
pub fn classify(side: Side, error: ServerError) -> Error {
    let rule = match (error.sqlstate.as_str(), error.severity.as_str()) {
        ("08P01", "FATAL") => of_a_pooler(&error.message),
        ("55000", "FATAL") => Some(&CLOSED),
        (sqlstate, _) => {
            let fitting = RULES.iter().filter(|rule| sqlstate.starts_with(rule.0));
            fitting.max_by_key(|rule| rule.0.len())
        }
    };
    let unknown = &("", Transient, SYSTEM, "unexpected error of the server");
    let (_, kind, (source, target), sentence) = *rule.unwrap_or(unknown);
    let code = pick(side, source, target);
    // Out of rows the source speaks of its own tables; the target's may have other names.
    let table = match (side, &error.schema, &error.table) {
        (Side::Source, Some(schema), Some(table)) => {
            Some(TableName::new(schema, table).to_string())
        }
        _ => None,
    };
    let mut out = Error::new(kind, code, format!("{side}: {sentence}"))
        .sqlstate(error.sqlstate.clone())
        .caused_by(error);
    if let Some(table) = table {
        out = out.table(table);
    }
    out
}

/// What the server said, where `error` came from a server.
pub fn server_error(error: &Error) -> Option<&ServerError> {
    std::error::Error::source(error)?.downcast_ref()
}

/// The connection broke while in use.
pub(crate) fn lost(side: Side, error: io::Error) -> Error {
    let code = pick(
        side,
        codes::SOURCE_CONNECTION_LOST,
        codes::TARGET_CONNECTION_LOST,
    );
    Error::transient(code, format!("{side}: connection lost")).caused_by(error)
}

/// The server closed the connection without a word.
pub(crate) fn closed(side: Side) -> Error {
    let code = pick(
        side,
        codes::SOURCE_CONNECTION_LOST,
        codes::TARGET_CONNECTION_LOST,
    );
    Error::transient(code, format!("{side}: connection closed by the server"))
}

/// Nothing was heard for longer than the limit.
pub(crate) fn silent(side: Side, seconds: u64) -> Error {
    let code = pick(
        side,
        codes::SOURCE_CONNECTION_LOST,
        codes::TARGET_CONNECTION_LOST,
    );
    Error::transient(
        code,
        format!("{side}: nothing heard from the server for {seconds} s"),
    )
}

/// Bytes that are no message of the protocol, or one that does not belong here. Transient, since
/// it is seen when a proxy or a dying server cuts in; a new connection starts clean.
pub(crate) fn protocol(side: Side, what: impl std::fmt::Display) -> Error {
    let code = pick(side, codes::SOURCE_PROTOCOL, codes::TARGET_PROTOCOL);
    Error::transient(
        code,
        format!("{side}: unexpected answer of the server: {what}"),
    )
}

/// The code for the side at hand.
pub(crate) fn pick(side: Side, source: Code, target: Code) -> Code {
    match side {
        Side::Source => source,
        Side::Target | Side::Store => target,
    }
}

/// Text that cannot be sent, such as a zero byte in a statement.
pub(crate) fn unsendable<T>(side: Side, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| {
        let code = pick(
            side,
            codes::SOURCE_REFUSED_STATEMENT,
            codes::TARGET_REFUSED_STATEMENT,
        );
        Error::definite(code, format!("{side}: statement cannot be sent")).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_and_code(sqlstate: &str, side: Side) -> (ErrorKind, Code) {
        let error = classify(
            side,
            ServerError {
                sqlstate: sqlstate.to_owned(),
                ..ServerError::default()
            },
        );
        (error.kind(), error.code())
    }

    #[test]
    fn what_a_pooler_says_is_told_by_its_words() {
        for (message, kind, code) in [
            (
                "server conn crashed?",
                Transient,
                codes::TARGET_CONNECTION_LOST,
            ),
            ("database removed", Transient, codes::TARGET_CONNECTION_LOST),
            (
                "server login failed: FATAL the database system is starting up",
                Transient,
                codes::TARGET_CONNECTION_LOST,
            ),
            (
                "SASL authentication failed",
                Definite,
                codes::TARGET_AUTHENTICATION,
            ),
            (
                "no such user: loader",
                Definite,
                codes::TARGET_AUTHENTICATION,
            ),
            ("no such database: dw", Definite, codes::TARGET_NO_DATABASE),
            (
                "unsupported startup parameter: options",
                Definite,
                codes::TARGET_PROTOCOL,
            ),
        ] {
            let said = ServerError {
                severity: "FATAL".to_owned(),
                sqlstate: "08P01".to_owned(),
                message: message.to_owned(),
                ..ServerError::default()
            };
            let error = classify(Side::Target, said);
            assert_eq!((error.kind(), error.code()), (kind, code), "{message}");
        }
        let (kind, code) = kind_and_code("08P01", Side::Target);
        assert_eq!(
            (kind, code),
            (Definite, codes::TARGET_PROTOCOL),
            "an ERROR of the server"
        );
    }

    #[test]
    fn a_database_that_takes_no_connections_is_none_for_a_while() {
        let said = ServerError {
            severity: "FATAL".to_owned(),
            sqlstate: "55000".to_owned(),
            ..ServerError::default()
        };
        let error = classify(Side::Source, said);
        assert_eq!(error.code(), codes::SOURCE_NO_DATABASE);
        assert!(error.is_taken_away());
    }

    #[test]
    fn every_kind_is_decided_by_the_table() {
        for (sqlstate, side, kind, code) in [
            ("57P01", Side::Source, Transient, codes::SOURCE_SHUTDOWN),
            ("57P03", Side::Target, Transient, codes::TARGET_SHUTDOWN),
            ("53100", Side::Target, Transient, codes::TARGET_DISK_FULL),
            (
                "53300",
                Side::Source,
                Transient,
                codes::SOURCE_TOO_MANY_CONNECTIONS,
            ),
            ("40001", Side::Target, Transient, codes::TARGET_CONFLICT),
            ("40P01", Side::Target, Transient, codes::TARGET_CONFLICT),
            ("55P03", Side::Target, Transient, codes::TARGET_CONFLICT),
            ("25006", Side::Target, Transient, codes::TARGET_READ_ONLY),
            (
                "55000",
                Side::Source,
                Definite,
                codes::SOURCE_REFUSED_STATEMENT,
            ),
            (
                "08006",
                Side::Source,
                Transient,
                codes::SOURCE_CONNECTION_LOST,
            ),
            ("22003", Side::Target, Data, codes::TARGET_VALUE),
            ("23505", Side::Target, Data, codes::TARGET_UNIQUE),
            ("23514", Side::Target, Data, codes::TARGET_CHECK),
            (
                "28P01",
                Side::Source,
                Definite,
                codes::SOURCE_AUTHENTICATION,
            ),
            ("3D000", Side::Target, Definite, codes::TARGET_NO_DATABASE),
            ("42501", Side::Source, Definite, codes::SOURCE_PERMISSION),
            ("42P01", Side::Target, Definite, codes::TARGET_NO_OBJECT),
            ("ZZ999", Side::Target, Transient, codes::TARGET_SYSTEM),
            ("", Side::Source, Transient, codes::SOURCE_SYSTEM),
        ] {
            assert_eq!(kind_and_code(sqlstate, side), (kind, code), "{sqlstate}");
        }
    }

    #[test]
    fn server_error_is_found_again() {
        let error = classify(
            Side::Target,
            ServerError {
                sqlstate: "23505".to_owned(),
                constraint: Some("t_pkey".to_owned()),
                ..ServerError::default()
            },
        );
        let found = server_error(&error).and_then(|found| found.constraint.as_deref());
        assert_eq!(found, Some("t_pkey"));
        assert_eq!(error.sqlstate_code(), Some("23505"));
    }
}
