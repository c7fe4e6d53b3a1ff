//! The wire client against a real server.

mod copy;
mod login;
mod replication;
mod server;
mod session;
