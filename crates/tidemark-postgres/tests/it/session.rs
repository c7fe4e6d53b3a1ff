//! Statements, their answers and their errors.

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_postgres::error::server_error;
use tidemark_postgres::wire::TransactionStatus::{Idle, Open};
use tidemark_postgres::wire::{Format, Reply};

use crate::server::server;

#[tokio::test]
async fn statements_give_rows_tags_and_errors() {
    let mut connection = server().await.connect().await;
    assert!(connection.server_version() >= 150_000);
    assert!(!connection.is_pooled());
    let sets = connection
        .simple("SELECT 1 AS a, NULL AS b; SELECT 'x' WHERE false")
        .await
        .unwrap();
    assert_eq!(sets.len(), 2);
    assert_eq!(sets[0].rows[0].get::<i32>(0).unwrap(), 1);
    assert_eq!(sets[0].rows[0].opt_str(1).unwrap(), None);
    assert_eq!(sets[0].rows[0].index("b").unwrap(), 1);
    assert_eq!(sets[1].affected(), 0);

    let set = connection
        .query("SELECT $1::int + 1, $2::text", &[Some("41"), None])
        .await
        .unwrap();
    assert_eq!(set.one().unwrap().get::<i32>(0).unwrap(), 42);
    assert_eq!(set.one().unwrap().opt_str(1).unwrap(), None);

    let error = connection
        .simple("SELECT * FROM nowhere")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Definite);
    assert_eq!(error.code(), codes::SOURCE_NO_OBJECT);
    assert_eq!(server_error(&error).unwrap().sqlstate, "42P01");

    // The connection goes on after an error, of either protocol.
    let error = connection
        .query("SELECT $1::int", &[Some("secret")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(!error.to_string().contains("secret"), "{error}");
    connection.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    let written = connection
        .execute(
            "INSERT INTO t SELECT generate_series(1, $1::int)",
            &[Some("17")],
        )
        .await
        .unwrap();
    assert_eq!(written, 17);
}

#[tokio::test]
async fn settings_make_text_the_same_everywhere() {
    let mut connection = server().await.connect().await;
    let set = connection
        .query(
            "SELECT current_setting('DateStyle'), current_setting('TimeZone'), \
             current_setting('extra_float_digits'), current_setting('search_path'), \
             current_setting('idle_session_timeout'), current_setting('application_name'), \
             current_setting('jit'), \
             12.5::numeric::money::text",
            &[],
        )
        .await
        .unwrap();
    let row = set.one().unwrap();
    let values: Vec<&str> = (0..row.len()).map(|i| row.get_str(i).unwrap()).collect();
    assert_eq!(
        values,
        [
            "ISO, MDY",
            "UTC",
            "3",
            "pg_catalog",
            "0",
            "tidemark",
            "off",
            "$12.50"
        ]
    );
}

#[tokio::test]
async fn pipelined_statements_answer_in_order() {
    let mut connection = server().await.connect().await;
    connection
        .run("CREATE TEMP TABLE p (n int PRIMARY KEY)")
        .await
        .unwrap();
    connection.send_query("BEGIN").unwrap();
    connection
        .send_parse("ins", "INSERT INTO p VALUES ($1::text::int)", &[])
        .unwrap();
    for n in 0..1000 {
        let text = n.to_string();
        connection
            .send_bind("ins", Format::Text, [Some(text.as_bytes())])
            .unwrap();
        connection.send_execute().unwrap();
    }
    connection.send_sync();
    connection.send_query("COMMIT").unwrap();
    connection.flush().await.unwrap();
    assert!(
        connection.simple("SELECT 1").await.is_err(),
        "answers are still to come"
    );
    let mut written = 0;
    let mut ready = Vec::new();
    while connection.ready_expected() > 0 {
        match connection.next_reply().await.unwrap() {
            Reply::Ready(status) => ready.push(status),
            Reply::Error(error) => panic!("{error:?}"),
            reply => written += reply.affected(),
        }
    }
    assert_eq!(ready, [Open, Open, Idle]);
    assert_eq!(written, 1000);
    let set = connection
        .query("SELECT count(*) FROM p", &[])
        .await
        .unwrap();
    assert_eq!(set.one().unwrap().get::<u64>(0).unwrap(), 1000);
}

#[tokio::test]
async fn a_pipeline_larger_than_all_socket_buffers_does_not_block() {
    let mut connection = server().await.connect().await;
    let wide = "x".repeat(10_000);
    for _ in 0..5000 {
        connection.send_parse("", "SELECT $1::text", &[]).unwrap();
        connection
            .send_bind("", Format::Text, [Some(wide.as_bytes())])
            .unwrap();
        connection.send_execute().unwrap();
    }
    connection.send_sync();
    connection.flush().await.unwrap();
    let mut rows = 0;
    loop {
        match connection.next_reply().await.unwrap() {
            Reply::Row(row) => {
                assert_eq!(row.cell(0).unwrap().unwrap().len(), wide.len());
                rows += 1;
            }
            Reply::Ready(_) => break,
            Reply::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }
    assert_eq!(rows, 5000);
}

#[tokio::test]
async fn notifications_arrive_while_waiting() {
    let mut listener = server().await.connect().await;
    listener.run("LISTEN tidemark_test").await.unwrap();
    let mut sender = server().await.connect().await;
    sender.run("NOTIFY tidemark_test, 'pause'").await.unwrap();
    let notification = listener.notification().await.unwrap();
    assert_eq!(
        (notification.channel.as_str(), notification.payload.as_str()),
        ("tidemark_test", "pause")
    );
    assert_eq!(notification.pid, sender.pid());
}

#[tokio::test]
async fn a_killed_session_is_a_transient_error() {
    let mut victim = server().await.connect().await;
    let mut other = server().await.connect().await;
    let pid = victim.pid().to_string();
    other
        .query("SELECT pg_terminate_backend($1::int)", &[Some(&pid)])
        .await
        .unwrap();
    let error = victim.simple("SELECT 1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert_eq!(error.code(), codes::SOURCE_SHUTDOWN, "{error}");
}
