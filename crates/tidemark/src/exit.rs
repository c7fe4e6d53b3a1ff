//! Exit codes, and which error ends in which: one table.
//!
//! | Code | Meaning |
//! |--|--|
//! | 0 | done, verdict positive |
//! | 1 | failed, and no other row fits |
//! | 2 | usage or configuration |
//! | 3 | ran fine, verdict negative: a check failed, rows differ, a limit is exceeded |
//! | 4 | not allowed: password, role, privilege |
//! | 5 | something cannot be reached |
//! | 6 | refused to be safe: consent is missing, somebody else owns it, changes would be lost |
//! | 130, 143 | interrupted, terminated |

use std::process::ExitCode;

use tidemark_core::catalogue::{Code, codes};
use tidemark_core::{Error, ErrorKind};

/// How an invocation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Negative,
    NotAllowed,
    Unreachable,
    Refused,
    Interrupted,
    Terminated,
}

impl Exit {
    /// The number the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Negative => 3,
            Exit::NotAllowed => 4,
            Exit::Unreachable => 5,
            Exit::Refused => 6,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }

    /// The HTTP status that goes with it in a problem object (RFC 9457).
    pub(crate) fn http_status(self) -> u16 {
        match self {
            Exit::Done | Exit::Negative => 200,
            Exit::Usage => 422,
            Exit::NotAllowed => 403,
            Exit::Refused => 409,
            Exit::Unreachable | Exit::Interrupted | Exit::Terminated => 503,
            Exit::Failed => 500,
        }
    }

    /// How an error ends an invocation.
    pub(crate) fn of(err: &Error) -> Exit {
        match of_code(err.code()) {
            Some(exit) => exit,
            None if err.kind() == ErrorKind::Transient => Exit::Unreachable,
            None => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// What a code says by itself; the rest is decided by the kind of the error.
pub(crate) fn of_code(code: Code) -> Option<Exit> {
    const NOT_ALLOWED: [Code; 7] = [
        codes::SOURCE_NO_REPLICATION,
        codes::SOURCE_GRANTS,
        codes::TARGET_GRANTS,
        codes::SOURCE_AUTHENTICATION,
        codes::SOURCE_PERMISSION,
        codes::TARGET_AUTHENTICATION,
        codes::TARGET_PERMISSION,
    ];
    const UNREACHABLE: [Code; 14] = [
        codes::SOURCE_UNRESOLVED,
        codes::SOURCE_NO_DATABASE,
        codes::SOURCE_NOT_POSTGRESQL,
        codes::SOURCE_TLS_NOT_OFFERED,
        codes::SOURCE_TLS_UNTRUSTED,
        codes::SOURCE_TLS_EXPIRED,
        codes::SOURCE_TLS_WRONG_HOST,
        codes::TARGET_UNRESOLVED,
        codes::TARGET_NO_DATABASE,
        codes::TARGET_NOT_POSTGRESQL,
        codes::TARGET_TLS_NOT_OFFERED,
        codes::TARGET_TLS_UNTRUSTED,
        codes::TARGET_TLS_EXPIRED,
        codes::TARGET_TLS_WRONG_HOST,
    ];
    // Going on would overwrite, mix or lose something, or a prerequisite is missing.
    const REFUSED: [Code; 14] = [
        codes::CLI_CONSENT,
        codes::CLI_NOT_RUNNING,
        codes::CLI_REFUSED,
        codes::TARGET_OWNED,
        codes::TARGET_FENCED,
        codes::TARGET_LOCK_LOST,
        codes::TARGET_METADATA_NEWER,
        codes::TARGET_NOT_KNOWN,
        codes::TARGET_TABLE_EXISTS,
        codes::TARGET_TABLE_NOT_EMPTY,
        codes::TARGET_TABLE_MISSING,
        codes::TARGET_TABLE_UNFIT,
        codes::TARGET_IS_SOURCE,
        codes::TARGET_NAME_TAKEN,
    ];
    let number: u16 = code.to_string().get(2..)?.parse().ok()?;
    match number {
        _ if NOT_ALLOWED.contains(&code) => Some(Exit::NotAllowed),
        _ if UNREACHABLE.contains(&code) => Some(Exit::Unreachable),
        _ if REFUSED.contains(&code) => Some(Exit::Refused),
        _ if code == codes::CLI_NO_ANSWER || code == codes::DEMO_NO_SERVER => {
            Some(Exit::Unreachable)
        }
        _ if code == codes::POSITION_MALFORMED => Some(Exit::Usage),
        // What a check found on the source; slots and positions, where going on would lose changes.
        1_010 | 1_031..1_100 | 4_000..5_000 => Some(Exit::Refused),
        7_000..8_000 => Some(Exit::Usage),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_end_as_the_table_says() {
        for (err, expected) in [
            (
                Error::transient(codes::SOURCE_UNREACHABLE, "x"),
                Exit::Unreachable,
            ),
            (
                Error::definite(codes::TARGET_AUTHENTICATION, "x"),
                Exit::NotAllowed,
            ),
            (
                Error::definite(codes::SOURCE_UNRESOLVED, "x"),
                Exit::Unreachable,
            ),
            (Error::definite(codes::SLOT_AHEAD, "x"), Exit::Refused),
            (Error::transient(codes::SLOT_ACTIVE, "x"), Exit::Refused),
            (Error::definite(codes::POSITION_MALFORMED, "x"), Exit::Usage),
            (Error::definite(codes::CONFIG_VALUE, "x"), Exit::Usage),
            (Error::definite(codes::CLI_CONSENT, "x"), Exit::Refused),
            (Error::definite(codes::INTERNAL, "x"), Exit::Failed),
        ] {
            assert_eq!(Exit::of(&err), expected, "{err:?}");
        }
    }
}
