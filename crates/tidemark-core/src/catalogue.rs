//! The catalogue of errors and checks: one file per code under `catalogue/`, compiled in.
//!
//! An entry says what a code means, what it does to the data, and what to do first. `tidemark
//! explain CODE`, error messages and the documents render from it. Ranges: 1xxx source, 2xxx
//! target, 3xxx load, 4xxx stream and slot, 6xxx verify and cutover, 7xxx configuration, 8xxx server,
//! 9xxx internal.
//!
//! To add a code: write `catalogue/TMnnnn.toml` and add a line to the list below.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;

pub mod placeholders;
#[cfg(test)]
mod reference;

/// The number of a catalogue entry, shown as `TM1010`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// The entry of this code. Every `Code` has one: codes are made by the list below alone.
    pub fn entry(self) -> &'static Entry {
        ENTRIES
            .iter()
            .find(|(code, _)| *code == self)
            .map(|(_, entry)| entry)
            .expect("every code of the list has an entry, checked by a test")
    }

    /// Looks a code up by its name, `TM1010` or `1010`, in any case.
    pub fn parse(text: &str) -> Option<Code> {
        let digits = text
            .trim()
            .trim_start_matches(['T', 't'])
            .trim_start_matches(['M', 'm']);
        let number: u16 = digits.parse().ok()?;
        ENTRIES
            .iter()
            .map(|(code, _)| *code)
            .find(|code| code.0 == number)
    }

    /// All codes in order.
    pub fn all() -> impl Iterator<Item = Code> {
        ENTRIES.iter().map(|(code, _)| *code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TM{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do.
    Notice,
    /// Works, but a person should look.
    Warning,
    /// Does not work until a person acts.
    Error,
}

/// One entry of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// A short heading.
    pub title: String,
    /// How much it matters.
    pub severity: Severity,
    /// How it comes about.
    pub cause: String,
    /// What it means for the data.
    pub effect: String,
    /// What to do first.
    pub first_action: String,
    /// Statements that mend it; `{name}` stands for what the finding fills in.
    #[serde(default)]
    pub sql: Vec<String>,
}

macro_rules! catalogue {
    ($($number:literal $name:ident)*) => {
        /// The codes by name.
        pub mod codes {
            use super::Code;
            $(
                #[doc = concat!("TM", stringify!($number))]
                pub const $name: Code = Code($number);
            )*
        }

        static ENTRIES: LazyLock<Vec<(Code, Entry)>> = LazyLock::new(|| vec![$((
            Code($number),
            toml::from_str(include_str!(concat!("../catalogue/TM", stringify!($number), ".toml")))
                .unwrap_or_else(|err| panic!("catalogue entry TM{}: {err}", stringify!($number))),
        )),*]);
    };
}

catalogue! {
    1001 SOURCE_UNREACHABLE
    1002 SOURCE_CONNECTION_LOST
    1003 SOURCE_UNRESOLVED
    1004 SOURCE_REFUSED
    1005 SOURCE_AUTHENTICATION
    1006 SOURCE_NO_DATABASE
    1007 SOURCE_TLS_NOT_OFFERED
    1008 SOURCE_TLS_UNTRUSTED
    1009 SOURCE_TLS_EXPIRED
    1010 SOURCE_WAL_LEVEL
    1011 SOURCE_TLS_WRONG_HOST
    1012 SOURCE_NOT_POSTGRESQL
    1013 SOURCE_TOO_MANY_CONNECTIONS
    1014 SOURCE_NO_REPLICATION
    1015 SOURCE_PERMISSION
    1016 SOURCE_SHUTDOWN
    1017 SOURCE_DISK_FULL
    1018 SOURCE_RESOURCES
    1019 SOURCE_NO_OBJECT
    1020 SOURCE_REFUSED_STATEMENT
    1021 SOURCE_CONFLICT
    1022 SOURCE_CANCELLED
    1023 SOURCE_TLS_FILES
    1024 SOURCE_SESSION_ATTRS
    1025 SOURCE_POOLER
    1026 SOURCE_PROTOCOL
    1027 SOURCE_READ_ONLY
    1028 SOURCE_SYSTEM
    1029 SOURCE_VALUE
    1030 SOURCE_TLS_FAILED
    1031 TABLE_WITHOUT_KEY
    1032 SOURCE_NO_FREE_SENDER
    1033 PUBLICATION_MISSING
    1034 PUBLICATION_INCOMPLETE
    1035 SOURCE_NO_FREE_SLOT
    1036 SOURCE_VERSION
    1037 SOURCE_GRANTS
    1038 IDENTITY_NOTHING
    1039 LOG_LIMIT
    1040 SENDER_TIMEOUT
    1041 DECODING_MEMORY
    1042 LONG_TRANSACTIONS
    1043 PREPARED_TRANSACTIONS
    1044 SOURCE_STANDBY
    1045 ROW_SECURITY
    1046 SOURCE_ENCODING
    1047 GENERATED_COLUMNS
    1048 TABLE_NOT_CARRIED
    1049 TYPE_NOT_CARRIED
    1050 PUBLICATION_PRIVILEGES
    1051 NOTHING_SELECTED
    1052 PARTITIONS_UNANNOUNCED
    1053 QUARANTINE_WITHOUT_KEY
    1054 TYPE_NAME_HELD
    2001 TARGET_UNREACHABLE
    2002 TARGET_CONNECTION_LOST
    2003 TARGET_UNRESOLVED
    2004 TARGET_REFUSED
    2005 TARGET_AUTHENTICATION
    2006 TARGET_NO_DATABASE
    2007 TARGET_TLS_NOT_OFFERED
    2008 TARGET_TLS_UNTRUSTED
    2009 TARGET_TLS_EXPIRED
    2011 TARGET_TLS_WRONG_HOST
    2012 TARGET_NOT_POSTGRESQL
    2013 TARGET_TOO_MANY_CONNECTIONS
    2015 TARGET_PERMISSION
    2016 TARGET_SHUTDOWN
    2017 TARGET_DISK_FULL
    2018 TARGET_RESOURCES
    2019 TARGET_NO_OBJECT
    2020 TARGET_REFUSED_STATEMENT
    2021 TARGET_CONFLICT
    2022 TARGET_CANCELLED
    2023 TARGET_TLS_FILES
    2024 TARGET_SESSION_ATTRS
    2025 TARGET_POOLER
    2026 TARGET_PROTOCOL
    2027 TARGET_READ_ONLY
    2028 TARGET_SYSTEM
    2030 TARGET_TLS_FAILED
    2031 TARGET_OWNED
    2032 TARGET_FENCED
    2033 TARGET_LOCK_LOST
    2034 TARGET_METADATA_NEWER
    2035 TARGET_NOT_KNOWN
    2036 TARGET_TABLE_EXISTS
    2037 TARGET_TABLE_NOT_EMPTY
    2038 TARGET_TABLE_MISSING
    2039 TARGET_TABLE_UNFIT
    2040 TARGET_TYPE_DIFFERS
    2041 TARGET_VALUE
    2042 TARGET_UNIQUE
    2043 TARGET_NOT_NULL
    2044 TARGET_FOREIGN_KEY
    2045 TARGET_CHECK
    2046 TARGET_NO_EXTENSION
    2047 TARGET_NOT_A_TABLE
    2048 TARGET_DEPENDENTS
    2049 TARGET_VERSION
    2050 TARGET_GRANTS
    2051 TARGET_ENCODING
    2052 TARGET_TRIGGERS
    2053 TARGET_NO_KEY
    2054 TARGET_IS_SOURCE
    2055 TARGET_NAME_TAKEN
    2056 TARGET_ROW_SECURITY
    2057 TARGET_NOT_CARRIED
    2058 TARGET_METADATA_UNREADABLE
    2070 CHANGE_INCOMPLETE
    2071 TRUNCATE_REFERENCED
    2072 PARKED_UNREADABLE
    2090 TARGET_CIRCLE
    3001 SNAPSHOT_GONE
    3002 SOURCE_TEXT_INVALID
    3003 STANDBY_SNAPSHOT
    3004 TABLE_REWRITTEN
    4003 POSITION_MALFORMED
    4010 SLOT_MISSING
    4011 SLOT_AHEAD
    4012 SLOT_LOST
    4013 OTHER_SOURCE
    4014 SLOT_FOREIGN
    4015 SLOT_ACTIVE
    4016 SOURCE_WENT_BACK
    4017 START_OUT_OF_RANGE
    4020 STREAM_ORDER
    4021 SPOOL_FAILED
    4022 SOURCE_CANNOT_DECODE
    4023 SLOT_WAITS
    4024 SLOT_EXISTS
    4025 SLOT_NAME
    4018 CHECKPOINT_MISSING
    4030 FILTER_UNDECIDABLE
    4032 SCHEMA_CHANGE_REFUSED
    4033 SNAPSHOT_BEHIND
    4034 CONFLICT
    4035 TRUNCATE_NOT_APPLIED
    4036 SCHEMA_CHANGED
    4055 SLOT_MADE_ANEW
    4056 SLOT_OF_ANOTHER_TARGET
    4057 TARGET_HOOKS
    4058 SEQUENCE_REFUSED
    4060 RECONCILE_NOTHING
    4061 RECONCILE_WHOLE
    4062 RELAY_ROOM
    4063 TARGET_UNLOGGED
    4066 ROW_LEFT_OUT
    4067 TARGET_SHARED
    4068 TARGET_TAKEN_OVER
    4100 RETAINED_HIGH
    4101 MAX_RETAINED
    4102 SLOT_RELEASED
    4103 RELAY_LOST
    4104 RELAY_FAILED
    4105 RELAY_BEGUN
    4080 ROW_QUARANTINED
    4081 QUARANTINE_FULL
    4082 QUARANTINE_IN_THE_WAY
    6001 VERIFY_NO_SNAPSHOT
    6002 VERIFY_NO_HOLD
    6070 CUTOVER_NOT_READY
    6071 CUTOVER_NOT_SILENT
    6072 CUTOVER_DIFFERENT
    6073 CUTOVER_NO_FENCE
    6074 CUTOVER_HOOK
    6075 CUTOVER_NO_WAY_BACK
    7001 CONFIG_SYNTAX
    7002 CONFIG_MISSING
    7003 CONFIG_UNKNOWN_KEY
    7004 CONFIG_TYPE
    7005 CONFIG_VALUE
    7006 CONFIG_CONFLICT
    7007 CONFIG_SECRET
    7008 CONFIG_LATER
    7009 CONFIG_VERSION
    7010 CONNECTION_URL
    7011 CONFIG_FILTER
    7012 CONFIG_NAME
    7013 CONFIG_CONNECTION
    7014 CONFIG_UNREADABLE
    7020 MAPPING_NO_TABLE
    7021 MAPPING_NO_COLUMN
    7022 MAPPING_COLLISION
    7023 MAPPING_NAME_LENGTH
    7024 MAPPING_KEY_COLUMN
    7025 MAPPING_MASK
    7026 MAPPING_NOT_A_TABLE
    7040 CLI_USAGE
    7041 CLI_CONSENT
    7042 CLI_NOT_RUNNING
    7043 CLI_NO_ANSWER
    7044 CLI_MACHINE
    7045 CLI_NO_PIPELINE
    7046 DEMO_NO_SERVER
    7047 DEMO_NOT_RUNNING
    7048 CLI_REFUSED
    7049 DEMO_GIVEN
    7060 SERVER_NOT_NAMED
    7061 CUTOVER_GIVEN_UP
    7062 TARGET_LACKS
    7063 SOURCE_FENCED
    7070 SERVER_UNREACHABLE
    7071 SERVER_STRANGE
    7072 SERVER_CONTEXT
    7073 SERVER_VERB
    7085 DATABASE_FORBIDDEN
    7086 CONFIG_CONFINED
    7087 TENANT_FULL
    7090 STORE_UNREACHABLE
    7091 STORE_REFUSED
    7092 STORE_TAKEN_OVER
    7093 SERVER_STANDS_BY
    7097 MEMORY_LARGER_THAN_THERE_IS
    7110 NOTIFIER_UNKNOWN
    7111 NOTIFY_FORBIDDEN
    7112 NOTIFY_UNREACHABLE
    7113 NOTIFY_REFUSED
    7114 NOTIFY_NOT_OFFERED
    8001 STORE_DAMAGED
    8002 STORE_NEWER
    8003 STORE_KEY
    8004 STORE_UNWRITABLE
    8005 STORE_FULL
    8006 STORE_IN_USE
    8010 LISTEN_FAILED
    8011 LISTEN_UNPROTECTED
    8020 API_MALFORMED
    8021 API_NO_TOKEN
    8022 API_NOT_ALLOWED
    8023 API_NOT_FOUND
    8024 API_CONFLICT
    8025 API_CHANGED
    8026 API_NO_IF_MATCH
    8027 API_TOO_MANY
    8028 API_KEY_REUSED
    8029 API_TOO_LARGE
    8030 API_METHOD
    8031 API_TIMEOUT
    8032 API_MEDIA_TYPE
    8033 API_HOST
    8034 API_FILE_MANAGED
    8040 PIPELINE_FILE
    8060 API_ORIGIN
    8061 API_SLOW_BODY
    8062 CONNECTION_USED
    9001 INTERNAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_parses_and_is_complete() {
        for code in Code::all() {
            let entry = code.entry();
            for (what, text) in [
                ("title", &entry.title),
                ("cause", &entry.cause),
                ("effect", &entry.effect),
                ("first_action", &entry.first_action),
            ] {
                assert!(!text.trim().is_empty(), "{code}: {what} is empty");
            }
        }
    }

    #[test]
    fn codes_are_found_by_name() {
        assert_eq!(Code::parse("TM1001"), Some(codes::SOURCE_UNREACHABLE));
        assert_eq!(Code::parse("tm1001"), Some(codes::SOURCE_UNREACHABLE));
        assert_eq!(Code::parse("TM0000"), None);
    }
}
