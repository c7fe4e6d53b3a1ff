//! COPY as bytes, alone and inside pipelines.

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_postgres::error::server_error;
use tidemark_postgres::wire::{Connection, Format, Reply};

use crate::server::server;

/// Runs a COPY out of one session into a table of another; gives the rows that both ends counted.
async fn splice(from: &mut Connection, out: &str, to: &mut Connection, into: &str) -> u64 {
    let mut out = from.copy_out(out).await.unwrap();
    let mut into = to.copy_in(into).await.unwrap();
    let mut rows = 0;
    while let Some(block) = out.next_block().await.unwrap() {
        rows += block.rows;
        into.write_frames(&block.frames).await.unwrap();
    }
    assert_eq!(into.finish().await.unwrap(), rows);
    rows
}

async fn one_value(connection: &mut Connection, sql: &str) -> String {
    let set = connection.query(sql, &[]).await.unwrap();
    set.one().unwrap().get_str(0).unwrap().to_owned()
}

#[tokio::test]
async fn rows_pass_through_unchanged_and_are_counted() {
    let (mut from, mut to) = (
        server().await.connect().await,
        server().await.connect().await,
    );
    to.run("CREATE TEMP TABLE t (n int, s text)").await.unwrap();
    let query = "SELECT g, CASE WHEN g % 3 <> 0 THEN repeat('ä', g % 100) END \
                 FROM generate_series(1, 100000) g";
    for options in ["(FORMAT binary)", "(FORMAT text)", "(FORMAT csv)"] {
        to.run("TRUNCATE t").await.unwrap();
        let rows = splice(
            &mut from,
            &format!("COPY ({query}) TO STDOUT {options}"),
            &mut to,
            &format!("COPY t FROM STDIN {options}"),
        )
        .await;
        assert_eq!(rows, 100_000, "{options}");
        let digest = "SELECT md5(string_agg(n || coalesce(s, '-'), ',' ORDER BY n)) FROM";
        let expected = one_value(&mut from, &format!("{digest} ({query}) AS q (n, s)")).await;
        assert_eq!(
            one_value(&mut to, &format!("{digest} t")).await,
            expected,
            "{options}"
        );
    }
}

#[tokio::test]
async fn an_empty_table_is_a_copy_too() {
    let (mut from, mut to) = (
        server().await.connect().await,
        server().await.connect().await,
    );
    to.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    for options in ["(FORMAT binary)", "(FORMAT text)"] {
        let out = format!("COPY (SELECT 1 WHERE false) TO STDOUT {options}");
        let into = format!("COPY t FROM STDIN {options}");
        assert_eq!(
            splice(&mut from, &out, &mut to, &into).await,
            0,
            "{options}"
        );
    }
}

#[tokio::test]
async fn a_value_of_200_megabytes_passes_in_small_blocks() {
    let (mut from, mut to) = (
        server().await.connect().await,
        server().await.connect().await,
    );
    to.run("CREATE TEMP TABLE big (n int, s text)")
        .await
        .unwrap();
    let sql = "COPY (SELECT g, CASE g WHEN 2 THEN repeat('0123456789abcdef', 13107200) ELSE 'x' END \
               FROM generate_series(1, 3) g) TO STDOUT (FORMAT binary)";
    let mut out = from.copy_out(sql).await.unwrap();
    let mut into = to
        .copy_in("COPY big FROM STDIN (FORMAT binary)")
        .await
        .unwrap();
    let (mut rows, mut largest, mut parts) = (0, 0, 0);
    while let Some(block) = out.next_block().await.unwrap() {
        rows += block.rows;
        largest = largest.max(block.frames.len());
        parts += u32::from(block.ends_inside_row);
        into.write_frames(&block.frames).await.unwrap();
    }
    assert_eq!(into.finish().await.unwrap(), 3);
    assert_eq!(rows, 3);
    assert!(parts > 100, "{parts}");
    assert!(largest < 4 << 20, "{largest}");
    let found = one_value(
        &mut to,
        "SELECT string_agg(length(s)::text, ',' ORDER BY n) FROM big",
    );
    assert_eq!(found.await, "1,209715200,1");
}

#[tokio::test]
async fn an_error_of_the_reading_side_comes_after_its_rows() {
    let mut from = server().await.connect().await;
    let sql = "COPY (SELECT 1 / (100000 - g) FROM generate_series(1, 200000) g) TO STDOUT";
    let mut out = from.copy_out(sql).await.unwrap();
    let mut rows = 0;
    let error = loop {
        match out.next_block().await {
            Ok(Some(block)) => rows += block.rows,
            Ok(None) => panic!("COPY succeeded"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate_code(), Some("22012"));
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(rows < 100_000);
    assert_eq!(one_value(&mut from, "SELECT 1").await, "1");
}

#[tokio::test]
async fn an_error_of_the_writing_side_comes_while_writing() {
    let mut to = server().await.connect().await;
    to.run("CREATE TEMP TABLE t (n smallint)").await.unwrap();
    let mut into = to.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sent = 0_u64;
    let error = loop {
        // 70000 is out of range at once; the rest would be taken for ever.
        if let Err(error) = into.write_payload(b"70000\n").await {
            break error;
        }
        sent += 1;
        assert!(sent < 50_000_000, "the error does not surface");
    };
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.code(), codes::SOURCE_VALUE);
    assert!(
        error.to_string().contains("COPY t, line 1, column n"),
        "{error}"
    );
    assert!(!error.to_string().contains("70000"), "{error}");
    assert_eq!(one_value(&mut to, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn a_failed_copy_leaves_nothing() {
    let mut to = server().await.connect().await;
    to.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    let mut into = to.copy_in("COPY t FROM STDIN").await.unwrap();
    into.write_payload(b"1\n").await.unwrap();
    into.fail("enough").await.unwrap();
    assert_eq!(one_value(&mut to, "SELECT count(*) FROM t").await, "0");
    let error = to.copy_in("COPY nowhere FROM STDIN").await.unwrap_err();
    assert_eq!(error.sqlstate_code(), Some("42P01"));
    assert_eq!(one_value(&mut to, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_long_copy_can_be_cancelled() {
    for parameters in ["sslmode=disable", "sslmode=require"] {
        let config = server().await.config("trusted", parameters);
        let role = tidemark_postgres::wire::Role::Ordinary;
        let mut from = Connection::connect(&config, role).await.unwrap();
        assert_eq!(from.is_encrypted(), parameters == "sslmode=require");
        let token = from.cancel_token();
        let sql = "COPY (SELECT generate_series(1, 1000000000)) TO STDOUT";
        let mut out = from.copy_out(sql).await.unwrap();
        out.next_block().await.unwrap().unwrap();
        token.cancel().await.unwrap();
        let error = loop {
            if let Err(error) = out.next_block().await {
                break error;
            }
        };
        assert_eq!(error.sqlstate_code(), Some("57014"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(one_value(&mut from, "SELECT 1").await, "1");
    }
}

/// Answers in short: tags, SQLSTATEs, `ready`.
async fn outcome(connection: &mut Connection) -> Vec<String> {
    let mut said = Vec::new();
    while connection.ready_expected() > 0 {
        match connection.next_reply().await.unwrap() {
            Reply::Complete(tag) => said.push(tag),
            Reply::Error(error) => said.push(error.sqlstate),
            Reply::Ready(_) => said.push("ready".to_owned()),
            Reply::CopyIn => said.push("copy".to_owned()),
            _ => {}
        }
    }
    said
}

#[tokio::test]
async fn copies_are_pipelined_without_waiting_for_the_server() {
    let mut c = server().await.connect().await;
    c.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    c.send_query("BEGIN").unwrap();
    for _ in 0..3 {
        c.send_query("COPY t FROM STDIN").unwrap();
        c.send_copy_data(b"1\n2\n").unwrap();
        c.send_copy_data(b"3\n").unwrap();
        c.send_copy_done();
    }
    c.send_query("COMMIT").unwrap();
    let said = outcome(&mut c).await.join(" ");
    assert_eq!(
        said,
        "BEGIN ready copy COPY 3 ready copy COPY 3 ready copy COPY 3 ready COMMIT ready"
    );
}

/// PostgreSQL 15, 55.2.6: after an error the server ignores CopyData, CopyDone and CopyFail.
#[tokio::test]
async fn data_of_a_pipelined_copy_that_fails_is_ignored() {
    let mut c = server().await.connect().await;
    c.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    // Refused before it reads: no such table. Refused while it reads: not a number.
    for (copy, sqlstates) in [
        ("COPY nowhere FROM STDIN", "42P01 ready"),
        ("COPY t FROM STDIN", "copy 22P02 ready"),
    ] {
        c.send_query(copy).unwrap();
        for _ in 0..100_000 {
            c.send_copy_data(b"abc\n").unwrap();
        }
        c.send_copy_done();
        c.send_query("INSERT INTO t VALUES (1)").unwrap();
        let said = outcome(&mut c).await.join(" ");
        assert_eq!(said, format!("{sqlstates} INSERT 0 1 ready"));
    }
}

/// The same inside a transaction and between statements of the extended protocol: everything up to
/// the next Sync is skipped, the transaction has failed, and the connection is usable on.
#[tokio::test]
async fn a_failed_copy_among_extended_statements_ends_at_sync() {
    let mut c = server().await.connect().await;
    c.run("CREATE TEMP TABLE t (n int)").await.unwrap();
    for (data, expected) in [
        (
            &b"7\n"[..],
            "BEGIN ready INSERT 0 1 copy COPY 1 INSERT 0 1 ready copy COPY 1 ready COMMIT ready",
        ),
        (
            b"seven\n",
            // The simple COPY is refused because the transaction has failed (25P02).
            "BEGIN ready INSERT 0 1 copy 22P02 ready 25P02 ready ROLLBACK ready",
        ),
    ] {
        c.send_query("BEGIN").unwrap();
        c.send_parse("", "INSERT INTO t VALUES ($1::text::int)", &[])
            .unwrap();
        c.send_bind("", Format::Text, [Some(&b"1"[..])]).unwrap();
        c.send_execute().unwrap();
        c.send_parse("", "COPY t FROM STDIN", &[]).unwrap();
        c.send_bind("", Format::Text, []).unwrap();
        c.send_execute().unwrap();
        c.send_copy_data(data).unwrap();
        c.send_copy_done();
        c.send_parse("", "INSERT INTO t VALUES (2)", &[]).unwrap();
        c.send_bind("", Format::Text, []).unwrap();
        c.send_execute().unwrap();
        c.send_sync();
        c.send_query("COPY t FROM STDIN").unwrap();
        c.send_copy_data(b"8\n").unwrap();
        c.send_copy_done();
        c.send_query("COMMIT").unwrap();
        assert_eq!(outcome(&mut c).await.join(" "), expected);
    }
    assert_eq!(one_value(&mut c, "SELECT count(*) FROM t").await, "4");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_the_session_goes_on() {
    let mut c = server().await.connect().await;
    let error = c.simple("COPY (SELECT 1) TO STDOUT").await.unwrap_err();
    assert!(server_error(&error).is_none());
    assert_eq!(one_value(&mut c, "SELECT 1").await, "1");
    let error = c.simple("SELECT '\0'").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Definite);
    assert_eq!(one_value(&mut c, "SELECT 1").await, "1");
}
