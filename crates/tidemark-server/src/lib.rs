//! The server: many pipelines in one process, kept in a store, commanded and watched through an API.
//!
//! ```text
//!   pipelines.d ─► files ─┐                     ┌─► engine (one for each pipeline, in tasks of its own)
//!                         ├─► supervisor ───────┤
//!   API ─► actions ───────┘      │              └─► events ─► scribe ─► store, news
//!                                └─► store: definitions, what is wanted, history
//! ```
//!
//! The engine stays as it is: the server commands and watches it, holds no position, and losing its
//! store loses no data. It knows no kind of database: [`systems::Systems`] is what the binary brings.

mod alerts;
pub mod api;
mod connections;
pub mod demo;
mod endpoints;
mod files;
pub mod logs;
mod measures;
mod metrics;
mod news;
mod notify;
mod report;
mod schedules;
mod server;
mod standby;
mod store;
mod supervisor;
pub mod systems;

pub use server::{Scraping, Server, Settings};
pub use store::Seal;
