//! Messages of alerts by mail, with a real server of mail: each gets there, over TLS or not at all, once; and
//! what is refused for good is told.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_lab::http::Request;
use tidemark_lab::mailbox::{Mail, Mailbox, Security};
use tidemark_lab::wait::wait_for;

use super::Server;
use super::notify::{act, begin, settled};
use crate::stage::PATIENCE;

const PASSWORD: &str = "hunter2";
const ALLOW: &str = "allow = [\"127.0.0.1\"]\n";

/// A notifier of the server's file.
fn notifier(name: &str, mailbox: &Mailbox, scheme: &str, more: &str) -> String {
    format!(
        "[[notifier]]\nname = \"{name}\"\ntype = \"email\"\nsmtp = \"{scheme}://{}\"\n\
         from = \"tidemark@db.example\"\nto = [\"oncall@db.example\"]\n{more}\n",
        mailbox.address()
    )
}

/// A server whose file says so, and that trusts those who signed the certificates of these.
async fn server(allow: &str, notifiers: &[String], trusted: &[&Mailbox]) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (file, roots) = (
        directory.path().join("server.toml"),
        directory.path().join("roots.pem"),
    );
    let pages = "pages = \"https://tidemark.example/\"\n";
    let text = format!(
        "version = 1\n[notify]\n{pages}{allow}{}",
        notifiers.concat()
    );
    std::fs::write(&file, text).unwrap();
    let authorities = trusted.iter();
    let authorities = authorities.map(|it| std::fs::read_to_string(it.authority()).unwrap());
    std::fs::write(&roots, authorities.collect::<String>()).unwrap();
    let variables = [
        ("SSL_CERT_FILE", roots.to_str().unwrap()),
        ("MAIL_PASSWORD", PASSWORD),
    ];
    let server = Server::start_with(&["--server-file", file.to_str().unwrap()], &variables).await;
    (server, directory)
}

const LOGIN: &str = "user = \"alerts\"\npassword = \"${env:MAIL_PASSWORD}\"";

async fn tested(server: &Server, name: &str) -> Value {
    let route = format!("/notifiers/{name}/test");
    let answer = server.post(&route, &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json().unwrap()
}

fn taken(mails: &[Mail]) -> Vec<&Mail> {
    let is_taken = |mail: &&Mail| mail.answer.starts_with("250");
    mails.iter().filter(is_taken).collect()
}

#[tokio::test]
async fn r24_a_mail_that_is_not_taken_at_first_comes_again_and_is_known_again() {
    let mailbox = Mailbox::start(Security::StartTls, "server").await.unwrap();
    mailbox.require("PLAIN LOGIN", "alerts", PASSWORD);
    mailbox.answer(&[("MAIL", "421 busy"), (".", "451 later")]);
    let notifiers = [notifier("mail", &mailbox, "smtp", LOGIN)];
    let (server, _file) = server(ALLOW, &notifiers, &[&mailbox]).await;
    begin(&server, "srv_mail", &["mail"]).await;
    act(&server, "srv_mail", "stop").await;
    let log = settled(&server, 1).await;
    assert_eq!(log[0]["state"], "delivered", "{log:?}");
    assert_eq!(log[0]["attempts"], 3, "{log:?}");
    assert_eq!(log[0]["result"], "127.0.0.1 answered 250", "{log:?}");
    let mails = mailbox.mails();
    let [refused, mail] = mails.as_slice() else {
        panic!("{mails:?}");
    };
    assert_eq!(
        (refused.answer.as_str(), mail.answer.as_str()),
        ("451 later", "250 taken")
    );
    let id = log[0]["id"].as_str().unwrap();
    let id = format!("<{id}@db.example>");
    for mail in &mails {
        assert_eq!(mail.header("Message-ID"), Some(id.as_str()));
        assert!(mail.is_tls);
        assert_eq!(mail.from, "tidemark@db.example");
        assert_eq!(mail.to, ["oncall@db.example"]);
        assert_eq!(mail.login, Some(("alerts".to_owned(), PASSWORD.to_owned())));
    }
    assert_eq!(refused.head, mail.head);
    assert_eq!(
        mail.header("Subject"),
        Some("[critical] srv_mail: state is stopped")
    );
    let lines: Vec<&str> = mail.body.lines().collect();
    assert!(
        lines[0].starts_with("! srv_mail is stopped since "),
        "{lines:?}"
    );
    assert!(lines[0].contains(" First: "), "{lines:?}");
    for line in [
        "Pipeline: srv_mail",
        "Severity: critical",
        "Page: https://tidemark.example/p/srv_mail",
    ] {
        assert!(lines.contains(&line), "{lines:?}");
    }
    let page = server.send(Request::new("GET", "/p/srv_mail")).await;
    assert_eq!(page.status, 200, "{}", page.text());

    act(&server, "srv_mail", "start").await;
    let log = settled(&server, 2).await;
    assert_eq!(log[1]["attempts"], 1, "{log:?}");
    let mails = mailbox.mails();
    let taken = taken(&mails);
    assert_eq!(taken.len(), 2);
    let subject = taken[1].header("Subject");
    assert_eq!(subject, Some("[resolved] srv_mail: state is stopped"));
    assert_ne!(taken[1].header("Message-ID"), Some(id.as_str()));
}

#[tokio::test]
async fn a_mail_that_is_refused_for_good_is_given_up_and_told() {
    let mailbox = Mailbox::start(Security::Tls, "server").await.unwrap();
    mailbox.require("LOGIN", "alerts", PASSWORD);
    mailbox.answer(&[("RCPT", "550 <oncall@db.example> is gone")]);
    let wrong = LOGIN.replace("alerts", "nobody");
    let notifiers = [
        notifier("mail", &mailbox, "smtps", LOGIN),
        notifier("stranger", &mailbox, "smtps", &wrong),
    ];
    let (server, _file) = server(ALLOW, &notifiers, &[&mailbox]).await;
    begin(&server, "srv_refused", &["mail"]).await;
    act(&server, "srv_refused", "stop").await;
    let log = settled(&server, 1).await;
    assert_eq!(log[0]["state"], "failed", "{log:?}");
    assert_eq!(log[0]["code"], "TM7113", "{log:?}");
    assert_eq!(log[0]["attempts"], 1, "{log:?}");
    let said = "127.0.0.1 answered 550 to RCPT oncall@db.example";
    assert!(log[0]["result"].as_str().unwrap().contains(said), "{log:?}");
    wait_for(PATIENCE, "the event of it", || async {
        let events = server.get("/pipelines/srv_refused/events?limit=500").await;
        let text = events.to_string();
        let is_told = text.contains("notification_failed") && text.contains(said);
        anyhow::ensure!(is_told && !text.contains("is gone"), "{text}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    assert!(mailbox.mails().is_empty());

    // What was in the way is over: the same receiver takes the next one.
    let told = tested(&server, "mail").await;
    assert_eq!(told["state"], "delivered", "{told}");
    let mails = mailbox.mails();
    assert_eq!(mails.len(), 1);
    let subject = mails[0].header("Subject");
    assert_eq!(subject, Some("[test] mail: Tidemark can write to you"));
    assert!(mails[0].body.contains("asked for this test"), "{mails:?}");
    let told = tested(&server, "stranger").await;
    assert_eq!(
        (&told["state"], &told["code"]),
        (&json!("failed"), &json!("TM7113"))
    );
    let result = told["result"].as_str().unwrap();
    assert!(result.contains("answered 535 to the log-in"), "{told}");

    let list = server.get("/notifiers").await;
    assert_eq!(list["notifiers"][0]["type"], "email", "{list}");
    assert_eq!(list["notifiers"][0]["tls"], true, "{list}");
    let shown = format!(
        "{list}{}{}",
        server.get("/alerts/deliveries").await,
        server.log()
    );
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[tokio::test]
async fn a_mail_goes_over_tls_that_is_verified_or_not_at_all() {
    let clear = Mailbox::start(Security::Clear, "server").await.unwrap();
    let right = Mailbox::start(Security::Tls, "server").await.unwrap();
    let elsewhere = Mailbox::start(Security::StartTls, "elsewhere")
        .await
        .unwrap();
    let expired = Mailbox::start(Security::Tls, "expired").await.unwrap();
    let unknown = Mailbox::start(Security::StartTls, "server").await.unwrap();
    right.require("CRAM-MD5", "alerts", PASSWORD);
    let notifiers = [
        notifier("clear", &clear, "smtp", LOGIN),
        notifier("log-in", &right, "smtps", LOGIN),
        notifier("elsewhere", &elsewhere, "smtp", LOGIN),
        notifier("expired", &expired, "smtps", LOGIN),
        notifier("unknown", &unknown, "smtp", LOGIN),
        notifier("said", &clear, "smtp", "tls = \"none\""),
    ];
    let trusted = [&right, &elsewhere, &expired];
    let (server, _file) = server(ALLOW, &notifiers, &trusted).await;
    for (name, code, why) in [
        ("clear", "TM7114", "offers no TLS"),
        ("log-in", "TM7114", "offers no log-in"),
        ("elsewhere", "TM7112", "certificate"),
        ("expired", "TM7112", "certificate"),
        ("unknown", "TM7112", "certificate"),
    ] {
        let told = tested(&server, name).await;
        assert_eq!(told["state"], "failed", "{name}: {told}");
        assert_eq!(told["code"], code, "{name}: {told}");
        let result = told["result"].as_str().unwrap();
        assert!(result.contains(why), "{name}: {told}");
    }
    for mailbox in [&clear, &right, &elsewhere, &expired, &unknown] {
        let heard = mailbox.heard();
        let is_harmless =
            |line: &String| line.starts_with("EHLO ") || line == "STARTTLS" || line == "QUIT";
        assert!(heard.iter().all(is_harmless), "{heard:?}");
    }
    let told = tested(&server, "said").await;
    assert_eq!(told["state"], "delivered", "{told}");
    assert!(!clear.mails()[0].is_tls);
}

#[tokio::test]
async fn s16_a_mail_is_given_to_no_server_that_the_servers_file_does_not_allow() {
    let mailbox = Mailbox::start(Security::Tls, "server").await.unwrap();
    let notifiers = [notifier("mail", &mailbox, "smtps", "")];
    let (server, _file) = server("", &notifiers, &[&mailbox]).await;
    let told = tested(&server, "mail").await;
    assert_eq!(
        (&told["state"], &told["code"]),
        (&json!("failed"), &json!("TM7111"))
    );
    assert!(mailbox.heard().is_empty());
}
