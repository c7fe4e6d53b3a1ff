//! A server that stands by: alive, and sending whoever asks to the one that has the store.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;

use axum::Json as Answer;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::api::problem::Failure;
use crate::connections;
use crate::store::{Holder, Store};

/// After so many seconds it may be otherwise.
const AGAIN_AFTER_SECONDS: u64 = 2;

type Held = watch::Receiver<Option<Holder>>;

/// Waits for the store; answers meanwhile if another server has it.
pub(crate) async fn wait(
    listener: &TcpListener,
    waits: &watch::Sender<Option<Holder>>,
    opening: impl Future<Output = Result<Store>>,
    stands_by: impl FnOnce(SocketAddr),
) -> Result<Store> {
    let mut opening = pin!(opening);
    let mut held = waits.subscribe();
    tokio::select! {
        biased;
        opened = &mut opening => return opened,
        _ = held.wait_for(Option::is_some) => {}
    }
    let unheard = |err: std::io::Error| Error::definite(codes::LISTEN_FAILED, err.to_string());
    let twin = listener.as_fd().try_clone_to_owned().map_err(unheard)?;
    let twin = TcpListener::from_std(twin.into()).map_err(unheard)?;
    stands_by(listener.local_addr().map_err(unheard)?);
    let (over, is_over) = oneshot::channel::<()>();
    // Who has connected is answered, whatever comes next: each answer ends its connection.
    tokio::spawn(connections::accept_until(twin, router(held), async {
        drop(is_over.await);
    }));
    let opened = opening.await;
    // Nobody is sent to a server that has the store no more.
    waits.send_replace(None);
    drop(over);
    opened
}

fn router(held: Held) -> Router {
    Router::new()
        .route("/livez", get(async || (last_answer(), "ok\n")))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/startupz", get(ready))
        .fallback(elsewhere)
        .with_state(held)
}

/// A client that keeps its connection would talk to a server that stands by when it does so no more.
fn last_answer() -> HeaderMap {
    let close = HeaderValue::from_static("close");
    let never = HeaderValue::from_static("no-store");
    [(header::CONNECTION, close), (header::CACHE_CONTROL, never)]
        .into_iter()
        .collect()
}

#[derive(Debug, Deserialize)]
struct ReadyParams {
    verbose: Option<String>,
}

/// It is ready to take over, which is all that is asked of it.
async fn ready(State(held): State<Held>, Query(params): Query<ReadyParams>) -> Response {
    if params.verbose.is_none() {
        return (last_answer(), "ok\n").into_response();
    }
    let leader = held.borrow().as_ref().map(|holder| holder.address.clone());
    let body = json!({ "ready": true, "role": "standby", "leader": leader });
    (last_answer(), Answer(body)).into_response()
}

async fn elsewhere(State(held): State<Held>, uri: Uri) -> Response {
    let holder = held.borrow().clone();
    let place = holder.filter(|holder| !holder.address.is_empty());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let place = place.and_then(|holder| {
        let place = format!("http://{}{path}", holder.address);
        HeaderValue::from_str(&place).ok()
    });
    let Some(place) = place else {
        let text = "which server has the store is not known at this moment";
        let failure = Failure::new(codes::SERVER_STANDS_BY, text);
        let failure = failure.retry_after(AGAIN_AFTER_SECONDS);
        return (last_answer(), failure.into_response()).into_response();
    };
    let to = [(header::LOCATION, place)];
    (StatusCode::TEMPORARY_REDIRECT, last_answer(), to).into_response()
}

#[cfg(test)]
mod tests {
    use tidemark_lab::http::Request;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// A server that stands by, while this one has the store.
    async fn answer(holder: Option<Holder>, route: &str) -> tidemark_lab::http::Response {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let held = watch::Sender::new(holder);
        let router = router(held.subscribe());
        let answering = tokio::spawn(async move { axum::serve(listener, router).await });
        let answer = Request::new("GET", route).send(&address).await.unwrap();
        answering.abort();
        answer
    }

    #[tokio::test]
    async fn whoever_has_connected_is_answered_when_the_store_is_taken_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let waits = watch::Sender::new(Some(Holder {
            name: "process 7 on here".to_owned(),
            address: "db-2:7070".to_owned(),
        }));
        let (taken, opening) = oneshot::channel::<Error>();
        let opening = async { Err::<Store, _>(opening.await.unwrap()) };
        let early = async {
            let mut early = TcpStream::connect(&address).await.unwrap();
            // Who came later is answered: the first is let in by then.
            let sent = Request::new("GET", "/livez").send(&address).await.unwrap();
            assert_eq!(sent.status, 200);
            let over = Error::definite(codes::SERVER_STANDS_BY, "it is over");
            taken.send(over).unwrap();
            waits.subscribe().wait_for(Option::is_none).await.unwrap();
            let head = b"GET /api/v1/pipelines HTTP/1.1\r\nhost: here\r\n\r\n";
            early.write_all(head).await.unwrap();
            let mut answer = String::new();
            early.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let waiting = wait(&listener, &waits, opening, |_| ());
        let (opened, answer) = tokio::join!(waiting, early);
        assert!(opened.is_err());
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
        assert!(answer.contains("TM7093"), "{answer}");
    }

    #[tokio::test]
    async fn whoever_asks_is_sent_to_the_server_that_has_the_store() {
        let holder = Holder {
            name: "process 7 on here".to_owned(),
            address: "db-2:7070".to_owned(),
        };
        let sent = answer(Some(holder), "/api/v1/pipelines?limit=2").await;
        let place = "http://db-2:7070/api/v1/pipelines?limit=2";
        assert_eq!((sent.status, sent.header("location")), (307, Some(place)));
        let unknown = answer(None, "/api/v1/pipelines").await;
        assert_eq!(unknown.status, 503);
        assert_eq!(unknown.json().unwrap()["code"], "TM7093");
        assert_eq!(unknown.header("retry-after"), Some("2"));
        assert_eq!(answer(None, "/livez").await.status, 200);
    }
}
