//! What all lists have: the way to the next page, and a tag by which it is seen that nothing has changed.
//!
//! Which routes are lists is what the document says: those of which a GET answers a `…List`. Their tag is
//! of what was answered, to the last byte: whoever says it again with `If-None-Match` gets 304 as long as
//! the answer would be the same (RFC 9110, 13.1.2). So it stays with the one who asked, and is asked for
//! each time.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA256, digest};
use tidemark_core::catalogue::codes;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr, Required, ResponseBuilder};

use super::pipelines::limit;
use super::problem::{Failure, asked};
use crate::store::CursorInTime;

/// Kept by whoever asked, and never used unasked.
const KEPT: &str = "private, no-cache";

/// Routes that are lists, as the router has them.
static LISTS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let (_, document) = super::routes().split_for_parts();
    let paths = document.paths.paths.into_iter();
    let lists = paths.filter(|(_, item)| item.get.as_ref().is_some_and(is_list));
    lists.map(|(path, _)| path).collect()
});

fn is_list(get: &Operation) -> bool {
    let Some(RefOr::T(answer)) = get.responses.responses.get("200") else {
        return false;
    };
    let Some(RefOr::T(json)) = answer.content.get("application/json") else {
        return false;
    };
    matches!(&json.schema, Some(RefOr::Ref(body)) if body.ref_location.ends_with("List"))
}

/// Says of each list what all of them have.
pub(super) fn describe(document: &mut OpenApi) {
    let gets = document.paths.paths.values_mut();
    for get in gets.filter_map(|item| item.get.as_mut()) {
        if is_list(get) {
            let same = ResponseBuilder::new().description("It is as it was when it had this tag");
            let responses = &mut get.responses.responses;
            responses.insert("304".to_owned(), RefOr::T(same.build()));
            get.parameters
                .get_or_insert_default()
                .push(RefOr::T(if_none_match()));
        }
    }
}

fn if_none_match() -> Parameter {
    ParameterBuilder::new()
        .name("If-None-Match")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("The `ETag` of an answer that is still at hand"))
        .build()
}

/// Cuts off what is beyond a page, of which one row is enough; gives the place of the last row that stays, if
/// there is a page behind it.
pub(super) fn cut<T, P>(found: &mut Vec<T>, limit: usize, place: impl Fn(&T) -> P) -> Option<P> {
    let has_more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| has_more).map(place)
}

/// A page of a list that goes by time, and one row more, by which it is known whether there is another.
pub(super) fn in_time(
    wanted: Option<usize>,
    cursor: Option<&str>,
) -> Result<CursorInTime, Failure> {
    let after = cursor.map(|cursor| {
        let parts = cursor.split_once('_');
        let after = parts.map(|(at, id)| (at.to_owned(), id.to_owned()));
        after.ok_or_else(not_ours)
    });
    Ok(CursorInTime {
        after: after.transpose()?,
        limit: limit(wanted)? + 1,
    })
}

/// Ends such a page; gives the cursor of the next one, and the link to it. `asked`: the limit of
/// [`in_time`]; `place`: when a row was, and its id.
pub(super) fn end_in_time<T>(
    found: &mut Vec<T>,
    asked: usize,
    place: impl Fn(&T) -> (&str, &str),
) -> (Option<String>, Option<String>) {
    let next_cursor = cut(found, asked - 1, |row| {
        let (at, id) = place(row);
        format!("{at}_{id}")
    });
    let next = next_page(next_cursor.as_deref());
    (next_cursor, next)
}

/// A cursor that nobody was given.
pub(super) fn not_ours() -> Failure {
    Failure::new(codes::API_MALFORMED, "this is no cursor of ours")
}

/// The same request from there on, as a link.
pub(super) fn next_page(cursor: Option<&str>) -> Option<String> {
    let cursor = utf8_percent_encode(cursor?, NON_ALPHANUMERIC);
    let asked = asked();
    let pairs = asked.query.split('&');
    let mut query: String = pairs
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="))
        .flat_map(|pair| [pair, "&"])
        .collect();
    query.push_str("cursor=");
    query.extend(cursor);
    Some(format!("{}?{query}", asked.path))
}

/// Around every route: a list has its tag, and is not sent again to whoever has it.
pub(super) async fn tagged(request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let is_list = matched.is_some_and(|path| LISTS.contains(path.as_str()));
    if !is_list || request.method() != Method::GET {
        return next.run(request).await;
    }
    let known = request.headers().clone();
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if response.status() != StatusCode::OK || !is_json {
        return response;
    }
    match with_tag(response, &known).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

async fn with_tag(response: Response, known: &HeaderMap) -> Result<Response, Failure> {
    let (mut parts, body) = response.into_parts();
    // It is our own, and in memory already.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    let body = body.map_err(|err| Failure::new(codes::INTERNAL, err.to_string()))?;
    let tag = tag_of(&body);
    parts
        .headers
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(KEPT));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    if is_known(known, &tag) {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn tag_of(body: &[u8]) -> String {
    let hash = digest(&SHA256, body);
    let start = hash.as_ref().iter().take(16).copied().collect::<Vec<u8>>();
    format!("\"{}\"", crate::store::hex(&start))
}

/// Whether whoever asks has it. Tags are compared as RFC 9110, 8.8.3.2 says for this: whether one is
/// weak does not count.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let said = headers.get_all(header::IF_NONE_MATCH).iter();
    let said = said.filter_map(|value| value.to_str().ok());
    let mut tags = said.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|said| said == "*" || said.strip_prefix("W/").unwrap_or(said) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::{ASKED, Asked};

    #[test]
    fn a_list_is_what_the_document_calls_one() {
        for list in [
            "/api/v1/pipelines",
            "/api/v1/pipelines/{id}/tables",
            "/api/v1/audit",
        ] {
            assert!(LISTS.contains(list), "{list} of {LISTS:?}");
        }
        for other in [
            "/api/v1/pipelines/{id}",
            "/api/v1/monitoring/overview",
            "/api/v1/whoami",
        ] {
            assert!(!LISTS.contains(other), "{other}");
        }
    }

    #[test]
    fn tags_are_known_however_they_come() {
        let tag = tag_of(b"[]");
        assert_ne!(tag, tag_of(b"[1]"));
        for (said, expected) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"x\", {tag}"), true),
            ("*".to_owned(), true),
            ("\"x\"".to_owned(), false),
            (tag.trim_matches('"').to_owned(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&said).unwrap());
            assert_eq!(is_known(&headers, &tag), expected, "{said}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }

    #[tokio::test]
    async fn the_next_page_is_of_what_was_asked() {
        let link = |query: &'static str| {
            let asked = Asked {
                path: "/api/v1/pipelines".to_owned(),
                query: query.to_owned(),
                ..Asked::default()
            };
            ASKED.scope(asked, async { next_page(Some("2.a b")) })
        };
        for (query, expected) in [
            ("", "cursor=2%2Ea%20b"),
            ("tag=a%26b&limit=2", "tag=a%26b&limit=2&cursor=2%2Ea%20b"),
            ("cursor=1.a&limit=2", "limit=2&cursor=2%2Ea%20b"),
        ] {
            let expected = format!("/api/v1/pipelines?{expected}");
            assert_eq!(link(query).await.unwrap(), expected);
        }
        assert_eq!(next_page(None), None);
    }
}
