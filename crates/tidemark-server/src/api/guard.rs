//! Before and after every request: who asks, whether this server is meant, and what is written down.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::codes;
use tidemark_core::{Result, clock};
use tokio::sync::oneshot;
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::App;
use super::problem::{ASKED, Asked, Failure, asked, request_id};
use crate::store::{Answered, AuditRow, Store, TokenRow};
use crate::supervisor::OWN_TENANT;

/// Bytes of a body.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// How long a body may take to come.
pub(crate) const BODY_WITHIN: Duration = Duration::from_secs(20);
/// How long an answer may take, its body's way included.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Wrong tokens from one address, and within which time.
const FAILURES_MAX: u32 = 20;
const FAILURES_WITHIN: Duration = Duration::from_mins(1);
/// Addresses that are remembered for it.
const ADDRESSES_MAX: usize = 10_000;
/// Characters of an `Idempotency-Key`.
const KEY_CHARS_MAX: usize = 255;
/// A page of another site cannot have it sent without asking first, which is never allowed.
const PAGE: &str = "x-tidemark";
/// Where a browser signs in and out.
const SESSION: &str = "/api/v1/session";

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Acts on pipelines.
    Operator,
    /// Defines pipelines, gives tokens out, reads the audit.
    Admin,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    fn of_word(word: &str) -> Option<Role> {
        [Role::Viewer, Role::Operator, Role::Admin]
            .into_iter()
            .find(|role| role.word() == word)
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Caller {
    /// The name of a token, or `local`.
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) role: Role,
    /// By which the token is revoked; two may have one name.
    #[serde(skip)]
    pub(crate) token: Option<String>,
}

impl Caller {
    /// Refuses whoever may not.
    pub(crate) fn needs(&self, role: Role) -> Result<(), Failure> {
        if self.role >= role {
            return Ok(());
        }
        let text = format!(
            "{} is a {}, this needs {}",
            self.name,
            self.role.word(),
            role.word()
        );
        Err(Failure::new(codes::API_NOT_ALLOWED, text))
    }

    /// Whether it is whoever runs the server.
    pub(crate) fn is_own(&self) -> bool {
        self.tenant == OWN_TENANT
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Failure::new(codes::API_NO_TOKEN, "nobody asks"))
    }
}

/// Whether tokens are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Whoever reaches the server may do everything: for this machine alone.
    Open,
    /// Every request needs a token.
    Token,
}

/// Tokens that count, and who guesses.
pub(crate) struct Auth {
    pub(crate) mode: AuthMode,
    store: Store,
    tokens: RwLock<Vec<(Vec<u8>, TokenRow)>>,
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Auth {
    pub(crate) async fn new(mode: AuthMode, store: Store) -> Result<Auth> {
        let tokens = store.tokens_that_count().await?;
        Ok(Auth {
            mode,
            store,
            tokens: RwLock::new(tokens),
            failures: Mutex::default(),
        })
    }

    /// Takes in what was given out or revoked.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let tokens = self.store.tokens_that_count().await?;
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        Ok(())
    }

    /// Whether anybody could come in as an administrator of the server itself.
    pub(crate) fn has_admin(&self) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let is_admin = |row: &TokenRow| row.role == "admin" && row.tenant == OWN_TENANT;
        tokens.iter().any(|(_, row)| is_admin(row))
    }

    fn caller(
        &self,
        mode: AuthMode,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<Caller, Failure> {
        if mode == AuthMode::Open {
            return Ok(Caller {
                name: "local".to_owned(),
                tenant: OWN_TENANT.to_owned(),
                role: Role::Admin,
                token: None,
            });
        }
        self.refuse_guessing(address)?;
        let said = said(headers);
        let found = said.and_then(|(_, token)| self.find(token));
        found.ok_or_else(|| {
            if said.is_some() || headers.contains_key(header::AUTHORIZATION) {
                self.guessed(address);
            }
            Failure::new(codes::API_NO_TOKEN, "this needs a valid token")
        })
    }

    fn find(&self, token: &str) -> Option<Caller> {
        let hash = hash_of(token);
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        // All of them are looked at, whichever it is.
        let mut found = None;
        for (known, row) in tokens.iter() {
            if is_same(known, &hash) {
                found = Some(row);
            }
        }
        let now = clock::now();
        let row = found.filter(|row| !is_over(row, &now))?;
        Some(Caller {
            name: row.name.clone(),
            tenant: row.tenant.clone(),
            role: Role::of_word(&row.role)?,
            token: Some(row.id.clone()),
        })
    }

    /// Whether somebody who came in once would still be let in.
    pub(super) fn counts(&self, caller: &Caller) -> bool {
        let Some(id) = &caller.token else {
            return true;
        };
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        tokens
            .iter()
            .any(|(_, row)| row.id == *id && !is_over(row, &now))
    }

    /// A token that was revoked opens nothing from now on, whether the store can be read or not.
    pub(super) fn revoked(&self, id: &str) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|(_, row)| row.id != id);
    }

    fn refuse_guessing(&self, address: IpAddr) -> Result<(), Failure> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, count)) = failures.get(&address).copied() else {
            return Ok(());
        };
        let left = FAILURES_WITHIN.saturating_sub(since.elapsed());
        if left.is_zero() {
            failures.remove(&address);
        } else if count >= FAILURES_MAX {
            let text = format!("{count} wrong tokens came from {address}");
            let failure = Failure::new(codes::API_TOO_MANY, text);
            return Err(failure.retry_after(left.as_secs() + 1));
        }
        Ok(())
    }

    fn guessed(&self, address: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_MAX {
            failures.retain(|_, (since, _)| since.elapsed() < FAILURES_WITHIN);
        }
        if failures.len() < ADDRESSES_MAX {
            failures.entry(address).or_insert((Instant::now(), 0)).1 += 1;
        }
    }
}

/// Whether a token has expired by then, RFC 3339.
fn is_over(row: &TokenRow, now: &str) -> bool {
    row.expires_at.as_deref().is_some_and(|end| end <= now)
}

/// SHA-256 of a token: what is kept of it.
pub(crate) fn hash_of(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

/// A token that nobody can guess.
pub(crate) fn new_token() -> Result<String> {
    let mut bytes = [0; 32];
    crate::store::fill(&SystemRandom::new(), &mut bytes)?;
    Ok(format!("tm_{}", crate::store::hex(&bytes)))
}

/// A number that nobody can guess.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0; 16];
    crate::store::fill(&SystemRandom::new(), &mut bytes)?;
    Ok(crate::store::hex(&bytes))
}

/// Takes as long whether they differ early or late.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differ) == 0
}

/// The token of a request. The name of a scheme is written in any case (RFC 9110, 11.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// How a token came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Somebody put it into the request.
    Header,
    /// The browser added it, whoever made the request.
    Cookie,
}

/// The token of a request, and how it came.
fn said(headers: &HeaderMap) -> Option<(Way, &str)> {
    let by_cookie = || session(headers).map(|token| (Way::Cookie, token));
    bearer(headers)
        .map(|token| (Way::Header, token))
        .or_else(by_cookie)
}

/// The token of a browser that has signed in.
fn session(headers: &HeaderMap) -> Option<&str> {
    let name = cookie_name(headers);
    let pairs = headers.get_all(header::COOKIE).iter();
    let pairs = pairs
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('='));
    values
        .find(|(found, _)| *found == name)
        .map(|(_, token)| token)
}

/// Browsers do not tell ports of one host apart, but two servers there are two.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| host.rsplit_once(':'));
    let port = port.map_or("", |(_, port)| port);
    let is_port = port.chars().all(|c| c.is_ascii_digit());
    format!("tidemark_{}", if is_port { port } else { "" })
}

/// What makes a browser keep a token, or forget it. No script reads it, and no other site has it sent.
pub(super) fn cookie(headers: &HeaderMap, token: Option<&str>) -> String {
    let name = cookie_name(headers);
    let origin = headers
        .get(header::ORIGIN)
        .and_then(|origin| origin.to_str().ok());
    let is_secure = origin.is_some_and(|origin| origin.starts_with("https://"));
    let secure = if is_secure { "; Secure" } else { "" };
    let value = token.unwrap_or_default();
    let end = if token.is_none() { "; Max-Age=0" } else { "" };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{end}")
}

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
    let (tenant, who, key) = id.clone();
    match app
        .store
        .take_idempotency_key(tenant, who, key, said)
        .await?
    {
        Answered::Never => {}
        Answered::Other => {
            let text = "another request came with this Idempotency-Key";
            return Err(Failure::new(codes::API_KEY_REUSED, text));
        }
        Answered::Now => {
            let text = "the same request is being answered";
            return Err(Failure::new(codes::API_CONFLICT, text));
        }
        Answered::So {
            status,
            location,
            body,
        } => return Ok(again(status, location, body)),
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    // It is our own, however large: a plan of many tables is.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let body = body.map_err(|err| Failure::new(codes::INTERNAL, err.to_string()))?;
    // What may succeed later is not an answer for ever, and what is too large to be kept changed nothing.
    let is_kept = !parts.status.is_server_error() && body.len() <= BODY_MAX;
    let location = parts.headers.get(header::LOCATION);
    let location = location.and_then(|at| at.to_str().ok()).map(str::to_owned);
    let answer = is_kept.then(|| (parts.status.as_u16(), location, body.to_vec()));
    app.store.answer_idempotency_key(id, answer).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn again(status: u16, location: Option<String>, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() {
        "application/json"
    } else {
        "application/problem+json"
    };
    let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
    let headers = response.headers_mut();
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    if let Some(location) = location.and_then(|at| HeaderValue::from_str(&at).ok()) {
        headers.insert(header::LOCATION, location);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_contain_each_other() {
        let caller = |role| Caller {
            name: "x".into(),
            tenant: "t".into(),
            role,
            token: None,
        };
        assert!(caller(Role::Viewer).needs(Role::Operator).is_err());
        assert!(caller(Role::Operator).needs(Role::Operator).is_ok());
        assert!(caller(Role::Admin).needs(Role::Viewer).is_ok());
    }

    #[test]
    fn s15_a_session_is_read_from_the_cookie_of_this_port_and_no_script_has_it() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost:7070"));
        let cookies = "a=b; tidemark_7071=tm_2; tidemark_7070=tm_1";
        headers.insert(header::COOKIE, HeaderValue::from_static(cookies));
        assert_eq!(said(&headers), Some((Way::Cookie, "tm_1")));
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer tm_3"),
        );
        assert_eq!(said(&headers), Some((Way::Header, "tm_3")));
        let kept = cookie(&headers, Some("tm_1"));
        assert_eq!(
            kept,
            "tidemark_7070=tm_1; Path=/; HttpOnly; SameSite=Strict"
        );
        headers.insert(
            header::ORIGIN,
            HeaderValue::from_static("https://t.example"),
        );
        assert!(cookie(&headers, None).ends_with("; Secure; Max-Age=0"));
    }

    #[test]
    fn s10_tokens_are_read_from_the_header_alone() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        for (value, expected) in [
            ("Bearer tm_1", Some("tm_1")),
            ("bearer  tm_1", Some("tm_1")),
            ("Basic tm_1", None),
            ("tm_1", None),
        ] {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer(&headers), expected, "{value}");
        }
        assert!(is_same(b"abc", b"abc") && !is_same(b"abc", b"abd") && !is_same(b"abc", b"ab"));
    }
}
