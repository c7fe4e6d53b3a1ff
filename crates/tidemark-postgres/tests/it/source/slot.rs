//! Slots: made with a snapshot, looked at, waited for, lost, removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::position::Position;
use tidemark_core::source::{Keep, Slot};
use tidemark_core::{Error, ErrorKind};
use tidemark_lab::PostgresServer;
use tidemark_lab::wait::wait_for;
use tidemark_postgres::source::{PgSource, PgSourceOptions, list_slots};
use tidemark_postgres::wire::Connection;

use super::{
    DEADLINE, Fixture, Tail, another, config, names, on_majors, run, run_alone, wait_for_answer,
};

on_majors! { all
    new_slot_holds_exactly_what_its_snapshot_has_not_seen
    temporary_slot_goes_with_its_snapshot
    old_transaction_is_named_and_waiting_ends
    forgotten_wait_leaves_no_slot_behind
    prepared_transaction_is_named_too
    state_tells_who_reads_and_whose_it_is
    whoever_watches_is_told_what_a_whole_look_says
    lost_slot_is_told_with_its_reason
    only_what_is_ours_is_removed
}

const KEYED: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

async fn new_slot_holds_exactly_what_its_snapshot_has_not_seen(server: &PostgresServer) {
    let server = &another(server).start().await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    let source = fixture.source();
    source.announce(&names(&["t"])).await.unwrap();
    // Writers that never pause: each row is either in the snapshot or in the stream.
    let go_on = Arc::new(AtomicBool::new(true));
    let mut writers = Vec::new();
    for n in 0..3 {
        let mut writer = fixture.session().await;
        let go_on = Arc::clone(&go_on);
        writers.push(tokio::spawn(async move {
            let mut ids = n * 1_000_000..;
            while go_on.load(Ordering::Relaxed) {
                let id = ids.next().unwrap();
                run(&mut writer, &format!("INSERT INTO t VALUES ({id}, 'x')")).await;
            }
            n * 1_000_000..ids.start
        }));
    }
    while fixture
        .ask("SELECT count(*) > 100 FROM public.t")
        .await
        .as_deref()
        != Some("t")
    {}
    let made = source.make_slot(Keep::ForPipeline).await.unwrap();
    assert!(made.is_alive().await);
    let mut reader = fixture.session().await;
    run(&mut reader, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    run_alone(
        &mut reader,
        &format!("SET TRANSACTION SNAPSHOT '{}'", made.name),
    )
    .await;
    let after = "SELECT count(*) > 100 FROM public.t WHERE xmin::text::int8 > ";
    let last = fixture
        .ask("SELECT max(xmin::text::int8) FROM public.t")
        .await
        .unwrap();
    wait_for_answer(&mut fixture, &format!("{after}{last}"), "t").await;
    go_on.store(false, Ordering::Relaxed);
    let mut expected: Vec<i32> = Vec::new();
    for writer in writers {
        expected.extend(writer.await.unwrap());
    }
    let position = Position::PgLsn(made.position);
    let mut tail = Tail::open(&source, position).await;
    let head = fixture.head().await;
    let told = tail.until(head).await;
    let streamed: Vec<i32> = told
        .iter()
        .filter_map(|line| {
            line.strip_prefix("insert t ")?
                .split(',')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    let set = reader.simple("SELECT id FROM public.t").await.unwrap();
    let mut all: Vec<i32> = set[0].rows.iter().map(|row| row.get(0).unwrap()).collect();
    assert!(
        all.len() > 100 && !streamed.is_empty(),
        "{} and {}",
        all.len(),
        streamed.len()
    );
    all.extend(streamed);
    all.sort_unstable();
    expected.sort_unstable();
    assert_eq!(all, expected);
    if server.major() >= 17 {
        let failover = "SELECT failover FROM pg_replication_slots";
        assert_eq!(fixture.ask(failover).await.as_deref(), Some("t"));
    }
    let again = source.make_slot(Keep::ForPipeline).await.unwrap_err();
    assert_eq!(
        (again.code(), again.kind()),
        (codes::SLOT_EXISTS, ErrorKind::Definite)
    );
}

async fn temporary_slot_goes_with_its_snapshot(server: &PostgresServer) {
    let server = &another(server).start().await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    let source = fixture.source();
    let made = source.make_slot(Keep::WhileOpen).await.unwrap();
    let second = source.make_slot(Keep::WhileOpen).await.unwrap();
    let count = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(fixture.ask(count).await.as_deref(), Some("2"));
    drop((made, second));
    wait_for_answer(&mut fixture, count, "0").await;
    // The death of the session that holds a snapshot is noticed.
    let made = source.make_slot(Keep::WhileOpen).await.unwrap();
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE database = current_database()";
    fixture.run(end).await;
    wait_for_answer(&mut fixture, count, "0").await;
    let noticed = wait_for(DEADLINE, "the death to be noticed", || async {
        Ok((!made.is_alive().await).then_some(()))
    });
    noticed.await.unwrap();
}

fn impatient(fixture: &Fixture<'_>, patience: Duration) -> PgSource {
    PgSource::new(PgSourceOptions {
        slot_creation_timeout: patience,
        ..fixture.options.clone()
    })
    .unwrap()
}

async fn gives_up(fixture: &Fixture<'_>) -> Error {
    let source = impatient(fixture, Duration::from_secs(3));
    let error = source.make_slot(Keep::ForPipeline).await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_WAITS, ErrorKind::Definite),
        "{error}"
    );
    error
}

async fn old_transaction_is_named_and_waiting_ends(server: &PostgresServer) {
    let server = &another(server).start().await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    let mut old = fixture.session().await;
    run(
        &mut old,
        "SET application_name = 'forgotten'; BEGIN; INSERT INTO t VALUES (1, 'a')",
    )
    .await;
    let error = gives_up(&fixture).await;
    for part in [
        &format!("pid {}", old.pid()) as &str,
        "user postgres",
        "forgotten",
        "open for ",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(
        error.action().contains(&old.pid().to_string()),
        "{}",
        error.action()
    );
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(
        fixture.ask(slots).await.as_deref(),
        Some("0"),
        "the half-made slot is gone"
    );
    // With patience it is made as soon as the transaction ends.
    let source = fixture.source();
    let making = tokio::spawn(async move { source.make_slot(Keep::ForPipeline).await });
    wait_for_answer(&mut fixture, slots, "1").await;
    run(&mut old, "COMMIT").await;
    making.await.unwrap().unwrap();
}

async fn forgotten_wait_leaves_no_slot_behind(server: &PostgresServer) {
    let server = &another(server).start().await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    let mut old = fixture.session().await;
    run(&mut old, "BEGIN; INSERT INTO t VALUES (1, 'a')").await;
    let source = fixture.source();
    let making = tokio::spawn(async move { source.make_slot(Keep::ForPipeline).await.map(drop) });
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    wait_for_answer(&mut fixture, slots, "1").await;
    // As when we are killed: the connection is gone, and the server finds out by itself.
    making.abort();
    wait_for_answer(&mut fixture, slots, "0").await;
    run(&mut old, "COMMIT").await;
}

async fn prepared_transaction_is_named_too(server: &PostgresServer) {
    let server = &another(server).start().await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    let gid = format!("orphan of {}", fixture.database);
    fixture
        .run(&format!(
            "BEGIN; INSERT INTO t VALUES (1, 'a'); PREPARE TRANSACTION '{gid}'"
        ))
        .await;
    let error = gives_up(&fixture).await;
    run_alone(&mut fixture.sql, &format!("ROLLBACK PREPARED '{gid}'")).await;
    assert!(error.to_string().contains(&gid), "{error}");
    assert!(
        error.action().contains("ROLLBACK PREPARED"),
        "{}",
        error.action()
    );
}

async fn whoever_watches_is_told_what_a_whole_look_says(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let slot = source.watch_log().await.unwrap().slot.unwrap();
    assert_eq!(slot.holder, None);
    let stream = source.changes(start).await.unwrap();
    // Somebody reads who did not when it was looked at whole.
    let read = source.watch_log().await.unwrap().slot.unwrap();
    let whole = source.log_state().await.unwrap().slot.unwrap();
    assert!(read.holder.is_some());
    assert_eq!(read.holder, whole.holder);

    let mut open = fixture.session().await;
    run(&mut open, "BEGIN; INSERT INTO t VALUES (0, 'open')").await;
    let glanced = wait_for(DEADLINE, "a look that is not a whole one", || async {
        let log = source.watch_log().await?;
        Ok(log.running.is_empty().then_some(log))
    });
    let glanced = glanced.await.unwrap();
    let whole = source.log_state().await.unwrap();
    run(&mut open, "COMMIT").await;
    assert!(!whole.running.is_empty());
    assert_eq!(glanced.identity, whole.identity);
    assert!(start < glanced.head && glanced.head <= whole.head);
    let (glanced, whole) = (glanced.slot.unwrap(), whole.slot.unwrap());
    assert_eq!(glanced.holder, whole.holder);
    let said = |slot: &Slot| {
        let words = (
            slot.name.clone(),
            slot.database.clone(),
            slot.wal_status.clone(),
        );
        (
            words,
            slot.foreign.clone(),
            slot.lost.clone(),
            slot.safe_bytes.is_some(),
        )
    };
    assert_eq!(said(&glanced), said(&whole));
    assert!(glanced.retained_bytes > 0);

    stream.close().await.unwrap();
    wait_for(DEADLINE, "the reader to be gone", || async {
        let slot = source.watch_log().await?.slot;
        Ok(slot.is_some_and(|slot| slot.holder.is_none()).then_some(()))
    })
    .await
    .unwrap();
    source.release_slot().await.unwrap();
    assert_eq!(source.watch_log().await.unwrap().slot, None);
    assert_eq!(
        fixture
            .ask("SELECT count(*) FROM public.t")
            .await
            .as_deref(),
        Some("1")
    );
}

async fn state_tells_who_reads_and_whose_it_is(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    fixture
        .run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 1000) i")
        .await;
    let state = source.log_state().await.unwrap();
    let system = fixture
        .ask("SELECT system_identifier FROM pg_control_system()")
        .await;
    assert_eq!(Some(state.identity.system.clone()), system);
    assert_eq!(
        (state.identity.timeline, &state.identity.database),
        (1, &fixture.database)
    );
    let head = fixture.head().await;
    assert!(state.head >= start && state.head <= head);
    let mut open = fixture.session().await;
    run(&mut open, "BEGIN; INSERT INTO t VALUES (0, 'open')").await;
    let xid = open.simple("SELECT pg_current_xact_id()").await.unwrap();
    let xid: u64 = xid[0].one().unwrap().get(0).unwrap();
    let log = source.log_state().await.unwrap();
    assert!(log.running.contains(&xid), "{xid} in {log:?}");
    assert!(!log.committing.contains(&xid), "{xid} in {log:?}");
    // Whoever is at something may be at its commit.
    let busy = tokio::spawn(async move { run(&mut open, "SELECT pg_sleep(1); COMMIT").await });
    wait_for(DEADLINE, "a transaction that may commit", || async {
        let committing = source.log_state().await?.committing;
        Ok(committing.contains(&xid).then_some(()))
    })
    .await
    .unwrap();
    busy.await.unwrap();
    let log = source.log_state().await.unwrap();
    assert!(!log.running.contains(&xid), "{xid} in {log:?}");
    let slot = state.slot.unwrap();
    assert_eq!(
        (&slot.name, &slot.database),
        (&fixture.options.slot, &fixture.database)
    );
    assert_eq!((slot.foreign, slot.lost, slot.holder), (None, None, None));
    assert_eq!(slot.confirmed, start);
    assert!(slot.restart <= start);
    assert!(slot.retained_bytes > 1_000_000, "{}", slot.retained_bytes);
    assert_eq!(slot.wal_status, "reserved");
    assert!(slot.safe_bytes.is_some());
    let stream = source.changes(start).await.unwrap();
    let holder = source
        .log_state()
        .await
        .unwrap()
        .slot
        .unwrap()
        .holder
        .unwrap();
    let name = &fixture.options.slot;
    let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{name}'");
    assert_eq!(Some(holder.pid.to_string()), fixture.ask(&sql).await);
    assert!(!holder.since.is_empty());
    stream.close().await.unwrap();
    // Those that we could not have made.
    let other = format!("other_{}", fixture.database);
    fixture
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{other}_a', 'pgoutput', false, true); \
         SELECT pg_create_physical_replication_slot('{other}_b'); \
         SELECT pg_create_logical_replication_slot('{other}_c', 'test_decoding')"
        ))
        .await;
    let slots = list_slots(&mut fixture.sql).await.unwrap();
    for (suffix, why) in [
        ("_a", "two_phase"),
        ("_b", "physical"),
        ("_c", "test_decoding"),
    ] {
        let name = format!("{other}{suffix}");
        let slot = slots.iter().find(|slot| slot.name == name).unwrap();
        assert!(slot.foreign.as_deref().unwrap().contains(why), "{slot:?}");
        fixture
            .run(&format!("SELECT pg_drop_replication_slot('{name}')"))
            .await;
    }
    // The same from another database.
    let elsewhere = config(server, "postgres");
    let mut options = fixture.options.clone();
    options.connect = elsewhere;
    let state = PgSource::new(options).unwrap().log_state().await.unwrap();
    let why = state.slot.unwrap().foreign.unwrap();
    assert!(why.contains(&fixture.database), "{why}");
}

async fn lost_slot_is_told_with_its_reason(server: &PostgresServer) {
    // The limit would hit the slots of others.
    let server = another(server).setting("max_slot_wal_keep_size", "1MB");
    let server = &server
        .setting("max_wal_size", "32MB")
        .start()
        .await
        .unwrap();
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (0, 'a')").await;
    let head = fixture.head().await;
    tail.until(head).await;
    let status = format!(
        "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'",
        fixture.options.slot
    );
    while fixture.ask(&status).await.as_deref() != Some("lost") {
        fixture
            .run("INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(1, 5000) i")
            .await;
        fixture.run("TRUNCATE t").await;
        run_alone(&mut fixture.sql, "SELECT pg_switch_wal()").await;
        run_alone(&mut fixture.sql, "CHECKPOINT").await;
    }
    // The stream that was open ends; opening it again says why.
    let error = tail.until_error().await;
    assert!(
        error.kind() == ErrorKind::Transient || error.code() == codes::SLOT_LOST,
        "{error}"
    );
    let slot = source.log_state().await.unwrap().slot.unwrap();
    assert!(
        slot.lost
            .as_deref()
            .unwrap()
            .contains("max_slot_wal_keep_size"),
        "{slot:?}"
    );
    let error = source.changes(start).await.err().unwrap();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_LOST, ErrorKind::Definite),
        "{error}"
    );
    assert!(
        error.to_string().contains("max_slot_wal_keep_size"),
        "{error}"
    );
    assert_eq!(source.release().await.unwrap().len(), 2);
}

async fn only_what_is_ours_is_removed(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    // Somebody reads it: refused, and named.
    let stream = source.changes(start).await.unwrap();
    let error = source.release().await.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_ACTIVE, ErrorKind::Transient),
        "{error}"
    );
    assert!(error.to_string().contains("pid "), "{error}");
    stream.close().await.unwrap();
    // Another pipeline with the same slot, as `a-b` and `a_b` have: it sees whose it is, and leaves it.
    let mut options = fixture.options.clone();
    "another".clone_into(&mut options.pipeline);
    let another = PgSource::new(options).unwrap();
    let made_by = another.log_state().await.unwrap().slot_made_by;
    assert_eq!(made_by.as_ref(), Some(&fixture.options.pipeline));
    assert_eq!(another.release().await.unwrap(), Vec::<String>::new());
    assert_eq!(source.log_state().await.unwrap().slot_made_by, None);
    let (slot, publication) = (&fixture.options.slot, &fixture.options.publication);
    let expected = [format!("slot {slot}"), format!("publication {publication}")];
    assert_eq!(source.release().await.unwrap(), expected);
    assert_eq!(source.release().await.unwrap(), Vec::<String>::new());
    // Of the same names, but not ours.
    let by_hand = format!(
        "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding'); \
         CREATE PUBLICATION {publication} FOR TABLE t"
    );
    let drop_slot = format!("SELECT pg_drop_replication_slot('{slot}')");
    fixture.run("SELECT 1").await;
    run_one_by_one(&mut fixture.sql, &by_hand).await;
    let error = source.release().await.unwrap_err();
    assert_eq!(error.code(), codes::SLOT_FOREIGN, "{error}");
    run_one_by_one(&mut fixture.sql, &drop_slot).await;
    assert_eq!(source.release().await.unwrap(), Vec::<String>::new());
    let count = "SELECT count(*) FROM pg_publication";
    assert_eq!(fixture.ask(count).await.as_deref(), Some("1"));
}

/// A slot cannot be made in a transaction that has written.
async fn run_one_by_one(session: &mut Connection, statements: &str) {
    for statement in statements.split("; ") {
        session.run(statement).await.unwrap();
    }
}
