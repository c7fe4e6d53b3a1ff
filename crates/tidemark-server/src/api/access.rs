//! Tokens, the audit, and who asks.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidemark_core::catalogue::{Code, codes};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Caller, Role, bearer, cookie, hash_of, new_id, new_token};
use super::extract::{Json, Params, Route};
use super::journal::{PageParams, next, page};
use super::lists::{end_in_time, in_time, next_page};
use super::problem::{Failure, Problem, severity};
use crate::store::{AuditRow, NewToken, TokenRow};

/// Characters of a name that a person gives.
const NAME_CHARS_MAX: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(audit))
        .routes(routes!(whoami))
        .routes(routes!(sign_in, sign_out))
        .routes(routes!(version))
        .routes(routes!(code))
}

#[utoipa::path(post, path = "/session", tag = "access",
    responses((status = 204, description = "The token of the Authorization header is kept by the browser, in a \
        cookie that no script reads; requests that change something then need the header `x-tidemark`"),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 429, body = Problem)))]
async fn sign_in(_: Caller, headers: HeaderMap) -> Result<Response, Failure> {
    let Some(token) = bearer(&headers) else {
        let text = "the token goes into the Authorization header";
        return Err(Failure::new(codes::API_MALFORMED, text));
    };
    let kept = [(header::SET_COOKIE, cookie(&headers, Some(token)))];
    Ok((StatusCode::NO_CONTENT, kept).into_response())
}

#[utoipa::path(delete, path = "/session", tag = "access",
    responses((status = 204, description = "The browser forgets the token; it still counts until it is revoked"),
        (status = 401, body = Problem)))]
async fn sign_out(_: Caller, headers: HeaderMap) -> Response {
    let forgotten = [(header::SET_COOKIE, cookie(&headers, None))];
    (StatusCode::NO_CONTENT, forgotten).into_response()
}

/// A page of tokens, newest first; the tokens themselves were shown once.
#[derive(Debug, Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<TokenRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/tokens", tag = "access", params(PageParams),
    responses((status = 200, body = TokenList), (status = 400, body = Problem), (status = 403, body = Problem)))]
async fn tokens(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<TokenList>, Failure> {
    caller.needs(Role::Admin)?;
    let page = in_time(params.limit, params.cursor.as_deref())?;
    let limit = page.limit;
    let tenant = (!caller.is_own()).then_some(caller.tenant);
    let mut tokens = app.store.tokens(tenant, page).await?;
    let (next_cursor, next) = end_in_time(&mut tokens, limit, |row| {
        (row.created_at.as_str(), row.id.as_str())
    });
    Ok(Answer(TokenList {
        tokens,
        next_cursor,
        next,
    }))
}

/// A token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTokenBody {
    /// For people: who has it.
    name: String,
    role: Role,
    /// Only an administrator of the server itself may give tokens of other tenants out.
    tenant: Option<String>,
    /// RFC 3339 in UTC; without it the token does not expire.
    expires_at: Option<String>,
}

/// A token, shown this once.
#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    token: String,
    #[serde(flatten)]
    row: TokenRow,
}

#[utoipa::path(post, path = "/tokens", tag = "access", request_body = NewTokenBody,
    responses((status = 201, body = TokenBody), (status = 400, body = Problem), (status = 403, body = Problem)))]
async fn create_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Json(body): Json<NewTokenBody>,
) -> Result<Response, Failure> {
    caller.needs(Role::Admin)?;
    let tenant = body.tenant.unwrap_or_else(|| caller.tenant.clone());
    if tenant != caller.tenant && !caller.is_own() {
        let text = format!("{} is of another tenant", caller.name);
        return Err(Failure::new(codes::API_NOT_ALLOWED, text));
    }
    let is_name = |text: &str| !text.trim().is_empty() && text.chars().count() <= NAME_CHARS_MAX;
    let is_tenant = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !is_name(&body.name) || !is_name(&tenant) || !tenant.chars().all(is_tenant) {
        let text =
            format!("a name has 1 to {NAME_CHARS_MAX} characters, a tenant only a-z, 0-9, - and _");
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    if body.expires_at.as_deref().is_some_and(|at| !is_utc(at)) {
        let text = "expires_at is RFC 3339 in UTC: 2026-11-21T14:00:00Z";
        return Err(Failure::new(codes::API_MALFORMED, text));
    }
    let token = new_token()?;
    let new = NewToken {
        id: new_id()?,
        tenant,
        name: body.name,
        role: body.role.word().to_owned(),
        hash: hash_of(&token),
        by: caller.name,
        expires_at: body.expires_at,
    };
    let row = app.store.add_token(new).await?;
    app.auth.refresh().await?;
    Ok((StatusCode::CREATED, Answer(TokenBody { token, row })).into_response())
}

/// `2026-11-21T14:00:00Z`: then the order of texts is that of instants.
fn is_utc(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00";
    let Some(plain) = text.strip_suffix('Z') else {
        return false;
    };
    let is_like = |(c, like): (char, char)| match like {
        '0' => c.is_ascii_digit(),
        like => c == like,
    };
    plain.len() == pattern.len() && plain.chars().zip(pattern.chars()).all(is_like)
}

#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 204, description = "It counts no more"), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
async fn revoke_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Route(id): Route<String>,
) -> Result<StatusCode, Failure> {
    caller.needs(Role::Admin)?;
    let tenant = (!caller.is_own()).then_some(caller.tenant);
    if !app.store.revoke_token(tenant, id.clone()).await? {
        return Err(Failure::not_found("token"));
    }
    app.auth.revoked(&id);
    Ok(StatusCode::NO_CONTENT)
}

/// A page of the audit, newest first.
#[derive(Debug, Serialize, ToSchema)]
struct AuditList {
    entries: Vec<AuditRow>,
    next_cursor: Option<String>,
    /// The next page.
    next: Option<String>,
}

#[utoipa::path(get, path = "/audit", tag = "access", params(PageParams),
    responses((status = 200, body = AuditList), (status = 403, body = Problem)))]
async fn audit(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Answer<AuditList>, Failure> {
    caller.needs(Role::Admin)?;
    let page = page(params.limit, params.cursor.as_deref())?;
    let entries = app.store.audit(caller.tenant, page).await?;
    let next_cursor = next(&entries, page, |entry| entry.id);
    Ok(Answer(AuditList {
        next: next_page(next_cursor.as_deref()),
        entries,
        next_cursor,
    }))
}

#[utoipa::path(get, path = "/whoami", tag = "access", responses((status = 200, body = Caller)))]
async fn whoami(caller: Caller) -> Answer<Caller> {
    Answer(caller)
}

/// This program.
#[derive(Debug, Serialize, ToSchema)]
struct VersionBody {
    version: &'static str,
    api: &'static str,
    /// Whether a demo started it, whose page has buttons to break things.
    demo: bool,
}

#[utoipa::path(get, path = "/version", tag = "access", responses((status = 200, body = VersionBody)))]
async fn version(State(app): State<Arc<App>>) -> Answer<VersionBody> {
    Answer(VersionBody {
        version: env!("CARGO_PKG_VERSION"),
        api: "v1",
        demo: app.demo.is_some(),
    })
}

/// What a code means.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CodeBody {
    code: String,
    title: String,
    severity: &'static str,
    cause: String,
    effect: String,
    first_action: String,
}

#[utoipa::path(get, path = "/codes/{code}", tag = "access", params(("code" = String, Path)),
    responses((status = 200, body = CodeBody), (status = 404, body = Problem)))]
pub(super) async fn code(Route(code): Route<String>) -> Result<Answer<CodeBody>, Failure> {
    let code = Code::parse(&code).ok_or_else(|| Failure::not_found("code"))?;
    let entry = code.entry();
    Ok(Answer(CodeBody {
        code: code.to_string(),
        title: entry.title.clone(),
        severity: severity(entry.severity),
        cause: entry.cause.clone(),
        effect: entry.effect.clone(),
        first_action: entry.first_action.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::is_utc;

    #[test]
    fn instants_are_compared_as_text_so_they_have_one_form() {
        assert!(is_utc("2026-11-21T14:00:00Z"));
        for wrong in [
            "",
            "Z",
            "2026-11-21",
            "2026-11-21T14:00:00+01:00",
            "2026-11-21 14:00:00Z",
        ] {
            assert!(!is_utc(wrong), "{wrong}");
        }
    }
}
