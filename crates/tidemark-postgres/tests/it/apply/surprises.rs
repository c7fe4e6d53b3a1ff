//! Rows that are not as the log implies, and errors that stay.
