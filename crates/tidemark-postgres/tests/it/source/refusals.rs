//! What a server, a disk or somebody in between refuses, and under which name it is told.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::source::Keep;
use tidemark_lab::PostgresServer;
use tidemark_lab::skip::skipped;
use tidemark_lab::wait::wait_for;
use tidemark_postgres::source::PgSource;

use super::{DEADLINE, Fixture, Tail, another, names, on_majors, run};

on_majors! {
    log_that_is_not_logical_is_named
    slots_and_senders_that_are_used_up_are_told_apart
    text_that_is_not_utf8_does_not_end_the_stream
    full_disk_is_tried_again_and_loses_nothing
    silent_server_is_given_up
}

const KEYED: &str = "CREATE TABLE t (id int PRIMARY KEY, note text)";

async fn refused(source: &PgSource) -> (tidemark_core::catalogue::Code, ErrorKind) {
    let error = source.make_slot(Keep::ForPipeline).await.unwrap_err();
    (error.code(), error.kind())
}

async fn log_that_is_not_logical_is_named(server: &PostgresServer) {
    let server = another(server).setting("wal_level", "replica");
    let server = &server.start().await.unwrap();
    let fixture = Fixture::new(server, KEYED).await;
    let expected = (codes::SOURCE_WAL_LEVEL, ErrorKind::Definite);
    assert_eq!(refused(&fixture.source()).await, expected);
}

async fn slots_and_senders_that_are_used_up_are_told_apart(server: &PostgresServer) {
    let server = another(server)
        .setting("max_replication_slots", "1")
        .setting("max_wal_senders", "1");
    let server = &server.start().await.unwrap();
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    // A second pipeline on the same server.
    "other".clone_into(&mut fixture.options.slot);
    let other = fixture.source();
    let expected = (codes::SOURCE_NO_FREE_SLOT, ErrorKind::Definite);
    assert_eq!(refused(&other).await, expected);
    let stream = source.changes(start).await.unwrap();
    let expected = (codes::SOURCE_NO_FREE_SENDER, ErrorKind::Transient);
    assert_eq!(refused(&other).await, expected);
    stream.close().await.unwrap();
}

async fn text_that_is_not_utf8_does_not_end_the_stream(server: &PostgresServer) {
    let server = &another(server).encoding("SQL_ASCII").start().await.unwrap();
    let (mut fixture, source, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (1, 'plain')").await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, ["begin", "insert t 1,plain"]);
    let latin = "SET client_encoding = SQL_ASCII; INSERT INTO t VALUES (2, E'caf\\xE9')";
    run(&mut fixture.session().await, latin).await;
    let head = fixture.head().await;
    // As it stands; whoever writes it will refuse it.
    assert_eq!(tail.until(head).await, ["begin", "insert t 2,caf\u{fffd}"]);
}

/// A disk of this size, which is gone with the handle: nothing else leads to it.
fn tiny_disk(bytes: u64) -> Option<(File, PathBuf)> {
    let place = tempfile::tempdir().unwrap();
    let size = format!("size={bytes}");
    let mount = |program: &str, arguments: &[&str], path: &Path| {
        let done = Command::new(program).args(arguments).arg(path).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !mount(
        "mount",
        &["-t", "tmpfs", "-o", &size, "tmpfs"],
        place.path(),
    ) {
        return None;
    }
    let handle = File::open(place.path()).unwrap();
    assert!(mount("umount", &["-l"], place.path()));
    let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    Some((handle, path))
}

async fn full_disk_is_tried_again_and_loses_nothing(server: &PostgresServer) {
    let Some((_handle, path)) = tiny_disk(256 * 1024) else {
        let why = "mounting a small disk takes root's rights";
        return skipped("full_disk_is_tried_again_and_loses_nothing", why);
    };
    let (mut fixture, _, start) = Fixture::streaming(server, KEYED, &["t"]).await;
    fixture.options.spool_dir.clone_from(&path);
    let source = fixture.source();
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (0, 'before')").await;
    let large = "INSERT INTO t SELECT i, repeat('x', 30) FROM generate_series(1, 20000) i";
    fixture.run(large).await;
    let error = tail.until_error().await;
    let expected = (codes::SPOOL_FAILED, ErrorKind::Transient);
    assert_eq!((error.code(), error.kind()), expected, "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(tail.take(), ["begin", "insert t 0,before"]);
    let durable = tail.reached;
    drop(tail);
    // Elsewhere there is room.
    fixture.options.spool_dir = std::env::temp_dir();
    let source = fixture.source();
    let opened = wait_for(DEADLINE, "the slot to be free again", || async {
        match source.changes(durable).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::Transient => Ok(None),
            Err(error) => Err(error.into()),
        }
    });
    let mut tail = Tail::new(opened.await.unwrap(), durable);
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await.len(), 20_001);
}

async fn silent_server_is_given_up(server: &PostgresServer) {
    let proxy = tidemark_lab::Proxy::start(server.port()).await.unwrap();
    let mut fixture = Fixture::new(server, KEYED).await;
    fixture.source().announce(&names(&["t"])).await.unwrap();
    let start = fixture.make_slot().await;
    let url = server.url_through(proxy.address(), &fixture.database);
    let side = tidemark_postgres::config::Side::Source;
    fixture.options.connect = tidemark_postgres::config::ConnectConfig::parse(&url, side).unwrap();
    fixture.options.silence_timeout = std::time::Duration::from_secs(2);
    let source = fixture.source();
    let mut tail = Tail::open(&source, start).await;
    fixture.run("INSERT INTO t VALUES (1, 'a')").await;
    let head = fixture.head().await;
    assert_eq!(tail.until(head).await, ["begin", "insert t 1,a"]);
    proxy.partition();
    let error = tail.until_error().await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("nothing heard"), "{error}");
}
