//! PostgreSQL as a source.

mod assemble;
mod decode;
mod frames;
mod replay;
mod spool;
mod xids;
