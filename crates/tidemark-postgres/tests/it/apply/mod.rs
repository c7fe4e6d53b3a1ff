//! Applying changes: whichever way they are applied, the target ends as the source is.

mod barriers;
mod durability;
mod equality;
mod histories;
mod large;
mod parked;
pub(crate) mod rig;
mod surprises;
mod transactions;
mod types;
