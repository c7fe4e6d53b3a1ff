//! Row filters: a small SQL expression language of our own.

/// A parsed `where` of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The text as the pipeline file has it.
    pub text: String,
}
