//! Connections of those who ask: so many at once, and none that sends its request drop by drop.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// At once; whoever comes then waits.
pub(crate) const CONNECTIONS_MAX: usize = 2_000;
/// How long the head of a request may take to come, and a connection may wait for the next one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long nobody is let in after that failed: there may be no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers whoever connects, until it is dropped.
pub(crate) async fn accept(listener: TcpListener, router: Router) {
    accept_until(listener, router, std::future::pending()).await;
}

/// Lets people in until then, and is over when all of them have been answered: a connection that is let in
/// and closed without a word looks to its client like a server that has died.
pub(crate) async fn accept_until(
    listener: TcpListener,
    router: Router,
    end: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        while open.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = &mut end => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let router = router.clone();
                open.spawn(async move {
                    answer(stream, address, router).await;
                    drop(place);
                });
            }
            Err(err) => {
                tracing::warn!(error = %err, "a connection is not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn answer(stream: TcpStream, address: SocketAddr, router: Router) {
    let service = router.layer(Extension(ConnectInfo(address)));
    let answered = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(err) = answered.await {
        tracing::debug!(%address, error = %err, "a connection ended");
    }
}
