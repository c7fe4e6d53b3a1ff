//! A server of mail: takes what it is given over SMTP (RFC 5321) with or without TLS, keeps it, and answers as
//! a test has it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::directory::LabDirectory;
use crate::server::Certificates;

/// How a mailbox is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Without TLS.
    Clear,
    /// TLS once it is asked for; what went before is in [`Mailbox::heard`] all the same.
    StartTls,
    /// TLS from the start.
    Tls,
}

/// A mail that came to its end.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// As the envelope says.
    pub from: String,
    /// As the envelope says.
    pub to: Vec<String>,
    /// Lines of the head, unfolded.
    pub head: Vec<(String, String)>,
    /// Decoded.
    pub body: String,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// Name and password of who gave it.
    pub login: Option<(String, String)>,
    /// What it was answered; with 250 it was taken.
    pub answer: String,
}

impl Mail {
    /// What stands in the head under a name, as it is written there.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Inner {
    mails: Vec<Mail>,
    heard: Vec<String>,
    answers: VecDeque<(String, String)>,
    /// Words after `AUTH`, and who may log in; nobody has to where there is none.
    login: Option<(String, String, String)>,
}

/// See the module's text.
pub struct Mailbox {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    certificates: Certificates,
    task: JoinHandle<()>,
    _directory: LabDirectory,
}

impl Mailbox {
    /// Listens on this machine, with a certificate by its name (see [`Certificates`]).
    pub async fn start(security: Security, certificate: &str) -> Result<Mailbox> {
        let directory = LabDirectory::create()?;
        let certificates = Certificates::make(directory.path())?;
        let acceptor = acceptor(&certificates, certificate)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let kept = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, acceptor) = (Arc::clone(&kept), acceptor.clone());
                tokio::spawn(async move { drop(answer(stream, security, acceptor, &kept).await) });
            }
        });
        Ok(Mailbox {
            address,
            inner,
            certificates,
            task,
            _directory: directory,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of who signed its own.
    pub fn authority(&self) -> PathBuf {
        self.certificates.authority()
    }

    /// Has it answer so when such a command comes next (`.` is the end of a mail), each once, in order.
    pub fn answer(&self, answers: &[(&str, &str)]) {
        let owned = |(word, says): &(&str, &str)| ((*word).to_owned(), (*says).to_owned());
        self.lock().answers = answers.iter().map(owned).collect();
    }

    /// Takes mail only from somebody who logged in, by one of these mechanisms.
    pub fn require(&self, mechanisms: &str, user: &str, password: &str) {
        let login = (mechanisms.to_owned(), user.to_owned(), password.to_owned());
        self.lock().login = Some(login);
    }

    /// All that came to their end so far.
    pub fn mails(&self) -> Vec<Mail> {
        self.lock().mails.clone()
    }

    /// All lines that came so far but those of mails.
    pub fn heard(&self) -> Vec<String> {
        self.lock().heard.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(certificates: &Certificates, name: &str) -> Result<TlsAcceptor> {
    let file = |end: &str| certificates.file(&format!("{name}.{end}"));
    let certificate = CertificateDer::from_pem_file(file("crt"))?;
    let key = PrivateKeyDer::from_pem_file(file("key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn answer(
    stream: TcpStream,
    security: Security,
    acceptor: TlsAcceptor,
    inner: &Mutex<Inner>,
) -> Result<()> {
    if security == Security::Tls {
        let stream = acceptor.accept(stream).await?;
        let mut talk = Talk::new(stream, inner, true);
        talk.say("220 lab").await?;
        talk.go_on(false).await?;
        return Ok(());
    }
    let mut talk = Talk::new(stream, inner, false);
    talk.say("220 lab").await?;
    if talk.go_on(security == Security::StartTls).await? {
        let stream = acceptor.accept(talk.stream.into_inner()).await?;
        Talk::new(stream, inner, true).go_on(false).await?;
    }
    Ok(())
}

/// One talk over a wire.
struct Talk<'a, S> {
    stream: BufReader<S>,
    inner: &'a Mutex<Inner>,
    mail: Mail,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Talk<'a, S> {
    fn new(stream: S, inner: &'a Mutex<Inner>, is_tls: bool) -> Talk<'a, S> {
        Talk {
            stream: BufReader::new(stream),
            inner,
            mail: Mail {
                is_tls,
                ..Mail::default()
            },
        }
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.write_all(b"\r\n").await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await?;
        anyhow::ensure!(read > 0 && line.ends_with("\r\n"), "no line: {line:?}");
        line.truncate(line.len() - 2);
        Ok(line)
    }

    /// To the end, or until TLS is to begin: `true`.
    async fn go_on(&mut self, has_tls: bool) -> Result<bool> {
        loop {
            let line = self.line().await?;
            lock(self.inner).heard.push(line.clone());
            let word = line.split(' ').next().unwrap_or_default().to_uppercase();
            if let Some(says) = self.told(&word) {
                self.say(&says).await?;
                continue;
            }
            let login = lock(self.inner).login.clone();
            match word.as_str() {
                "EHLO" => {
                    let tls = if has_tls { "250-STARTTLS\r\n" } else { "" };
                    let login = login.map(|(words, ..)| format!("250-AUTH {words}\r\n"));
                    let login = login.unwrap_or_default();
                    self.say(&format!("250-lab\r\n{tls}{login}250 8BITMIME"))
                        .await?;
                }
                "STARTTLS" if has_tls => {
                    self.say("220 go ahead").await?;
                    return Ok(true);
                }
                "AUTH" => self.log_in(&line, login).await?,
                "MAIL" if login.is_some() && self.mail.login.is_none() => {
                    self.say("530 log in first").await?;
                }
                "MAIL" => {
                    self.mail.from = in_brackets(&line)?;
                    self.say("250 ok").await?;
                }
                "RCPT" => {
                    self.mail.to.push(in_brackets(&line)?);
                    self.say("250 ok").await?;
                }
                "DATA" => self.take().await?,
                "QUIT" => {
                    self.say("221 bye").await?;
                    return Ok(false);
                }
                _ => self.say("500 what?").await?,
            }
        }
    }

    /// What a test has it answer to a command.
    fn told(&self, word: &str) -> Option<String> {
        let mut inner = lock(self.inner);
        let (_, says) = inner.answers.pop_front_if(|(next, _)| next == word)?;
        Some(says)
    }

    async fn log_in(&mut self, line: &str, login: Option<(String, String, String)>) -> Result<()> {
        let decode =
            |text: &str| Ok::<_, anyhow::Error>(String::from_utf8(STANDARD.decode(text)?)?);
        let (user, password) = if let Some(said) = line.strip_prefix("AUTH PLAIN ") {
            let said = decode(said)?;
            let mut parts = said.split('\0').skip(1).map(str::to_owned);
            (
                parts.next().context("user")?,
                parts.next().context("password")?,
            )
        } else {
            self.say("334 VXNlcm5hbWU6").await?;
            let user = decode(&self.line().await?)?;
            self.say("334 UGFzc3dvcmQ6").await?;
            (user, decode(&self.line().await?)?)
        };
        match login {
            Some((_, name, right)) if name == user && right == password => {
                self.mail.login = Some((user, password));
                self.say("235 welcome").await
            }
            _ => self.say("535 who?").await,
        }
    }

    /// Takes a mail up to its end.
    async fn take(&mut self) -> Result<()> {
        self.say("354 go ahead").await?;
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix('.') {
                Some("") => break,
                Some(rest) => lines.push(rest.to_owned()),
                None => lines.push(line),
            }
        }
        let says = self.told(".");
        let says = says.unwrap_or_else(|| "250 taken".to_owned());
        let end = lines.iter().position(String::is_empty);
        let (head, body) = lines.split_at(end.context("a mail without an end of its head")?);
        let mut mail = std::mem::take(&mut self.mail);
        for line in head {
            if let (Some(more), Some((_, last))) = (line.strip_prefix(' '), mail.head.last_mut()) {
                last.push(' ');
                last.push_str(more);
            } else {
                let (name, value) = line.split_once(": ").context("a line of the head")?;
                mail.head.push((name.to_owned(), value.to_owned()));
            }
        }
        mail.body = match mail.header("Content-Transfer-Encoding") {
            Some("quoted-printable") => unquoted(&body[1..].join("\n"))?,
            _ => body[1..].join("\n"),
        };
        self.mail.is_tls = mail.is_tls;
        self.mail.login.clone_from(&mail.login);
        mail.answer.clone_from(&says);
        lock(self.inner).mails.push(mail);
        self.say(&says).await
    }
}

fn in_brackets(line: &str) -> Result<String> {
    let (_, rest) = line.split_once('<').context("no address")?;
    let (address, _) = rest.split_once('>').context("no end of an address")?;
    Ok(address.to_owned())
}

/// Quoted-printable (RFC 2045, 6.7).
fn unquoted(text: &str) -> Result<String> {
    let text = text.replace("=\n", "");
    let mut parts = text.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part
            .split_at_checked(2)
            .context("a sign without its code")?;
        bytes.push(u8::from_str_radix(code, 16)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(String::from_utf8(bytes)?)
}
