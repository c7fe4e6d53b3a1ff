//! The lab: starts real servers, makes traffic, breaks things, compares both sides.
//!
//! Used by the tests of every crate and by `tidemark demo`. It is the oracle, so it shares no code
//! with what it judges: it speaks to servers through `tokio-postgres` and knows none of our wire
//! client, decoders or appliers.
//!
//! - [`compare`]: the oracle, row by row
//! - [`demo`]: the sample shop of `tidemark demo` and its customers
//! - [`given`]: a database of our own on a server that somebody else runs
//! - [`http`]: requests to an API, byte for byte
//! - [`receiver`]: what stands at the other end of a webhook
//! - [`server`]: a PostgreSQL server of its own in a temporary directory, gone with its owner
//! - [`mailbox`]: a server of mail, with and without TLS
//! - [`pooler`]: what shares sessions between clients, as PgBouncer does
//! - [`proxy`]: a wire between us and a server that can be cut, frozen, slowed
//! - [`skip`]: what a test says when the machine lacks what it needs
//! - [`traffic`]: seeded workloads that change a source while it is copied
//! - [`wait`]: conditions with a deadline, instead of sleeping
//! - [`workplace`]: a directory to work in as somebody who is not root
//! - [`zoo`]: every type with its extremes, and names that must be quoted

pub mod compare;
pub mod demo;
mod directory;
pub mod given;
pub mod http;
pub mod installation;
pub mod mailbox;
pub mod pooler;
mod process;
pub mod proxy;
mod random;
pub mod receiver;
pub mod server;
pub mod skip;
pub mod traffic;
pub mod wait;
pub mod workplace;
pub mod zoo;

pub use compare::Comparison;
pub use given::GivenDatabase;
pub use installation::Installation;
pub use proxy::Proxy;
pub use random::Random;
pub use receiver::Receiver;
pub use server::{PostgresServer, Shutdown};
pub use wait::wait_for;
pub use workplace::Workplace;

/// The driver that the lab speaks to servers with.
pub use tokio_postgres;
