//! One file per verb. Each gives an answer or a failure and leaves the talking to `output`.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod cutover;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod init;
pub(crate) mod lag;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod quarantine;
pub(crate) mod reconcile;
pub(crate) mod resync;
pub(crate) mod run;
pub(crate) mod sequences;
pub(crate) mod serve;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod tables;
pub(crate) mod verify;
pub(crate) mod version;
