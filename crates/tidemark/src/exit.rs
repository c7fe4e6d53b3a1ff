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
//! | 129, 130, 143 | the terminal was closed (SIGHUP), interrupted, terminated |

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
    HungUp,
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
            Exit::HungUp => 129,
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
            Exit::Unreachable | Exit::HungUp | Exit::Interrupted | Exit::Terminated => 503,
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
    const UNREACHABLE: [Code; 21] = [
        codes::SERVER_UNREACHABLE,
        codes::SERVER_STRANGE,
        codes::SOURCE_UNRESOLVED,
        codes::SOURCE_NO_DATABASE,
        codes::SOURCE_NOT_POSTGRESQL,
        codes::SOURCE_TLS_NOT_OFFERED,
        codes::SOURCE_TLS_UNTRUSTED,
        codes::SOURCE_TLS_EXPIRED,
        codes::SOURCE_TLS_WRONG_HOST,
        codes::SOURCE_TLS_FAILED,
        codes::TARGET_UNRESOLVED,
        codes::TARGET_NO_DATABASE,
        codes::TARGET_NOT_POSTGRESQL,
        codes::TARGET_TLS_NOT_OFFERED,
        codes::TARGET_TLS_UNTRUSTED,
        codes::TARGET_TLS_EXPIRED,
        codes::TARGET_TLS_WRONG_HOST,
        codes::TARGET_TLS_FAILED,
        codes::CLI_NO_ANSWER,
        codes::DEMO_NO_SERVER,
        codes::DEMO_GIVEN,
    ];
    // Files and words that a person wrote.
    const USAGE: [Code; 3] = [
        codes::SOURCE_TLS_FILES,
        codes::TARGET_TLS_FILES,
        codes::POSITION_MALFORMED,
    ];
    // A prerequisite is missing that no privilege gives.
    const REFUSED: [Code; 19] = [
        codes::CUTOVER_GIVEN_UP,
        codes::CUTOVER_NO_WAY_BACK,
        codes::TARGET_CIRCLE,
        codes::CUTOVER_NOT_READY,
        codes::CUTOVER_NOT_SILENT,
        codes::CUTOVER_DIFFERENT,
        codes::CUTOVER_NO_FENCE,
        codes::CUTOVER_HOOK,
        codes::CLI_CONSENT,
        codes::CLI_NOT_RUNNING,
        codes::CLI_REFUSED,
        codes::SOURCE_WAL_LEVEL,
        codes::SOURCE_NO_OBJECT,
        codes::SOURCE_POOLER,
        codes::SOURCE_READ_ONLY,
        codes::SOURCE_VALUE,
        codes::TARGET_NO_OBJECT,
        codes::TARGET_POOLER,
        codes::TARGET_READ_ONLY,
    ];
    let number: u16 = code.to_string().get(2..)?.parse().ok()?;
    match number {
        _ if NOT_ALLOWED.contains(&code) => Some(Exit::NotAllowed),
        _ if UNREACHABLE.contains(&code) => Some(Exit::Unreachable),
        _ if USAGE.contains(&code) => Some(Exit::Usage),
        _ if REFUSED.contains(&code) => Some(Exit::Refused),
        // What a server refuses, and what keeps one from starting.
        7_091 | 8_021 | 8_022 => Some(Exit::NotAllowed),
        7_090 | 7_092 | 7_093 | 8_010 | 8_027 | 8_031 => Some(Exit::Unreachable),
        7_000..8_000 | 8_020 | 8_023 | 8_026 | 8_028..=8_030 | 8_032 => Some(Exit::Usage),
        // What a check found, data that would be changed or lost, slots and positions: going on would
        // overwrite, mix or lose something.
        1_031..1_100 | 2_031..2_100 | 3_002..5_000 | 8_000..9_000 => Some(Exit::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 is for defects, and for what a server says in words that nobody foresaw.
    #[test]
    fn few_codes_are_not_classified() {
        let is_left_to_its_kind = |code: &Code| of_code(*code).is_none();
        let by_kind: Vec<String> = Code::all()
            .filter(is_left_to_its_kind)
            .map(|code| code.to_string())
            .collect();
        let passing = "1001 1002 1004 1013 1016 1017 1018 1021 1022 1024 1026 1028 \
                       2001 2002 2004 2013 2016 2017 2018 2021 2022 2024 2026 2028 3001 6001 6002";
        let unforeseen = "1020 2020 9001";
        let expected = format!("{passing} {unforeseen}");
        let mut expected: Vec<String> = expected
            .split_whitespace()
            .map(|number| format!("TM{number}"))
            .collect();
        expected.sort();
        assert_eq!(by_kind, expected);
    }

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
            (Error::definite(codes::SOURCE_TLS_FILES, "x"), Exit::Usage),
            (Error::definite(codes::SOURCE_POOLER, "x"), Exit::Refused),
            (Error::data(codes::TARGET_VALUE, "x"), Exit::Refused),
            (Error::definite(codes::TARGET_GRANTS, "x"), Exit::NotAllowed),
            (Error::definite(codes::CLI_CONSENT, "x"), Exit::Refused),
            (Error::definite(codes::INTERNAL, "x"), Exit::Failed),
        ] {
            assert_eq!(Exit::of(&err), expected, "{err:?}");
        }
    }
}
