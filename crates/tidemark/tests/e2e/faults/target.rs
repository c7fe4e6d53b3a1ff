//! Whoever else has a hand in the target: other rows, missing rows, dropped tables, settings.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::wait_for;
use tokio_postgres::Client;

use super::{own_server, retries};
use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, seat int UNIQUE, v text);
    INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 20) i;
    CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other VALUES (1, 'one')";

/// The other table goes on whatever is the matter with one.
async fn the_other_goes_on(stage: &Stage, id: u32) {
    let insert = format!("INSERT INTO other VALUES ({id}, 'more')");
    stage.source_sql(&insert).await;
    let arrived = format!("SELECT count(*) FROM other WHERE id = {id}");
    stage.wait_for_target(&arrived, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f47_a_foreign_row_in_the_way_is_told_by_its_constraint() {
    let stage = Stage::new("fault_violation").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage
        .target_sql("INSERT INTO t VALUES (1000, 77, 'foreign')")
        .await;
    stage
        .source_sql("UPDATE t SET seat = 77 WHERE id = 5")
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("t_seat_key"), "{reason}");
    the_other_goes_on(&stage, 2).await;
    stage.resync("public.t").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f48_a_missing_row_is_counted_and_seen_and_told_where_it_should_be() {
    let stage = Stage::new("fault_missing").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.target_sql("DELETE FROM t WHERE id IN (3, 4)").await;
    stage
        .source_sql("UPDATE t SET v = 'new' WHERE id = 3; DELETE FROM t WHERE id = 4")
        .await;
    wait_for(PATIENCE, "both to be counted", || async {
        let conflicts = stage.table("public.t").await["conflicts"].clone();
        Ok((conflicts == 2).then_some(()))
    })
    .await
    .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
    let log = stage.log();
    let warned = log.matches("\"code\":\"TM4034\"").count();
    assert_eq!(warned, 1, "{log}");
    let status = stage.status().await;
    assert_eq!(status["totals"]["conflicts"], 2, "{status}");
    assert_eq!(status["health"], "warning", "{status}");
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));

    // And with no patience for such rows the pipeline ends.
    stage.write("[target]\non_conflict = \"fail\"\n");
    let mut run = stage.start_streaming().await;
    stage.target_sql("DELETE FROM t WHERE id = 7").await;
    stage
        .source_sql("UPDATE t SET v = 'new' WHERE id = 7")
        .await;
    let code = run.ended().await;
    assert!(code != Some(0), "{}", stage.log());
    assert!(stage.log().contains("public.t (1)"), "{}", stage.log());
    stage.clear().await;
}

/// Triggers, and foreign keys that delete, have fired on the source.
#[tokio::test(flavor = "multi_thread")]
async fn f49_triggers_and_cascades_of_the_target_do_not_fire_again() {
    let stage = Stage::new("fault_triggers").await;
    stage
        .source_sql(
            "CREATE TABLE parent (id int PRIMARY KEY);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
             CREATE TABLE audit (id serial PRIMARY KEY, what text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.audit (what) VALUES (TG_OP); RETURN NULL; END $$;
             CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON child
               FOR EACH ROW EXECUTE FUNCTION note();
             INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 1), (3, 2)",
        )
        .await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage
        .target_sql(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO public.audit VALUES (1000000, 'again'); RETURN NULL; END $$;
             CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON child
               FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    stage
        .source_sql("INSERT INTO child VALUES (4, 2); DELETE FROM parent WHERE id = 1")
        .await;
    stage.wait_until_identical().await;
    let audit = "SELECT count(*) || ' ' || count(*) FILTER (WHERE what = 'DELETE') FROM audit";
    assert_eq!(text(&stage.target, audit).await.unwrap(), "6 2");
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// What an administrator sets for a database is for people, not for us.
#[tokio::test(flavor = "multi_thread")]
async fn f52_time_limits_of_a_database_do_not_end_our_sessions() {
    let stage = Stage::new("fault_limits").await;
    stage.source_sql(TABLES).await;
    // Before there are limits.
    let holder = stage.target_server.client_to(&stage.target_name).await;
    let holder = holder.unwrap();
    for (client, name) in [
        (&stage.source, &stage.source_name),
        (&stage.target, &stage.target_name),
    ] {
        for (setting, value) in [
            ("statement_timeout", "300ms"),
            ("lock_timeout", "50ms"),
            ("idle_in_transaction_session_timeout", "50ms"),
            ("idle_session_timeout", "50ms"),
            ("default_transaction_isolation", "serializable"),
            ("search_path", "nowhere"),
        ] {
            let set = format!("ALTER DATABASE {name} SET {setting} = '{value}'");
            client.batch_execute(&set).await.unwrap();
        }
    }
    let run = stage.start_streaming().await;
    let lock = "BEGIN; LOCK TABLE public.t";
    holder.batch_execute(lock).await.unwrap();
    stage
        .source_sql("UPDATE t SET v = 'new' WHERE id = 1")
        .await;
    // The writer's lock: the verification after the load may wait beside it.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock' \
                 AND relation = 'public.t'::regclass AND waitstart < now() - interval '1s'";
    stage.wait_for_target(waits, "1").await;
    holder.batch_execute("COMMIT").await.unwrap();
    stage.wait_until_identical().await;
    assert_eq!(retries(&stage), 0, "{}", stage.log());
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f54_a_table_of_the_target_that_is_dropped_stops_nobody_else() {
    let stage = Stage::new("fault_dropped").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.target_sql("DROP TABLE t").await;
    stage
        .source_sql("UPDATE t SET v = 'new' WHERE id = 5")
        .await;
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("public.t"), "{reason}");
    the_other_goes_on(&stage, 2).await;
    stage.resync("public.t").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// A crash empties such a table, and the checkpoint stays: it would stream on without its rows.
#[tokio::test(flavor = "multi_thread")]
async fn f43_a_table_of_the_target_that_was_made_unlogged_is_loaded_anew_after_a_crash() {
    let source = PostgresServer::shared().await.unwrap();
    let mut stage = Stage::on(source, own_server(&[]).await, "fault_unlogged").await;
    stage.source_sql(TABLES).await;
    let mut run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    stage.target_sql("ALTER TABLE t SET UNLOGGED").await;
    stage.target_server.kill9().await.unwrap();
    stage.target_server.start().await.unwrap();
    stage.connect_again().await;
    let rows = text(&stage.target, "SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows, "0", "emptied");
    stage.wait_for_table("public.t", "quarantined").await;
    let reason = stage.table("public.t").await["reason"].to_string();
    assert!(reason.contains("TM4063"), "{reason}");
    the_other_goes_on(&stage, 2).await;

    // Its rows are not back with it.
    stage.target_sql("ALTER TABLE t SET LOGGED").await;
    let ran = stage.run(&["retry", "FILE", "--table", "public.t"]).await;
    assert!(ran.stderr.contains("resync"), "{}", ran.stderr);
    stage.resync("public.t").await;
    stage.wait_until_identical().await;

    // Its lock went with its session: it is not taken for one that has ended.
    stage.target_server.restart().await.unwrap();
    let status = stage.status().await;
    assert_ne!(status["state"], "stopped", "{status}");
    // Nor where one process of the server dies, and all sessions with it.
    stage.connect_again().await;
    stage.wait_for_state("streaming").await;
    let dying = stage.target_server.client().await.unwrap();
    let pid = text(&dying, "SELECT pg_backend_pid()").await.unwrap();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for(PATIENCE, "its sessions to end", || async {
        Ok(text(&stage.target, "SELECT 1").await.is_err().then_some(()))
    })
    .await
    .unwrap();
    wait_for(PATIENCE, "the target to be back", || async {
        let back = stage.target_server.client_to(&stage.target_name).await;
        Ok(back.is_ok().then_some(()))
    })
    .await
    .unwrap();
    let status = stage.status().await;
    assert_ne!(status["state"], "stopped", "{status}");
    stage.target_server.restart().await.unwrap();
    let told = stage.run(&["stop", "FILE"]).await.expect(0).stdout;
    assert!(!told.contains("nowhere"), "{told}");
    assert_eq!(run.ended().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// A proxy, a failover or a restore may put another database in the target's place.
#[tokio::test(flavor = "multi_thread")]
async fn f46_f53_another_database_in_the_targets_place_costs_the_slot_nothing() {
    let mut stage = Stage::new("fault_elsewhere").await;
    stage.source_sql(TABLES).await;
    let mut run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    let here = stage.target_name.clone();
    let away = format!("{here}_away");
    let admin = stage.target_server.client().await.unwrap();
    // It is renamed, or closed, for a while, and back.
    for (id, take, give) in [
        (
            10,
            format!("ALTER DATABASE {here} RENAME TO {away}"),
            format!("ALTER DATABASE {away} RENAME TO {here}"),
        ),
        (
            11,
            format!("ALTER DATABASE {here} ALLOW_CONNECTIONS false"),
            format!("ALTER DATABASE {here} ALLOW_CONNECTIONS true"),
        ),
    ] {
        let told = || stage.log().matches("\"code\":\"TM2006\"").count();
        let before = told();
        nobody_has(&admin, &here, &take).await;
        wait_for(PATIENCE, "the run to tell it", || async {
            Ok((told() > before).then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", stage.log()));
        admin.batch_execute(&give).await.unwrap();
        stage.target = stage.target_server.client_to(&here).await.unwrap();
        assert!(run.is_running(), "{}", stage.log());
        the_other_goes_on(&stage, id).await;
    }
    exchange(&admin, &here, &away).await;
    stage
        .source_sql("INSERT INTO other VALUES (2, 'two')")
        .await;
    assert_eq!(run.ended().await, Some(6), "{}", stage.log());
    assert!(stage.log().contains("TM4018"), "{}", stage.log());

    // Nor does a start take for a leftover what another target needs.
    let elsewhere = stage.target_server.fresh_database("target").await.unwrap();
    let elsewhere = stage.target_server.url_to(&elsewhere);
    stage.write_between(&stage.source_url(), &elsewhere, "");
    let ran = stage.run(&["run", "FILE"]).await.expect(6);
    let is_told = ran.stderr.contains("TM4056") && ran.stderr.contains(&here);
    assert!(is_told, "{}", ran.stderr);
    let checked = stage.run(&["check", "FILE"]).await.expect(3);
    assert!(checked.stdout.contains("TM4056"), "{}", checked.stdout);
    let planned = stage.run(&["plan", "FILE"]).await.expect(0);
    assert!(planned.stdout.contains("TM4056"), "{}", planned.stdout);

    let drop = format!("DROP DATABASE {here} WITH (FORCE)");
    admin.batch_execute(&drop).await.unwrap();
    rename(&admin, &away, &here).await;
    stage.write("");
    stage.target = stage.target_server.client_to(&here).await.unwrap();
    let run = stage.start_streaming().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// Puts an empty database in the place of one, which has the other name then.
async fn exchange(admin: &Client, here: &str, away: &str) {
    rename(admin, here, away).await;
    let create = format!("CREATE DATABASE {here}");
    admin.batch_execute(&create).await.unwrap();
}

async fn rename(admin: &Client, from: &str, to: &str) {
    let rename = format!("ALTER DATABASE {from} RENAME TO {to}");
    nobody_has(admin, from, &rename).await;
}

/// Sends away whoever is connected to a database, until nobody came back before this was done.
async fn nobody_has(admin: &Client, database: &str, done: &str) {
    let end = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = $1";
    wait_for(PATIENCE, "the database to be free", || async {
        admin.execute(end, &[&database]).await?;
        Ok(admin.batch_execute(done).await.ok())
    })
    .await
    .unwrap();
}
