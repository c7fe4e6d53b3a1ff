//! Before and after every request: whether this server is meant, whether who asks may ([`super::auth`]), what is
//! answered again, and what is written down.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};
use tidemark_core::catalogue::codes;
use tidemark_core::{Result, clock};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::App;
use super::auth::{AuthMode, Caller, Role, Way, cookie, new_id, said, session};
use super::problem::{ASKED, Asked, Failure, asked, request_id};
use crate::store::{Answered, AuditRow, KeptAnswer};

/// Bytes of a body.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// How long a body may take to come.
pub(crate) const BODY_WITHIN: Duration = Duration::from_secs(20);
/// How long an answer may take, its body's way included.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Characters of an `Idempotency-Key`.
const KEY_CHARS_MAX: usize = 255;
/// A page of another site cannot have it sent without asking first, which is never allowed.
const PAGE: &str = "x-tidemark";
/// Where a browser signs in and out.
const SESSION: &str = "/api/v1/session";

/// Around everything: a number for the request, a time limit, and headers that every answer has.
pub(super) async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let id = new_id().unwrap_or_default();
    let began = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let answer = async {
        let answered = async {
            match meant(&app, &request) {
                Ok(()) => next.run(request).await,
                Err(failure) => failure.into_response(),
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answered)
            .await
            .unwrap_or_else(|_| {
                Failure::new(codes::API_TIMEOUT, "no answer within 30 s").into_response()
            })
    };
    let span = tracing::error_span!("request", request_id = id);
    let asked = Asked {
        id: id.clone(),
        path,
        query,
    };
    let mut response = ASKED.scope(asked, answer).instrument(span).await;
    app.requests
        .note(&method, &route, response.status(), began.elapsed());
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(HeaderName::from_static(name))
            .or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Whether this server is meant, and no page of another origin asks for a change.
fn meant(app: &App, request: &Request) -> Result<(), Failure> {
    let headers = request.headers();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.or_else(|| {
        request
            .uri()
            .authority()
            .map(axum::http::uri::Authority::as_str)
    });
    let host = host.unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.chars().all(|c| c.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    if !app
        .hosts
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
    {
        return Err(Failure::new(
            codes::API_HOST,
            "the Host header names another server",
        ));
    }
    if request.method().is_safe() {
        return Ok(());
    }
    let origin = headers
        .get(header::ORIGIN)
        .map(|origin| origin.to_str().unwrap_or("?"));
    let is_own = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
    };
    let site = headers
        .get("sec-fetch-site")
        .and_then(|site| site.to_str().ok());
    if origin.is_some_and(|origin| !is_own(origin)) || site == Some("cross-site") {
        return Err(Failure::new(
            codes::API_ORIGIN,
            "a page of another origin asks",
        ));
    }
    Ok(())
}

/// Around the API: who asks, and what was changed.
pub(super) async fn known(
    State(app): State<Arc<App>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let mode = app.auth.mode;
    let caller = match app.auth.caller(mode, request.headers(), address.ip()) {
        Ok(caller) => caller,
        Err(failure) => return refused(failure, request.headers()),
    };
    request.extensions_mut().insert(caller.clone());
    if request.method().is_safe() {
        return next.run(request).await;
    }
    // Whoever asks may leave, or wait no longer: what was begun is carried to its end, and is the answer
    // for its key.
    let (said, answer) = oneshot::channel();
    let carried = carry(Arc::clone(&app), caller, address, request, next);
    let carried = async { drop(said.send(carried.await)) };
    let carried = ASKED.scope(asked(), carried).in_current_span();
    app.supervisor.beside(carried);
    answer.await.unwrap_or_else(|_| {
        Failure::new(codes::INTERNAL, "what was asked for died on its way").into_response()
    })
}

/// Around metrics, which may be open where the API is not, or the other way round.
pub(super) async fn scrapes(
    State((app, mode)): State<(Arc<App>, AuthMode)>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match app.auth.caller(mode, request.headers(), address.ip()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => refused(failure, request.headers()),
    }
}

/// Carries a change out, and writes down who made it.
async fn carry(
    app: Arc<App>,
    caller: Caller,
    address: SocketAddr,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match may_change(&caller, &request) {
        Ok(()) => once(&app, &caller, request, next).await,
        Err(failure) => failure.into_response(),
    };
    let status = response.status().as_u16().to_string();
    let written = write_down(&app, &caller, address, method.as_str(), path, status);
    if let Err(err) = written.await {
        tracing::warn!(code = %err.code(), error = %err, "a change is not in the audit");
    }
    response
}

/// Whether a caller may ask for a change at all, and wants to.
fn may_change(caller: &Caller, request: &Request) -> Result<(), Failure> {
    let is_by_cookie = matches!(said(request.headers()), Some((Way::Cookie, _)));
    if is_by_cookie && !request.headers().contains_key(PAGE) {
        let text = format!("a page that changes something sends the header {PAGE}");
        return Err(Failure::new(codes::API_ORIGIN, text));
    }
    // Whoever may look may come and go.
    let is_session = request.uri().path() == SESSION;
    caller.needs(if is_session {
        Role::Viewer
    } else {
        Role::Operator
    })
}

/// A browser need not say again what does not count.
fn refused(failure: Failure, headers: &HeaderMap) -> Response {
    let forgets = session(headers).and_then(|_| HeaderValue::from_str(&cookie(headers, None)).ok());
    let mut response = failure.into_response();
    if let Some(forgets) = forgets.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
        response.headers_mut().insert(header::SET_COOKIE, forgets);
    }
    response
}

/// An entry of the audit.
pub(super) async fn write_down(
    app: &App,
    caller: &Caller,
    address: SocketAddr,
    action: &str,
    object: String,
    detail: String,
) -> Result<()> {
    let row = AuditRow {
        id: 0,
        at: clock::now(),
        who: caller.name.clone(),
        address: address.ip().to_string(),
        action: action.to_owned(),
        object,
        detail,
        request_id: request_id(),
    };
    app.store.add_audit(caller.tenant.clone(), row).await
}

/// A request that comes twice with one `Idempotency-Key` is answered once, and repeated.
async fn once(app: &Arc<App>, caller: &Caller, request: Request, next: Next) -> Response {
    let key = match request.headers().get("idempotency-key") {
        Some(key) if request.method() == Method::POST => key.to_str().map(str::to_owned),
        _ => return next.run(request).await,
    };
    let Ok(key) = key.map(|key| key.trim().to_owned()) else {
        return Failure::new(codes::API_MALFORMED, "Idempotency-Key is no text").into_response();
    };
    if key.is_empty() || key.len() > KEY_CHARS_MAX {
        let text = format!("Idempotency-Key has 1 to {KEY_CHARS_MAX} characters");
        return Failure::new(codes::API_MALFORMED, text).into_response();
    }
    match keyed(app, caller, key, request, next).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

/// Requests with an `Idempotency-Key` that are being answered: whose, under which key, and what they say.
#[derive(Default)]
pub(crate) struct Answering(Mutex<HashMap<Keyed, Vec<u8>>>);

/// Tenant, who asks, key.
type Keyed = (String, String, String);

impl Answering {
    /// One more, until what is given is dropped.
    fn begin(&self, id: &Keyed, said: &[u8]) -> Result<AnsweringOne<'_>, Failure> {
        match self.lock().entry(id.clone()) {
            Entry::Vacant(free) => {
                free.insert(said.to_vec());
            }
            Entry::Occupied(taken) if taken.get() != said => return Err(reused()),
            Entry::Occupied(_) => {
                let text = "the same request is being answered";
                return Err(Failure::new(codes::API_CONFLICT, text));
            }
        }
        Ok(AnsweringOne {
            all: self,
            id: id.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Keyed, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AnsweringOne<'a> {
    all: &'a Answering,
    id: Keyed,
}

impl Drop for AnsweringOne<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

fn reused() -> Failure {
    let text = "another request came with this Idempotency-Key";
    Failure::new(codes::API_KEY_REUSED, text)
}

async fn keyed(
    app: &Arc<App>,
    caller: &Caller,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let mut said = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    said.extend_from_slice(&body);
    let said = digest(&SHA256, &said).as_ref().to_vec();
    let who = caller.token.as_ref().unwrap_or(&caller.name);
    let id = (caller.tenant.clone(), who.clone(), key);
    let _answering = app.answering.begin(&id, &said)?;
    let (tenant, who, key) = id.clone();
    match app
        .store
        .take_idempotency_key(tenant, who, key, said)
        .await?
    {
        // Nobody else answers it here: of one who did the answer could not be kept.
        Answered::Never | Answered::Now => {}
        Answered::Other => return Err(reused()),
        Answered::So(answer) => return Ok(again(answer)),
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    // It is our own, however large: a plan of many tables is.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let body = body.map_err(|err| Failure::new(codes::INTERNAL, err.to_string()))?;
    // What may succeed later is not an answer for ever, and what is too large to be kept changed nothing.
    let is_for_now =
        parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS;
    let is_kept = !is_for_now && body.len() <= BODY_MAX;
    let said = |name: HeaderName| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let answer = is_kept.then(|| KeptAnswer {
        status: parts.status.as_u16(),
        location: said(header::LOCATION),
        etag: said(header::ETAG),
        body: body.to_vec(),
    });
    if let Err(err) = app.store.answer_idempotency_key(id, answer).await {
        // What was asked for is done, or refused, all the same.
        tracing::warn!(code = %err.code(), error = %err, "an answer is not kept for its Idempotency-Key");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn again(answer: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() {
        "application/json"
    } else {
        "application/problem+json"
    };
    let mut response = (status, [(header::CONTENT_TYPE, kind)], answer.body).into_response();
    let headers = response.headers_mut();
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    for (name, said) in [
        (header::LOCATION, answer.location),
        (header::ETAG, answer.etag),
    ] {
        if let Some(value) = said.and_then(|said| HeaderValue::from_str(&said).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// The whole of a body, up to a limit, if it comes in time. Whoever sends it drop by drop would keep a
/// connection, and what waits for it, for ever.
pub(crate) async fn read(body: Body) -> Result<Bytes, Failure> {
    let whole = axum::body::to_bytes(body, BODY_MAX);
    let Ok(whole) = tokio::time::timeout(BODY_WITHIN, whole).await else {
        let text = format!("the body was not there within {} s", BODY_WITHIN.as_secs());
        return Err(Failure::new(codes::API_SLOW_BODY, text));
    };
    whole.map_err(|_| {
        let text = format!("a body has at most {BODY_MAX} bytes, and comes whole");
        Failure::new(codes::API_TOO_LARGE, text)
    })
}
