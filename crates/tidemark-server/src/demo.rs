//! A demo around the server: whoever started it breaks, on purpose, what the server works on, when a
//! page asks for it. No other server has these routes.
//!
//! The server may itself be what is killed, so what is under way and what came of it is kept by the
//! demo: the server that comes after asks for it again.

use std::net::SocketAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidemark_core::Result;
use tokio::net::{TcpListener, TcpSocket};

/// So many may wait to be let in, as with any other listener.
const BACKLOG: u32 = 1024;

/// Listens at an address that whoever started the demo holds, by a socket that shares it.
pub fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// See the module's text.
#[async_trait]
pub trait Demo: Send + Sync + 'static {
    /// What can be broken, what is being broken now, and what came of it last.
    async fn told(&self) -> Result<Told>;

    /// Breaks something; returns when it has begun.
    async fn break_it(&self, what: &str) -> Result<()>;
}

/// How the demo stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Nothing until the first comparison is over.
    pub breaks: Vec<Choice>,
    /// What is being broken or mended now.
    pub running: Option<String>,
    /// What was said of it, or of the last one, line by line.
    pub said: Vec<String>,
    /// The last one that is over.
    pub last: Option<Came>,
}

/// Something that can be broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// As `tidemark demo break` calls it.
    pub what: String,
    /// What it does.
    pub text: String,
}

/// What came of breaking something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// As `tidemark demo break` calls it.
    pub what: String,
    /// When it was over.
    pub at: String,
    /// Why nothing is proven, where that is so.
    pub problem: Option<String>,
    /// Both sides compared.
    pub proof: Option<Proof>,
}

/// Both sides compared at one position of the log, after all is mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Whether every row is on both sides, once, with the same values.
    pub is_identical: bool,
    /// The position at which both were read.
    pub lsn: String,
    /// Rows that were written on the source since it was broken.
    pub changes: u64,
    /// Transactions that wrote them.
    pub transactions: u64,
    /// Rows there now.
    pub source_rows: u64,
    /// Rows in the target.
    pub target_rows: u64,
    /// Rows that are missing in the target.
    pub lost: u64,
    /// Rows in the target that the source does not have, or not as often.
    pub doubled: u64,
    /// Rows with other values.
    pub different: u64,
}
