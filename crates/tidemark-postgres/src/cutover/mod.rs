//! What a cutover asks of a source that is about to be left: that nobody writes to it any more
//! ([`silence`]), that nobody can ([`fence`]), and what stays behind there ([`objects`]).
//!
//! None of it is on the line a row travels. A fence is the one thing here that changes the source; it
//! is undone by [`fence::lower`].

pub mod fence;
pub mod objects;
pub mod silence;
