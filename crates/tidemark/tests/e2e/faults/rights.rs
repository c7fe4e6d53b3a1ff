//! Rights and logins that are taken away from a run. A right is told and waited for, since whoever took
//! it may give it back; a login that is refused ends the run at once, before anybody is locked out.

use serde_json::Value;
use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Running, Stage};

const TABLES: &str = "CREATE TABLE big (id int PRIMARY KEY, v text);
    INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 9000) i;
    CREATE TABLE small (id int PRIMARY KEY, v text); INSERT INTO small VALUES (1, 'one'); ANALYZE";

/// Roles that may do what they need and no more, and own what they work with; nothing is compared.
async fn with_roles(name: &str, more: &str) -> Stage {
    compared_by_roles(name, &format!("{more}[verify]\nafter_load = \"off\"\n")).await
}

/// The same, and what is loaded is compared.
async fn compared_by_roles(name: &str, more: &str) -> Stage {
    let stage = Stage::new(name).await;
    let (source, target) = (&stage.source_name, &stage.target_name);
    stage.source_sql(TABLES).await;
    stage
        .source_sql(&format!(
            "CREATE ROLE {name}_reader LOGIN REPLICATION; CREATE ROLE {name}_writer LOGIN;
             GRANT CREATE ON DATABASE {source} TO {name}_reader;
             GRANT CREATE ON DATABASE {target} TO {name}_writer;
             ALTER TABLE big OWNER TO {name}_reader; ALTER TABLE small OWNER TO {name}_reader"
        ))
        .await;
    stage
        .target_sql(&format!("GRANT CREATE ON SCHEMA public TO {name}_writer"))
        .await;
    let url = |role: &str, database: &str| {
        let role = format!("{name}_{role}");
        stage.source_server.url_with(&role, None, database)
    };
    stage.write_between(&url("reader", source), &url("writer", target), more);
    stage
}

/// Waits until the run has been told so often that it lacks a right, one pause longer than the other.
async fn is_told(stage: &Stage, run: &mut Running, code: &str, before: usize) {
    let attempts = || {
        let log = stage.log();
        let named = format!("\"code\":\"{code}\"");
        let lines = log.lines().skip(before).filter(|l| l.contains(&named));
        let attempt = |line: &str| -> Option<u32> {
            let line: Value = serde_json::from_str(line).ok()?;
            line["attempt"].as_u64()?.try_into().ok()
        };
        lines.filter_map(attempt).collect::<Vec<_>>()
    };
    wait_for(PATIENCE, &format!("{code} to be told again"), || async {
        let attempts = attempts();
        Ok((attempts.len() > 1 && attempts.iter().any(|n| *n > 2)).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    assert!(attempts().is_sorted(), "each pause is longer than the last");
    assert!(run.is_running(), "{}", stage.log());
    let words = "permission denied|must be superuser or replication role";
    let log = stage.log();
    let mut lines = log.lines().skip(before);
    let is_named = |line: &str| words.split('|').any(|word| line.contains(word));
    assert!(lines.any(is_named), "{log}");
}

/// Takes a right away, waits until that is told, and gives it back.
async fn without(stage: &Stage, run: &mut Running, code: &str, take: &str, give: &str) {
    let before = stage.log().lines().count();
    let client = match code {
        "TM1014" | "TM1015" => &stage.source,
        _ => &stage.target,
    };
    client.batch_execute(take).await.unwrap();
    stage
        .source_sql("INSERT INTO small SELECT max(id) + 1, 'more' FROM small")
        .await;
    is_told(stage, run, code, before).await;
    // Where the target is out of reach nobody can be asked.
    if code.starts_with("TM1") || take.contains("CREATE ON") {
        let error = wait_for(PATIENCE, "the status to tell it", || async {
            let error = stage.status().await["error"].clone();
            Ok((error["code"] == code).then_some(error))
        });
        let error = error.await.unwrap();
        assert!(error["since"].is_string(), "{error}");
    }
    client.batch_execute(give).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_right_that_is_taken_away_from_the_stream_is_told_and_waited_for() {
    let name = "right_stream";
    let stage = with_roles(name, "").await;
    let mut run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    let (source, target) = (&stage.source_name, &stage.target_name);
    let sessions = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename LIKE '{name}_%'"
    );
    for (code, take, give) in [
        (
            "TM1014",
            format!("ALTER ROLE {name}_reader NOREPLICATION; {sessions}"),
            format!("ALTER ROLE {name}_reader REPLICATION"),
        ),
        (
            "TM1015",
            format!("REVOKE CONNECT ON DATABASE {source} FROM PUBLIC; {sessions}"),
            format!("GRANT CONNECT ON DATABASE {source} TO PUBLIC"),
        ),
        (
            "TM2015",
            format!("REVOKE CONNECT ON DATABASE {target} FROM PUBLIC; {sessions}"),
            format!("GRANT CONNECT ON DATABASE {target} TO PUBLIC"),
        ),
        (
            "TM2015",
            format!("REVOKE USAGE ON SCHEMA tidemark FROM {name}_writer"),
            format!("GRANT USAGE ON SCHEMA tidemark TO {name}_writer"),
        ),
    ] {
        without(&stage, &mut run, code, &take, &give).await;
        stage.wait_until_identical().await;
    }
    wait_for(PATIENCE, "the status to tell no error", || async {
        Ok(stage.status().await["error"].is_null().then_some(()))
    })
    .await
    .unwrap();
    a_right_on_one_table_sets_it_aside(&stage, name).await;
    a_table_that_was_emptied_and_not_filled_is_not_taken_for_whole(&stage, name).await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());

    // A start that lacks it ends, with the statement that mends it.
    let take = format!("ALTER ROLE {name}_reader NOREPLICATION");
    stage.source_sql(&take).await;
    let ran = stage.run(&["run", "FILE"]).await.expect(4);
    let grant = format!("ALTER ROLE {name}_reader REPLICATION");
    assert!(ran.stderr.contains(&grant), "{}", ran.stderr);
    stage.clear().await;
}

/// The others stream, and nothing of it is lost. Row security that comes to a table would hide the row that
/// goes: that is no row that is not there.
async fn a_right_on_one_table_sets_it_aside(stage: &Stage, name: &str) {
    let new = "INSERT INTO small SELECT max(id) + 1, 'aside' FROM small";
    for (number, (take, give, change, words)) in [
        (
            format!("REVOKE INSERT ON small FROM {name}_writer"),
            format!("GRANT INSERT ON small TO {name}_writer"),
            new,
            "permission denied",
        ),
        (
            "ALTER TABLE small ENABLE ROW LEVEL SECURITY; ALTER TABLE small FORCE ROW LEVEL SECURITY"
                .to_owned(),
            "ALTER TABLE small DISABLE ROW LEVEL SECURITY".to_owned(),
            "DELETE FROM small WHERE id = 1",
            "row-level security",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        stage.target_sql(&take).await;
        stage.source_sql(change).await;
        stage.wait_for_table("public.small", "quarantined").await;
        let reason = stage.table("public.small").await["reason"].to_string();
        assert!(reason.contains(words), "{reason}");
        let beside = format!("INSERT INTO big VALUES (-{number}, 'beside')");
        stage.source_sql(&beside).await;
        let arrived = format!("SELECT count(*) FROM big WHERE id = -{number}");
        stage.wait_for_target(&arrived, "1").await;
        stage.target_sql(&give).await;
        stage.run(&["retry", "FILE"]).await.expect(0);
        stage.wait_for_table("public.small", "streaming").await;
        stage.wait_until_identical().await;
    }
}

/// The right to empty a table is another than that to fill it.
async fn a_table_that_was_emptied_and_not_filled_is_not_taken_for_whole(stage: &Stage, name: &str) {
    let table = ["--table", "public.small"];
    let strategy = ["--strategy", "truncate", "--yes"];
    let resync = [&["resync", "FILE"][..], &table, &strategy].concat();
    let take = format!("REVOKE INSERT ON small FROM {name}_writer");
    stage.target_sql(&take).await;
    let ran = stage.run(&resync).await;
    assert_ne!(ran.code, Some(0), "{}", ran.stdout);
    stage.wait_for_table("public.small", "quarantined").await;
    let give = format!("GRANT INSERT ON small TO {name}_writer");
    stage.target_sql(&give).await;
    let retry = [&["retry", "FILE"][..], &table].concat();
    let ran = stage.run(&retry).await;
    assert_ne!(ran.code, Some(0), "{}", ran.stdout);
    stage.run(&resync).await.expect(0);
    stage.wait_for_table("public.small", "streaming").await;
    stage.wait_until_identical().await;
}

/// One piece after the other, and none at once.
const SLOW: &str = "[load]\nparallel_tables = 1\nparallel_chunks = 1\nmax_source_rows_per_second = 3000\n\
    [[table]]\nsource = \"public.big\"\nchunk_rows = 1000\n";

/// A run in the middle of its load.
async fn loading(stage: &Stage) -> Running {
    let run = stage.start(&["run", "FILE"]);
    wait_for(PATIENCE, "some ranges to be loaded", || async {
        Ok((loaded(stage).await?.len() > 1).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    run
}

/// The numbers of the loaded ranges of `big`.
async fn loaded(stage: &Stage) -> anyhow::Result<Vec<i64>> {
    let sql = "SELECT number::int8 FROM tidemark.unit WHERE source_name = 'big' AND is_loaded";
    let rows = stage.target.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_right_that_is_taken_away_from_the_load_is_told_and_waited_for() {
    let name = "right_load";
    let stage = with_roles(name, SLOW).await;
    let mut run = loading(&stage).await;
    let written = "SELECT xmin FROM big WHERE id = 1";
    let before = text(&stage.target, written).await.unwrap();
    let take = format!("REVOKE SELECT ON big FROM {name}_reader");
    let give = format!("GRANT SELECT ON big TO {name}_reader");
    without(&stage, &mut run, "TM1015", &take, &give).await;
    let kept = loaded(&stage).await.unwrap();
    assert!(kept.len() < 9, "it was in the middle of it: {kept:?}");
    // The other table comes after it.
    let take = format!("REVOKE CREATE ON SCHEMA public FROM {name}_writer");
    let give = format!("GRANT CREATE ON SCHEMA public TO {name}_writer");
    without(&stage, &mut run, "TM2015", &take, &give).await;
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;
    let keys = "SELECT string_agg(conname, ' ' ORDER BY 1) FROM pg_constraint \
                WHERE connamespace = 'public'::regnamespace";
    let keys = text(&stage.target, keys).await.unwrap();
    assert_eq!(keys, "big_pkey small_pkey");
    let log = stage.log();
    assert!(!log.contains("is not carried"), "{log}");
    let after = text(&stage.target, written).await.unwrap();
    assert_eq!(before, after, "what was in was loaded again");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// What a load needs beside its workers, and two of those.
const READS: u32 = 5;
const WRITES: u32 = 6;

/// Many pieces at once, and slowly.
const WIDE: &str = "[load]\nparallel_tables = 2\nparallel_chunks = 6\nmax_source_rows_per_second = 900\n\
    [[table]]\nsource = \"public.big\"\nchunk_rows = 1000\n";

/// Roles that may have fewer sessions than the load has workers, on either side.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_goes_on_with_the_connections_that_there_are() {
    for (side, limit) in [("reader", READS), ("writer", WRITES)] {
        let name = format!("few_{side}");
        let stage = with_roles(&name, WIDE).await;
        let sql = format!("ALTER ROLE {name}_{side} CONNECTION LIMIT {limit}");
        stage.source_sql(&sql).await;
        let run = stage.start(&["run", "FILE"]);
        stage.wait_for_state("streaming").await;
        stage.wait_until_identical().await;
        let log = stage.log();
        let told = "the load goes on with the workers that have one";
        assert_eq!(log.matches(told).count(), 1, "{log}");
        assert_eq!(log.matches("step 4/5 load").count(), 1, "begun anew: {log}");
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        stage.clear().await;
    }
}

/// Streams, and is about to compare: a transaction that was open when it began keeps it waiting. Then
/// `cause` is done on the source, and the transaction ends.
async fn about_to_compare(name: &str, cause: &str) -> (Stage, Running) {
    let stage = compared_by_roles(name, SLOW).await;
    let run = loading(&stage).await;
    let holder = stage.source_server.client_to(&stage.source_name).await;
    let holder = holder.unwrap();
    let open = "BEGIN; INSERT INTO small VALUES (50, 'open')";
    holder.batch_execute(open).await.unwrap();
    stage.wait_for_state("streaming").await;
    // What the stream asks of the source at a table's first change, it has asked.
    stage
        .source_sql("INSERT INTO small VALUES (40, 'first')")
        .await;
    stage
        .wait_for_target("SELECT count(*) FROM small WHERE id = 40", "1")
        .await;
    stage.source_sql(cause).await;
    holder.batch_execute("COMMIT").await.unwrap();
    (stage, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_right_that_the_comparison_after_the_load_lacks_is_told_and_waited_for() {
    let name = "right_compare";
    let take = format!("ALTER ROLE {name}_reader NOREPLICATION");
    let (stage, mut run) = about_to_compare(name, &take).await;
    run.wait_for_log("the comparison was interrupted").await;
    let log = stage.log();
    let told = log.lines().find(|line| line.contains("was interrupted"));
    let told = told.unwrap_or_default();
    assert!(
        told.contains("TM1014") && told.contains("replication role"),
        "{told}"
    );
    assert!(run.is_running(), "{log}");
    let give = format!("ALTER ROLE {name}_reader REPLICATION");
    stage.source_sql(&give).await;
    wait_for(PATIENCE, "the status to tell what was found", || async {
        let verified = stage.status().await["verified"].clone();
        Ok((verified["result"] == "identical").then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A login that is refused is not tried again soon. The run goes on, and says what was not compared, and why.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_would_only_fail_again_is_given_up_and_the_run_goes_on() {
    let name = "right_given_up";
    let take = format!("ALTER ROLE {name}_reader NOLOGIN");
    let (stage, mut run) = about_to_compare(name, &take).await;
    run.wait_for_log("the copy is not compared after its load")
        .await;
    let log = stage.log();
    let told = log.lines().find(|line| line.contains("is not compared"));
    assert!(told.is_some_and(|line| line.contains("TM1005")), "{log}");
    let give = format!("ALTER ROLE {name}_reader LOGIN");
    stage.source_sql(&give).await;
    stage
        .source_sql("INSERT INTO small VALUES (60, 'later')")
        .await;
    stage.wait_until_identical().await;
    // It is reported once a second.
    let why = wait_for(PATIENCE, "the status to tell it", || async {
        let status = stage.status().await;
        assert!(status["verified"].is_null(), "{status}");
        Ok(status["unverified"].as_str().map(str::to_owned))
    });
    let why = why.await.unwrap();
    assert!(why.starts_with("TM1005"), "{why}");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// What a server has logged of logins that it refused to a role.
fn refused(server: &PostgresServer, role: &str) -> usize {
    let log = server.log();
    let is_refused = |line: &&str| {
        line.contains(&format!(
            "password authentication failed for user \"{role}\""
        )) || (line.contains("pg_hba.conf rejects") && line.contains(&format!("user \"{role}\"")))
    };
    log.lines().filter(is_refused).count()
}

/// A server that counts wrong passwords and locks the role must not be asked over and over: each of our
/// sessions may find out by itself, and that is all.
const SESSIONS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn f16_a_login_that_is_refused_under_a_run_ends_it_without_a_storm() {
    let builder = PostgresServer::builder().scram("right");
    let server: &PostgresServer = Box::leak(Box::new(builder.start().await.unwrap()));
    let stage = Stage::on(server, server, "login_refused").await;
    stage
        .source_sql(
            "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES;
             CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'right';
             CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'right'",
        )
        .await;
    let url = |role, database: &str| server.url_with(role, Some("right"), database);
    let (source, target) = (&stage.source_name, &stage.target_name);
    stage.write_between(&url("reader", source), &url("writer", target), "");
    for (role, code) in [("reader", "TM1005"), ("writer", "TM2005")] {
        for (cause, cure) in [
            ("PASSWORD 'other'", "PASSWORD 'right'"),
            ("VALID UNTIL '2001-01-01'", "VALID UNTIL 'infinity'"),
            ("pg_hba.conf", ""),
        ] {
            let mut run = stage.start_streaming().await;
            let (before, logged) = (refused(server, role), stage.log().len());
            alter(server, role, cause).await;
            stage.source_sql("INSERT INTO t DEFAULT VALUES").await;
            let end = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"
            );
            server.execute(&end).await.unwrap();
            assert_eq!(run.ended().await, Some(4), "{cause}: {}", stage.log());
            let log = stage.log();
            let told = log.get(logged..).unwrap_or_default();
            assert!(told.contains(code), "{cause}: {told}");
            assert!(!told.contains("right@"), "a password is told");
            let asked = refused(server, role) - before;
            assert!((1..=SESSIONS).contains(&asked), "{cause}: {asked} times");
            if cure.is_empty() {
                server.set_access_rules(&[]).await.unwrap();
            } else {
                alter(server, role, cure).await;
            }
        }
    }
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    let rows = text(&stage.target, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows, "7");
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    is_rotated_under_load(&stage, server).await;
}

async fn count(client: &tokio_postgres::Client) -> u64 {
    let rows = text(client, "SELECT count(*) FROM t").await.unwrap();
    rows.parse().unwrap()
}

async fn write_until(client: tokio_postgres::Client, mut over: tokio::sync::oneshot::Receiver<()>) {
    while over.try_recv().is_err() {
        let insert = "INSERT INTO t DEFAULT VALUES";
        client.batch_execute(insert).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// The new password is where the file says it is by the time at which the old one is refused: the run goes on
/// with it, on both sides, whoever asks: reader of the slot, applier, control session.
async fn is_rotated_under_load(stage: &Stage, server: &PostgresServer) {
    let kept = |role: &str| stage.directory().join(format!("{role}.pw"));
    let url = |role, database: &str| server.url_with(role, None, database);
    let (source, target) = (&stage.source_name, &stage.target_name);
    stage.write_between(&url("reader", source), &url("writer", target), "");
    let mut file = std::fs::read_to_string(stage.file()).unwrap();
    for (section, role) in [("source", "reader"), ("target", "writer")] {
        std::fs::write(kept(role), "right\n").unwrap();
        let section = format!("[{section}]\n");
        let with = format!("{section}password = \"${{file:{role}.pw}}\"\n");
        assert!(file.contains(&section), "{file}");
        file = file.replacen(&section, &with, 1);
    }
    std::fs::write(stage.file(), file).unwrap();
    let mut run = stage.start_streaming().await;
    let before = [refused(server, "reader"), refused(server, "writer")];
    let (is_over, over) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn(write_until(stage.on_source().await, over));
    for (roles, password) in [
        (&["reader"][..], "zweites"),
        (&["writer"], "zweites"),
        (&["reader", "writer"], "drittes"),
    ] {
        for role in roles {
            std::fs::write(kept(role), password).unwrap();
            alter(server, role, &format!("PASSWORD '{password}'")).await;
            let end = format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"
            );
            server.execute(&end).await.unwrap();
        }
        let source = stage.on_source().await;
        let written: u64 = count(&source).await;
        wait_for(PATIENCE, "the run to go on", || async {
            Ok((count(&stage.target).await >= written).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    }
    is_over.send(()).unwrap();
    writer.await.unwrap();
    stage.wait_until_identical().await;
    assert!(run.is_running(), "{}", stage.log());
    for (role, before) in ["reader", "writer"].into_iter().zip(before) {
        let asked = refused(server, role) - before;
        assert!((2..=2 * SESSIONS).contains(&asked), "{role}: {asked} times");
    }
    // Who looks from outside is let in by what the file says now as well.
    let status = ["status", "FILE", "--require", "streaming"];
    stage.run(&status).await.expect(0);
    for secret in ["zweites", "drittes"] {
        assert!(!stage.log().contains(secret), "a password is told");
    }
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}

async fn alter(server: &PostgresServer, role: &str, what: &str) {
    if what == "pg_hba.conf" {
        let rule = format!("host all,replication {role} all reject");
        return server.set_access_rules(&[&rule]).await.unwrap();
    }
    let alter = format!("ALTER ROLE {role} {what}");
    server.execute(&alter).await.unwrap();
}
