//! The wire client against a real server.

mod copy;
mod replication;
mod server;
mod session;
