//! Who asks, and what they may: tokens and the cookie of a browser, roles, and those who guess.
//!
//! Of a token the store has its hash alone; those that count are in memory, so that who was let in is known
//! while the store is away, and who was revoked is refused from that moment on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::codes;
use tidemark_core::{Result, clock};
use utoipa::ToSchema;

use super::problem::Failure;
use crate::store::{Store, TokenRow};
use crate::supervisor::OWN_TENANT;

/// Wrong tokens from one address, and within which time.
const FAILURES_MAX: u32 = 20;
const FAILURES_WITHIN: Duration = Duration::from_mins(1);
/// Addresses that are remembered for it.
const ADDRESSES_MAX: usize = 10_000;

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

    pub(super) fn caller(
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
pub(super) enum Way {
    /// Somebody put it into the request.
    Header,
    /// The browser added it, whoever made the request.
    Cookie,
}

/// The token of a request, and how it came.
pub(super) fn said(headers: &HeaderMap) -> Option<(Way, &str)> {
    let by_cookie = || session(headers).map(|token| (Way::Cookie, token));
    bearer(headers)
        .map(|token| (Way::Header, token))
        .or_else(by_cookie)
}

/// The token of a browser that has signed in.
pub(super) fn session(headers: &HeaderMap) -> Option<&str> {
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
