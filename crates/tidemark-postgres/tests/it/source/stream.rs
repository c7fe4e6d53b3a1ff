//! Decided transactions: what changes look like, positions, heartbeats, idle sources, ends.

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::position::Position;
use tidemark_lab::PostgresServer;
use tidemark_lab::wait::wait_for;

use super::{DEADLINE, Fixture, Tail, names, on_majors, plus, run_alone};

on_majors! {
    changes_of_every_identity_are_told_in_commit_order
    unchanged_large_value_is_neither_null_nor_a_value
    truncate_is_told_with_its_options
    partitions_are_told_under_their_root
    what_became_of_a_partition_is_told_by_the_catalog
    shape_changes_are_told_before_the_rows_that_need_them
    heartbeats_and_other_messages_do_not_stall_the_stream
    idle_source_moves_on_and_lets_its_log_go
    resume_at_a_position_skips_nothing_and_repeats_nothing
    acknowledged_position_reaches_the_slot_and_never_more
    ended_walsender_is_tried_again
    stream_asks_for_a_slot_that_stands_where_we_do
    missing_publication_ends_the_stream
}

const KEYED: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

async fn changes_of_every_identity_are_told_in_commit_order(server: &PostgresServer) {
    let schema = "CREATE TABLE d (id int PRIMARY KEY, note text);
        CREATE TABLE f (a int, b text); ALTER TABLE f REPLICA IDENTITY FULL;
        CREATE TABLE i (a int, b int NOT NULL UNIQUE, c text);
        ALTER TABLE i REPLICA IDENTITY USING INDEX i_b_key;
        CREATE TABLE n (a int); ALTER TABLE n REPLICA IDENTITY NOTHING";
    let (mut fixture, source, start) =
        Fixture::streaming(server, schema, &["d", "f", "i", "n"]).await;
    let mut tail = Tail::open(&source, start).await;
    tail.tell_tables = true;
    for statement in [
        "INSERT INTO d VALUES (1, 'a'), (2, NULL), (3, '')",
        "UPDATE d SET note = 'µ€𝄞' WHERE id = 1",
        "UPDATE d SET id = 10 WHERE id = 1",
        "DELETE FROM d WHERE id = 2",
        "INSERT INTO f VALUES (1, NULL); UPDATE f SET b = 'x'; DELETE FROM f",
        "INSERT INTO i VALUES (1, 2, 'c'); UPDATE i SET a = 5; UPDATE i SET b = 3; DELETE FROM i",
        "INSERT INTO n VALUES (1)",
    ] {
        fixture.run(statement).await;
    }
    let head = fixture.head().await;
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            "table public.d (id,note) Key([0])",
            "insert d 1,a",
            "insert d 2,-",
            "insert d 3,",
            "begin",
            "update d 1,µ€𝄞",
            "begin",
            "update d key(1,-) 10,µ€𝄞",
            "begin",
            "delete d key(2,-)",
            "begin",
            "table public.f (a,b) Full",
            "insert f 1,-",
            "update f old(1,-) 1,x",
            "delete f old(1,x)",
            "begin",
            "table public.i (a,b,c) Key([1])",
            "insert i 1,2,c",
            "update i 5,2,c",
            "update i key(-,2,-) 5,3,c",
            "delete i key(-,3,-)",
            "begin",
            "table public.n (a) Nothing",
            "insert n 1",
        ]
    );
}

async fn unchanged_large_value_is_neither_null_nor_a_value(server: &PostgresServer) {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int, big text);
        ALTER TABLE t ALTER big SET STORAGE external";
    let (mut fixture, source, start) = Fixture::streaming(server, schema, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture
        .run("INSERT INTO t VALUES (1, 0, repeat('x', 5000)), (2, 0, NULL)")
        .await;
    fixture.run("UPDATE t SET n = 1").await;
    fixture.run("UPDATE t SET id = id + 10").await;
    fixture
        .run("UPDATE t SET big = repeat('y', 6000) WHERE id = 11")
        .await;
    let head = fixture.head().await;
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            "insert t 1,0,5000 bytes",
            "insert t 2,0,-",
            "begin",
            "update t 1,1,~",
            "update t 2,1,-",
            "begin",
            "update t key(1,-,-) 11,1,~",
            "update t key(2,-,-) 12,1,-",
            "begin",
            "update t 11,1,6000 bytes",
        ]
    );
}

async fn truncate_is_told_with_its_options(server: &PostgresServer) {
    let schema = "CREATE TABLE a (id int PRIMARY KEY);
        CREATE TABLE b (id serial PRIMARY KEY, a int REFERENCES a)";
    let (mut fixture, source, start) = Fixture::streaming(server, schema, &["a", "b"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture
        .run("INSERT INTO a VALUES (1); TRUNCATE b; INSERT INTO b VALUES (1, 1)")
        .await;
    fixture.run("TRUNCATE a CASCADE").await;
    fixture.run("TRUNCATE a, b RESTART IDENTITY").await;
    let head = fixture.head().await;
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            "insert a 1",
            "truncate b",
            "insert b 1,1",
            "begin",
            "truncate a,b cascade",
            "begin",
            "truncate a,b restart identity",
        ]
    );
}

async fn partitions_are_told_under_their_root(server: &PostgresServer) {
    let schema = "CREATE TABLE p (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 (note text, id int NOT NULL PRIMARY KEY);
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)";
    let (mut fixture, source, start) = Fixture::streaming(server, schema, &["p"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture
        .run("INSERT INTO p VALUES (1, 'a'), (11, 'b')")
        .await;
    fixture
        .run("INSERT INTO p2 (id, note) VALUES (12, 'direct')")
        .await;
    // From one partition to another: a delete and an insert.
    fixture.run("UPDATE p SET id = 15 WHERE id = 1").await;
    let head = fixture.head().await;
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            "insert p 1,a",
            "insert p 11,b",
            "begin",
            "insert p 12,direct",
            "begin",
            "delete p key(1,-)",
            "insert p 15,a",
        ]
    );
}

async fn what_became_of_a_partition_is_told_by_the_catalog(server: &PostgresServer) {
    let schema = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p2_all PARTITION OF p2 DEFAULT;
        CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id);
        CREATE TABLE bare (id int) PARTITION BY RANGE (id); CREATE TABLE plain (id int);
        INSERT INTO p2 VALUES (11)";
    let mut fixture = Fixture::new(server, schema).await;
    let attach = "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)";
    fixture.run(attach).await;
    let source = fixture.source();
    let wanted = names(&["p", "bare", "plain", "absent"]);
    // Whoever has one of them for itself keeps nobody waiting.
    let mut holder = fixture.session().await;
    let hold = "BEGIN; LOCK TABLE public.p1 IN ACCESS EXCLUSIVE MODE";
    run_alone(&mut holder, hold).await;
    let found = source.partitions(&wanted).await.unwrap();
    run_alone(&mut holder, "COMMIT").await;
    let [(bare, of_bare), (p, before)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!([bare.name.as_str(), p.name.as_str()], ["bare", "p"]);
    let told = |at: usize| (before[at].name.name.as_str(), before[at].is_attached);
    assert_eq!((told(0), told(1)), (("p1", false), ("p2_all", true)));
    assert!(of_bare.is_empty() && before.len() == 2, "{found:?}");

    run_alone(&mut fixture.sql, "BEGIN; TRUNCATE public.p").await;
    let xid = fixture.ask("SELECT pg_current_xact_id()::xid").await;
    let xid: u32 = xid.unwrap().parse().unwrap();
    run_alone(&mut fixture.sql, "COMMIT").await;
    fixture.run("INSERT INTO p VALUES (1); ANALYZE p").await;
    let found = source.partitions(&wanted).await.unwrap();
    let after = &found[1].1;
    for (was, is) in before.iter().zip(after) {
        assert_ne!(was.storage, is.storage, "{is:?}");
        assert_eq!((is.written_by, &is.since), (xid, &was.since));
    }
    for statement in [
        "VACUUM FULL public.p1",
        "VACUUM FREEZE public.p2_all",
        "VACUUM FREEZE pg_class",
    ] {
        run_alone(&mut fixture.sql, statement).await;
    }
    let found = source.partitions(&wanted).await.unwrap();
    assert_ne!(found[1].1[0].storage, after[0].storage);
    assert_ne!(found[1].1[0].written_by, xid);
    assert_eq!(found[1].1[1], after[1]);
}

async fn shape_changes_are_told_before_the_rows_that_need_them(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    tail.tell_tables = true;
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    // All in one transaction.
    fixture
        .run(
            "INSERT INTO t VALUES (2, 'b'); ALTER TABLE t ADD extra int DEFAULT 7; \
             INSERT INTO t VALUES (3, 'c', 8); ALTER TABLE t DROP note; INSERT INTO t VALUES (4, 9)",
        )
        .await;
    fixture
        .run("ALTER TABLE t RENAME extra TO more; ALTER TABLE t RENAME TO u")
        .await;
    fixture.run("INSERT INTO u VALUES (5, 1)").await;
    fixture.run("ALTER TABLE u REPLICA IDENTITY FULL").await;
    fixture.run("UPDATE u SET more = 2 WHERE id = 5").await;
    let head = fixture.head().await;
    assert_eq!(
        tail.until(head).await,
        [
            "begin",
            "table public.t (id,note) Key([0])",
            "insert t 1,a",
            "begin",
            "insert t 2,b",
            "table public.t (id,note,extra) Key([0])",
            "insert t 3,c,8",
            "table public.t (id,extra) Key([0])",
            "insert t 4,9",
            "begin",
            "table public.u (id,more) Key([0])",
            "insert u 5,1",
            "begin",
            "table public.u (id,more) Full",
            "update u old(5,1) 5,2",
        ]
    );
}

async fn heartbeats_and_other_messages_do_not_stall_the_stream(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture
        .run("SELECT pg_logical_emit_message(false, 'someone', 'else')")
        .await;
    fixture
        .run("SELECT pg_logical_emit_message(true, 'someone', 'else')")
        .await;
    fixture
        .run("CREATE TABLE unpublished (n int); INSERT INTO unpublished VALUES (1)")
        .await;
    let written = source.heartbeat().await.unwrap();
    let line = tail.until_line("heartbeat").await;
    let written_at_us: i64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(written, Some(written_at_us));
    let clock = fixture
        .ask("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
        .await;
    let clock_us: i64 = clock.unwrap().parse().unwrap();
    assert!((0..DEADLINE.as_micros().try_into().unwrap()).contains(&(clock_us - written_at_us)));
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let head = fixture.head().await;
    let told = tail.until(head).await;
    assert_eq!(told[told.len() - 2..], ["begin", "insert t 1,a"]);
}

async fn idle_source_moves_on_and_lets_its_log_go(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    // Another database of the same server is busy; ours is not.
    server
        .execute("CREATE TABLE IF NOT EXISTS busy (n int)")
        .await
        .unwrap();
    server
        .execute("INSERT INTO busy SELECT generate_series(1, 1000)")
        .await
        .unwrap();
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, Vec::<String>::new());
    tail.stream.acknowledge(tail.reached);
    let reached = tail.reached;
    wait_for_confirmed(&mut fixture, reached).await;
}

/// Waits until the slot is confirmed up to exactly `position`.
async fn wait_for_confirmed(fixture: &mut Fixture<'_>, position: Position) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let confirmed = fixture.confirmed().await;
        assert!(
            confirmed <= position,
            "{confirmed} is more than {position}, which was given"
        );
        if confirmed == position {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "still at {confirmed}, not {position}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn resume_at_a_position_skips_nothing_and_repeats_nothing(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    let mut middle = start;
    for id in 0..20 {
        fixture
            .run(&format!("INSERT INTO t VALUES ({id}, 'x')"))
            .await;
        if id == 9 {
            middle = fixture.head().await;
        }
    }
    let head = fixture.head().await;
    // The slot itself stays at its beginning.
    let all = tail.until(head).await;
    assert_eq!(all.len(), 40);
    tail.stream.close().await.unwrap();
    for after in [start, middle, head] {
        // A slot that has confirmed something stays there, so the later positions come later.
        let mut tail = Tail::open(&source, after).await;
        let told = tail.until(head).await;
        assert!(all.ends_with(&told), "{told:?}");
        let inserts = told.iter().filter(|line| *line != "begin").count();
        let expected = [(start, 20), (middle, 10), (head, 0)];
        assert!(
            expected.contains(&(after, inserts)),
            "{inserts} from {after}"
        );
        tail.stream.close().await.unwrap();
    }
}

async fn acknowledged_position_reaches_the_slot_and_never_more(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let head = fixture.head().await;
    tail.until(head).await;
    let first = tail.reached;
    fixture.run("INSERT INTO t VALUES (2, 'b')").await;
    let head = fixture.head().await;
    tail.until(head).await;
    // The second was received, only the first is acknowledged.
    tail.stream.acknowledge(first);
    wait_for_confirmed(&mut fixture, first).await;
    let second = tail.reached;
    tail.stream.acknowledge(second);
    tail.stream.close().await.unwrap();
    wait_for_confirmed(&mut fixture, second).await;
}

async fn ended_walsender_is_tried_again(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let head = fixture.head().await;
    tail.until(head).await;
    let slot = fixture.options.slot.clone();
    fixture
        .run(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
             WHERE slot_name = '{slot}'"
        ))
        .await;
    let error = tail.until_error().await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    let again = tail.stream.next().await.unwrap_err();
    assert_eq!(again.code(), codes::INTERNAL, "{again}");
    let opened = wait_for(DEADLINE, "the slot to be free again", || async {
        match source.changes(start).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::Transient => Ok(None),
            Err(error) => Err(error.into()),
        }
    });
    let mut tail = Tail::new(opened.await.unwrap(), start);
    assert_eq!(tail.until(head).await, ["begin", "insert t 1,a"]);
}

async fn stream_asks_for_a_slot_that_stands_where_we_do(server: &PostgresServer) {
    let mut fixture = Fixture::new(server, KEYED).await;
    let source = fixture.source();
    source.announce(&names(&["t"])).await.unwrap();
    let nowhere = fixture.head().await;
    let error = source.changes(nowhere).await.err().unwrap();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_MISSING, ErrorKind::Definite)
    );
    let start = fixture.make_slot().await;
    // Somebody has read on: what lies between is gone.
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let slot = fixture.options.slot.clone();
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    fixture.run(&advance).await;
    let error = source.changes(start).await.err().unwrap();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_AHEAD, ErrorKind::Definite),
        "{error}"
    );
    // Two readers: the second waits.
    let head = fixture.confirmed().await;
    let first = source.changes(head).await.unwrap();
    let error = source.changes(head).await.err().unwrap();
    assert_eq!(
        (error.code(), error.kind()),
        (codes::SLOT_ACTIVE, ErrorKind::Transient),
        "{error}"
    );
    first.close().await.unwrap();
    // A position that is not reached yet is fine: what commits before it is skipped.
    source
        .changes(plus(head, 8))
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
}

async fn missing_publication_ends_the_stream(server: &PostgresServer) {
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let publication = fixture.options.publication.clone();
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let head = fixture.head().await;
    tail.until(head).await;
    run_alone(&mut fixture.sql, &format!("DROP PUBLICATION {publication}")).await;
    fixture.run("INSERT INTO t VALUES (2, 'b')").await;
    let error = tail.until_error().await;
    assert_eq!(
        (error.code(), error.kind()),
        (codes::PUBLICATION_MISSING, ErrorKind::Definite)
    );
    assert!(error.to_string().contains(&publication), "{error}");
    let error = wait_for(DEADLINE, "the slot to be free again", || async {
        match source.changes(start).await {
            Err(error) if error.kind() == ErrorKind::Definite => Ok(Some(error)),
            _ => Ok(None),
        }
    });
    assert_eq!(error.await.unwrap().code(), codes::PUBLICATION_MISSING);
}
