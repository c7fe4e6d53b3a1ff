//! What a check of the target finds, each provoked on a real server.

use std::time::Duration;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::checkpoint::LoadPhase;
use tidemark_core::config::Located;
use tidemark_core::finding::{Finding, Side, Verdict};
use tidemark_core::mapping::{Rules, TableMapping};
use tidemark_core::schema::TableName;
use tidemark_core::target::{Existing, Place};
use tidemark_lab::{PostgresServer, wait_for};
use tidemark_postgres::schema::describe;

use crate::lab;
use crate::target::{Database, Pair, start, target_at, whole};

const ORDERS: &str = "CREATE TABLE orders (id int PRIMARY KEY, name varchar(10)); \
                      CREATE TABLE items (id int PRIMARY KEY, o int REFERENCES orders)";

async fn mappings(script: &str) -> Vec<TableMapping> {
    let source = lab::database(script).await;
    let selection = lab::selecting(&["public.*"]);
    let schema = describe(&mut source.connect().await, &selection)
        .await
        .unwrap();
    let rules = Rules {
        selection,
        ..Rules::default()
    };
    rules.map(&schema).unwrap()
}

fn find(findings: &[Finding], code: Code) -> &Finding {
    findings
        .iter()
        .find(|finding| finding.code == code)
        .unwrap_or_else(|| panic!("{code} is not among {findings:?}"))
}

fn worst(findings: &[Finding]) -> Verdict {
    findings
        .iter()
        .map(|finding| finding.verdict)
        .max()
        .unwrap()
}

#[tokio::test]
async fn an_empty_target_passes_and_stays_empty() {
    let database = Database::new().await;
    let tables = mappings(ORDERS).await;
    let findings = database.target("shop").check_target(&tables).await.unwrap();
    assert_eq!(worst(&findings), Verdict::Passed, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.side == Side::Target));
    let version = find(&findings, codes::TARGET_VERSION);
    assert!(
        version.found.starts_with("PostgreSQL 1"),
        "{}",
        version.found
    );
    let made = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(database.value(made).await, "0");
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tidemark'";
    assert_eq!(database.value(made).await, "0");
}

/// A statement that grows with the tables must not nest with them: the server's stack is 2 MB.
#[tokio::test]
async fn f59_ten_thousand_tables_are_looked_at_at_once() {
    let database = Database::new().await;
    let orders = &mappings(ORDERS).await[0];
    let tables: Vec<TableMapping> = (0..10_000)
        .map(|number| {
            let mut table = orders.clone();
            table.target.name = format!("orders_{number}");
            table
        })
        .collect();
    database
        .run("CREATE VIEW orders_9999 AS SELECT 1 AS id")
        .await;
    let findings = database.target("shop").check_target(&tables).await.unwrap();
    assert_eq!(worst(&findings), Verdict::Failed, "the last one is a view");
    let failed = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Failed);
    let found: Vec<&str> = failed.map(|finding| finding.found.as_str()).collect();
    assert!(found[0].contains("orders_9999"), "{found:?}");
}

#[tokio::test]
async fn a_target_that_cannot_be_asked_is_an_error_with_its_kind() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let target = target_at(&format!("postgres://x@127.0.0.1:{port}/x"), "shop");
    let error = target.check_target(&[]).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::TARGET_REFUSED, ErrorKind::Transient)
    );

    let server = PostgresServer::shared().await.unwrap();
    let target = target_at(&server.url_to("not_there"), "shop");
    let error = target.check_target(&[]).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::TARGET_NO_DATABASE, ErrorKind::Definite)
    );
}

#[tokio::test]
async fn missing_privileges_come_with_the_statements_that_grant_them() {
    let database = Database::new().await;
    let tables = mappings(ORDERS).await;
    let role = format!("guest_of_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA tidemark; REVOKE ALL ON SCHEMA public FROM PUBLIC; \
             CREATE TABLE orders (id int PRIMARY KEY, name varchar(10)); \
             GRANT SELECT ON orders TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    let grants: Vec<&Finding> = findings
        .iter()
        .filter(|f| f.code == codes::TARGET_GRANTS && f.verdict == Verdict::Failed)
        .collect();
    let found: Vec<&str> = grants
        .iter()
        .map(|finding| finding.found.as_str())
        .collect();
    assert_eq!(
        found,
        [
            "the role may not make tables in schema public",
            "the role may not make tables in schema tidemark",
            "the role lacks INSERT, UPDATE, DELETE, TRUNCATE on public.orders",
        ]
    );
    for fix in grants.iter().flat_map(|finding| &finding.fixes) {
        database.run(&fix.text).await;
    }
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    assert_ne!(worst(&findings), Verdict::Failed, "{findings:?}");

    database.run("DROP SCHEMA tidemark").await;
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    let finding = find(&findings, codes::TARGET_GRANTS);
    assert!(
        finding.found.contains("make schema tidemark"),
        "{}",
        finding.found
    );
    database.run(&finding.fixes[0].text).await;
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    assert_ne!(worst(&findings), Verdict::Failed, "{findings:?}");
}

/// The tightest of the limits counts, and is named with its numbers.
#[tokio::test]
async fn too_little_room_for_sessions_is_told_with_the_limit_that_is_met() {
    let database = Database::new().await;
    let name = &database.name;
    let role = format!("seats_of_{name}");
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON DATABASE {name} TO {role}; \
             GRANT ALL ON SCHEMA public TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, name);
    let told = async |url: &str, workers: usize| {
        let target = target_at(url, "shop").load_workers(workers);
        let findings = target.check_target(&[]).await.unwrap();
        find(&findings, codes::TARGET_TOO_MANY_CONNECTIONS).clone()
    };
    assert_eq!(told(&url, 2).await.verdict, Verdict::Passed);
    let of_role = format!("CONNECTION LIMIT of role {role}");
    let limited = format!("ALTER ROLE {role} CONNECTION LIMIT 5");
    database.run(&limited).await;
    let finding = told(&url, 2).await;
    assert_eq!(finding.verdict, Verdict::Warning);
    assert_eq!(
        finding.found,
        format!(
            "5 of 5 sessions are free ({of_role}), and the pipeline opens up to 6, \
             2 of them for the workers of a load"
        )
    );
    assert_eq!(told(&url, 1).await.verdict, Verdict::Passed);
    database.run(&finding.fixes[0].text).await;
    let passed = told(&url, 2).await;
    let found = format!("6 of 6 sessions are free ({of_role})");
    assert_eq!((passed.verdict, passed.found), (Verdict::Passed, found));

    let limited =
        format!("ALTER ROLE {role} CONNECTION LIMIT -1; ALTER DATABASE {name} CONNECTION LIMIT 5");
    database.run(&limited).await;
    let finding = told(&url, 2).await;
    let of_database = format!("CONNECTION LIMIT of database {name}");
    assert!(finding.found.contains(&of_database), "{finding:?}");
    database.run(&finding.fixes[0].text).await;
    assert_eq!(told(&url, 2).await.verdict, Verdict::Passed);

    // A superuser minds neither, but there are no more than the server takes.
    let superuser = database.server.url_to(name);
    let finding = told(&superuser, 1_000_000).await;
    assert!(finding.found.contains("(max_connections "), "{finding:?}");
    let fix = &finding.fixes[0].text;
    assert!(
        fix.starts_with("ALTER SYSTEM SET max_connections = 100"),
        "{fix}"
    );
}

#[tokio::test]
async fn f50_tables_that_are_there_are_judged_by_what_will_be_done_with_them() {
    use Existing::{AppendIfEmpty, Drop, Fail, LoadIfEmpty, SkipLoaded, Truncate};
    let tables = mappings("CREATE TABLE orders (id int PRIMARY KEY, name varchar(10))").await;
    let fits = "CREATE TABLE orders (id int PRIMARY KEY, name varchar(10))";
    let full = format!("{fits}; INSERT INTO orders VALUES (1, 'a')");
    let unfit = "CREATE TABLE orders (id smallint, name varchar(5), more int NOT NULL)";
    for (there, existing, expected) in [
        ("", LoadIfEmpty, None),
        ("", AppendIfEmpty, Some(codes::TARGET_TABLE_MISSING)),
        (fits, LoadIfEmpty, None),
        (fits, Fail, Some(codes::TARGET_TABLE_EXISTS)),
        (&full, LoadIfEmpty, Some(codes::TARGET_TABLE_NOT_EMPTY)),
        (&full, AppendIfEmpty, Some(codes::TARGET_TABLE_NOT_EMPTY)),
        (&full, SkipLoaded, None),
        (&full, Truncate, None),
        (&full, Drop, None),
        (unfit, Truncate, Some(codes::TARGET_TABLE_UNFIT)),
        (unfit, Drop, None),
        (
            "CREATE VIEW orders AS SELECT 1 AS x",
            Drop,
            Some(codes::TARGET_NOT_A_TABLE),
        ),
        (
            "CREATE UNLOGGED TABLE orders (x int)",
            Truncate,
            Some(codes::TARGET_NOT_A_TABLE),
        ),
    ] {
        let database = Database::new().await;
        database.run(there).await;
        let target = database.target("shop").existing(existing);
        let findings = target.check_target(&tables).await.unwrap();
        let failed = findings.iter().find(|f| f.verdict == Verdict::Failed);
        let what = format!("{existing:?} with `{there}`: {findings:?}");
        assert_eq!(failed.map(|finding| finding.code), expected, "{what}");
        let mut fixes = failed.iter().flat_map(|finding| &finding.fixes);
        let logs = fixes.any(|fix| fix.text.contains("SET LOGGED"));
        assert_eq!(logs, there.contains("UNLOGGED"), "{what}");
    }
    let database = Database::new().await;
    database.run(unfit).await;
    let findings = database.target("shop").check_target(&tables).await.unwrap();
    assert_eq!(
        find(&findings, codes::TARGET_TABLE_UNFIT).found,
        "public.orders does not fit: column id is smallint, but the source has integer; \
         column name is character varying(5), but the source has character varying(10); \
         column more refuses NULL, has no default, and the source has no such column"
    );
    let computes =
        "CREATE TABLE orders (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)";
    let tables = mappings(computes).await;
    let plain = "CREATE TABLE orders (id int PRIMARY KEY, twice int)";
    let filled = format!(
        "{plain}; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN NEW.twice := NEW.id * 2; RETURN NEW; END'; \
         CREATE TRIGGER f BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION f(); \
         ALTER TABLE orders ENABLE ALWAYS TRIGGER f"
    );
    for (there, expected) in [
        (computes, None),
        (filled.as_str(), None),
        (
            plain,
            Some(
                "public.orders does not fit: column twice is generated on the source and not here, \
                 so that nothing would give it values",
            ),
        ),
    ] {
        let database = Database::new().await;
        database.run(there).await;
        let findings = database.target("shop").check_target(&tables).await.unwrap();
        let failed = findings.iter().find(|f| f.verdict == Verdict::Failed);
        assert_eq!(failed.map(|it| it.found.as_str()), expected, "{there}");
    }
}

#[tokio::test]
async fn tables_of_an_earlier_start_are_not_compared_any_more() {
    let pair = Pair::new(ORDERS, Rules::default()).await;
    pair.load_all().await;
    pair.database
        .run("ALTER TABLE orders DROP COLUMN name; INSERT INTO orders VALUES (1)")
        .await;
    let findings = pair.target.check_target(&pair.mappings).await.unwrap();
    assert_eq!(
        worst(&findings),
        Verdict::Passed,
        "keys come after the rows: {findings:?}"
    );
    let streams = "UPDATE tidemark.table_state SET state = 'streaming'";
    pair.database.run(streams).await;
    let findings = pair.target.check_target(&pair.mappings).await.unwrap();
    assert_eq!(worst(&findings), Verdict::Warning, "{findings:?}");
    let finding = find(&findings, codes::TARGET_NO_KEY);
    let fix = finding.fixes[0].text.clone();
    assert!(fix.starts_with("CREATE UNIQUE INDEX ON public."), "{fix}");
    for finding in findings.iter().filter(|f| f.code == codes::TARGET_NO_KEY) {
        pair.database.run(&finding.fixes[0].text).await;
    }
    let findings = pair.target.check_target(&pair.mappings).await.unwrap();
    assert_eq!(worst(&findings), Verdict::Passed, "{findings:?}");
}

#[tokio::test]
async fn f49_what_would_fire_is_listed() {
    let database = Database::new().await;
    let tables = mappings(ORDERS).await;
    let role = format!("writer_of_{}", database.name);
    let trigger = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
                   CREATE TRIGGER note AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note(); \
                   CREATE TRIGGER always AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note(); \
                   ALTER TABLE orders ENABLE ALWAYS TRIGGER always";
    database
        .run(&format!(
            "{ORDERS}; {trigger}; CREATE ROLE {role} LOGIN; CREATE SCHEMA tidemark; \
             GRANT CREATE ON SCHEMA public, tidemark TO {role}; GRANT USAGE ON SCHEMA tidemark TO {role}; \
             GRANT ALL ON orders, items TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    let finding = find(&findings, codes::TARGET_TRIGGERS);
    assert_eq!(finding.verdict, Verdict::Warning);
    assert_eq!(
        finding.found,
        "what fires for each row that is written: foreign key items_o_fkey on public.items; \
         trigger always on public.orders; trigger note on public.orders"
    );
    if database.server.major() >= 15 {
        database.run(&finding.fixes[0].text).await;
        let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
        let finding = find(&findings, codes::TARGET_TRIGGERS);
        assert!(
            finding.found.ends_with(": trigger always on public.orders"),
            "{}",
            finding.found
        );
    }
    database.run("DROP TRIGGER always ON orders").await;
    let findings = database.target("shop").check_target(&tables).await.unwrap();
    assert_eq!(
        find(&findings, codes::TARGET_TRIGGERS).verdict,
        Verdict::Passed
    );
}

#[tokio::test]
async fn row_security_read_only_and_encoding_are_told() {
    let tables = mappings("CREATE TABLE orders (id int PRIMARY KEY, name varchar(10))").await;
    let database = Database::new().await;
    let role = format!("hidden_of_{}", database.name);
    database
        .run(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, name varchar(10)); \
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE ROLE {role} LOGIN; \
             GRANT ALL ON orders TO {role}; CREATE SCHEMA tidemark AUTHORIZATION {role}; \
             GRANT CREATE ON SCHEMA public TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let findings = target_at(&url, "shop").check_target(&tables).await.unwrap();
    assert_eq!(
        find(&findings, codes::TARGET_ROW_SECURITY).verdict,
        Verdict::Failed
    );

    let name = &database.name;
    database
        .run(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on"
        ))
        .await;
    let findings = database.target("shop").check_target(&tables).await.unwrap();
    let finding = find(&findings, codes::TARGET_READ_ONLY);
    assert_eq!(finding.verdict, Verdict::Failed);
    database.run(&finding.fixes[0].text).await;
    let findings = database.target("shop").check_target(&[]).await.unwrap();
    assert_eq!(
        find(&findings, codes::TARGET_READ_ONLY).verdict,
        Verdict::Passed
    );

    let latin = format!("latin_{name}");
    database
        .server
        .execute(&format!(
            "CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        ))
        .await
        .unwrap();
    let target = target_at(&database.server.url_to(&latin), "shop");
    let findings = target.check_target(&[]).await.unwrap();
    let finding = find(&findings, codes::TARGET_ENCODING);
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(finding.found.contains("LATIN1"), "{}", finding.found);
}

#[tokio::test]
async fn types_that_moved_with_their_schema_are_known_again() {
    let script = "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (m mood, ms mood[])";
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        ..Rules::default()
    };
    let pair = Pair::new(script, rules).await;
    pair.database
        .run(
            "CREATE SCHEMA dw; CREATE TYPE dw.mood AS ENUM ('sad'); \
             CREATE TABLE dw.t (m dw.mood, ms dw.mood[])",
        )
        .await;
    let target = pair.database.target("another");
    let findings = target.check_target(&pair.mappings).await.unwrap();
    let fits = find(&findings, codes::TARGET_TABLE_UNFIT);
    assert_eq!(fits.verdict, Verdict::Passed, "{findings:?}");
    // The pair's own pipeline has the table.
    let shared = find(&findings, codes::TARGET_SHARED);
    assert_eq!(shared.verdict, Verdict::Failed, "{findings:?}");
    let prepared = pair
        .target
        .prepare(
            &pair.mappings[0],
            Existing::LoadIfEmpty,
            Place::InPlace,
            &[whole()],
        )
        .await;
    prepared.unwrap();
}

#[tokio::test]
async fn a_table_is_not_copied_onto_itself() {
    let database = lab::database("CREATE TABLE orders (id int)").await;
    let target = target_at(&database.server.url_to(&database.name), "shop");
    target.acquire(&crate::target::owner(1)).await.unwrap();
    let client = database.server.client_to(&database.name).await.unwrap();
    let row = client
        .query_one(
            "SELECT system_identifier::text FROM pg_control_system()",
            &[],
        )
        .await
        .unwrap();
    let mut start = start(&["orders"]);
    start.identity.system = row.get(0);
    start.identity.database.clone_from(&database.name);
    let refusal = target.start_load(&start).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_IS_SOURCE);
    start.tables[0].target.schema = "elsewhere".to_owned();
    target.start_load(&start).await.unwrap();
}

/// Both looked before the other had recorded anything.
#[tokio::test]
async fn of_two_starts_on_one_table_at_the_same_moment_one_is_refused() {
    for round in 0..8 {
        let database = Database::new().await;
        let [left, right] = ["left", "right"].map(|name| database.target(name));
        for target in [&left, &right] {
            target.acquire(&crate::target::owner(1)).await.unwrap();
            let orders = TableName::new("public", "orders");
            target.claim(&[&orders]).await.unwrap();
        }
        let start = start(&["orders"]);
        let (one, other) = tokio::join!(left.start_load(&start), right.start_load(&start));
        let refusal = match (one, other) {
            (Ok(()), Err(refusal)) | (Err(refusal), Ok(())) => refusal,
            both => panic!("round {round}: {both:?}"),
        };
        assert_eq!(refusal.code(), codes::TARGET_SHARED, "{refusal}");
        assert!(refusal.to_string().contains("public.orders"), "{refusal}");
    }
}

/// What a run lost with its connection another may have taken since.
#[tokio::test]
async fn a_table_that_was_claimed_meanwhile_is_refused_to_whoever_comes_back() {
    let database = Database::new().await;
    let owner = crate::target::owner(1);
    let start = start(&["orders"]);
    let orders = TableName::new("public", "orders");
    let first = database.target("first");
    first.acquire(&owner).await.unwrap();
    first.start_load(&start).await.unwrap();
    drop(first);

    let second = database.target("second");
    wait_for(
        Duration::from_secs(10),
        "the session of the first to end",
        || async {
            second.acquire(&owner).await?;
            Ok(second.start_load(&start).await.ok())
        },
    )
    .await
    .unwrap();
    let back = database.target("first");
    back.acquire(&owner).await.unwrap();
    let refusal = back.claim(&[&orders]).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_SHARED, "{refusal}");
    let elsewhere = TableName::new("public", "customers");
    back.claim(&[&elsewhere]).await.unwrap();
}

/// It seems to be over, and is not: what it commits from then on would come into rows of the other.
#[tokio::test]
async fn a_run_that_lost_its_lock_writes_nothing_once_another_begins_with_its_table() {
    let database = Database::new().await;
    let first = database.started("first", &["orders"]).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    database.run(end).await;
    let second = database.target("second");
    let owner = crate::target::owner(1);
    second.acquire(&owner).await.unwrap();
    let orders = TableName::new("public", "orders");
    let began = wait_for(
        Duration::from_secs(10),
        "the session of the first to end",
        || async { Ok(second.claim(&[&orders]).await.ok()) },
    );
    began.await.unwrap();
    let refusal = first.set_phase(LoadPhase::Loaded).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED, "{refusal}");
    let kept = tokio::time::timeout(Duration::from_secs(20), first.keep_lock(&owner));
    let refusal = kept.await.expect("it ends");
    assert_eq!(refusal.code(), codes::TARGET_FENCED, "{refusal}");
    assert_eq!(refusal.kind(), ErrorKind::Definite);
    second.start_load(&start(&["orders"])).await.unwrap();
    second.set_phase(LoadPhase::Loaded).await.unwrap();
}

/// What is set for a role goes before what is set for the database.
#[tokio::test]
async fn a_target_that_is_read_only_is_mended_where_that_was_set() {
    let database = Database::new().await;
    let name = &database.name;
    let role = format!("reader_of_{name}");
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, name);
    for whose in [
        format!("DATABASE {name}"),
        format!("ROLE {role}"),
        format!("ROLE {role} IN DATABASE {name}"),
    ] {
        let read_only = format!("ALTER {whose} SET default_transaction_read_only = on");
        database.run(&read_only).await;
        let findings = target_at(&url, "shop").check_target(&[]).await.unwrap();
        let finding = find(&findings, codes::TARGET_READ_ONLY);
        assert_eq!(finding.verdict, Verdict::Failed, "{whose}");
        let fix = &finding.fixes[0].text;
        assert!(fix.contains(&format!("ALTER {whose} SET")), "{fix}");
        database.run(fix).await;
        let findings = target_at(&url, "shop").check_target(&[]).await.unwrap();
        let finding = find(&findings, codes::TARGET_READ_ONLY);
        assert_eq!(finding.verdict, Verdict::Passed, "{whose}");
    }
}

#[tokio::test]
async fn an_event_trigger_that_refuses_is_told_before_and_named_then() {
    let database = Database::new().await;
    database
        .run(
            "CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE 'ask first'; END $$; \
             CREATE EVENT TRIGGER guarded ON ddl_command_start EXECUTE FUNCTION guard()",
        )
        .await;
    let target = database.target("shop");
    let findings = target.check_target(&[]).await.unwrap();
    let is_told = |finding: &&Finding| finding.found.contains("guarded");
    let told = findings.iter().find(is_told).expect("it is told");
    assert_eq!(
        (told.code, told.verdict),
        (codes::TARGET_TRIGGERS, Verdict::Note)
    );
    let refusal = target.acquire(&crate::target::owner(1)).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_GRANTS, "{refusal}");
    assert!(refusal.to_string().contains("ask first"), "{refusal}");
}

/// A table that is added while a pipeline runs is claimed as it is prepared; one that is its own is not
/// looked at again.
#[tokio::test]
async fn a_table_that_another_has_is_refused_as_it_is_added() {
    let tables =
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE lines (id int PRIMARY KEY)";
    let pair = Pair::new(tables, Rules::default()).await;
    let other = pair.database.target("other");
    other.acquire(&crate::target::owner(1)).await.unwrap();
    other.start_load(&start(&["customers"])).await.unwrap();
    let orders = pair.mapping("orders");
    let prepared = other.prepare(orders, Existing::LoadIfEmpty, Place::InPlace, &[]);
    let refusal = prepared.await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_SHARED, "{refusal}");
    // A record from before, of a table that this run began without, is no claim; and it costs the run nothing
    // that the other one loads the table.
    let stale = "INSERT INTO tidemark.table_state (pipeline, source_schema, source_name, target_schema, \
                 target_name, source_id, state) SELECT 'other', source_schema, source_name, \
                 target_schema, target_name, source_id, 'streaming' FROM tidemark.table_state \
                 WHERE target_name = 'orders'";
    pair.database.run(stale).await;
    let prepared = other.prepare(orders, Existing::LoadIfEmpty, Place::InPlace, &[]);
    let refusal = prepared.await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_SHARED, "{refusal}");
    pair.prepare("orders", Existing::LoadIfEmpty).await.unwrap();
    other.set_phase(LoadPhase::Loaded).await.unwrap();
    let remove =
        "DELETE FROM tidemark.table_state WHERE pipeline = 'other' AND target_name = 'orders'";
    pair.database.run(remove).await;
    let there = "SELECT string_agg(pipeline || ' ' || target_name, ', ' ORDER BY 1) \
                 FROM tidemark.table_state WHERE target_name = 'orders'";
    assert_eq!(pair.database.value(there).await, "shop orders");
}
