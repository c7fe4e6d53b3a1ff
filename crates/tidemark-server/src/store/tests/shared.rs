//! A store that servers share: who has it, what happens when its database is away, how it grows up.

use tidemark_lab::proxy::Proxy;
use tidemark_lab::wait::wait_for;

use super::open_shared as open;
use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first column of what a statement gives.
pub(super) async fn rows(url: &str, sql: &str) -> Vec<String> {
    let server = PostgresServer::shared().await.unwrap();
    let config = ConnectConfig::parse(url, Side::Store).unwrap();
    let client = server.client_to(&config.database).await.unwrap();
    let path = "SET search_path = tidemark_server";
    client.batch_execute(path).await.unwrap();
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// As if the server that has it had slept: its lease is over.
async fn expire(url: &str) {
    rows(url, "UPDATE store SET until = '-infinity' RETURNING ''").await;
}

#[tokio::test]
async fn whoever_was_taken_over_notices_and_writes_nothing() {
    let url = database().await;
    let first = open(&url, 'a').await.unwrap();
    fill(&first).await;
    // It is awake and makes its lease longer meanwhile.
    let second = wait_for(PATIENCE, "the second to take over", || async {
        expire(&url).await;
        Ok(open(&url, 'a').await.ok())
    });
    let second = second.await.unwrap();
    let late = first.add_pipeline(new("default", "late")).await;
    let err = late.unwrap_err();
    assert_eq!(err.code(), codes::STORE_TAKEN_OVER, "{err}");
    assert_eq!(second.pipelines().await.unwrap().len(), 1);
    let noticed = tokio::time::timeout(PATIENCE, first.taken_over()).await;
    assert_eq!(noticed.unwrap().code(), codes::STORE_TAKEN_OVER);
    // Its end does not give away what is not its own.
    first.close().await;
    second
        .add_pipeline(new("default", "two"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(second.pipelines().await.unwrap().len(), 2);
}

#[tokio::test]
async fn whoever_takes_over_waits_for_a_transaction_that_has_begun() {
    let url = database().await;
    let first = open(&url, 'a').await.unwrap();
    first.inner.keeping.get().unwrap().abort();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let writing = {
        let first = first.clone();
        tokio::spawn(async move {
            let written = first.with(move |session, _| {
                begun.send(()).unwrap();
                goes.recv().unwrap();
                session.execute("INSERT INTO meta VALUES ('late', $1)", params![vec![1_u8]])
            });
            written.await
        })
    };
    has_begun.await.unwrap();
    // What was on its way when it fell asleep is over.
    let idle = "SELECT query FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'active' AND query LIKE '%interval%' AND pid <> pg_backend_pid()";
    wait_for(PATIENCE, "nobody to make it longer", || async {
        Ok(rows(&url, idle).await.is_empty().then_some(()))
    })
    .await
    .unwrap();
    expire(&url).await;
    let taking = {
        let url = url.clone();
        tokio::spawn(async move { open(&url, 'a').await })
    };
    let waits = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
         AND datname = current_database() AND query LIKE '%FOR UPDATE%'";
    wait_for(PATIENCE, "the second to wait for the first", || async {
        Ok((!rows(&url, waits).await.is_empty()).then_some(()))
    })
    .await
    .unwrap();
    go.send(()).unwrap();
    assert_eq!(writing.await.unwrap().unwrap(), 1);
    let second = taking.await.unwrap().unwrap();
    let found = second.with(|session, _| {
        session.query("SELECT 1 FROM meta WHERE name = 'late'", &[], |_| Ok(()))
    });
    assert_eq!(found.await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_database_that_is_away_is_told_and_found_again() {
    let server = PostgresServer::shared().await.unwrap();
    let name = server.fresh_database("store").await.unwrap();
    let proxy = Proxy::start(server.port()).await.unwrap();
    let url = server.url_through(proxy.address(), &name);
    let store = open(&url, 'a').await.unwrap();
    fill(&store).await;
    // A connection that was cut meanwhile costs nothing.
    proxy.cut();
    assert_eq!(store.pipelines().await.unwrap().len(), 1);
    proxy.refuse();
    let err = store.pipelines().await.unwrap_err();
    assert_eq!(err.code(), codes::STORE_UNREACHABLE, "{err}");
    assert_eq!(err.kind(), tidemark_core::ErrorKind::Transient);
    proxy.accept();
    wait_for(PATIENCE, "the store to be found again", || async {
        Ok(store.pipelines().await.ok())
    })
    .await
    .unwrap();
    // Cut in the middle of a transaction: nothing of it is there.
    let proxy = Arc::new(proxy);
    let cut = Arc::clone(&proxy);
    let half = store.with(move |session, _| {
        session.execute("INSERT INTO meta VALUES ('half', $1)", params![vec![1_u8]])?;
        cut.cut();
        session.execute("INSERT INTO meta VALUES ('more', $1)", params![vec![1_u8]])
    });
    assert_eq!(half.await.unwrap_err().code(), codes::STORE_UNREACHABLE);
    let found = store.with(|session, _| {
        session.query("SELECT 1 FROM meta WHERE name <> 'key'", &[], |_| Ok(()))
    });
    assert!(found.await.unwrap().is_empty());
}

/// The wire breaks when `COMMIT` is on its way. Whether the work is in is asked, never guessed.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_counts_where_it_is_in_and_only_there() {
    let server = PostgresServer::shared().await.unwrap();
    for is_in in [true, false] {
        let name = server.fresh_database("store").await.unwrap();
        let proxy = Proxy::start(server.port()).await.unwrap();
        let url = server.url_through(proxy.address(), &name);
        let store = open(&url, 'a').await.unwrap();
        fill(&store).await;
        let held = testing::HeldCommits::of("runs", &name).await;
        let key = Key::new("default", "shop");
        let began = {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.begin_run(&key).await })
        };
        held.reached().await;
        proxy.cut();
        if !is_in {
            held.end_those_that_wait().await;
        }
        held.let_go().await;
        let began = began.await.unwrap();
        let page = Cursor {
            before: None,
            limit: 10,
        };
        let runs = store.runs(&key, page).await.unwrap();
        let runs: Vec<i64> = runs.into_iter().map(|run| run.id).collect();
        if is_in {
            assert_eq!(runs, [began.unwrap()]);
        } else {
            assert_eq!(began.unwrap_err().code(), codes::STORE_UNREACHABLE);
            assert_eq!(runs, [0; 0]);
        }
    }
}

#[tokio::test]
async fn what_may_not_be_made_is_refused_and_an_administrator_may_make_it() {
    let server = PostgresServer::shared().await.unwrap();
    let url = database().await;
    let config = ConnectConfig::parse(&url, Side::Store).unwrap();
    let database = config.database.as_str();
    let role = format!("keeper_of_{database}");
    let sql = format!("CREATE ROLE {role} LOGIN");
    server.execute_in(database, &sql).await.unwrap();
    let url = server.url_with(&role, None, database);
    let err = open(&url, 'a').await.map(|_| ()).unwrap_err();
    assert_eq!(err.code(), codes::STORE_REFUSED, "{err}");
    let sql = format!("CREATE SCHEMA tidemark_server AUTHORIZATION {role}");
    server.execute_in(database, &sql).await.unwrap();
    fill(&open(&url, 'a').await.unwrap()).await;
}

#[tokio::test]
async fn an_older_store_is_copied_and_then_brought_up_to_date() {
    let url = database().await;
    let store = open(&url, 'a').await.unwrap();
    fill(&store).await;
    let Kept::Postgres(kept) = &store.inner.kept else {
        panic!("a store in a database");
    };
    let mut kept = kept.lock().await;
    let within = || Instant::now() + ANSWER_WITHIN;
    let mut steps = migrations::ALL.to_vec();
    steps.push("ALTER TABLE pipelines ADD colour TEXT; NONSENSE");
    kept.migrate(&steps, within()).await.unwrap_err();
    let columns = "SELECT table_schema::text FROM information_schema.columns \
         WHERE table_name = 'pipelines' AND column_name = 'colour'";
    assert!(
        rows(&url, columns).await.is_empty(),
        "all of a step or nothing"
    );
    *steps.last_mut().unwrap() = "ALTER TABLE pipelines ADD colour TEXT";
    kept.migrate(&steps, within()).await.unwrap();
    assert_eq!(
        rows(&url, columns).await,
        ["tidemark_server"],
        "the copy is as it was"
    );
    let copied = format!(
        "SELECT id FROM tidemark_server_v{}.pipelines",
        steps.len() - 1
    );
    assert_eq!(rows(&url, &copied).await, ["shop"]);
}
