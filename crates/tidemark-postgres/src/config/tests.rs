use std::path::Path;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> ConnectConfig {
    ConnectConfig::parse(text, Side::Source).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn problem(text: &str) -> String {
    let error = ConnectConfig::parse(text, Side::Target).unwrap_err();
    assert_eq!(error.code(), codes::CONNECTION_URL);
    error.to_string()
}

fn tcp(name: &str, port: u16) -> Host {
    Host::Tcp {
        name: name.to_owned(),
        port,
    }
}

#[test]
fn all_parts_are_read() {
    let config = parse(
        "postgresql://us%20er:p%40ss@db.example:6543/my%2Fdb?sslmode=verify-full&sslrootcert=/ca.pem\
         &sslcert=c.pem&sslkey=k.pem&application_name=x&options=-c%20geqo%3Doff&connect_timeout=3\
         &target_session_attrs=read-write&channel_binding=require",
    );
    assert_eq!(config.hosts, [tcp("db.example", 6543)]);
    assert_eq!(config.user, "us er");
    assert_eq!(config.password.as_ref().map(Secret::expose), Some("p@ss"));
    assert_eq!(config.database, "my/db");
    assert_eq!(config.ssl_mode, Some(SslMode::VerifyFull));
    assert_eq!(
        config.ssl_root,
        Some(RootCertificates::File("/ca.pem".into()))
    );
    assert_eq!(config.ssl_client, Some(("c.pem".into(), "k.pem".into())));
    assert_eq!(config.application_name.as_deref(), Some("x"));
    assert_eq!(config.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(config.connect_timeout, Duration::from_secs(3));
    assert_eq!(config.session_attrs, SessionAttrs::ReadWrite);
    assert_eq!(config.channel_binding, ChannelBinding::Require);
}

#[test]
fn hosts_come_in_many_forms() {
    for (url, hosts) in [
        ("postgres://u@h", vec![tcp("h", 5432)]),
        ("postgres://u@[::1]:99/d", vec![tcp("::1", 99)]),
        ("postgres://u@a:1,b:2/d", vec![tcp("a", 1), tcp("b", 2)]),
        ("postgres://u@a,b/d?port=7", vec![tcp("a", 7), tcp("b", 7)]),
        ("postgres://u@/d?host=x&port=8", vec![tcp("x", 8)]),
    ] {
        assert_eq!(parse(url).hosts, hosts, "{url}");
    }
    for url in [
        "postgres://u@/d?host=/run/pg&port=8",
        "postgres://u@%2Frun%2Fpg:8/d",
    ] {
        let expected = Host::Unix {
            directory: Path::new("/run/pg").to_owned(),
            port: 8,
        };
        assert_eq!(parse(url).hosts, [expected], "{url}");
    }
    assert_eq!(parse("postgres://u@h").database, "u");
    assert_eq!(parse("postgres://u@h?dbname=x").database, "x");
    assert_eq!(parse("postgres:///d?user=u&host=h&password=p").user, "u");
}

#[test]
fn nothing_goes_over_a_network_in_the_clear_unasked() {
    for (url, mode) in [
        ("postgres://u@localhost/d", SslMode::Prefer),
        ("postgres://u@127.0.0.1/d", SslMode::Prefer),
        ("postgres://u@[::1]/d", SslMode::Prefer),
        ("postgres://u@/d?host=/tmp", SslMode::Disable),
        (
            "postgres://u@/d?host=/tmp&sslmode=require",
            SslMode::Disable,
        ),
        ("postgres://u@10.0.0.1/d", SslMode::Require),
        ("postgres://u@db/d", SslMode::Require),
        ("postgres://u@db/d?sslmode=disable", SslMode::Disable),
        ("postgres://u@db/d?sslmode=prefer", SslMode::Prefer),
        (
            "postgres://u@db/d?sslmode=require&sslrootcert=ca.pem",
            SslMode::VerifyCa,
        ),
        ("postgres://u@db/d?sslrootcert=ca.pem", SslMode::VerifyCa),
        ("postgres://u@db/d?sslrootcert=system", SslMode::VerifyFull),
        ("postgres://u@db/d?ssl=true", SslMode::VerifyFull),
    ] {
        let config = parse(url);
        assert_eq!(config.ssl_mode_for(&config.hosts[0]), mode, "{url}");
    }
}

#[test]
fn s05_unescaped_passwords_are_explained_and_never_shown() {
    for url in [
        "postgres://u:se@cret@h/d",
        "postgres://u:se/cret@h/d",
        "postgres://u:12/secret@h/d",
        "postgres://u:se?cret@h/d",
        "postgres://u:se?cret=1@h/d",
        "postgres://u:se#cret@h/d",
        "postgres://u:se%cret@h/d",
    ] {
        let problem = problem(url);
        assert!(problem.contains("percent-encoded"), "{url}: {problem}");
        assert!(!problem.contains("cret"), "{url}: {problem}");
    }
}

#[test]
fn problems_name_the_way_out() {
    for (url, expected) in [
        ("mysql://u@h/d", "scheme mysql: is not PostgreSQL"),
        ("jdbc:postgresql://u@h/d", "jdbc"),
        ("host=h user=u", "is not a URL"),
        ("postgres://h/d", "names no user"),
        ("postgres://u@/d", "names no host"),
        ("postgres://u@my host/d", "has a space in its host name"),
        ("postgres://u@h%20/d", "has a space in its host name"),
        ("postgres://u@h:0/d", "port must be"),
        ("postgres://u@h:99999/d", "port must be"),
        (
            "postgres://u@h/d?sslmod=require",
            "unknown parameter sslmod; did you mean sslmode?",
        ),
        (
            "postgres://u@h/d?sslmode=on",
            "sslmode must be one of disable, allow",
        ),
        (
            "postgres://u@h/d?sslmode=require&sslrootcert=system",
            "needs sslmode=verify-full",
        ),
        ("postgres://u@h/d?sslcert=c", "sslcert without sslkey"),
        (
            "postgres://u@h/d?connect_timeout=0",
            "connect_timeout must be",
        ),
        ("postgres://u@h/d?sslmode", "parameter without ="),
        ("postgres://u%00@h/d", "zero byte"),
    ] {
        let problem = problem(url);
        assert!(problem.contains(expected), "{url}: {problem}");
        assert!(problem.starts_with("target.url"), "{problem}");
    }
}

#[test]
fn s05_passwords_of_a_url_do_not_print() {
    let mut config = parse("postgres://u:geheim@h/d");
    assert!(!format!("{config:?}").contains("geheim"));
    assert_eq!(config.address(), "h:5432/d");
    config.set_password(Secret::new("other"));
    assert_eq!(config.password.as_ref().map(Secret::expose), Some("other"));
    config.set_pipeline("shop");
    assert_eq!(config.application_name.as_deref(), Some("tidemark shop"));
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".{0,80}") {
        drop(ConnectConfig::parse(&text, Side::Source));
        drop(ConnectConfig::parse(&format!("postgres://{text}"), Side::Source));
    }

    #[test]
    fn any_password_survives_its_encoding(password in "[^\0]{1,40}") {
        let encoded =
            percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
        let config = parse(&format!("postgres://u:{encoded}@h/d"));
        prop_assert_eq!(config.password.as_ref().map(Secret::expose), Some(password.as_str()));
    }
}
