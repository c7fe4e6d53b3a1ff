//! The table of keys: everything that a pipeline file may say.
//!
//! One entry a key: what values it takes, its default, what it means. Reading, defaults, overrides,
//! the JSON schema and `docs/reference/config.md` all come from here. A path names nested sections
//! with dots; `table[]` is a list of sections (`[[table]]` in TOML).

use std::sync::LazyLock;
use std::time::Duration;

use super::choice::{
    AfterLoad, AlertSeverity, AlertWhen, Choice, Create, LogFormat, LogLevel, MaskKind, Missed,
    NewTables, NotifierTls, NotifierType, OnConflict, OnMaxRetained, OnRowError, OnSchemaChange,
    OnTruncate, Origin, Overlap, ServerAuth, SlotAhead, SlotBehind, System,
};
use crate::pipeline::plan::Mode;
use crate::target::Existing;

/// One key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Where it stands: `stream.batch_rows`, `table[].source`.
    pub(crate) path: String,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Whether it must be there (within its section, where that is a list).
    pub(crate) is_required: bool,
    /// What it is without being said, as the file would say it.
    pub(crate) default: Option<&'static str>,
    /// What it means, in a sentence or two.
    pub(crate) doc: &'static str,
}

/// What values a key takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The version of the format.
    Version,
    /// Any text.
    Text,
    /// A text in which references are resolved.
    Reference,
    /// The same, and it is never shown.
    Secret,
    /// A text that follows a rule.
    Name(NameRule),
    /// One of these words.
    Choice(Vec<&'static str>),
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// A size such as `"16 MB"`.
    Bytes { min: u64, max: u64 },
    /// A duration such as `"200 ms"`.
    Time { min: Duration, max: Duration },
    /// A list of texts.
    List,
    /// Texts by text.
    Map,
}

/// What a name must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// A pipeline's.
    Pipeline,
    /// A slot's (PostgreSQL 15, 26.2.6.1).
    Slot,
    /// Any other name in a database, of at most 63 bytes (PostgreSQL 15, 4.1.1).
    Identifier,
}

impl NameRule {
    /// The rule as a regular expression, for people and for the schema.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            NameRule::Pipeline => "[a-z0-9_-]{1,40}",
            NameRule::Slot => "[a-z0-9_]{1,63}",
            NameRule::Identifier => ".{1,63}",
        }
    }

    pub(crate) fn allows(self, name: &str) -> bool {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match self {
            NameRule::Pipeline => {
                (1..=40).contains(&name.len())
                    && name.bytes().all(|byte| is_plain(byte) || byte == b'-')
            }
            NameRule::Slot => (1..=63).contains(&name.len()) && name.bytes().all(is_plain),
            NameRule::Identifier => {
                (1..=63).contains(&name.len()) && !name.contains(char::is_control)
            }
        }
    }
}

/// What is known and not in this version: path, and what it needs.
pub(crate) const LATER: &[(&str, &str)] = &[
    (
        "schedule.keep_runs",
        "a load takes the place of the one before it; this version keeps no older ones",
    ),
    (
        "transport",
        "this version reads the source directly; there is no Kafka transport yet",
    ),
    ("source.mysql", "this version copies from PostgreSQL only"),
    (
        "source.sqlserver",
        "this version copies from PostgreSQL only",
    ),
    ("source.oracle", "this version copies from PostgreSQL only"),
    (
        "verify.continuous",
        "this version compares after the load and when asked, not continuously",
    ),
    ("target.bucket", "this version copies to PostgreSQL only"),
    ("target.prefix", "this version copies to PostgreSQL only"),
    ("target.format", "this version copies to PostgreSQL only"),
];

/// Keys that the engine minds only at one value so far, and why another is refused; `""` where every
/// value is. To take one away, make the engine mind it.
pub(crate) const LATER_VALUES: &[(&str, &str, &str)] = &[
    (
        "source.postgres.slot_behind",
        "wait",
        "this version reads on and skips what is applied already",
    ),
    (
        "source.postgres.slot_ahead",
        "fail",
        "this version stops and names the way out: tidemark reconcile",
    ),
    (
        "verify.max_rows_per_second",
        "0",
        "this version compares as fast as both sides answer",
    ),
];

/// Kinds of database that later versions will know.
pub(crate) const LATER_SYSTEMS: &[&str] =
    &["mysql", "mariadb", "sqlserver", "oracle", "s3", "kafka"];

const KB: u64 = 1_000;
const MB: u64 = 1_000 * KB;
const GB: u64 = 1_000 * MB;
const TB: u64 = 1_000 * GB;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn choice<T: Choice>() -> Kind {
    Kind::Choice(T::WORDS.iter().map(|(word, _)| *word).collect())
}

fn key(path: impl Into<String>, kind: Kind, doc: &'static str) -> Key {
    Key {
        path: path.into(),
        kind,
        is_required: false,
        default: None,
        doc,
    }
}

impl Key {
    fn required(self) -> Key {
        Key {
            is_required: true,
            ..self
        }
    }

    fn or(self, default: &'static str) -> Key {
        Key {
            default: Some(default),
            ..self
        }
    }

    /// The last part of its path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// The keys of a pipeline file, section by section in the order in which people read them.
pub(crate) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = vec![
        key(
            "version",
            Kind::Version,
            "Version of this file's format; always 1.",
        )
        .required(),
    ];
    keys.extend(pipeline_keys());
    keys.extend(endpoint_keys("source"));
    keys.extend(source_postgres_keys());
    keys.extend(endpoint_keys("target"));
    keys.extend(target_keys());
    keys.extend(table_keys());
    keys.extend(engine_keys());
    keys.extend(schedule_keys());
    keys.extend(alert_keys());
    keys
});

/// The keys of `connections.toml`.
pub(crate) static CONNECTION_KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = vec![
        key(
            "version",
            Kind::Version,
            "Version of this file's format; always 1.",
        )
        .required(),
        key(
            "connection[].name",
            Kind::Name(NameRule::Pipeline),
            "By which pipeline files use it.",
        )
        .required(),
    ];
    let endpoint = endpoint_keys("connection[]");
    keys.extend(
        endpoint
            .into_iter()
            .filter(|key| key.name() != "connection"),
    );
    keys
});

fn pipeline_keys() -> Vec<Key> {
    vec![
        key(
            "pipeline.name",
            Kind::Name(NameRule::Pipeline),
            "Name of the pipeline: lower-case letters, digits, `_` and `-`. Slot, publication and checkpoint bear it.",
        )
        .required(),
        key(
            "pipeline.mode",
            choice::<Mode>(),
            "`full_load_only` copies the rows once; `cdc_only` applies changes from `start` on; `full_load_and_cdc` copies, then applies every change since, with no gap and no duplicate between the two.",
        )
        .required(),
        key(
            "pipeline.start",
            Kind::Text,
            "Where `cdc_only` starts when there is no checkpoint: `now`, or `lsn:16/B374D848` for a position that the slot still has. Only with `cdc_only`, and needed there.",
        ),
        key("pipeline.description", Kind::Text, "For people."),
        key("pipeline.tags", Kind::List, "For people and lists.").or("[]"),
        key("pipeline.memory", Kind::Bytes { min: 64 * MB, max: TB }, "How much it may hold, about: a batch has at most a sixteenth of it, what waits to be decoded a 64th, pieces of transactions in progress a 64th (the rest goes to disk), large values of the log a quarter, and a load has a worker for each 4 MiB at most. Not bounded is a single row of the log, which is held whole in its text form, and three times where it is put aside or its table has no key; nor what a verification and the program itself take, some 40 MB.").or("\"512 MB\""),
    ]
}

fn endpoint_keys(section: &str) -> Vec<Key> {
    let at = |name: &str| format!("{section}.{name}");
    vec![
        key(
            at("type"),
            choice::<System>(),
            "Kind of database; without it, what the `url` begins with.",
        ),
        key(
            at("connection"),
            Kind::Name(NameRule::Pipeline),
            "Name of a connection in `connections.toml` beside this file, in place of the keys below.",
        ),
        key(
            at("url"),
            Kind::Secret,
            "Where the database is: `postgres://user@host:5432/database?sslmode=verify-full`. Several hosts are separated by commas. A password in it is percent-encoded; better give it as `password`.",
        ),
        key(
            at("host"),
            Kind::Reference,
            "Host name, address or directory of a socket; in place of `url`.",
        ),
        key(
            at("port"),
            Kind::Count {
                min: 1,
                max: 65_535,
            },
            "Port, with `host`; 5432 if not given.",
        ),
        key(at("database"), Kind::Reference, "Database, with `host`."),
        key(at("user"), Kind::Reference, "Role, with `host`."),
        key(
            at("password"),
            Kind::Secret,
            "Password. Best a reference: `${env:NAME}`, `${file:path}`, `${cred:NAME}`.",
        ),
        key(
            at("sslmode"),
            Kind::Choice(vec![
                "disable",
                "allow",
                "prefer",
                "require",
                "verify-ca",
                "verify-full",
            ]),
            "As in libpq, with `host`. Without it, `require` for hosts that are not this machine.",
        ),
        key(
            at("sslrootcert"),
            Kind::Reference,
            "File of trusted authorities (PEM), or `system`; with `host`.",
        ),
        key(
            at("sslcert"),
            Kind::Reference,
            "File of the client's certificate (PEM); with `host`.",
        ),
        key(
            at("sslkey"),
            Kind::Reference,
            "File of the client's key (PEM); with `host`.",
        ),
    ]
}

fn source_postgres_keys() -> Vec<Key> {
    vec![
        key("source.postgres.slot", Kind::Name(NameRule::Slot), "Replication slot; `tidemark_` and the pipeline's name if not given."),
        key("source.postgres.publication", Kind::Name(NameRule::Identifier), "Publication; the slot's name if not given."),
        key("source.postgres.create", choice::<Create>(), "Whether Tidemark makes slot and publication where they are missing.").or("\"if_missing\""),
        key("source.postgres.slot_behind", choice::<SlotBehind>(), "A slot older than the checkpoint: read on and skip what is applied already, or fail.").or("\"wait\""),
        key("source.postgres.slot_ahead", choice::<SlotAhead>(), "A slot past the checkpoint means that changes are lost: fail with the way out, or copy the tables anew.").or("\"fail\""),
        key("source.postgres.slot_creation_timeout", Kind::Time { min: seconds(1), max: seconds(7 * 86_400) }, "How long making the slot waits for transactions that are running on the source.").or("\"10m\""),
        key("source.postgres.max_retained", Kind::Bytes { min: MB, max: 1_000 * TB }, "How much log the slot may keep on the source's disk: a warning at a half and at four fifths of it, then `on_max_retained`; no limit if not given."),
        key("source.postgres.on_max_retained", choice::<OnMaxRetained>(), "When the slot keeps more than `max_retained`, and more than when the run began: stop and keep the slot (nothing is lost, and the log stays on the source), or release the slot on purpose (the source's disk is safe, and the copy has a gap until `tidemark reconcile`).").or("\"fail\""),
        key("source.postgres.relay_dir", Kind::Text, "While the target does not keep up, the log is read into files here, so that the source can forget it: from a half of `max_retained` on. A disk of this machine that survives a restart; relative to the pipeline file. Not if not given."),
        key("source.postgres.relay_max", Kind::Bytes { min: 16 * MB, max: 1_000 * TB }, "How much is kept in `relay_dir`; above it the source keeps its log as without.").or("\"10 GB\""),
        key("source.postgres.relay_key", Kind::Secret, "Encrypts what is in `relay_dir` (AES-256-GCM). A long random text."),
        key("source.postgres.origin", choice::<Origin>(), "`none` leaves out changes that replication brought to the source. Before PostgreSQL 16 the source cannot, and sends them in vain.").or("\"any\""),
    ]
}

fn target_keys() -> Vec<Key> {
    vec![
        key("target.schema", Kind::Text, "Schema of the target's tables; may hold `{schema}` for the source's. As on the source if not given."),
        key("target.create_tables", Kind::Flag, "Make tables and types that are missing.").or("true"),
        key("target.existing", choice::<Existing>(), "Tables that are there before the first load: `load_if_empty` loads into empty ones and fails at others; `fail` fails if one exists; `append_if_empty` needs them to exist and be empty; `skip_loaded` leaves those that have rows; `truncate` empties them; `drop` makes them anew; `swap`, with `full_load_only`, loads beside them and gives the new rows their place when all tables are in, so that readers never see fewer rows.").or("\"load_if_empty\""),
        key("target.on_schema_change", choice::<OnSchemaChange>(), "When a table changes its shape on the source: `apply` everything; `apply_additive` adds columns, widens types, takes constraints off that the source has no more, keeps dropped columns on the target, and stops the table at anything else; `stop_table`; `fail` ends the pipeline before anything is applied in the new shape; or `ignore`: go on with the columns that both sides have. Where rows were written anew, which the log does not tell, the table is loaded anew while the others stream. A partition that is emptied, attached, detached or dropped has under `apply` both sides of its table compared and the target brought to the source; otherwise a warning says so.").or("\"apply_additive\""),
        key("target.on_conflict", choice::<OnConflict>(), "When a change meets another row than the log implies, because somebody else wrote to the target: apply, count and warn; apply and count; or stop the pipeline behind it.").or("\"warn\""),
        key("target.on_truncate", choice::<OnTruncate>(), "When the source empties a table with TRUNCATE: empty the target's too, stop the table, or keep the rows.").or("\"apply\""),
        key("target.mark_origin", Kind::Flag, "Changes that are applied bear the replication origin `tidemark_` and the pipeline's name, so that a pipeline that reads the target with `source.postgres.origin = \"none\"` leaves them out. For two directions at once: goes with `source.postgres.origin = \"none\"` on either. Takes a right on the target (see [privileges](../how-to/privileges.md)).").or("false"),
    ]
}

fn table_keys() -> Vec<Key> {
    vec![
        key("tables.include", Kind::List, "Which tables: patterns `schema.table`, with `*` for any run of characters and `?` for one; upper and lower case differ. A part in double quotes is taken as it stands.").required(),
        key("tables.exclude", Kind::List, "Which of them not.").or("[]"),
        key("tables.new_tables", choice::<NewTables>(), "Tables that appear on the source later and match: say so, add them, or nothing.").or("\"notify\""),
        key("table[].source", Kind::Text, "The table (or pattern of tables) that this section is for.").required(),
        key("table[].target", Kind::Text, "Its name on the target, `schema.table`; may hold `{schema}` and `{table}`."),
        key("table[].rename", Kind::Map, "New names of columns: `{ source = \"target\" }`."),
        key("table[].drop_columns", Kind::List, "Columns that are left out.").or("[]"),
        key("table[].where", Kind::Text, "Only rows for which this is true, in load and stream. See [row filters](filters.md)."),
        key("table[].on_row_error", choice::<OnRowError>(), "`stream.on_row_error` for this table."),
        key("table[].chunk_rows", Kind::Count { min: 1_000, max: 1_000_000_000 }, "Rows in a chunk of the load, in place of `load.chunk_size`."),
        key("mask[].columns", Kind::List, "Columns whose values are masked: patterns `schema.table.column` of the source.").required(),
        key("mask[].with", choice::<MaskKind>(), "`hash`: salted SHA-256 in hexadecimal; `redact`: a constant of the column's type; `null`: NULL; `partial`: the domain of an address, or the last 4 of at least 8 characters; `fixed`: `value`. The first mask that fits a column counts.").required(),
        key("mask[].salt", Kind::Secret, "With `hash`, and needed there: stands before the value."),
        key("mask[].value", Kind::Text, "With `fixed`, and needed there: the value, as the database prints it."),
    ]
}

fn engine_keys() -> Vec<Key> {
    let rows_per_second = Kind::Count {
        min: 0,
        max: 1_000_000_000_000,
    };
    vec![
        key("load.parallel_tables", Kind::Count { min: 1, max: 64 }, "Tables loaded at once.").or("2"),
        key("load.parallel_chunks", Kind::Count { min: 1, max: 64 }, "Chunks of one table loaded at once.").or("4"),
        key("load.chunk_size", Kind::Bytes { min: MB, max: TB }, "About how large a chunk is on the source's disk.").or("\"64 MB\""),
        key("load.max_source_rows_per_second", rows_per_second.clone(), "Rows read from the source in a second, all workers together; 0 for no limit.").or("0"),
        key("stream.batch_rows", Kind::Count { min: 1, max: 1_000_000 }, "A batch is closed at so many changes.").or("5_000"),
        key("stream.batch_bytes", Kind::Bytes { min: 64 * KB, max: GB }, "Or at so many bytes.").or("\"16 MB\""),
        key("stream.batch_wait", Kind::Time { min: Duration::ZERO, max: seconds(60) }, "Has no effect, and may stay in files that have it: a batch goes to the target as soon as that is free, and waits for nothing else.").or("\"200 ms\""),
        key("stream.heartbeat_interval", Kind::Time { min: Duration::ZERO, max: seconds(3_600) }, "How often an idle source gets a mark in its log, so that the slot moves and latency is measured; 0 for never.").or("\"10 s\""),
        key("stream.catalog_interval", Kind::Time { min: seconds(1), max: seconds(3_600) }, "How often the source's catalog is looked at for what no change announces: tables that are new, gone or made anew, partitions, labels of types, constraints that are gone.").or("\"20 s\""),
        key("stream.spool_dir", Kind::Text, "Where transactions larger than memory wait for their commit; the system's place for temporary files if not given."),
        key("stream.on_row_error", choice::<OnRowError>(), "When the target refuses a change: `stop_table` sets its table aside and keeps its changes in order; `quarantine_row` sets the row alone aside, with what comes for it later, where the table has a key; `stop_pipeline` keeps strict order over all tables. Rows of a load stop their table.").or("\"stop_table\""),
        key("stream.quarantine_rows", Kind::Count { min: 1, max: 100_000 }, "With `quarantine_row`: more rows of one table than this, and the table is set aside as a whole.").or("1_000"),
        key("stream.quarantine_bytes", Kind::Bytes { min: 64 * KB, max: GB }, "The same in bytes of their changes.").or("\"16 MB\""),
        key("verify.after_load", choice::<AfterLoad>(), "What is compared once the load is in: every value, row counts, or nothing.").or("\"deep\""),
        key("verify.max_rows_per_second", rows_per_second, "Rows compared in a second; 0 for no limit.").or("0"),
    ]
}

fn schedule_keys() -> Vec<Key> {
    vec![
        key("schedule.full_load", Kind::Text, "When a server loads all tables anew, beside the old ones, so that readers never see fewer rows: `hourly`, `daily`, `every 6h`, or five fields of cron. See [schedules](../how-to/schedules.md)."),
        key("schedule.timezone", Kind::Text, "Whose clock counts, by its name in the IANA database: `Europe/Berlin`. Not with `every`, which is the same everywhere.").or("\"UTC\""),
        key("schedule.overlap", choice::<Overlap>(), "A run that is due while another goes on: `skip` it, or `queue` it (one at most) until that one has ended.").or("\"skip\""),
        key("schedule.missed", choice::<Missed>(), "Runs whose time passed by more than a minute while no server was there: `run_once`, late, for all of them, or `skip` them.").or("\"run_once\""),
    ]
}

fn alert_keys() -> Vec<Key> {
    let day = seconds(86_400);
    let above = Kind::Count {
        min: 0,
        max: 1_000_000_000_000_000,
    };
    vec![
        key("alert[].when", choice::<AlertWhen>(), "What the server looks at, see [alerts](../how-to/alerts.md). A lag that is not known is neither above nor below anything: `lag_unknown` is the alert for it.").required(),
        key("alert[].is", Kind::List, "With `state`, and needed there: the states that count."),
        key("alert[].above", above, "Met above this: seconds with `lag_seconds` and `verification_stale`, bytes with `lag_bytes`, rows with `rows_quarantined` (0 if not given)."),
        key("alert[].below", Kind::Time { min: seconds(60), max: seconds(30 * 86_400) }, "With `slot_time_left`, and needed there: met when the log that is needed is kept for less than this, at the present rate."),
        key("alert[].for", Kind::Time { min: Duration::ZERO, max: day }, "How long it must be so before the alert fires.").or("\"0 s\""),
        key("alert[].resolve_after", Kind::Time { min: seconds(1), max: day }, "How long it must be over before the alert counts as resolved; twice as long for each time that it fired within the last hour.").or("\"30 s\""),
        key("alert[].severity", choice::<AlertSeverity>(), "How much it matters.").or("\"warning\""),
        key("alert[].notify", Kind::List, "Who is told when it fires and when it is over: names of notifiers in the [server's file](#the-servers-file).").or("[]"),
    ]
}

/// Link-local networks, and the metadata of AWS, Google, Alibaba, Azure and Oracle where it is elsewhere;
/// also as NAT64 writes it (RFC 6052).
const LINK: &str = "[\"169.254.0.0/16\", \"fe80::/10\", \"64:ff9b::a9fe:0/112\", \"fd00:ec2::/32\", \"fd20:ce::/32\", \"100.100.100.200\", \"168.63.129.16\", \"192.0.0.192\"]";

/// The keys of the server's file.
pub(crate) static SERVER_KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    vec![
        key("version", Kind::Version, "Version of this file's format; always 1.").required(),
        key("listen", Kind::Text, "Where to listen: `127.0.0.1:7070` if nothing is said, there or by `--listen`."),
        key("hosts", Kind::List, "Names under which it is spoken to, besides where it listens. Those of `--host` are added."),
        key("pipelines", Kind::Text, "A directory of pipeline files, each of which runs; `pipelines.d`, if it is there and nothing is said here or by `--pipelines`."),
        key("state", Kind::Text, "Where it keeps its store, and files of its own. `--state` and `TIDEMARK_STATE` go before it; without any the system's place for that."),
        key("auth.mode", choice::<ServerAuth>(), "`token`: every request needs one. `open`, if nothing is said here or by `--auth`: whoever reaches it may do everything."),
        key("store.url", Kind::Secret, "The PostgreSQL database that has the store, instead of a file; `--store` goes before it."),
        key("store.key", Kind::Secret, "What opens the store, 64 hexadecimal digits: `${file:store.key}`. `--key-file` and `TIDEMARK_STORE_KEY` go before it."),
        key("log.level", choice::<LogLevel>(), "From which level on lines are logged: `info` if nothing is said. `-q`, `-v` and `TIDEMARK_LOG` go before it."),
        key("log.format", choice::<LogFormat>(), "`text` if nothing is said and standard error is a terminal, otherwise `json`; `--log-format` goes before it."),
        key("metrics.listen", Kind::Text, "An address of its own for `/metrics` and the health routes, such as `0.0.0.0:9187`: nothing else is answered there. Others may reach it only where `metrics.auth` is given, or every request needs a token."),
        key("metrics.auth", choice::<ServerAuth>(), "`token`: whoever scrapes `/metrics` needs one. `open`: nobody does; names of pipelines and tables, positions and counts are seen there, never rows. As `auth.mode`, if not given. With `metrics.listen` it is of that address alone."),
        key("tenants.pipelines", Kind::Count { min: 0, max: 100_000 }, "How many pipelines a tenant may have, other than whoever runs the server.").or("100"),
        key("databases.only", Kind::List, "Networks in which the databases of pipelines are that are defined through the API: `[\"10.1.0.0/16\"]`. Wherever it is, if not given. Pipeline files are not concerned."),
        key("databases.deny", Kind::List, "Networks in which they are not. As it stands: the network of the link, and addresses at which clouds give credentials to their machines. What a name resolves to is looked at, each time that it is connected to.").or(LINK),
        key("notify.allow", Kind::List, "Networks that are not public (this machine, private and link-local addresses, …) and that messages may be sent to all the same: `[\"10.1.0.0/16\"]`.").or("[]"),
        key("notify.pages", Kind::Text, "Where people reach the server's pages, such as `https://tidemark.example`: mail links there."),
        key("notifier[].name", Kind::Name(NameRule::Pipeline), "By which `notify` in the rules of pipeline files knows it.").required(),
        key("notifier[].type", choice::<NotifierType>(), "`webhook` sends a signed request to a program, `slack` writes into a channel by an incoming webhook, `email` writes to people.").required(),
        key("notifier[].tenant", Kind::Name(NameRule::Pipeline), "Whose rules may name it.").or("\"default\""),
        key("notifier[].url", Kind::Secret, "With `webhook` and `slack`, and needed there. Where it goes: `https://…`. For Slack the address of the incoming webhook, which is a secret."),
        key("notifier[].secret", Kind::Secret, "With `webhook`, and needed there: signs what is sent, see [alerts](../how-to/alerts.md)."),
        key("notifier[].smtp", Kind::Reference, "With `email`, and needed there: the server that mail is given to. `smtps://host` (port 465) is TLS from the start, `smtp://host` (port 587) is TLS by `STARTTLS`."),
        key("notifier[].tls", choice::<NotifierTls>(), "With `email`: `required` (if not given) sends nothing without TLS and a certificate that is valid for the host, `none` sends everything in the clear, and no password except to this machine."),
        key("notifier[].user", Kind::Reference, "With `email`: the name to log in with."),
        key("notifier[].password", Kind::Secret, "With `email`, and needed with `user`."),
        key("notifier[].from", Kind::Reference, "With `email`, and needed there: the address that it is from, such as `tidemark@host.example`."),
        key("notifier[].to", Kind::List, "With `email`, and needed there: the addresses of those who are told, at most 50."),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_explained() {
        for keys in [&*KEYS, &*CONNECTION_KEYS, &*SERVER_KEYS] {
            for (index, key) in keys.iter().enumerate() {
                assert!(
                    keys[..index].iter().all(|other| other.path != key.path),
                    "{}",
                    key.path
                );
                assert!(key.doc.ends_with('.'), "{}: {}", key.path, key.doc);
                assert!(!(key.is_required && key.default.is_some()), "{}", key.path);
            }
        }
        for (path, why) in LATER {
            assert!(
                KEYS.iter().all(|key| key.path != *path && !why.is_empty()),
                "{path}"
            );
        }
    }

    #[test]
    fn names_follow_their_rules() {
        for (rule, name, allowed) in [
            (NameRule::Pipeline, "shop-2_x", true),
            (NameRule::Pipeline, "", false),
            (NameRule::Pipeline, "Shop", false),
            (NameRule::Pipeline, "../x", false),
            (NameRule::Pipeline, "🐘", false),
            (NameRule::Pipeline, " ", false),
            (NameRule::Slot, "tidemark_shop", true),
            (NameRule::Slot, "tide-mark", false),
            (NameRule::Slot, "Tidemark", false),
            (NameRule::Identifier, "My \"publication\"", true),
            (NameRule::Identifier, "a\0b", false),
        ] {
            assert_eq!(rule.allows(name), allowed, "{name:?}");
        }
        assert!(
            NameRule::Pipeline.allows(&"x".repeat(40))
                && !NameRule::Pipeline.allows(&"x".repeat(41))
        );
        assert!(NameRule::Slot.allows(&"x".repeat(63)) && !NameRule::Slot.allows(&"x".repeat(64)));
        assert!(!NameRule::Identifier.allows(&"ä".repeat(32)));
    }
}
