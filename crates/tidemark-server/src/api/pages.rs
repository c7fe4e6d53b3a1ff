//! The web pages: files that `web/build.mjs` made of `web/src`, embedded, so that a server needs nothing
//! beside it and pages ask nobody else.
//!
//! A page is the same document under every address of a page: what it shows it asks of the API, as who
//! it is told to be. So the document itself is for everybody.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidemark_core::catalogue::codes;

use super::App;
use super::problem::Failure;

/// A file of the pages.
struct File {
    name: &'static str,
    plain: &'static [u8],
    /// The same, compressed by gzip.
    packed: &'static [u8],
}

const FILES: &[File] = include!("../../../../web/dist/files.rs");

/// A name that has a hash of what it holds in it never holds anything else.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Addresses of pages.
const PAGES: [&str; 12] = [
    "/",
    "/new",
    "/connections",
    "/alerts",
    "/quarantine",
    "/schedules",
    "/settings",
    "/settings/{tab}",
    "/p/{id}",
    "/p/{id}/{tab}",
    "/codes/{code}",
    "/api/docs",
];

pub(super) fn routes() -> Router<Arc<App>> {
    let pages = PAGES
        .iter()
        .fold(Router::new(), |pages, path| pages.route(path, get(page)));
    pages.route("/assets/{name}", get(asset))
}

async fn page(headers: HeaderMap) -> Result<Response, Failure> {
    answer("index.html", "no-cache", &headers)
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    answer(&name, FOR_EVER, &headers)
}

fn answer(name: &str, caching: &'static str, headers: &HeaderMap) -> Result<Response, Failure> {
    let file = FILES.iter().find(|file| file.name == name);
    let file = file.ok_or_else(|| Failure::new(codes::API_NOT_FOUND, "there is no such file"))?;
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    let more = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, caching),
        (header::VARY, "accept-encoding"),
    ];
    if takes_gzip(headers) {
        let packed = [(header::CONTENT_ENCODING, "gzip")];
        return Ok((more, packed, file.packed).into_response());
    }
    Ok((more, file.plain).into_response())
}

/// Whether the client said so (RFC 9110, 12.5.3). One that says nothing may not be able to.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value.split(',').any(|coding| {
                let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
                let weight = weight.trim().trim_start_matches("q=");
                name.trim().eq_ignore_ascii_case("gzip") && weight.parse() != Ok(0.0)
            })
        })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// Everything a browser loads, compressed.
    const BYTES_MAX: usize = 100_000;

    #[test]
    fn the_document_names_files_that_are_there_and_nothing_of_another_origin() {
        let index = FILES.iter().find(|file| file.name == "index.html").unwrap();
        let text = std::str::from_utf8(index.plain).unwrap();
        let named: Vec<&str> = text
            .split("/assets/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(named.len(), 3, "{named:?}");
        assert!(
            named
                .iter()
                .all(|name| FILES.iter().any(|file| file.name == *name)),
            "{named:?}"
        );
        assert!(
            !text.contains("src=\"http") && !text.contains("href=\"http"),
            "{text}"
        );
    }

    #[test]
    fn the_pages_are_small() {
        let bytes: usize = FILES.iter().map(|file| file.packed.len()).sum();
        assert!(bytes <= BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn what_is_compressed_is_sent_to_those_who_said_they_take_it() {
        for (said, expected) in [
            ("gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(said));
            assert_eq!(takes_gzip(&headers), expected, "{said}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
