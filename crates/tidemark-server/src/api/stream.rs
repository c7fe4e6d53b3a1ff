//! News as they come: server-sent events with numbers, by which a reader goes on where it was.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tidemark_core::catalogue::codes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::auth::{Auth, Caller};
use super::extract::Params;
use super::problem::{Failure, Problem};
use crate::news::{Item, Subscription, Topic};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
/// How often it is looked whether a reader who is told nothing may still read.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(news))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StreamParams {
    /// Names of pipelines, with commas; all without it.
    pipelines: Option<String>,
    /// `state`, `lag`, `tables`, `events`, `ops`, with commas; all without it.
    topics: Option<String>,
}

/// What a reader wants to hear.
struct Wanted {
    tenant: String,
    pipelines: Option<Vec<String>>,
    topics: Vec<Topic>,
}

impl Wanted {
    fn is(&self, item: &Item) -> bool {
        item.tenant == self.tenant
            && self.topics.contains(&item.topic)
            && self
                .pipelines
                .as_ref()
                .is_none_or(|names| names.contains(&item.pipeline))
    }
}

#[utoipa::path(get, path = "/events/stream", tag = "events",
    params(StreamParams, ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = String,
        description = "Events `state`, `lag`, `tables`, `events`, `ops`; `reset`: look at everything anew"),
        (status = 400, body = Problem), (status = 429, body = Problem)))]
async fn news(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let names = |text: &str| {
        text.split(',')
            .map(str::trim)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let topics = match &params.topics {
        None => Topic::ALL.to_vec(),
        Some(text) => {
            let known = |word: &String| Topic::ALL.into_iter().find(|topic| topic.word() == word);
            let topics: Option<Vec<Topic>> = names(text).iter().map(known).collect();
            topics.ok_or_else(|| {
                let text = "topics are state, lag, tables, events and ops";
                Failure::new(codes::API_MALFORMED, text)
            })?
        }
    };
    let wanted = Wanted {
        tenant: caller.tenant.clone(),
        pipelines: params.pipelines.as_deref().map(names),
        topics,
    };
    // A number that is none of ours is too old: the reader looks anew.
    let last = headers.get("last-event-id").map(|last| {
        let number = last.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        number.unwrap_or(0)
    });
    let news = &app.supervisor.shared.news;
    let room = news.room().ok_or_else(|| {
        let text = "as many readers of news are here as there is room for";
        Failure::new(codes::API_TOO_MANY, text).retry_after(10)
    })?;
    let subscription = app.supervisor.shared.news.subscribe(last);
    let asks = (Arc::clone(&app.auth), caller);
    let reader = Reader::new(subscription, last.is_none(), wanted, asks, room);
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

struct Reader {
    subscription: Subscription,
    wanted: Wanted,
    waiting: VecDeque<Event>,
    /// What it would have read last is not kept any more.
    is_behind: bool,
    /// Whoever reads, for as long as their token counts.
    asks: (Arc<Auth>, Caller),
    /// Given back when it leaves.
    _room: OwnedSemaphorePermit,
}

impl Reader {
    fn new(
        mut subscription: Subscription,
        is_first: bool,
        wanted: Wanted,
        asks: (Arc<Auth>, Caller),
        room: OwnedSemaphorePermit,
    ) -> Reader {
        let missed = std::mem::take(&mut subscription.missed);
        let mut waiting = VecDeque::new();
        // The first one carries how soon to come back, and where one would go on.
        let first = Event::default()
            .retry(RETRY)
            .id(subscription.up_to.to_string());
        if subscription.is_reset {
            waiting.push_back(first.event("reset").data("{}"));
        } else if is_first {
            waiting.push_back(first.event("hello").data("{}"));
        }
        waiting.extend(
            missed
                .iter()
                .filter(|item| wanted.is(item))
                .map(|item| event(item)),
        );
        Reader {
            subscription,
            wanted,
            waiting,
            is_behind: false,
            asks,
            _room: room,
        }
    }

    /// `None`: the server ends, or the token does not count any more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let next = tokio::time::timeout(LOOK_EVERY, self.next_of_all()).await;
            let (auth, caller) = &self.asks;
            if !auth.counts(caller) {
                return None;
            }
            if let Ok(next) = next {
                return next;
            }
        }
    }

    async fn next_of_all(&mut self) -> Option<Event> {
        if let Some(event) = self.waiting.pop_front() {
            return Some(event);
        }
        loop {
            match self.subscription.receiver.recv().await {
                Ok(item) => {
                    let was_behind = self.is_behind;
                    self.is_behind = item.strong_count() == 0;
                    match item.upgrade() {
                        Some(item)
                            if item.id > self.subscription.up_to && self.wanted.is(&item) =>
                        {
                            return Some(event(&item));
                        }
                        Some(_) => {}
                        // It came too late for what is not kept any more; that is said once.
                        None if was_behind => {}
                        None => return Some(Event::default().event("reset").data("{}")),
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    return Some(Event::default().event("reset").data("{}"));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn event(item: &Item) -> Event {
    Event::default()
        .id(item.id.to_string())
        .event(item.topic.word())
        .data(&item.data)
}
