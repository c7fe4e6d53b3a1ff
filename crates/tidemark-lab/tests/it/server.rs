use std::time::Duration;

use tidemark_lab::wait::wait_until;
use tidemark_lab::{PostgresServer, Shutdown};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn starts_answers_and_leaves_nothing() {
    let server = PostgresServer::builder().start().await.unwrap();
    let directory = server.directory().to_owned();
    let level: String = server
        .client()
        .await
        .unwrap()
        .query_one("SELECT current_setting('wal_level')", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(level, "logical");
    assert_eq!(
        server
            .psql("postgres", "SELECT 1\\; SELECT 2;")
            .await
            .unwrap(),
        "1\n2\n"
    );
    let error = server
        .psql("postgres", "SELECT nothing;")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("\"nothing\" does not exist"),
        "{error}"
    );
    let pids: Vec<u32> = server.processes().iter().map(|p| p.pid).collect();
    assert!(pids.len() > 4);
    drop(server);
    assert!(!directory.exists());
    assert!(
        pids.iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    );
}

#[tokio::test]
async fn two_servers_have_two_identities() {
    let a = PostgresServer::builder().start().await.unwrap();
    let b = PostgresServer::builder()
        .socket_only()
        .start()
        .await
        .unwrap();
    let mut identities = Vec::new();
    for server in [&a, &b] {
        let row = server
            .client()
            .await
            .unwrap()
            .query_one("SELECT system_identifier FROM pg_control_system()", &[])
            .await
            .unwrap();
        identities.push(row.get::<_, i64>(0));
    }
    assert_ne!(identities[0], identities[1]);
    assert!(b.url().contains("@/postgres?host=%2F"), "{}", b.url());
    let reached = tokio_postgres::connect(&b.url(), tokio_postgres::NoTls).await;
    assert!(reached.is_ok());
}

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let server = PostgresServer::builder().start().await.unwrap();
    server
        .execute("CREATE TABLE t AS SELECT generate_series(1, 1000) n")
        .await
        .unwrap();
    server.kill9().await.unwrap();
    assert!(!server.is_running() && server.client().await.is_err());
    server.start().await.unwrap();
    assert_eq!(
        server
            .psql("postgres", "SELECT count(*) FROM t")
            .await
            .unwrap(),
        "1000\n"
    );
    server.stop(Shutdown::Fast).await.unwrap();
    assert!(!server.is_running());
    server.start().await.unwrap();
    assert_eq!(
        server
            .psql("postgres", "SELECT count(*) FROM t")
            .await
            .unwrap(),
        "1000\n"
    );
}

#[tokio::test]
async fn a_frozen_server_answers_after_it_thaws() {
    let server = PostgresServer::builder().start().await.unwrap();
    let client = server.client().await.unwrap();
    server.freeze().unwrap();
    let answer = client.query_one("SELECT 1", &[]);
    tokio::pin!(answer);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut answer).await;
    assert!(early.is_err(), "a frozen server answered");
    server.thaw().unwrap();
    assert_eq!(answer.await.unwrap().get::<_, i32>(0), 1);
    server.freeze().unwrap();
    // Dropping a frozen server must not wait for it.
}

#[tokio::test]
async fn passwords_and_access_rules_hold() {
    let server = PostgresServer::builder()
        .scram("it's\"s%cret")
        .start()
        .await
        .unwrap();
    let connect = async |url: String| {
        tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .map(|_| ())
    };
    connect(server.url()).await.unwrap();
    connect(server.url_as("postgres", "wrong"))
        .await
        .unwrap_err();
    server
        .set_access_rules(&["host all postgres 127.0.0.1/32 reject"])
        .await
        .unwrap();
    connect(server.url()).await.unwrap_err();
    assert_eq!(server.psql("postgres", "SELECT 1").await.unwrap(), "1\n");
}

#[tokio::test]
async fn shows_a_certificate_of_its_own_authority() {
    let server = PostgresServer::builder().tls().start().await.unwrap();
    let authority = server.certificates().unwrap().authority();
    let script = |name: &str| {
        format!(
            "\\connect \"host=127.0.0.1 hostaddr=127.0.0.1 port={} user=postgres dbname=postgres \
             sslmode=verify-full sslrootcert={}\"\nSELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid() -- {name}\n;",
            server.port(),
            authority.display(),
        )
    };
    assert_eq!(
        server.psql("postgres", &script("server")).await.unwrap(),
        "t\n"
    );
    server.certificates().unwrap().present("expired").unwrap();
    server.reload().await.unwrap();
    let error = server
        .psql("postgres", &script("expired"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("certificate verify failed"),
        "{error}"
    );
    server.certificates().unwrap().present("elsewhere").unwrap();
    server.reload().await.unwrap();
    let error = server
        .psql("postgres", &script("elsewhere"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not match host name"),
        "{error}"
    );
}

#[tokio::test]
async fn other_encodings_start() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let server = PostgresServer::builder()
            .encoding(encoding)
            .start()
            .await
            .unwrap();
        assert_eq!(
            server
                .psql("postgres", "SHOW server_encoding")
                .await
                .unwrap(),
            format!("{encoding}\n")
        );
    }
}

#[tokio::test]
async fn tells_the_walsender_from_the_others() {
    let server = PostgresServer::builder().start().await.unwrap();
    let has = |role: &str| server.processes().iter().any(|p| p.role == role);
    assert!(has("postmaster") && has("checkpointer") && !has("walsender"));
    let mut receiver = std::process::Command::new(
        server
            .installation()
            .client_program("pg_recvlogical")
            .unwrap(),
    )
    .args([
        "-h",
        "127.0.0.1",
        "-p",
        &server.port().to_string(),
        "-U",
        "postgres",
        "-d",
        "postgres",
    ])
    .args([
        "--slot=lab",
        "--create-slot",
        "--start",
        "-f",
        "-",
        "-P",
        "test_decoding",
    ])
    .stdout(std::process::Stdio::null())
    .spawn()
    .unwrap();
    let seen = wait_until(DEADLINE, "a walsender", || async { Ok(has("walsender")) }).await;
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    seen.unwrap();
}

#[test]
fn a_killed_owner_leaves_nothing() {
    // The owner is this very binary, run for the test below alone.
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server::an_owner_to_be_killed", "--nocapture"])
        .env("TIDEMARK_LAB_OWNER", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(owner.stdout.take().unwrap()));
    let directory = lines
        .find_map(|line| line.unwrap().strip_prefix("directory ").map(str::to_owned))
        .expect("the owner tells its directory");
    let directory = std::path::PathBuf::from(directory);
    assert!(directory.join("data/postmaster.pid").exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let gone = wait_until(DEADLINE, "the directory to go", || async {
        Ok(!directory.exists())
    });
    runtime.block_on(gone).unwrap();
}

#[tokio::test]
async fn an_owner_to_be_killed() {
    if std::env::var_os("TIDEMARK_LAB_OWNER").is_none() {
        return;
    }
    let server = PostgresServer::builder().start().await.unwrap();
    println!("directory {}", server.directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn every_major_starts() {
    for major in [14, 15, 16, 17, 18] {
        let name = format!("every_major_starts ({major})");
        let Some(builder) = tidemark_lab::skip::major_or_skip(&name, major) else {
            continue;
        };
        let server = builder.start().await.unwrap();
        let version = server
            .psql("postgres", "SHOW server_version")
            .await
            .unwrap();
        assert!(version.starts_with(&major.to_string()), "{version}");
        server
            .execute("SELECT pg_create_logical_replication_slot('lab', 'pgoutput')")
            .await
            .unwrap();
        server.kill9().await.unwrap();
        server.start().await.unwrap();
    }
}
