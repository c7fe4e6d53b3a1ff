//! The one error of the project.
//!
//! An [`Error`] says what happened (a sentence), of what kind it is (which decides what the engine
//! does about it, see [`ErrorKind`]), which catalogue entry explains it ([`Code`]), and what to do
//! first. Context is added on the way up, outermost first: `read chunk 7 of public.orders:
//! connection closed`. Each system crate has one function that turns its driver's errors into this
//! type; nothing else guesses from message texts.
//!
//! Messages are lower case, present tense, and never hold cell values or secrets.

use std::fmt;

use crate::catalogue::placeholders::named;
use crate::catalogue::{Code, codes};
use crate::config::Problems;

/// What the engine does about an error. [`ErrorKind::remedy`] is the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The other side is away or busy; the same call may succeed later.
    Transient,
    /// One row or table cannot be applied; others can.
    Data,
    /// Trying again cannot help; a person must look.
    Definite,
}

/// What follows from an [`ErrorKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Connect anew and go on from the checkpoint, with backoff and jitter, for ever, visibly.
    Retry,
    /// Set the table aside, keep its changes in order, let the others go on.
    Quarantine,
    /// State `failed`, with cause, effect and first action.
    Fail,
}

impl ErrorKind {
    /// The one place that says what each kind does.
    pub fn remedy(self) -> Remedy {
        match self {
            ErrorKind::Transient => Remedy::Retry,
            ErrorKind::Data => Remedy::Quarantine,
            ErrorKind::Definite => Remedy::Fail,
        }
    }
}

/// Shorthand used throughout the project.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// See the module's text.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    code: Code,
    message: String,
    context: Vec<String>,
    first_action: Option<String>,
    table: Option<String>,
    sqlstate: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error of the given kind and catalogue code.
    pub fn new(kind: ErrorKind, code: Code, message: impl Into<String>) -> Error {
        Error {
            inner: Box::new(Inner {
                kind,
                code,
                message: message.into(),
                context: Vec::new(),
                first_action: None,
                table: None,
                sqlstate: None,
                source: None,
            }),
        }
    }

    /// Something that may succeed when tried again.
    pub fn transient(code: Code, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Transient, code, message)
    }

    /// Something about one row or table.
    pub fn data(code: Code, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Data, code, message)
    }

    /// Something that only a person can mend.
    pub fn definite(code: Code, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Definite, code, message)
    }

    /// Says what was being done, outermost last added: `err.context("read chunk 7")`.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Error {
        self.inner.context.push(doing.into());
        self
    }

    /// The first thing to do about it: a command, a statement, or a sentence.
    #[must_use]
    pub fn first_action(mut self, action: impl Into<String>) -> Error {
        self.inner.first_action = Some(action.into());
        self
    }

    /// The table it is about, as `schema.table` on the source.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Error {
        self.inner.table = Some(table.into());
        self
    }

    /// The server's SQLSTATE, where a server said it.
    #[must_use]
    pub fn sqlstate(mut self, sqlstate: impl Into<String>) -> Error {
        self.inner.sqlstate = Some(sqlstate.into());
        self
    }

    /// The underlying error.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.inner.source = Some(Box::new(source));
        self
    }

    /// The same error as another kind; for the few places that know better than the classifier.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.inner.kind = kind;
        self
    }

    /// The same error under a more telling catalogue entry.
    #[must_use]
    pub fn with_code(mut self, code: Code) -> Error {
        self.inner.code = code;
        self
    }

    /// What the engine does about it.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The catalogue entry that explains it.
    pub fn code(&self) -> Code {
        self.inner.code
    }

    /// The sentence without its context.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The first action given for this very case, else the catalogue's, for the table if one is known.
    pub fn action(&self) -> String {
        match &self.inner.first_action {
            Some(action) => action.clone(),
            None => named(
                &self.inner.code.entry().first_action,
                None,
                self.table_name(),
            ),
        }
    }

    /// The same error, for the pipeline that a command line names so.
    #[must_use]
    pub fn of_pipeline(self, word: &str) -> Error {
        let action = named(&self.action(), Some(word), None);
        self.first_action(action)
    }

    /// Whether something lacks that whoever took it away may give back: a right of the role, the database
    /// itself, which is renamed, restored or moved, or a certificate that holds. A login that is refused is
    /// none: whoever asks again and again is locked out.
    pub fn is_taken_away(&self) -> bool {
        let taken = [
            codes::SOURCE_PERMISSION,
            codes::SOURCE_NO_REPLICATION,
            codes::SOURCE_NO_DATABASE,
            codes::SOURCE_TLS_NOT_OFFERED,
            codes::SOURCE_TLS_UNTRUSTED,
            codes::SOURCE_TLS_EXPIRED,
            codes::SOURCE_TLS_WRONG_HOST,
            codes::SOURCE_TLS_FAILED,
            codes::TARGET_PERMISSION,
            codes::TARGET_NO_DATABASE,
            codes::TARGET_TLS_NOT_OFFERED,
            codes::TARGET_TLS_UNTRUSTED,
            codes::TARGET_TLS_EXPIRED,
            codes::TARGET_TLS_WRONG_HOST,
            codes::TARGET_TLS_FAILED,
        ];
        taken.contains(&self.code())
    }

    /// The table it is about, if one is known.
    pub fn table_name(&self) -> Option<&str> {
        self.inner.table.as_deref()
    }

    /// The server's SQLSTATE, if a server said it.
    pub fn sqlstate_code(&self) -> Option<&str> {
        self.inner.sqlstate.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in self.inner.context.iter().rev() {
            write!(f, "{doing}: ")?;
        }
        f.write_str(&self.inner.message)?;
        match &self.inner.source {
            // The message has a sentence for each of them.
            Some(source) if source.is::<Problems>() => Ok(()),
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}): {self}", self.inner.code, self.inner.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_ref().map(|source| {
            let source: &(dyn std::error::Error + 'static) = source.as_ref();
            source
        })
    }
}

/// Adds context to the error of a `Result`, lazily.
pub trait Context<T> {
    /// See [`Error::context`].
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| err.context(doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::codes;

    #[test]
    fn context_reads_outermost_first() {
        let err = Error::transient(codes::SOURCE_UNREACHABLE, "connection closed")
            .context("read chunk 7 of public.orders")
            .context("load");
        assert_eq!(
            err.to_string(),
            "load: read chunk 7 of public.orders: connection closed"
        );
        assert_eq!(err.kind().remedy(), Remedy::Retry);
    }
}
