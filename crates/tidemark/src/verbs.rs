//! One file per verb. Each gives an answer or a failure and leaves the talking to `output`.

pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod man;
pub(crate) mod version;
