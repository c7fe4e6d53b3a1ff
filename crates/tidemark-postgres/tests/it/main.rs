//! The wire client against a real server.

mod server;
mod session;
