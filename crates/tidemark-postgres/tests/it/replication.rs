//! The replication stream of a real server.

use std::time::{Duration, Instant};

use tidemark_core::ErrorKind;
use tidemark_core::position::Lsn;
use tidemark_postgres::wire::{
    Connection, ReplicationOptions, ReplicationReader, Role, WalMessage,
};

use crate::server::server;

/// A slot, and the stream from its beginning.
async fn start(slot: &str, parameters: &str) -> ReplicationReader {
    let config = server().await.config("scram", parameters);
    let mut connection = Connection::connect(&config, Role::Replication)
        .await
        .unwrap();
    let sets = connection
        .simple(&format!(
            "CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        ))
        .await
        .unwrap();
    let at: Lsn = sets[0].one().unwrap().get(1).unwrap();
    connection
        .start_replication(
            &format!(
                "START_REPLICATION SLOT {slot} LOGICAL {at} \
                 (proto_version '1', publication_names '{slot}')"
            ),
            ReplicationOptions {
                acknowledged: at,
                ..ReplicationOptions::default()
            },
        )
        .await
        .unwrap()
}

async fn prepare(name: &str) -> Connection {
    let mut connection = server().await.connect().await;
    let sql = format!(
        "CREATE TABLE public.{name} (n int); CREATE PUBLICATION {name} FOR TABLE public.{name}"
    );
    connection.run(&sql).await.unwrap();
    connection
}

/// Reads until so many commits were seen; gives the last one's end.
async fn read_commits(reader: &mut ReplicationReader, wanted: usize) -> Lsn {
    let mut commits = 0;
    loop {
        let block = reader.next_block().await.unwrap().unwrap();
        for message in block.messages() {
            let WalMessage::Data { start, payload, .. } = message else {
                continue;
            };
            if payload.first() == Some(&b'C') {
                commits += 1;
                if commits == wanted {
                    return start;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_100_000_transactions_is_read_and_acknowledged() {
    for (name, parameters) in [
        ("backlog", "sslmode=disable"),
        ("backlog_tls", "sslmode=require"),
    ] {
        let mut writer = prepare(name).await;
        let mut reader = start(name, parameters).await;
        for _ in 0..10 {
            for n in 0..10_000 {
                writer
                    .send_query(&format!("INSERT INTO public.{name} VALUES ({n})"))
                    .unwrap();
            }
            writer.flush().await.unwrap();
            while writer.ready_expected() > 0 {
                writer.expect_ready().await.unwrap();
            }
        }
        let end = read_commits(&mut reader, 100_000).await;
        reader.acknowledge(end);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let set = writer
                .query(
                    "SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots \
                     WHERE slot_name = $2",
                    &[Some(&end.to_string()), Some(name)],
                )
                .await
                .unwrap();
            if set.one().unwrap().get_bool(0).unwrap() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "the acknowledgement does not arrive"
            );
        }
        reader.stop().await.unwrap();
        let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
        let deadline = Instant::now() + Duration::from_secs(10);
        while writer
            .query(&sql, &[])
            .await
            .unwrap()
            .one()
            .unwrap()
            .get_str(0)
            .unwrap()
            != "0"
        {
            assert!(
                Instant::now() < deadline,
                "the temporary slot outlives its session"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_change_arrives_at_once() {
    let mut writer = prepare("idle").await;
    let mut reader = start("idle", "sslmode=disable").await;
    let mut delays = Vec::new();
    for n in 0..50 {
        writer
            .run(&format!("INSERT INTO public.idle VALUES ({n})"))
            .await
            .unwrap();
        let committed = Instant::now();
        read_commits(&mut reader, 1).await;
        delays.push(committed.elapsed());
    }
    delays.sort();
    // The network takes microseconds; the median leaves out what a busy machine adds.
    assert!(delays[25] < Duration::from_millis(20), "{delays:?}");
    reader.stop().await.unwrap();
}

#[tokio::test]
async fn a_terminated_walsender_is_a_transient_error() {
    let mut writer = prepare("killed").await;
    let mut reader = start("killed", "sslmode=disable").await;
    writer
        .run(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
             WHERE slot_name = 'killed'",
        )
        .await
        .unwrap();
    let error = loop {
        match reader.next_block().await {
            Ok(block) => assert!(block.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn a_refused_start_says_why() {
    let config = server().await.config("scram", "sslmode=disable");
    let connection = Connection::connect(&config, Role::Replication)
        .await
        .unwrap();
    let error = connection
        .start_replication(
            "START_REPLICATION SLOT nowhere LOGICAL 0/0",
            ReplicationOptions::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate_code(), Some("42704"), "{error}");
}
