//! Giving a mail to a server (RFC 5321, 3207, 4954): at an address that was looked at, over TLS that is
//! verified, within a time; and of an answer nothing but its number is told.
//!
//! The way there is ours, and just the talk over it is left to the crate that writes the mail. So there is one
//! kind of TLS for all receivers, and what was slipped in after `STARTTLS` in the clear cannot be taken for an
//! answer that came over TLS: nothing is read ahead.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail as From, Rcpt, Starttls};
use lettre::transport::smtp::extension::ClientId;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{Mail, MailSecurity};
use tidemark_core::error::ErrorKind;
use tidemark_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::http::Client;
use super::reach::unreachable;

/// How long all of it may take: servers let strangers wait, and look at what they get before they say that it is
/// taken. Who gives up too early has it sent twice.
const TAKEN_WITHIN: Duration = Duration::from_mins(5);
/// How long we stay to say good-bye.
const QUIT_WITHIN: Duration = Duration::from_secs(2);
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];
/// Bounds of an answer that comes before TLS.
const LINE_MAX: usize = 1_000;
const LINES_MAX: usize = 100;
/// Bytes of all that comes over a connection: a line without an end would be held until there is no memory.
const HEARD_MAX: usize = 1 << 18;

/// Gives it away. `Ok` says who took it, for people.
pub(super) async fn send(client: &Client, mail: &Mail, message: &Message) -> Result<String> {
    let given = tokio::time::timeout(TAKEN_WITHIN, Box::pin(give(client, mail, message))).await;
    let (text, mut server) = given.unwrap_or_else(|_| {
        let (host, seconds) = (&mail.host, TAKEN_WITHIN.as_secs());
        let text = format!("{host}: a mail was not taken within {seconds} s");
        Err(unreachable(text))
    })?;
    // It was taken, whatever comes of this.
    drop(tokio::time::timeout(QUIT_WITHIN, server.quit()).await);
    Ok(text)
}

async fn give(
    client: &Client,
    mail: &Mail,
    message: &Message,
) -> Result<(String, AsyncSmtpConnection)> {
    let host = mail.host.as_str();
    let mut server = open(client, mail).await?;
    if let Some(login) = &mail.login {
        if server
            .server_info()
            .get_auth_mechanism(&MECHANISMS)
            .is_none()
        {
            return Err(not_offered(format!(
                "{host} offers no log-in by PLAIN or LOGIN"
            )));
        }
        let credentials = Credentials::new(login.user.clone(), login.password.expose().to_owned());
        let known = server.auth(&MECHANISMS, &credentials).await;
        known.map_err(|err| refused(host, "the log-in", &err))?;
    }
    let envelope = message.envelope();
    let from = From::new(envelope.from().cloned(), Vec::new());
    let taken = server.command(from).await;
    taken.map_err(|err| refused(host, "MAIL", &err))?;
    let mut left_out = Vec::new();
    for address in envelope.to() {
        let rcpt = Rcpt::new(address.clone(), Vec::new());
        match server.command(rcpt).await {
            Ok(_) => {}
            Err(err) if err.status().is_some() => {
                left_out.push(refused(host, &format!("RCPT {address}"), &err));
            }
            Err(err) => return Err(refused(host, "RCPT", &err)),
        }
    }
    let taken = envelope.to().len() - left_out.len();
    if taken == 0 {
        // One that may be taken later is worth another attempt.
        left_out.sort_by_key(|err| err.kind() != ErrorKind::Transient);
        let first = left_out.into_iter().next();
        return Err(first.unwrap_or_else(|| answered(host, 550, "RCPT")));
    }
    let ready = server.command(Data).await;
    ready.map_err(|err| refused(host, "DATA", &err))?;
    let answer = server.message(&message.formatted()).await;
    let answer = answer.map_err(|err| refused(host, "the mail", &err))?;
    let mut text = format!("{host} answered {}", answer.code());
    for err in left_out {
        // Everybody else is told all the same.
        tracing::warn!(code = %err.code(), "a mail was taken for {taken} addresses, not for all: {err}");
        text = format!("{text}; {err}");
    }
    Ok((text, server))
}

/// Connects, and says who we are: the address that we come from, as one does who has no name (RFC 5321, 4.1.4).
async fn open(client: &Client, mail: &Mail) -> Result<AsyncSmtpConnection> {
    let host = mail.host.as_str();
    let broken = |err: io::Error| unreachable(format!("{host}: {err}"));
    let mut stream = client.reach.connect(host, mail.port).await?;
    let peer = stream.peer_addr().map_err(broken)?;
    let hello = match stream.local_addr().map_err(broken)?.ip().to_canonical() {
        IpAddr::V4(address) => ClientId::Ipv4(address),
        IpAddr::V6(address) => ClientId::Ipv6(address),
    };
    let wire: Box<dyn AsyncTokioStream> = match mail.security {
        MailSecurity::None => Box::new(Wire::new(b"", stream, peer)),
        MailSecurity::Tls => {
            let stream = client.secure(host, stream).await?;
            Box::new(Wire::new(b"", stream, peer))
        }
        MailSecurity::StartTls => {
            ask_for_tls(host, &mut stream, &hello).await?;
            let stream = client.secure(host, stream).await?;
            Box::new(Wire::new(b"220 \r\n", stream, peer))
        }
    };
    let server = AsyncSmtpConnection::connect_with_transport(wire, &hello).await;
    server.map_err(|err| refused(host, "the connection", &err))
}

/// Says what is said before TLS, and nothing else.
async fn ask_for_tls(host: &str, stream: &mut TcpStream, hello: &ClientId) -> Result<()> {
    let (code, _) = reply(host, stream).await?;
    if code != 220 {
        return Err(answered(host, code, "the connection"));
    }
    let (code, offers) = ask(host, stream, &Ehlo::new(hello.clone()).to_string()).await?;
    if code != 250 {
        return Err(answered(host, code, "EHLO"));
    }
    let has_tls = |line: &String| line.eq_ignore_ascii_case("STARTTLS");
    if !offers.iter().skip(1).any(has_tls) {
        return Err(not_offered(format!("{host} offers no TLS")));
    }
    match ask(host, stream, &Starttls.to_string()).await? {
        (220, _) => Ok(()),
        (500..=599, _) => Err(not_offered(format!("{host} offers no TLS"))),
        (code, _) => Err(answered(host, code, "STARTTLS")),
    }
}

async fn ask(host: &str, stream: &mut TcpStream, line: &str) -> Result<(u16, Vec<String>)> {
    let said = stream.write_all(line.as_bytes()).await;
    said.map_err(|err| unreachable(format!("{host}: {err}")))?;
    reply(host, stream).await
}

/// An answer: its number, and its lines. Not a byte more is read.
async fn reply(host: &str, stream: &mut TcpStream) -> Result<(u16, Vec<String>)> {
    let no_smtp = || unreachable(format!("{host}: what it answers is no SMTP"));
    let mut lines = Vec::new();
    while lines.len() < LINES_MAX {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') && line.len() < LINE_MAX {
            let byte = stream.read_u8().await;
            line.push(byte.map_err(|err| unreachable(format!("{host}: {err}")))?);
        }
        let line = String::from_utf8_lossy(&line);
        let code = line.get(..3).and_then(|code| code.parse().ok());
        let code: u16 = code.ok_or_else(no_smtp)?;
        let is_last = line.get(3..4) != Some("-");
        lines.push(line.get(4..).unwrap_or_default().trim().to_owned());
        if is_last {
            return Ok((code, lines));
        }
    }
    Err(no_smtp())
}

fn not_offered(text: String) -> Error {
    // Somebody on the way may have taken the offer out: the next attempt may find it.
    Error::transient(codes::NOTIFY_NOT_OFFERED, text)
}

fn answered(host: &str, code: u16, what: &str) -> Error {
    let text = format!("{host} answered {code} to {what}");
    if (500..=599).contains(&code) {
        Error::definite(codes::NOTIFY_REFUSED, text)
    } else {
        Error::transient(codes::NOTIFY_REFUSED, text)
    }
}

/// What went wrong, without a word of what the other side said.
fn refused(host: &str, what: &str, err: &smtp::Error) -> Error {
    use std::error::Error as _;
    if let Some(code) = err.status() {
        return answered(host, code.into(), what);
    }
    let broken = err
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    unreachable(match broken {
        Some(err) => format!("{host}: {err}"),
        None => format!("{host}: the connection ended, or what it answers is no SMTP"),
    })
}

/// A stream over which the talk goes on, up to a limit: who talks waits for a greeting, which may have been
/// given before TLS.
#[derive(Debug)]
struct Wire<S> {
    greeting: &'static [u8],
    stream: S,
    peer: SocketAddr,
    heard: usize,
}

impl<S> Wire<S> {
    fn new(greeting: &'static [u8], stream: S, peer: SocketAddr) -> Wire<S> {
        Wire {
            greeting,
            stream,
            peer,
            heard: 0,
        }
    }
}

impl<S> AsyncTokioStream for Wire<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.heard += buffer.filled().len() - before;
            if self.heard > HEARD_MAX {
                let text = format!("it answers more than {HEARD_MAX} bytes");
                return Poll::Ready(Err(io::Error::other(text)));
            }
            return read;
        }
        let (now, later) = self
            .greeting
            .split_at(self.greeting.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_core::clock;
    use tidemark_core::config::{MailAddress, Network};
    use tidemark_lab::mailbox::{Mailbox, Security};
    use tokio::net::TcpListener;

    use super::super::letter::{Kind, Letter, Sending};
    use super::super::reach::Reach;
    use super::*;

    fn client() -> Client {
        let allowed = vec![Network::parse("127.0.0.1").unwrap()];
        Client::new(Reach { allowed })
    }

    fn mail(address: SocketAddr, security: MailSecurity) -> Mail {
        Mail {
            host: address.ip().to_string(),
            port: address.port(),
            security,
            login: None,
            from: MailAddress::parse("tidemark@db.example").unwrap(),
            to: vec![
                MailAddress::parse("gone@db.example").unwrap(),
                MailAddress::parse("o'n.call+db@db.example").unwrap(),
            ],
        }
    }

    fn written(mail: &Mail, text: &str) -> Message {
        let evil = "a\r\nBcc: eve@evil.example\r\n\r\n.\r\nQUIT\r\n";
        let letter = Letter {
            kind: Kind::Alert,
            pipeline: Some(format!("shop{evil}")),
            rule: Some(format!("rule{evil}\u{2028}é")),
            when: None,
            severity: Some(format!("critical{evil}")),
            since_us: Some(0),
            text: text.to_owned(),
        };
        let sending = Sending {
            id: "17",
            tenant: "default",
            notifier: "mail",
            created_us: clock::now_us(),
            letter: &letter,
        };
        sending.mail(mail, Some("https://t.example")).unwrap()
    }

    #[tokio::test]
    async fn s18_what_stands_in_a_name_ends_no_line_of_a_mail() {
        let mailbox = Mailbox::start(Security::Clear, "server").await.unwrap();
        mailbox.answer(&[("RCPT", "550 gone")]);
        let mail = mail(mailbox.address(), MailSecurity::None);
        let text =
            "! shop has public.\"a\r\nBcc: eve@evil.example\r\n.\r\nFirst: rm\u{202e}\" ✓ = x";
        let message = written(&mail, text);
        let said = send(&client(), &mail, &message).await.unwrap();
        assert_eq!(
            said,
            "127.0.0.1 answered 250; 127.0.0.1 answered 550 to RCPT gone@db.example"
        );
        let mails = mailbox.mails();
        let [mail] = mails.as_slice() else {
            panic!("{mails:?}");
        };
        assert_eq!(mail.from, "tidemark@db.example");
        // The lab keeps what was asked for.
        assert_eq!(mail.to, ["o'n.call+db@db.example"]);
        let mut names: Vec<&str> = mail.head.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let expected = [
            "Auto-Submitted",
            "Content-Transfer-Encoding",
            "Content-Type",
            "Date",
            "From",
            "MIME-Version",
            "Message-ID",
            "Subject",
            "To",
        ];
        assert_eq!(names, expected);
        assert_eq!(mail.header("Message-ID"), Some("<17@db.example>"));
        let lines: Vec<&str> = mail.body.lines().collect();
        assert_eq!(lines.len(), 9, "{lines:?}");
        let first = "! shop has public.\"a\\r\\nBcc: eve@evil.example\\r\\n.\\r\\nFirst: rm\\u{202e}\" ✓ = x";
        assert_eq!(lines[0], first);
        assert!(lines[6].starts_with("Page: https://t.example/p/shopa\\r\\n"));
    }

    #[tokio::test]
    async fn an_answer_that_has_no_end_is_not_held() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mail = mail(listener.local_addr().unwrap(), MailSecurity::None);
        let message = written(&mail, "x");
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (part, mut taken) = (vec![b'2'; 1 << 16], 0);
            while taken < 64 << 20 && stream.write_all(&part).await.is_ok() {
                taken += part.len();
            }
            taken
        };
        let client = client();
        let (taken, sent) = tokio::join!(server, send(&client, &mail, &message));
        let err = sent.unwrap_err();
        assert_eq!(err.code(), codes::NOTIFY_UNREACHABLE, "{err}");
        assert!(err.to_string().contains("answers more than"), "{err}");
        // What the network holds comes on top.
        assert!(taken < 32 << 20, "{taken} bytes were read");
    }

    #[tokio::test]
    async fn s18_what_is_slipped_in_before_tls_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mail = mail(listener.local_addr().unwrap(), MailSecurity::StartTls);
        let message = written(&mail, "x");
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = "220 x\r\n250-x\r\n250 STARTTLS\r\n220 x\r\n";
            let more = "250-x\r\n250 AUTH PLAIN\r\n250 x\r\n250 x\r\n250 x\r\n354 x\r\n250 x\r\n";
            let all = format!("{answers}{more}");
            stream.write_all(all.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let client = client();
        let (heard, sent) = tokio::join!(server, send(&client, &mail, &message));
        let err = sent.unwrap_err();
        assert_eq!(err.code(), codes::NOTIFY_UNREACHABLE, "{err}");
        assert!(err.to_string().contains("TLS with 127.0.0.1"), "{err}");
        let heard = String::from_utf8_lossy(&heard);
        assert!(!heard.contains("MAIL FROM"), "{heard}");
    }
}
