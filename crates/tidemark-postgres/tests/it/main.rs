//! Against a real server.

#![expect(
    clippy::unwrap_used,
    reason = "the functions that tests share fail like tests"
)]

mod apply;
mod check;
mod checkpoint;
mod chunks;
mod control;
mod copy;
mod describe;
mod finish;
mod lab;
mod load;
mod login;
mod loosen;
mod majors;
mod prepare;
mod replication;
mod server;
mod session;
mod snapshot;
mod source;
mod swap;
mod target;
mod target_check;
mod target_lacks;
mod view;
