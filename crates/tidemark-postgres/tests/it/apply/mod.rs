//! Applying changes: whichever way they are applied, the target ends as the source is.

mod histories;
mod rig;
mod surprises;
