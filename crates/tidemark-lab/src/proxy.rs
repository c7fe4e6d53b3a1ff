//! A wire between us and a server that can be cut, frozen, slowed and counted.
//!
//! It forwards TCP bytes and knows no protocol. What is asked of it holds for the connections that
//! are open and for those to come, until it is asked otherwise.
//!
//! A partition stops reading on both sides: data waits in the buffers of the kernel as it would in
//! a network that drops packets, the end of a connection is not told, and after healing everything
//! goes on as far as both ends still want to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What the proxy has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were accepted and forwarded.
    pub connections: u64,
    /// Connections that were closed at once, since the proxy refused or the server did not answer.
    pub refused: u64,
    /// Bytes forwarded to the server.
    pub to_server_bytes: u64,
    /// Bytes forwarded to the client.
    pub to_client_bytes: u64,
}

/// What the wire does to the bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    refuses: bool,
    partitioned: bool,
    delay: Duration,
    bytes_per_second: Option<u64>,
    slice_bytes: Option<usize>,
    /// Connections of an earlier number are closed.
    epoch: u64,
    /// Whether closing sends a reset instead of an orderly end.
    resets: bool,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<SocketAddr>,
    wire: watch::Sender<Wire>,
    /// Bytes until the cut, one for each direction; `u64::MAX` is never.
    allowed_bytes: [AtomicU64; 2],
    forwarded_bytes: [AtomicU64; 2],
    connections: AtomicU64,
    refused: AtomicU64,
}

/// A listening proxy; dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

const READ_BYTES: usize = 64 * 1024;

impl Proxy {
    /// Listens on a free loopback port and forwards to `127.0.0.1:server_port`.
    pub async fn start(server_port: u16) -> Result<Proxy> {
        Proxy::start_to(SocketAddr::from(([127, 0, 0, 1], server_port))).await
    }

    /// Listens on a free loopback port and forwards to `server`.
    pub async fn start_to(server: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr()?;
        let never = || AtomicU64::new(u64::MAX);
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            wire: watch::Sender::new(Wire::default()),
            allowed_bytes: [never(), never()],
            forwarded_bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            connections: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let listener = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Proxy {
            address,
            shared,
            listener,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to another server from now on.
    pub fn point_to(&self, server: SocketAddr) {
        *lock(&self.shared.server) = server;
    }

    /// Closes all connections in an orderly way; new ones are welcome.
    pub fn cut(&self) {
        self.close(false);
    }

    /// Closes all connections by a reset; new ones are welcome.
    pub fn reset(&self) {
        self.close(true);
    }

    /// Closes all connections by a reset once this many more bytes have gone that way.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared
            .allowed(direction)
            .store(bytes, Ordering::SeqCst);
    }

    /// Closes all connections and every new one, until [`accept`](Self::accept).
    pub fn refuse(&self) {
        self.shared.wire.send_modify(|wire| wire.refuses = true);
        self.cut();
    }

    /// Ends [`refuse`](Self::refuse).
    pub fn accept(&self) {
        self.shared.wire.send_modify(|wire| wire.refuses = false);
    }

    /// Nothing comes through and nobody is told, until [`heal`](Self::heal).
    pub fn partition(&self) {
        self.shared.wire.send_modify(|wire| wire.partitioned = true);
    }

    /// Ends [`partition`](Self::partition).
    pub fn heal(&self) {
        self.shared
            .wire
            .send_modify(|wire| wire.partitioned = false);
    }

    /// Holds every piece back for this long.
    pub fn delay(&self, delay: Duration) {
        self.shared.wire.send_modify(|wire| wire.delay = delay);
    }

    /// Limits each direction of each connection; `None` lifts the limit.
    pub fn limit_rate(&self, bytes_per_second: Option<u64>) {
        self.shared
            .wire
            .send_modify(|wire| wire.bytes_per_second = bytes_per_second);
    }

    /// Forwards in pieces of at most this size; `None` forwards what it gets.
    pub fn slice(&self, bytes: Option<usize>) {
        self.shared
            .wire
            .send_modify(|wire| wire.slice_bytes = bytes);
    }

    /// What has gone through so far.
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        let forwarded = |d| shared.forwarded(d).load(Ordering::SeqCst);
        Counters {
            connections: shared.connections.load(Ordering::SeqCst),
            refused: shared.refused.load(Ordering::SeqCst),
            to_server_bytes: forwarded(Direction::ToServer),
            to_client_bytes: forwarded(Direction::ToClient),
        }
    }

    fn close(&self, by_reset: bool) {
        self.shared.close(by_reset);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

impl Shared {
    fn close(&self, by_reset: bool) {
        self.wire.send_modify(|wire| {
            wire.epoch += 1;
            wire.resets = by_reset;
        });
    }

    fn allowed(&self, direction: Direction) -> &AtomicU64 {
        let [to_server, to_client] = &self.allowed_bytes;
        if direction == Direction::ToServer {
            to_server
        } else {
            to_client
        }
    }

    fn forwarded(&self, direction: Direction) -> &AtomicU64 {
        let [to_server, to_client] = &self.forwarded_bytes;
        if direction == Direction::ToServer {
            to_server
        } else {
            to_client
        }
    }

    /// Takes up to `wanted` bytes from what is allowed; less than wanted means: cut now.
    fn take_allowance(&self, direction: Direction, wanted: usize) -> usize {
        let allowed = self.allowed(direction);
        let wanted = wanted as u64;
        let take = |left: u64| (left != u64::MAX).then(|| left.saturating_sub(wanted));
        let granted = match allowed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(left) => wanted.min(left),
            Err(_) => wanted,
        };
        usize::try_from(granted).unwrap_or(usize::MAX)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // An error here is about one connection that went away before it was accepted.
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let wire = *shared.wire.borrow();
        let server = *lock(&shared.server);
        let epoch = wire.epoch;
        let shared = Arc::clone(&shared);
        if wire.refuses {
            shared.refused.fetch_add(1, Ordering::SeqCst);
            drop(client);
            continue;
        }
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else {
                shared.refused.fetch_add(1, Ordering::SeqCst);
                return;
            };
            shared.connections.fetch_add(1, Ordering::SeqCst);
            forward(client, server, &shared, epoch).await;
        });
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, shared: &Shared, epoch: u64) {
    // Without it the kernel would join what `slice` has cut.
    for stream in [&client, &server] {
        drop(stream.set_nodelay(true));
    }
    let mut wire = shared.wire.subscribe();
    let closed = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let there = pump(client_read, server_write, shared, Direction::ToServer);
        let back = pump(server_read, client_write, shared, Direction::ToClient);
        tokio::select! {
            biased;
            wire = wire.wait_for(|wire| wire.epoch != epoch) => wire.map(|wire| wire.resets).ok(),
            () = async { tokio::join!(there, back); } => None,
        }
    };
    if closed == Some(true) {
        // Closing a socket with a linger time of zero sends a reset (socket(7), SO_LINGER).
        for stream in [&client, &server] {
            if let Err(error) = set_socket_linger(stream, Some(Duration::ZERO)) {
                tracing::debug!(%error, "reset a connection");
            }
        }
    }
}

/// Forwards one direction to its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    direction: Direction,
) {
    let mut wire = shared.wire.subscribe();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let Ok(now) = wire
            .wait_for(|wire| !wire.partitioned)
            .await
            .map(|wire| *wire)
        else {
            return;
        };
        let room = now.slice_bytes.unwrap_or(READ_BYTES).clamp(1, READ_BYTES);
        let read = tokio::select! {
            read = from.read(buffer.get_mut(..room).unwrap_or_default()) => read.unwrap_or(0),
            _ = wire.wait_for(|wire| wire.partitioned) => continue,
        };
        if read == 0 {
            drop(to.shutdown().await);
            return;
        }
        let granted = shared.take_allowance(direction, read);
        // Looked at again: it may have been changed while we waited for bytes.
        let now = *wire.borrow();
        now.hold_back(read).await;
        // What was read before a partition began does not slip through it.
        if wire.wait_for(|wire| !wire.partitioned).await.is_err()
            || to
                .write_all(buffer.get(..granted).unwrap_or_default())
                .await
                .is_err()
        {
            return;
        }
        shared
            .forwarded(direction)
            .fetch_add(granted as u64, Ordering::SeqCst);
        if granted < read {
            shared.allowed(direction).store(u64::MAX, Ordering::SeqCst);
            shared.close(true);
        }
    }
}

impl Wire {
    async fn hold_back(&self, bytes: usize) {
        let paced = self.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
        });
        let hold = self.delay + paced;
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
