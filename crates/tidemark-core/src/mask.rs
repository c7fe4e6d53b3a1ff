//! Masks: what is done to a column's values on their way.

/// What is done to a value. NULL stays NULL for all but [`Mask::Fixed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// NULL instead.
    Null,
}
