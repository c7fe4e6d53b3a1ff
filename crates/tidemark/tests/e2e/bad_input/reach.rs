//! Addresses, logins and certificates: what is between us and a server.

use tidemark_lab::Proxy;
use tidemark_lab::server::PostgresServer;

use super::{
    ROWS, Refusal, assert_check_fails, assert_nothing_is_left, assert_refused, assert_succeeds,
    assert_waits, server_of,
};
use crate::stage::Stage;

/// What may pass by itself is waited for on either side, and can be stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_cannot_be_reached_is_waited_for() {
    let stage = Stage::new("bad_reach").await;
    stage.source_sql(ROWS).await;
    let nobody = "postgres://postgres@127.0.0.1:1/db";
    let nowhere = "postgres://postgres@nowhere.invalid/db?sslmode=disable";
    let (source, target) = (stage.source_url(), stage.target_url());
    for (source, target, code) in [
        (nobody, target.as_str(), "TM1004"),
        (source.as_str(), nobody, "TM2004"),
        (nowhere, target.as_str(), "TM1003"),
        (source.as_str(), nowhere, "TM2003"),
    ] {
        stage.write_between(source, target, "");
        assert_check_fails(&stage, code).await;
        let mut run = stage.start(&["run", "FILE"]);
        assert_waits(&mut run, code).await;
        assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
        assert_nothing_is_left(&stage, &[]).await;
        std::fs::remove_file(stage.directory().join("run.log")).unwrap();
    }
    stage.write("");
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_as_soon_as_the_target_answers() {
    let stage = Stage::new("bad_target_down").await;
    stage.source_sql(ROWS).await;
    let wire = Proxy::start(stage.target_server.port()).await.unwrap();
    let target = (stage.target_server).url_through(wire.address(), &stage.target_name);
    stage.write_between(&stage.source_url(), &target, "");
    wire.refuse();
    let mut run = stage.start(&["run", "FILE"]);
    assert_waits(&mut run, "TM2001").await;
    assert_nothing_is_left(&stage, &[]).await;
    wire.accept();
    stage.wait_for_state("streaming").await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_s05_a_login_that_is_refused_ends_the_start() {
    let server = server_of(PostgresServer::builder().scram("right")).await;
    let stage = Stage::on(server, server, "bad_login").await;
    stage.source_sql(ROWS).await;
    let (source, target) = (stage.source_url(), stage.target_url());
    let wrong = |url: &str| url.replace(":right@", ":hunter2@");
    let nobody = |url: &str| url.replace("postgres:right@", "nobody:hunter2@");
    let none = |url: &str| url.replace(":right@", "@");
    let no_database = |url: &str| format!("{url}_x");
    for (source, target, code, exit, word) in [
        (wrong(&source), target.clone(), "TM1005", 4, "check"),
        (source.clone(), wrong(&target), "TM2005", 4, "check"),
        (nobody(&source), target.clone(), "TM1005", 4, "check"),
        (
            source.clone(),
            none(&target),
            "TM2005",
            4,
            "password = \"${env:TARGET_PASSWORD}\" under [target]",
        ),
        (no_database(&source), target.clone(), "TM1006", 5, "check"),
        (source.clone(), no_database(&target), "TM2006", 5, "check"),
    ] {
        stage.write_between(&source, &target, "");
        let words = &[word];
        assert_refused(&stage, Refusal { code, exit, words }).await;
        let said = stage.run(&super::RUN).await;
        assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
        assert_check_fails(&stage, code).await;
    }
    stage.write("");
    assert_succeeds(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_s19_certificates_that_do_not_hold_end_the_start() {
    let server = server_of(PostgresServer::builder().tls()).await;
    let stage = Stage::on(server, server, "bad_tls").await;
    stage.source_sql(ROWS).await;
    let certificates = server.certificates().unwrap();
    let verified = |url: &str, root: &str| {
        let root = certificates.file(root);
        format!("{url}?sslmode=verify-full&sslrootcert={}", root.display())
    };
    let (source, target) = (stage.source_url(), stage.target_url());
    for (root, code, exit, word) in [
        ("stranger.crt", "8", 5, "sslrootcert"),
        ("missing.crt", "23", 2, "missing.crt"),
        ("ca.key", "23", 2, "ca.key"),
    ] {
        for (source, target, side) in [
            (verified(&source, root), target.clone(), 1),
            (source.clone(), verified(&target, root), 2),
        ] {
            stage.write_between(&source, &target, "");
            let code = format!("TM{side}{code:0>3}");
            let (code, words) = (code.as_str(), &[word]);
            assert_refused(&stage, Refusal { code, exit, words }).await;
            assert_check_fails(&stage, code).await;
        }
    }
    let (source, target) = (verified(&source, "ca.crt"), verified(&target, "ca.crt"));
    stage.write_between(&source, &target, "");
    for (presented, code) in [("elsewhere", "TM1011"), ("expired", "TM1009")] {
        certificates.present(presented).unwrap();
        server.reload().await.unwrap();
        let (exit, words) = (5, &["certificate"]);
        assert_refused(&stage, Refusal { code, exit, words }).await;
    }
    certificates.present("server").unwrap();
    server.reload().await.unwrap();
    assert_succeeds(&stage).await;

    // A run that has had one that held waits for the next one that does.
    let mut run = stage.start_streaming().await;
    certificates.present("expired").unwrap();
    server.reload().await.unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name LIKE 'tidemark %'";
    server.execute(end).await.unwrap();
    run.wait_for_log("is not valid at this time").await;
    certificates.present("server").unwrap();
    server.reload().await.unwrap();
    stage
        .source_sql("INSERT INTO t VALUES (1000, 'later')")
        .await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_what_offers_no_tls_or_is_no_server_is_told() {
    let stage = Stage::new("bad_protocol").await;
    stage.source_sql(ROWS).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!(
        "postgres://u@127.0.0.1:{}/d",
        listener.local_addr().unwrap().port()
    );
    let web_server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut socket, _)) = listener.accept().await {
            // Whoever hangs up early has seen enough.
            drop(socket.read(&mut [0; 64]).await);
            drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let (source, target) = (stage.source_url(), stage.target_url());
    let encrypted = |url: &str| format!("{url}?sslmode=require");
    for (source, target, code) in [
        (encrypted(&source), target.clone(), "TM1007"),
        (source.clone(), encrypted(&target), "TM2007"),
        (other.clone(), target.clone(), "TM1012"),
        (source.clone(), other.clone(), "TM2012"),
    ] {
        stage.write_between(&source, &target, "");
        let (exit, words) = (5, &[".url"]);
        assert_refused(&stage, Refusal { code, exit, words }).await;
        assert_check_fails(&stage, code).await;
    }
    web_server.abort();
    stage.write("");
    assert_succeeds(&stage).await;
    stage.clear().await;
}
