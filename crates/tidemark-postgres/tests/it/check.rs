//! Every check of a source fails on a real server, its SQL is run as printed, and it passes.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config::Create;
use tidemark_core::finding::{Finding, FixKind, Verdict};
use tidemark_core::mapping::{Rules, TableMapping};
use tidemark_core::quarantine::{Bounds, OnRowError};
use tidemark_core::source::WillStream;
use tidemark_lab::{PostgresServer, Shutdown};
use tidemark_postgres::check::SourceCheck;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::schema::describe;
use tidemark_postgres::source::{PgSnapshot, RelayOptions};
use tidemark_postgres::wire::{Connection, Role};

use crate::lab::{Database, database, selecting};

mod log;

/// What is checked: a database as seen by a role.
struct Subject {
    server: &'static PostgresServer,
    database: String,
    role: String,
    create: Create,
    will_stream: WillStream,
    long_transaction: Duration,
    spool_dir: PathBuf,
    relay: Option<RelayOptions>,
}

impl Subject {
    /// A fresh database on the shared server, and a role that may replicate and nothing else.
    async fn new(script: &str) -> Subject {
        let Database { server, name } = database(script).await;
        let role = format!("reader_{name}");
        let subject = Subject::of(server, &name, &role);
        subject
            .run(&format!("CREATE ROLE {role} LOGIN REPLICATION"))
            .await;
        subject
    }

    /// The database `postgres` of a server of its own, which lives as long as the process.
    async fn alone(settings: &[(&str, &str)]) -> Subject {
        let mut builder = PostgresServer::builder();
        for (name, value) in settings {
            builder = builder.setting(name, value);
        }
        let server = Box::leak(Box::new(builder.start().await.unwrap()));
        Subject::of(server, "postgres", "postgres")
    }

    fn of(server: &'static PostgresServer, database: &str, role: &str) -> Subject {
        Subject {
            server,
            database: database.to_owned(),
            role: role.to_owned(),
            create: Create::IfMissing,
            will_stream: WillStream::Yes,
            long_transaction: Duration::from_hours(1),
            spool_dir: std::env::temp_dir(),
            relay: None,
        }
    }

    async fn run(&self, sql: &str) {
        self.server.execute_in(&self.database, sql).await.unwrap();
    }

    fn config(&self) -> ConnectConfig {
        let url = self.server.url_with(&self.role, None, &self.database);
        ConnectConfig::parse(&url, Side::Source).unwrap()
    }

    /// The tables as they are, described by a superuser.
    async fn tables(&self) -> Vec<TableMapping> {
        let url = self.server.url_to(&self.database);
        let config = ConnectConfig::parse(&url, Side::Source).unwrap();
        let mut connection = Connection::connect(&config, Role::Ordinary).await.unwrap();
        let schema = describe(&mut connection, &selecting(&["*.*"]))
            .await
            .unwrap();
        Rules::default().map(&schema).unwrap()
    }

    async fn check(&self) -> Vec<Finding> {
        self.check_tables(&self.tables().await).await
    }

    async fn check_tables(&self, tables: &[TableMapping]) -> Vec<Finding> {
        self.try_check(tables).await.unwrap()
    }

    async fn try_check(&self, tables: &[TableMapping]) -> tidemark_core::Result<Vec<Finding>> {
        let name = format!("tidemark_{}", self.database);
        let check = SourceCheck {
            connect: &self.config(),
            pipeline: &self.database,
            slot: &name,
            publication: &name,
            create: self.create,
            tables,
            will_stream: self.will_stream,
            long_transaction: self.long_transaction,
            spool_dir: &self.spool_dir,
            relay: self.relay.as_ref(),
        };
        check.run().await
    }

    /// Runs a fix as it is printed: by psql, with a semicolon behind it.
    async fn mend(&self, finding: &Finding, fix: usize) {
        let fix = &finding.fixes[fix];
        assert_ne!(fix.kind, FixKind::Text, "{finding:?}");
        let script = format!("{};\n", fix.text);
        self.server.psql(&self.database, &script).await.unwrap();
    }

    /// The finding of a code fails, each of its statements mends it in turn, and it passes.
    async fn fails_and_is_mended(&self, code: Code, verdict: Verdict) -> Finding {
        let found = of(&self.check().await, code);
        let bad: Vec<&Finding> = found.iter().filter(|it| it.verdict == verdict).collect();
        let first = bad
            .first()
            .unwrap_or_else(|| panic!("{code} passes: {found:?}"));
        for finding in &bad {
            assert!(!finding.why.is_empty());
            self.mend(finding, 0).await;
        }
        self.passes(code).await;
        (*first).clone()
    }

    async fn passes(&self, code: Code) {
        let found = of(&self.check().await, code);
        assert!(
            found.len() == 1 && found[0].verdict == Verdict::Passed,
            "{found:?}"
        );
    }
}

fn of(findings: &[Finding], code: Code) -> Vec<Finding> {
    let found = findings.iter().filter(|finding| finding.code == code);
    found.cloned().collect()
}

fn worst(findings: &[Finding]) -> Verdict {
    let verdicts = findings.iter().map(|finding| finding.verdict);
    verdicts.max().unwrap()
}

const ALL_WELL: &str = "CREATE TABLE t (id int PRIMARY KEY, n numeric);
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id);
    CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0);";

#[tokio::test]
async fn a_source_that_is_ready_passes_every_check() {
    let mut subject = Subject::new(ALL_WELL).await;
    subject.role = "postgres".to_owned();
    let findings = subject.check().await;
    // How much log a load may need is told from what the server writes now, and others write too.
    let of_its_own: Vec<Finding> = findings
        .iter()
        .filter(|finding| finding.code != codes::LOG_LIMIT)
        .filter(|finding| finding.code != codes::PARTITIONS_UNANNOUNCED)
        .cloned()
        .collect();
    assert_eq!(worst(&of_its_own), Verdict::Passed, "{findings:#?}");
    let noted = of(&findings, codes::PARTITIONS_UNANNOUNCED);
    assert_eq!(
        (noted[0].verdict, noted[0].found.as_str()),
        (Verdict::Note, "partitioned: public.p")
    );
    assert!(findings.len() > 20);
    let described = of(&findings, codes::SOURCE_UNREACHABLE);
    assert_eq!(described[0].found, "reachable, without TLS");
    subject.will_stream = WillStream::No;
    let fewer = subject.check().await;
    assert!(fewer.len() < findings.len());
    assert!(of(&fewer, codes::SOURCE_WAL_LEVEL).is_empty());
}

#[tokio::test]
async fn a_source_that_cannot_be_asked_is_an_error_with_its_kind() {
    let subject = Subject::new("").await;
    let config = |url: &str| ConnectConfig::parse(url, Side::Source).unwrap();
    for (connect, code, kind) in [
        (
            config("postgres://x@127.0.0.1:1/x?sslmode=disable"),
            codes::SOURCE_REFUSED,
            ErrorKind::Transient,
        ),
        (
            config(&subject.server.url_to("no_such_database")),
            codes::SOURCE_NO_DATABASE,
            ErrorKind::Definite,
        ),
        (
            config(&subject.server.url_with("no_such_role", None, "postgres")),
            codes::SOURCE_AUTHENTICATION,
            ErrorKind::Definite,
        ),
    ] {
        let check = SourceCheck {
            connect: &connect,
            pipeline: "x",
            slot: "x",
            publication: "x",
            create: Create::IfMissing,
            tables: &[],
            will_stream: WillStream::Yes,
            long_transaction: Duration::from_mins(1),
            spool_dir: &std::env::temp_dir(),
            relay: None,
        };
        let error = check.run().await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (code, kind), "{error}");
        let shown = Finding::of_error(tidemark_core::finding::Side::Source, &error);
        assert_eq!((shown.code, shown.verdict), (code, Verdict::Failed));
        assert!(!shown.why.is_empty() && !shown.fixes[0].text.is_empty());
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_found_before_it_is_needed() {
    let mut subject = Subject::new("").await;
    subject.passes(codes::SPOOL_FAILED).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (directory, word) in [
        (std::env::temp_dir().join("not_there"), "make the directory"),
        (file.path().to_path_buf(), "Not a directory"),
        // Even root may not write there.
        (PathBuf::from("/sys"), "may write"),
    ] {
        subject.spool_dir = directory;
        let found = of(&subject.check().await, codes::SPOOL_FAILED).remove(0);
        assert_eq!(found.verdict, Verdict::Failed, "{found:?}");
        let text = format!("{} {}", found.found, found.fixes[0].text);
        assert!(text.contains(word), "{word} in {text}");
        let shown = subject.spool_dir.display().to_string();
        assert!(found.found.contains(&shown), "{text}");
    }
    subject.will_stream = WillStream::No;
    assert!(of(&subject.check().await, codes::SPOOL_FAILED).is_empty());
}

#[tokio::test]
async fn the_relay_logs_directory_is_looked_at_with_its_room() {
    let mut subject = Subject::new("").await;
    assert!(of(&subject.check().await, codes::RELAY_FAILED).is_empty());
    let directory = tempfile::tempdir().unwrap();
    let kept_in = |directory: PathBuf, bytes_max| {
        Some(RelayOptions {
            directory,
            bytes_max,
            key: None,
            budget_bytes: 1 << 30,
        })
    };
    subject.relay = kept_in(directory.path().join("not/there/yet"), 1 << 20);
    subject.passes(codes::RELAY_FAILED).await;
    subject.passes(codes::RELAY_ROOM).await;
    assert!(
        !directory.path().join("not").exists(),
        "a check makes nothing"
    );
    subject.relay = kept_in(directory.path().to_path_buf(), 1 << 60);
    let found = of(&subject.check().await, codes::RELAY_ROOM).remove(0);
    assert_eq!(found.verdict, Verdict::Warning, "{found:?}");
    // Even root may not write there.
    subject.relay = kept_in(PathBuf::from("/sys"), 1 << 20);
    let found = of(&subject.check().await, codes::RELAY_FAILED).remove(0);
    assert_eq!(found.verdict, Verdict::Failed, "{found:?}");
    assert!(found.found.contains("/sys"), "{found:?}");
    subject.will_stream = WillStream::No;
    assert!(of(&subject.check().await, codes::RELAY_FAILED).is_empty());
}

#[tokio::test]
async fn settings_of_the_server_are_checked_and_mended() {
    let mut subject = Subject::alone(&[
        ("wal_level", "replica"),
        ("max_replication_slots", "1"),
        ("max_wal_senders", "1"),
        ("wal_sender_timeout", "2s"),
        ("logical_decoding_work_mem", "1MB"),
        ("max_slot_wal_keep_size", "32MB"),
    ])
    .await;
    subject
        .run(&format!(
            "CREATE ROLE \"Re ader\" LOGIN; {ALL_WELL} \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"Re ader\"; \
             SELECT pg_create_physical_replication_slot('other');"
        ))
        .await;
    let url = subject.server.url_to("postgres");
    let config = ConnectConfig::parse(&url, Side::Source).unwrap();
    let sender = Connection::connect(&config, Role::Replication)
        .await
        .unwrap();
    subject.role = "Re ader".to_owned();
    let findings = subject.check().await;
    for (code, verdict, found) in [
        (
            codes::SOURCE_WAL_LEVEL,
            Verdict::Failed,
            "wal_level is \"replica\", must be \"logical\"",
        ),
        (
            codes::SOURCE_NO_FREE_SLOT,
            Verdict::Failed,
            "none of 1 replication slots is free",
        ),
        (
            codes::SOURCE_NO_FREE_SENDER,
            Verdict::Failed,
            "none of 1 replication connections is free",
        ),
        (
            codes::SENDER_TIMEOUT,
            Verdict::Warning,
            "wal_sender_timeout is 2000 ms",
        ),
        (
            codes::DECODING_MEMORY,
            Verdict::Note,
            "logical_decoding_work_mem is 1024 kB",
        ),
        (
            codes::LOG_LIMIT,
            Verdict::Warning,
            "max_slot_wal_keep_size is 32 MB",
        ),
    ] {
        let finding = &of(&findings, code)[0];
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.found.starts_with(found), "{finding:?}");
        subject.mend(finding, 0).await;
    }
    drop(sender);
    subject.server.restart().await.unwrap();
    let lacks = of(&subject.check().await, codes::SOURCE_NO_REPLICATION);
    assert_eq!(lacks[0].found, "role \"Re ader\" lacks REPLICATION");
    subject.mend(&lacks[0], 0).await;
    let after = subject.check().await;
    for code in [
        codes::SOURCE_WAL_LEVEL,
        codes::SOURCE_NO_FREE_SLOT,
        codes::SOURCE_NO_FREE_SENDER,
        codes::SENDER_TIMEOUT,
        codes::DECODING_MEMORY,
        codes::LOG_LIMIT,
        codes::SOURCE_NO_REPLICATION,
    ] {
        assert_eq!(worst(&of(&after, code)), Verdict::Passed, "{after:#?}");
    }
}

#[tokio::test]
async fn missing_privileges_are_one_list() {
    let subject = Subject::new(
        "CREATE SCHEMA \"Hid den\"; CREATE TABLE \"Hid den\".\"T 1\" (id serial PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id);
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE TABLE by_column (id int PRIMARY KEY, n int);
         CREATE ROLE column_reader; GRANT SELECT (id, n) ON by_column TO PUBLIC;
         DROP ROLE column_reader;",
    )
    .await;
    let finding = subject
        .fails_and_is_mended(codes::SOURCE_GRANTS, Verdict::Failed)
        .await;
    for part in [
        "USAGE on \"Hid den\"",
        "SELECT on \"Hid den\".\"T 1\", public.p, public.p0",
        "SELECT on sequences \"Hid den\".\"T 1_id_seq\"",
    ] {
        assert!(finding.found.contains(part), "{part}: {}", finding.found);
    }
    assert!(!finding.found.contains("by_column"), "{}", finding.found);
}

#[tokio::test]
async fn hidden_rows_unlogged_tables_and_odd_types_are_found() {
    let subject = Subject::new(
        "CREATE TABLE secret (id int PRIMARY KEY); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
         CREATE TYPE raw;
         CREATE FUNCTION raw_in(cstring) RETURNS raw AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
         CREATE FUNCTION raw_out(raw) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
         CREATE TYPE raw (INPUT = raw_in, OUTPUT = raw_out, LIKE = text);
         CREATE TABLE odd (id int PRIMARY KEY, r raw[], half int GENERATED ALWAYS AS (id / 2) STORED);
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;",
    )
    .await;
    let hidden = subject
        .fails_and_is_mended(codes::ROW_SECURITY, Verdict::Failed)
        .await;
    assert!(hidden.found.contains("public.secret"), "{}", hidden.found);

    let types = &of(&subject.check().await, codes::TYPE_NOT_CARRIED)[0];
    assert_eq!(types.verdict, Verdict::Warning);
    assert!(
        types.found.contains("public.odd.r (public.raw[])"),
        "{types:?}"
    );
    let generated = &of(&subject.check().await, codes::GENERATED_COLUMNS)[0];
    assert_eq!(generated.verdict, Verdict::Note);
    assert!(generated.found.contains("public.odd.half"), "{generated:?}");
    subject.run("DROP TABLE odd").await;
    subject.passes(codes::TYPE_NOT_CARRIED).await;
    subject.passes(codes::GENERATED_COLUMNS).await;

    // What was described before it became unlogged, or went.
    subject.run("CREATE TABLE later (id int PRIMARY KEY)").await;
    let tables = subject.tables().await;
    subject.run("ALTER TABLE later SET UNLOGGED").await;
    let unlogged = &of(
        &subject.check_tables(&tables).await,
        codes::TABLE_NOT_CARRIED,
    )[0];
    assert_eq!(unlogged.verdict, Verdict::Failed);
    subject.mend(unlogged, 0).await;
    let found = of(
        &subject.check_tables(&tables).await,
        codes::TABLE_NOT_CARRIED,
    );
    assert_eq!(worst(&found), Verdict::Passed);
    subject.run("DROP TABLE later").await;
    let gone = subject.try_check(&tables).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Transient, "{gone}");
    assert!(gone.to_string().contains("public.later"), "{gone}");

    let nothing = of(&subject.check_tables(&[]).await, codes::NOTHING_SELECTED);
    assert_eq!(nothing[0].verdict, Verdict::Failed);
}

#[tokio::test]
async fn tables_whose_old_rows_cannot_be_told_apart_are_named() {
    let subject = Subject::new(
        "CREATE TABLE with_id (id int, t text);
         CREATE TABLE with_index (a int NOT NULL, b int); CREATE UNIQUE INDEX \"Odd one\" ON with_index (a);
         CREATE TABLE bare (a int);
         CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
         CREATE TABLE fine (a int); ALTER TABLE fine REPLICA IDENTITY FULL;",
    )
    .await;
    let found = of(&subject.check().await, codes::TABLE_WITHOUT_KEY);
    let told: Vec<(&str, Vec<&str>)> = found
        .iter()
        .map(|finding| {
            let fixes = finding.fixes.iter().map(|fix| fix.text.as_str());
            (finding.found.as_str(), fixes.collect())
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "public.bare has no primary key",
                vec!["ALTER TABLE public.bare REPLICA IDENTITY FULL"]
            ),
            (
                "public.deferred has a primary key that is deferrable",
                vec!["ALTER TABLE public.deferred REPLICA IDENTITY FULL"]
            ),
            (
                "public.with_id has no primary key",
                vec![
                    "ALTER TABLE public.with_id ADD PRIMARY KEY (id)",
                    "ALTER TABLE public.with_id REPLICA IDENTITY FULL"
                ]
            ),
            (
                "public.with_index has no primary key",
                vec![
                    "ALTER TABLE public.with_index REPLICA IDENTITY USING INDEX \"Odd one\"",
                    "ALTER TABLE public.with_index REPLICA IDENTITY FULL"
                ]
            ),
        ]
    );
    subject
        .fails_and_is_mended(codes::TABLE_WITHOUT_KEY, Verdict::Warning)
        .await;
}

#[tokio::test]
async fn tables_of_which_no_row_can_go_into_quarantine_are_named() {
    let subject = Subject::new(
        "CREATE TABLE bare (a int); CREATE TABLE keyed (a int PRIMARY KEY);
         CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
         ALTER TABLE deferred REPLICA IDENTITY FULL;",
    )
    .await;
    let mut tables = subject.tables().await;
    let code = codes::QUARANTINE_WITHOUT_KEY;
    let unasked = of(&subject.check_tables(&tables).await, code);
    assert!(unasked.is_empty(), "{unasked:?}");
    for table in &mut tables {
        table.on_row_error = OnRowError::QuarantineRow(Bounds::default());
    }
    let found = of(&subject.check_tables(&tables).await, code);
    assert_eq!(found[0].verdict, Verdict::Warning);
    assert!(
        found[0].found.ends_with("public.bare, public.deferred"),
        "{found:?}"
    );
    tables.retain(|table| table.source().name == "keyed");
    let keyed = of(&subject.check_tables(&tables).await, code);
    assert_eq!(keyed[0].verdict, Verdict::Passed);
}

#[tokio::test]
async fn identities_that_are_of_no_use_are_named() {
    let subject = Subject::new(
        "CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE lost (a int NOT NULL); CREATE UNIQUE INDEX lost_a ON lost (a);
         ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_a; DROP INDEX lost_a;
         CREATE TABLE p (id int, n int) PARTITION BY HASH (id); ALTER TABLE p REPLICA IDENTITY FULL;
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE p0 ADD PRIMARY KEY (id);
         CREATE TABLE q (id int PRIMARY KEY, n int) PARTITION BY HASH (id);
         ALTER TABLE q REPLICA IDENTITY FULL;
         CREATE TABLE q0 PARTITION OF q FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE TABLE r (id int PRIMARY KEY, n int NOT NULL, UNIQUE (id, n)) PARTITION BY HASH (id);
         ALTER TABLE r REPLICA IDENTITY USING INDEX r_id_n_key;
         CREATE TABLE r0 PARTITION OF r FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE r1 PARTITION OF r FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         ALTER TABLE r1 REPLICA IDENTITY USING INDEX r1_id_n_key;
         CREATE TABLE s (id int PRIMARY KEY, n int NOT NULL, UNIQUE (id, n)) PARTITION BY HASH (id);
         CREATE TABLE s0 PARTITION OF s FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE s0 REPLICA IDENTITY USING INDEX s0_id_n_key;
         CREATE TABLE u (id int, n int) PARTITION BY HASH (id);
         CREATE TABLE u0 PARTITION OF u FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE u0 ADD PRIMARY KEY (id);",
    )
    .await;
    let found = of(&subject.check().await, codes::IDENTITY_NOTHING);
    let told: Vec<(&str, Verdict)> = found
        .iter()
        .map(|finding| (finding.found.as_str(), finding.verdict))
        .collect();
    assert_eq!(
        told,
        [
            (
                "the index that was the replica identity of public.lost is gone",
                Verdict::Warning
            ),
            (
                "the replica identity of public.nothing is NOTHING",
                Verdict::Warning
            ),
            // Rows without a key would not be found by a part of them.
            (
                "public.p logs whole old rows, its partition public.p0 does not",
                Verdict::Failed
            ),
            (
                "public.q logs whole old rows, its partition public.q0 does not",
                Verdict::Warning
            ),
            // Of the row that goes the log has the primary key; what has more is no matter.
            (
                "public.r tells rows by columns that its partition public.r0 does not log",
                Verdict::Failed
            ),
            (
                "public.u has no replica identity, its partition public.u0 has one",
                Verdict::Warning
            ),
        ]
    );
    subject.mend(&found[2], 0).await;
    subject.mend(&found[4], 0).await;
    subject
        .fails_and_is_mended(codes::IDENTITY_NOTHING, Verdict::Warning)
        .await;
}

#[tokio::test]
async fn a_standby_and_a_database_without_encoding_are_told() {
    let server = PostgresServer::builder()
        .encoding("SQL_ASCII")
        .start()
        .await;
    let server: &'static PostgresServer = Box::leak(Box::new(server.unwrap()));
    let subject = Subject::of(server, "postgres", "postgres");
    subject.run(ALL_WELL).await;
    let encoding = &of(&subject.check().await, codes::SOURCE_ENCODING)[0];
    assert_eq!(encoding.verdict, Verdict::Warning);
    subject.passes(codes::SOURCE_STANDBY).await;

    server.stop(Shutdown::Fast).await.unwrap();
    std::fs::write(server.data_directory().join("standby.signal"), "").unwrap();
    server.start().await.unwrap();
    let standby = &of(&subject.check().await, codes::SOURCE_STANDBY)[0];
    let expected = if server.major() < 16 {
        Verdict::Failed
    } else {
        Verdict::Warning
    };
    assert_eq!(standby.verdict, expected, "{standby:?}");
    // It would not tell which transactions are running.
    let error = PgSnapshot::take(subject.config()).await.err().unwrap();
    assert_eq!(error.code(), codes::STANDBY_SNAPSHOT, "{error}");
}
