//! The program as a user runs it, against real servers.
//!
//! Each test makes its own databases on servers that the whole run shares (or servers of its own,
//! where it breaks them), runs the built binary, and asks the lab's oracle whether both sides are
//! equal, row by row.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing it did not expect"
)]

#[allow(dead_code, reason = "what tests of a running pipeline ask with")]
mod asks;
mod bad_input;
mod carried;
mod catalog;
mod cutover;
mod encodings;
mod existing;
mod failover;
mod faults;
mod fence;
mod hand_over;
mod identity;
mod kills;
mod lag;
mod large;
mod locks;
mod majors;
mod mapping;
mod modes;
#[allow(dead_code, reason = "how a pipeline has to stand after a fault")]
mod oracle;
mod pages;
mod partitions;
mod poisoned;
mod protection;
mod quarantine;
mod random;
mod readme;
mod reconcile;
mod relay;
mod resync;
mod rows;
mod schema;
mod secrets;
mod security;
mod serve;
mod slot_verbs;
mod slots;
mod small_disk;
#[allow(dead_code, reason = "what tests of a running pipeline stand on")]
mod stage;
mod told;
mod truncate;
mod types;
mod until;
mod upgrade;
mod verify;
mod writers;
mod writing;
