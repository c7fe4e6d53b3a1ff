//! Our own client for PostgreSQL's wire protocol 3.0 (PostgreSQL 15, chapter 55).
//!
//! Written for what a copy needs and general drivers hide: COPY streams passed on as the bytes they
//! arrive in, many statements in flight on one connection, and replication. Bytes go through
//! [`Connection`], which owns socket and buffers; the files beside it add one way of using them
//! each: `requests` (statements with an answer), `pipeline` (many in flight), `copy`,
//! `replication`, `cancel`.
//!
//! Invariants: outside input is never trusted (lengths are capped, buffers grow only as bytes
//! arrive, anything unexpected is an error); whatever is written, answers are read meanwhile, so
//! that full sockets never block both ends; a connection that was left in the middle of an answer
//! refuses further requests.

mod cancel;
mod connection;
mod copy;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod knock;
mod pipeline;
mod quote;
mod replication;
mod requests;
mod rows;
mod server_error;
mod socket;
mod wal;

pub use cancel::CancelToken;
pub use connection::{Connection, Notification, Role, TransactionStatus};
pub use copy::{CopyBlock, CopyIn, CopyOut};
pub use pipeline::{Format, Reply};
pub use quote::{quote_ident, quote_literal, quote_qualified};
pub use replication::{ReplicationOptions, ReplicationReader, ReplicationStopper, ShutdownNotice};
pub use rows::{Column, DataRow, ResultSet, Row};
pub use server_error::ServerError;
pub use wal::{WalBlock, WalMessage};

#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(crate) use frame::FRAME_MAX;
pub(crate) use frame::{Header, STARTUP_FRAME_MAX};
pub(crate) use socket::{Socket, Stream};
