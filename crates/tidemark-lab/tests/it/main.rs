//! The lab against real servers: what it promises to the tests that stand on it.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing it did not expect"
)]

mod compare;
mod demo;
mod proxy;
mod server;
mod traffic;
mod zoo;
