//! What goes wrong, as problem documents (RFC 9457) made from the catalogue.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidemark_core::catalogue::placeholders::named;
use tidemark_core::catalogue::{Code, Severity, codes};
use tidemark_core::config::Problems;
use tidemark_core::{Error, ErrorKind};
use utoipa::ToSchema;

tokio::task_local! {
    /// The request that is being answered.
    pub(crate) static ASKED: Asked;
}

/// What names a request in an answer to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// By which it is known in logs, in the audit and in answers.
    pub(crate) id: String,
    /// What it is about.
    pub(crate) path: String,
    /// What else is said in its address, as it came.
    pub(crate) query: String,
}

/// The request that is being answered.
pub(crate) fn asked() -> Asked {
    ASKED.try_with(Clone::clone).unwrap_or_default()
}

/// Its number.
pub(crate) fn request_id() -> String {
    asked().id
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `/problems/TM1010`, which this server answers.
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// The path that was asked for.
    instance: String,
    code: String,
    /// `notice`, `warning` or `error`.
    severity: &'static str,
    /// What it means for the data.
    effect: String,
    /// What to do first.
    fix: Vec<Fix>,
    /// Whether the same request may succeed later.
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// All faults of a definition, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    request_id: String,
}

/// One way out.
#[derive(Debug, Serialize, ToSchema)]
struct Fix {
    /// `sql`, `command` or `text`.
    kind: &'static str,
    /// `source`, `target` or `host`.
    on: &'static str,
    text: String,
}

/// One of several faults.
#[derive(Debug, Serialize, ToSchema)]
struct Fault {
    /// Line and column in the definition.
    pointer: Option<String>,
    code: String,
    detail: String,
}

/// An error on its way to whoever asked.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Error,
    retry_after_seconds: Option<u64>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            error,
            retry_after_seconds: None,
        }
    }
}

impl Failure {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Failure {
        Error::definite(code, text).into()
    }

    /// There is no such thing, or it is somebody else's: the two look the same.
    pub(crate) fn not_found(what: &str) -> Failure {
        Failure::new(
            codes::API_NOT_FOUND,
            format!("there is no {what} of this name"),
        )
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Failure {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

/// The status that goes with an error.
fn status_of(err: &Error) -> StatusCode {
    const BY_CODE: [(Code, StatusCode); 23] = [
        (codes::API_MALFORMED, StatusCode::BAD_REQUEST),
        (codes::API_NO_TOKEN, StatusCode::UNAUTHORIZED),
        (codes::API_NOT_ALLOWED, StatusCode::FORBIDDEN),
        (codes::API_ORIGIN, StatusCode::FORBIDDEN),
        (codes::API_NOT_FOUND, StatusCode::NOT_FOUND),
        (codes::API_CONFLICT, StatusCode::CONFLICT),
        (codes::API_FILE_MANAGED, StatusCode::CONFLICT),
        (codes::API_CHANGED, StatusCode::PRECONDITION_FAILED),
        (codes::API_NO_IF_MATCH, StatusCode::PRECONDITION_REQUIRED),
        (codes::API_SLOW_BODY, StatusCode::REQUEST_TIMEOUT),
        (codes::API_TOO_MANY, StatusCode::TOO_MANY_REQUESTS),
        (codes::API_KEY_REUSED, StatusCode::UNPROCESSABLE_ENTITY),
        (codes::API_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
        (codes::API_METHOD, StatusCode::METHOD_NOT_ALLOWED),
        (codes::API_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE),
        (codes::API_MEDIA_TYPE, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (codes::API_HOST, StatusCode::MISDIRECTED_REQUEST),
        (codes::STORE_FULL, StatusCode::INSUFFICIENT_STORAGE),
        (codes::STORE_UNWRITABLE, StatusCode::SERVICE_UNAVAILABLE),
        (codes::STORE_UNREACHABLE, StatusCode::SERVICE_UNAVAILABLE),
        (codes::STORE_REFUSED, StatusCode::SERVICE_UNAVAILABLE),
        (codes::STORE_TAKEN_OVER, StatusCode::SERVICE_UNAVAILABLE),
        (codes::SERVER_STANDS_BY, StatusCode::SERVICE_UNAVAILABLE),
    ];
    let by_code = BY_CODE.iter().find(|(code, _)| *code == err.code());
    if let Some((_, status)) = by_code {
        return *status;
    }
    let code = err.code().to_string();
    match err.kind() {
        _ if code.starts_with("TM7") => StatusCode::UNPROCESSABLE_ENTITY,
        _ if err.code() == codes::INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Data | ErrorKind::Definite => StatusCode::CONFLICT,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let err = &self.error;
        let status = status_of(err);
        let body = Problem::of(err, status);
        if status.is_server_error() {
            let request_id = body.request_id.as_str();
            tracing::warn!(code = %err.code(), request_id, error = %err, "answered {status}");
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::REQUEST_TIMEOUT {
            // RFC 9110, 15.5.9: what is still on its way is not waited for.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"tidemark\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl Problem {
    fn of(err: &Error, status: StatusCode) -> Problem {
        let entry = err.code().entry();
        let problems =
            std::error::Error::source(err).and_then(|source| source.downcast_ref::<Problems>());
        let errors = problems
            .into_iter()
            .flat_map(Problems::iter)
            .map(|problem| Fault {
                pointer: problem.position(),
                code: problem.code.to_string(),
                detail: problem.detail(),
            });
        let Asked { id, path, .. } = asked();
        let action = named(&err.action(), pipeline_of(&path), None);
        Problem {
            r#type: format!("/problems/{}", err.code()),
            title: entry.title.clone(),
            status: status.as_u16(),
            detail: err.to_string(),
            instance: path,
            code: err.code().to_string(),
            severity: severity(entry.severity),
            effect: entry.effect.clone(),
            fix: vec![Fix {
                kind: kind_of(&action),
                on: side_of(err.code()),
                text: action,
            }],
            retryable: err.kind() == ErrorKind::Transient,
            table: err.table_name().map(str::to_owned),
            errors: errors.collect(),
            request_id: id,
        }
    }
}

/// The pipeline that a request is about, by its path. Its name needs no escapes.
fn pipeline_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/api/v1/pipelines/")?.split('/').next()?;
    (!name.is_empty()).then_some(name)
}

/// The word of a severity.
pub(crate) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// A first action is a statement, a command, or a sentence.
fn kind_of(action: &str) -> &'static str {
    match action.split_whitespace().next() {
        Some("ALTER" | "CREATE" | "GRANT" | "DROP" | "SELECT" | "UPDATE") => "sql",
        Some("tidemark" | "chmod") => "command",
        _ => "text",
    }
}

fn side_of(code: Code) -> &'static str {
    match code.to_string().get(..3) {
        Some("TM1") => "source",
        Some("TM2") => "target",
        _ => "host",
    }
}
