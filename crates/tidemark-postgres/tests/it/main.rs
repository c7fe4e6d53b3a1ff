//! The wire client against a real server.

mod copy;
mod server;
mod session;
