//! Publications: made, extended, checked, never made smaller, and what joins later is whole.

use std::time::Duration;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::config::Create;
use tidemark_lab::PostgresServer;
use tidemark_postgres::source::{PgSource, PgSourceOptions};

use super::{Fixture, Tail, names, on_majors, run, run_alone, wait_for_answer};

on_majors! {
    publication_is_made_for_the_tables_and_extended
    publication_made_by_hand_is_only_checked
    rows_or_columns_left_out_are_refused
    table_that_joins_later_waits_for_its_writers
    nothing_is_made_when_we_are_told_not_to
    role_that_may_not_gets_the_statement_for_one_who_may
}

/// A statement keeps a lock on each table that it is about.
#[tokio::test]
async fn more_tables_than_the_server_has_room_for_locks_are_published_and_let_go() {
    let server = PostgresServer::builder()
        .setting("max_locks_per_transaction", "10")
        .setting("max_connections", "20");
    let server = server.start().await.unwrap();
    let mut fixture = Fixture::new(&server, "SELECT 1").await;
    let make = "DO $$ BEGIN FOR i IN 1..1500 LOOP \
                EXECUTE format('CREATE TABLE public.t%s (id int)', i); COMMIT; END LOOP; END $$";
    run_alone(&mut fixture.sql, make).await;
    let tables: Vec<String> = (1..=1500).map(|number| format!("t{number}")).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let source = fixture.source();
    // A table that joins later, with many others.
    source.announce(&names(&tables[..500])).await.unwrap();
    source.announce(&names(&tables)).await.unwrap();
    let count = "SELECT count(*) FROM pg_publication_tables";
    assert_eq!(fixture.ask(count).await.as_deref(), Some("1500"));
    let publication = format!("publication {}", fixture.options.publication);
    assert_eq!(source.release().await.unwrap(), [publication]);
}

const TABLES: &str =
    "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE \"B \"\"x\"\"\" (id int PRIMARY KEY);
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)";

const PUBLISHED: &str = "SELECT string_agg(tablename, ',' ORDER BY tablename COLLATE \"C\") \
    FROM pg_publication_tables";

async fn publication_is_made_for_the_tables_and_extended(server: &PostgresServer) {
    let mut fixture = Fixture::new(server, TABLES).await;
    let source = fixture.source();
    source.announce(&names(&["a"])).await.unwrap();
    assert_eq!(fixture.ask(PUBLISHED).await.as_deref(), Some("a"));
    let all = names(&["a", "B \"x\"", "p"]);
    source.announce(&all).await.unwrap();
    source.announce(&all).await.unwrap();
    assert_eq!(fixture.ask(PUBLISHED).await.as_deref(), Some("B \"x\",a,p"));
    // Fewer tables take nothing away.
    source.announce(&names(&["a"])).await.unwrap();
    assert_eq!(fixture.ask(PUBLISHED).await.as_deref(), Some("B \"x\",a,p"));
    let comment = "SELECT obj_description(oid, 'pg_publication') FROM pg_publication";
    let expected = format!("tidemark pipeline: {}", fixture.database);
    assert_eq!(fixture.ask(comment).await, Some(expected));
}

async fn publication_made_by_hand_is_only_checked(server: &PostgresServer) {
    let mut fixture = Fixture::new(server, TABLES).await;
    let source = fixture.source();
    let publication = fixture.options.publication.clone();
    fixture
        .run(&format!(
            "CREATE PUBLICATION {publication} FOR TABLE a WITH (publish = 'insert')"
        ))
        .await;
    let tables = names(&["a", "p"]);
    let error = source.announce(&tables).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::PUBLICATION_INCOMPLETE, ErrorKind::Definite)
    );
    for part in ["update, delete, truncate", "partitions", "public.p"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    // The statements that it names do mend it.
    fixture.run(&error.action()).await;
    source.announce(&tables).await.unwrap();
    assert_eq!(source.release().await.unwrap(), Vec::<String>::new());
    assert_eq!(
        fixture
            .ask("SELECT count(*) FROM pg_publication")
            .await
            .as_deref(),
        Some("1")
    );
    run_alone(&mut fixture.sql, &format!("DROP PUBLICATION {publication}")).await;
    let for_all = "FOR ALL TABLES WITH (publish_via_partition_root = true)";
    fixture
        .run(&format!("CREATE PUBLICATION {publication} {for_all}"))
        .await;
    source.announce(&tables).await.unwrap();
}

async fn rows_or_columns_left_out_are_refused(server: &PostgresServer) {
    if server.major() < 15 {
        return;
    }
    let schema =
        "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, n int);
        CREATE TABLE c (id int PRIMARY KEY)";
    let mut fixture = Fixture::new(server, schema).await;
    let source = fixture.source();
    let publication = fixture.options.publication.clone();
    fixture
        .run(&format!(
            "CREATE PUBLICATION {publication} FOR TABLE a (id), b WHERE (id > 1), c \
             WITH (publish_via_partition_root = true)"
        ))
        .await;
    source.announce(&names(&["c"])).await.unwrap();
    for table in ["a", "b"] {
        let error = source.announce(&names(&[table, "c"])).await.unwrap_err();
        assert_eq!(error.code(), codes::PUBLICATION_INCOMPLETE, "{error}");
        assert!(
            error.to_string().contains(&format!("public.{table}")),
            "{error}"
        );
        fixture.run(&error.action()).await;
        source.announce(&names(&[table, "c"])).await.unwrap();
    }
}

async fn table_that_joins_later_waits_for_its_writers(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, TABLES, &["a"]).await;
    let mut tail = Tail::open(&source, start).await;
    // It writes to the leaf before the root is published.
    let mut writer = fixture.session().await;
    run(&mut writer, "BEGIN; INSERT INTO p1 VALUES (1)").await;
    let impatient = PgSource::new(PgSourceOptions {
        slot_creation_timeout: Duration::from_millis(300),
        ..fixture.options.clone()
    })
    .unwrap();
    let both = names(&["a", "p"]);
    let error = impatient.announce(&both).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_WAITS, ErrorKind::Definite),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("pid {}", writer.pid())),
        "{error}"
    );
    // It is published by now, but what was written before is still undecided.
    let again = impatient.announce(&both).await.unwrap_err();
    assert_eq!(again.code(), codes::SLOT_WAITS, "{again}");
    run(&mut writer, "INSERT INTO p1 VALUES (2); COMMIT").await;
    impatient.announce(&both).await.unwrap();
    run(&mut writer, "BEGIN; INSERT INTO \"B \"\"x\"\"\" VALUES (1)").await;
    drop(impatient);
    let since = fixture.ask("SELECT clock_timestamp()").await.unwrap();
    let source_too = fixture.source();
    let all = names(&["a", "p", "B \"x\""]);
    let announcing = tokio::spawn(async move { source_too.announce(&all).await });
    let has_looked = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'idle' AND query LIKE '%virtualtransaction%' AND query_start > '{since}'"
    );
    wait_for_answer(&mut fixture, &has_looked, "t").await;
    // Later writers are not waited for.
    let mut later = fixture.session().await;
    run(&mut later, "BEGIN; INSERT INTO \"B \"\"x\"\"\" VALUES (2)").await;
    assert!(!announcing.is_finished());
    run(&mut writer, "COMMIT").await;
    announcing.await.unwrap().unwrap();
    run(&mut later, "COMMIT").await;
    let head = fixture.head().await;
    let told = tail.until(head).await;
    // What was written before is not in the log for us, which is why it is waited for.
    assert_eq!(told[told.len() - 2..], ["begin", "insert B \"x\" 2"]);
}

async fn nothing_is_made_when_we_are_told_not_to(server: &PostgresServer) {
    let mut fixture = Fixture::new(server, TABLES).await;
    fixture.options.create = Create::Never;
    let source = fixture.source();
    let error = source.announce(&names(&["a"])).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::PUBLICATION_MISSING, ErrorKind::Definite)
    );
    let slot = source
        .make_slot(tidemark_core::source::Keep::ForPipeline)
        .await
        .unwrap_err();
    assert_eq!(slot.code(), codes::SLOT_MISSING);
    fixture.run(&error.action()).await;
    source.announce(&names(&["a"])).await.unwrap();
    fixture.make_slot().await;
    assert_eq!(source.release().await.unwrap(), Vec::<String>::new());
}

async fn role_that_may_not_gets_the_statement_for_one_who_may(server: &PostgresServer) {
    let mut fixture = Fixture::new(server, TABLES).await;
    let role = format!("reader_{}", fixture.database);
    fixture.run(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = server.url_with(&role, None, &fixture.database);
    let mut options = fixture.options.clone();
    options.connect = tidemark_postgres::config::ConnectConfig::parse(
        &url,
        tidemark_postgres::config::Side::Source,
    )
    .unwrap();
    let source = PgSource::new(options).unwrap();
    let error = source.announce(&names(&["a"])).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SOURCE_PERMISSION, ErrorKind::Definite)
    );
    assert!(
        error.action().contains("CREATE PUBLICATION"),
        "{}",
        error.action()
    );
    // Neither may it replicate; who it is, it can still tell.
    let error = source
        .make_slot(tidemark_core::source::Keep::WhileOpen)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SOURCE_NO_REPLICATION, ErrorKind::Definite)
    );
    assert!(error.action().contains(&role), "{}", error.action());
    let state = source.log_state().await.unwrap();
    assert_eq!(
        state.identity,
        fixture.source().log_state().await.unwrap().identity
    );
}
