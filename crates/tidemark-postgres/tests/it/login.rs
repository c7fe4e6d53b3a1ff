//! Ways in: TLS modes, passwords, and what answers when it is not PostgreSQL.

use std::io::{Read, Write};
use std::sync::Arc;

use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config::{Network, Reach, Secret};
use tidemark_core::{Error, ErrorKind};
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::wire::{Connection, Role};

use crate::server::server;

async fn connect(url: &str) -> Result<Connection, Error> {
    let config = ConnectConfig::parse(url, Side::Target).unwrap();
    Connection::connect(&config, Role::Ordinary).await
}

/// The same server under its name, which the certificate holds.
async fn url(host: &str, user: &str, parameters: &str) -> String {
    format!(
        "postgres://{user}:{user}@{host}:{}/postgres?{parameters}",
        server().await.port
    )
}

#[tokio::test]
async fn f17_s19_tls_modes_check_what_they_promise() {
    let server = server().await;
    let (ca, stranger) = (server.file("ca.crt"), server.file("stranger.crt"));
    let pinned = server.file("server.crt");
    for (host, parameters, encrypted) in [
        ("localhost", "sslmode=disable".to_owned(), false),
        ("localhost", "sslmode=allow".to_owned(), false),
        ("localhost", "sslmode=prefer".to_owned(), true),
        ("localhost", String::new(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={ca}"),
            true,
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            true,
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={pinned}"),
            true,
        ),
    ] {
        let connection = connect(&url(host, "trusted", &parameters).await).await;
        let connection = connection.unwrap_or_else(|error| panic!("{parameters}: {error}"));
        assert_eq!(connection.is_encrypted(), encrypted, "{parameters}");
    }
    for (host, parameters, code) in [
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={stranger}"),
            codes::TARGET_TLS_UNTRUSTED,
        ),
        (
            "localhost",
            format!("sslmode=require&sslrootcert={stranger}"),
            codes::TARGET_TLS_UNTRUSTED,
        ),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned(),
            codes::TARGET_TLS_FILES,
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={}", server.file("ca.key")),
            codes::TARGET_TLS_FILES,
        ),
    ] {
        let error = connect(&url(host, "trusted", &parameters).await)
            .await
            .unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            (code, ErrorKind::Definite),
            "{parameters}: {error}"
        );
    }
}

#[tokio::test]
async fn f17_s19_certificates_that_do_not_hold_are_told_apart() {
    let server = server().await;
    let pinned = |name: &str| server.file(&format!("{name}.crt"));
    for (certificate, root, code) in [
        ("expired", pinned("ca"), codes::TARGET_TLS_EXPIRED),
        ("expired", pinned("expired"), codes::TARGET_TLS_EXPIRED),
        ("elsewhere", pinned("ca"), codes::TARGET_TLS_WRONG_HOST),
        (
            "elsewhere",
            pinned("elsewhere"),
            codes::TARGET_TLS_WRONG_HOST,
        ),
        ("stranger", pinned("ca"), codes::TARGET_TLS_UNTRUSTED),
    ] {
        let port = tls_port(Some(server.tls_config(certificate)));
        let url = format!("postgres://u@localhost:{port}/d?sslmode=verify-full&sslrootcert={root}");
        let error = connect(&url).await.unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            (code, ErrorKind::Definite),
            "{root}: {error}"
        );
    }
    let port = tls_port(None);
    for parameters in [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=/nowhere.pem",
    ] {
        let error = connect(&format!("postgres://u@localhost:{port}/d?{parameters}")).await;
        let code = error.unwrap_err().code();
        let expected = if parameters == "sslmode=require" {
            codes::TARGET_TLS_NOT_OFFERED
        } else {
            codes::TARGET_TLS_FILES
        };
        assert_eq!(code, expected, "{parameters}");
    }
}

/// A port that answers an `SSLRequest` with a certificate's TLS, or with "no".
fn tls_port(tls_config: Option<Arc<rustls::ServerConfig>>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.read_exact(&mut [0; 8]).unwrap();
            let Some(tls_config) = &tls_config else {
                socket.write_all(b"N").unwrap();
                continue;
            };
            socket.write_all(b"S").unwrap();
            let tls = rustls::ServerConnection::new(Arc::clone(tls_config)).unwrap();
            // The client breaks off when it sees the certificate.
            drop(rustls::StreamOwned::new(tls, socket).read(&mut [0; 1]));
        }
    });
    port
}

#[tokio::test]
async fn f17_s19_modes_give_way_only_where_they_say_so() {
    // pg_hba.conf lets these in one way only.
    for (user, parameters, encrypted) in [
        ("onlytls", "sslmode=allow", Some(true)),
        ("onlytls", "sslmode=disable", None),
        ("onlyplain", "sslmode=prefer", Some(false)),
        ("onlyplain", "sslmode=require", None),
    ] {
        let outcome = connect(&url("localhost", user, parameters).await).await;
        match (outcome, encrypted) {
            (Ok(connection), Some(encrypted)) => {
                assert_eq!(connection.is_encrypted(), encrypted, "{user} {parameters}");
            }
            (Err(error), None) => assert_eq!(error.code(), codes::TARGET_AUTHENTICATION, "{error}"),
            (outcome, _) => panic!("{user} {parameters}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn every_way_of_login_works_and_a_wrong_password_is_definite() {
    for user in ["scram", "md5", "clear"] {
        for parameters in ["sslmode=disable", "sslmode=require"] {
            connect(&url("localhost", user, parameters).await)
                .await
                .unwrap();
            let mut config =
                ConnectConfig::parse(&url("localhost", user, parameters).await, Side::Source)
                    .unwrap();
            config.set_password(Secret::new("wr0ng"));
            let error = Connection::connect(&config, Role::Ordinary)
                .await
                .unwrap_err();
            assert_eq!(error.code(), codes::SOURCE_AUTHENTICATION, "{error}");
            assert_eq!(error.kind(), ErrorKind::Definite);
            assert_eq!(error.sqlstate_code(), Some("28P01"));
            assert!(!format!("{error:?}").contains("wr0ng"));
            config.password = None;
            let error = Connection::connect(&config, Role::Ordinary)
                .await
                .unwrap_err();
            assert_eq!(error.code(), codes::SOURCE_AUTHENTICATION, "{error}");
            let how = "password = \"${env:SOURCE_PASSWORD}\" under [source]";
            assert!(error.action().contains(how), "{}", error.action());
        }
    }
}

#[tokio::test]
async fn s19_channel_binding_is_used_and_can_be_demanded() {
    for (user, parameters, works) in [
        ("scram", "sslmode=require&channel_binding=require", true),
        ("scram", "sslmode=require&channel_binding=disable", true),
        ("scram", "sslmode=disable&channel_binding=require", false),
        ("md5", "sslmode=require&channel_binding=require", false),
        ("trusted", "sslmode=require&channel_binding=require", false),
    ] {
        let outcome = connect(&url("localhost", user, parameters).await).await;
        match outcome {
            Ok(_) => assert!(works, "{user} {parameters}"),
            Err(error) => {
                assert!(!works, "{user} {parameters}: {error}");
                assert_eq!(error.code(), codes::TARGET_AUTHENTICATION);
            }
        }
    }
}

#[tokio::test]
async fn s19_client_certificates_log_in() {
    let server = server().await;
    let file = |name| server.file(name);
    let good = format!(
        "sslmode=require&sslcert={}&sslkey={}",
        file("client.crt"),
        file("client.key")
    );
    connect(&url("localhost", "app", &good).await)
        .await
        .unwrap();
    for (parameters, code) in [
        ("sslmode=require".to_owned(), codes::TARGET_AUTHENTICATION),
        (
            format!(
                "sslmode=require&sslcert={}&sslkey={}",
                file("client.crt"),
                file("ca.key")
            ),
            codes::TARGET_TLS_FILES,
        ),
        // Of an authority that the server does not know.
        (
            format!(
                "sslmode=require&sslcert={}&sslkey={}",
                file("stranger.crt"),
                file("stranger.key")
            ),
            codes::TARGET_TLS_FILES,
        ),
    ] {
        let error = connect(&url("localhost", "app", &parameters).await)
            .await
            .unwrap_err();
        assert_eq!(error.code(), code, "{parameters}: {error}");
    }
}

#[tokio::test]
async fn wrong_addresses_and_names_are_told_apart() {
    let port = server().await.port;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let cases: [(String, Code, ErrorKind); 5] = [
        (
            format!("postgres://trusted@localhost:{port}/nowhere"),
            codes::TARGET_NO_DATABASE,
            ErrorKind::Definite,
        ),
        (
            format!("postgres://nobody:x@127.0.0.1:{port}/postgres"),
            codes::TARGET_AUTHENTICATION,
            ErrorKind::Definite,
        ),
        (
            format!("postgres://trusted@127.0.0.1:{free}/postgres"),
            codes::TARGET_REFUSED,
            ErrorKind::Transient,
        ),
        (
            "postgres://trusted@no-such-host.invalid/postgres".to_owned(),
            codes::TARGET_UNRESOLVED,
            ErrorKind::Transient,
        ),
        (
            "postgres://trusted@/postgres?host=/nowhere".to_owned(),
            codes::TARGET_REFUSED,
            ErrorKind::Transient,
        ),
    ];
    for (url, code, kind) in cases {
        let error = connect(&url).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (code, kind), "{error}");
    }
}

/// What a role has as its default would end the session with every statement that is refused.
#[tokio::test]
async fn a_refused_statement_ends_no_session_whatever_the_roles_defaults() {
    let port = server().await.port;
    let url =
        format!("postgres://trusted@localhost:{port}/postgres?options=-c%20exit_on_error%3Don");
    let mut connection = connect(&url).await.unwrap();
    let refused = connection.query("SELECT 1 / 0", &[]).await.unwrap_err();
    assert_eq!(refused.sqlstate_code(), Some("22012"), "{refused}");
    let answer = connection.query("SELECT 1", &[]).await.unwrap();
    assert_eq!(answer.one().unwrap().get_str(0).unwrap(), "1");
}

#[tokio::test]
async fn s16_an_address_out_of_reach_is_not_connected_to() {
    let network = |text| vec![Network::parse(text).unwrap()];
    let deny = |text| Reach {
        only: None,
        deny: network(text),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for (host, reach) in [
        ("127.0.0.1", deny("127.0.0.0/8")),
        ("localhost", deny("127.0.0.0/8")),
        ("2130706433", deny("127.0.0.0/8")),
        ("[::ffff:127.0.0.1]", deny("127.0.0.0/8")),
        (
            "127.0.0.1",
            Reach {
                only: Some(network("10.0.0.0/8")),
                deny: Vec::new(),
            },
        ),
    ] {
        for role in [Role::Ordinary, Role::Replication] {
            let url = format!("postgres://u@{host}:{port}/d?sslmode=disable");
            let mut config = ConnectConfig::parse(&url, Side::Source).unwrap();
            config.reach = reach.clone();
            let error = Connection::connect(&config, role).await.unwrap_err();
            assert_eq!(error.code(), codes::DATABASE_FORBIDDEN, "{host}: {error}");
            assert_eq!(error.kind(), ErrorKind::Definite);
        }
    }
    let nobody = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    // The same host is reached where another network is denied.
    let mut config = ConnectConfig::parse(&url("localhost", "trusted", "").await, Side::Source);
    let config = config.as_mut().unwrap();
    config.reach = deny("169.254.0.0/16");
    Connection::connect(config, Role::Ordinary).await.unwrap();
}

#[tokio::test]
async fn s19_what_is_slipped_in_before_tls_is_no_answer() {
    // `S`, and in the same packet what the session would take for the end of its login (CVE-2021-23222).
    let port = greeter(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
    let error = connect(&format!("postgres://u@127.0.0.1:{port}/d?sslmode=require"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), codes::TARGET_NOT_POSTGRESQL, "{error}");
}

#[tokio::test]
async fn a_silent_port_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for parameters in ["sslmode=disable", "sslmode=require"] {
        let url = format!("postgres://u@127.0.0.1:{port}/d?connect_timeout=1&{parameters}");
        let error = connect(&url).await.unwrap_err();
        assert_eq!(error.code(), codes::TARGET_UNREACHABLE, "{error}");
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.to_string().contains("within 1 s"), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_postgresql_is_recognised() {
    // What each says when it is greeted by PostgreSQL's start-up; SSH and MySQL speak first.
    let http = &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..];
    let ssh = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
    let mysql = b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0abcdefgh\0\xff\xf7\x21\x02\0\xff\x81\x15\0\0";
    let redis = b"-ERR unknown command\r\n";
    for greeting in [http, ssh, mysql, redis] {
        for parameters in ["sslmode=disable", "sslmode=require"] {
            let port = greeter(greeting);
            let error = connect(&format!("postgres://u@127.0.0.1:{port}/d?{parameters}"))
                .await
                .unwrap_err();
            let said = String::from_utf8_lossy(greeting).into_owned();
            assert_eq!(
                error.code(),
                codes::TARGET_NOT_POSTGRESQL,
                "{said:?} {parameters}: {error}"
            );
            assert_eq!(error.kind(), ErrorKind::Definite);
            let expected = format!("127.0.0.1:{port} does not speak PostgreSQL");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

/// A port that says one thing to whoever comes, and then listens until the other end hangs up.
fn greeter(greeting: &'static [u8]) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.write_all(greeting).unwrap();
            drop(socket.read_to_end(&mut Vec::new()));
        }
    });
    port
}

#[tokio::test]
async fn f46_the_wanted_host_is_chosen_among_several() {
    let port = server().await.port;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let hosts = format!("127.0.0.1:{free},127.0.0.1:{port}");
    for (wanted, found) in [
        ("any", true),
        ("read-write", true),
        ("primary", true),
        ("prefer-standby", true),
        ("standby", false),
        ("read-only", false),
    ] {
        let url = format!("postgres://trusted@{hosts}/postgres?target_session_attrs={wanted}");
        let outcome = connect(&url).await;
        assert_eq!(outcome.is_ok(), found, "{wanted}");
    }
    let url = format!("postgres://trusted@127.0.0.1:{port}/postgres?target_session_attrs=standby");
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.code(), codes::TARGET_SESSION_ATTRS, "{error}");
}
