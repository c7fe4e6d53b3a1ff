//! A pooler between clients and a server, as PgBouncer is one: it answers the login itself and lends
//! a session of the server for as long as its kind says.
//!
//! It knows as much of the protocol (PostgreSQL 15, chapter 55) as that needs, asks for no password,
//! and refuses replication, as PgBouncer does before 1.24. Whoever it sends away, whatever for, is told a
//! protocol violation, as by PgBouncer 1.18.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

/// For how long a client has a session of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lends {
    /// As long as it stays connected.
    WholeSession,
    /// Until its transaction ends; then whoever comes next has it.
    OneTransaction,
}

/// A listening pooler; dropping it closes everything.
#[derive(Debug)]
pub struct Pooler {
    address: SocketAddr,
    listener: JoinHandle<()>,
}

/// The codes that stand in place of a protocol version.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

impl Pooler {
    /// Listens on a free loopback port and lends sessions of `127.0.0.1:server_port`.
    pub async fn start(server_port: u16, lends: Lends) -> Result<Pooler> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr()?;
        let server = SocketAddr::from(([127, 0, 0, 1], server_port));
        let listener = tokio::spawn(async move {
            let shared: Arc<Mutex<Option<Server>>> = Arc::default();
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                clients.spawn(async move {
                    let mut client = Frames::new(client);
                    if let Err(error) = serve(&mut client, server, lends, &shared).await {
                        tracing::debug!(%error, "a client of the pooler ended");
                        let told = refuse(&mut client, "server conn crashed?").await;
                        drop(told);
                    }
                });
            }
        });
        Ok(Pooler { address, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// A session of the server that is lent, with what the server said of itself at its start.
#[derive(Debug)]
struct Server {
    frames: Frames,
    parameters: Vec<u8>,
}

impl Server {
    async fn start(address: SocketAddr, startup: &[u8]) -> Result<Server> {
        let mut frames = Frames::new(TcpStream::connect(address).await?);
        frames.write(startup).await?;
        let mut parameters = Vec::new();
        loop {
            let frame = frames.next().await?.context("the server closed")?;
            match frame.first() {
                Some(b'S') => parameters.extend_from_slice(&frame),
                Some(b'Z') => return Ok(Server { frames, parameters }),
                Some(b'R' | b'K') => {}
                _ => bail!("the server refuses: {}", String::from_utf8_lossy(&frame)),
            }
        }
    }
}

async fn serve(
    client: &mut Frames,
    server: SocketAddr,
    lends: Lends,
    shared: &Mutex<Option<Server>>,
) -> Result<()> {
    let startup = startup(client).await?;
    if startup.windows(13).any(|part| part == b"\0replication\0") {
        return refuse(client, "unsupported startup parameter: replication").await;
    }
    let own = Mutex::new(None);
    let lent = match lends {
        Lends::WholeSession => &own,
        Lends::OneTransaction => shared,
    };
    welcome(client, &mut *borrow(lent, server, &startup).await?).await?;
    while let Some(first) = client.next().await? {
        if first.first() == Some(&b'X') {
            return Ok(());
        }
        let mut borrowed = borrow(lent, server, &startup).await?;
        // What is left half done must not go to the next one: the session is put back when it is whole.
        let mut session = borrowed.take().context("borrowed above")?;
        transaction(client, &mut session.frames, &first).await?;
        *borrowed = Some(session);
    }
    Ok(())
}

async fn borrow<'a>(
    lent: &'a Mutex<Option<Server>>,
    server: SocketAddr,
    startup: &[u8],
) -> Result<MutexGuard<'a, Option<Server>>> {
    let mut lent = lent.lock().await;
    if lent.is_none() {
        *lent = Some(Server::start(server, startup).await?);
    }
    Ok(lent)
}

/// The client's start-up message; it is told that there is no encryption.
async fn startup(client: &mut Frames) -> Result<Vec<u8>> {
    loop {
        let message = client.untagged().await?;
        let code = message.get(4..8).and_then(|code| code.try_into().ok());
        match code.map(u32::from_be_bytes) {
            Some(SSL_REQUEST | GSS_REQUEST) => client.write(b"N").await?,
            Some(CANCEL_REQUEST) | None => bail!("no start-up message"),
            Some(_) => return Ok(message),
        }
    }
}

/// Says that the login is fine, with a process number that is no server's.
async fn welcome(client: &mut Frames, server: &mut Option<Server>) -> Result<()> {
    static NUMBER: AtomicU32 = AtomicU32::new(1 << 30);
    let mut answer = vec![b'R', 0, 0, 0, 8, 0, 0, 0, 0];
    if let Some(server) = server {
        answer.extend_from_slice(&server.parameters);
    }
    answer.extend_from_slice(&[b'K', 0, 0, 0, 12]);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    answer.extend_from_slice(&number.to_be_bytes());
    answer.extend_from_slice(&[7; 4]);
    answer.extend_from_slice(&[b'Z', 0, 0, 0, 5, b'I']);
    client.write(&answer).await
}

async fn refuse(client: &mut Frames, message: &str) -> Result<()> {
    let fields = format!("SFATAL\0VFATAL\0C08P01\0M{message}\0\0");
    let mut answer = vec![b'E'];
    answer.extend_from_slice(&u32::try_from(fields.len() + 4)?.to_be_bytes());
    answer.extend_from_slice(fields.as_bytes());
    client.write(&answer).await
}

/// Passes messages both ways until the server is ready and in no transaction.
async fn transaction(client: &mut Frames, server: &mut Frames, first: &[u8]) -> Result<()> {
    let asks = |frame: &[u8]| matches!(frame.first(), Some(b'Q' | b'S'));
    let mut unanswered = usize::from(asks(first));
    server.write(first).await?;
    loop {
        tokio::select! {
            frame = client.next() => {
                let frame = frame?.context("the client left within a transaction")?;
                unanswered += usize::from(asks(&frame));
                server.write(&frame).await?;
            }
            frame = server.next() => {
                let frame = frame?.context("the server closed")?;
                client.write(&frame).await?;
                if frame.first() == Some(&b'Z') {
                    unanswered -= 1;
                    if unanswered == 0 && frame.last() == Some(&b'I') {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A connection, read message by message.
#[derive(Debug)]
struct Frames {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Frames {
    fn new(socket: TcpStream) -> Frames {
        Frames {
            socket,
            buffer: Vec::new(),
        }
    }

    /// The next message, `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        self.message(1).await
    }

    /// A message of the start-up, which has no tag.
    async fn untagged(&mut self) -> Result<Vec<u8>> {
        self.message(0).await?.context("closed at start-up")
    }

    async fn message(&mut self, tag: usize) -> Result<Option<Vec<u8>>> {
        loop {
            let len = self.buffer.get(tag..tag + 4);
            if let Some(len) = len.and_then(|len| len.try_into().ok()) {
                let end = tag + usize::try_from(u32::from_be_bytes(len))?;
                if self.buffer.len() >= end {
                    let rest = self.buffer.split_off(end);
                    return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
                }
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                ensure!(self.buffer.is_empty(), "closed within a message");
                return Ok(None);
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(bytes).await?)
    }
}
