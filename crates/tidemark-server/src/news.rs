//! News for whoever watches: numbered, kept for a while, so that a reader who was cut off can go on
//! where it was, or is told that it must look at everything anew.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use tidemark_core::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// Readers at once: each costs a connection and what waits in it.
const READERS_MAX: usize = 500;
/// How many are kept, and how large all of them may be: news of a thousand tables are half a megabyte, once
/// a second.
const KEPT: usize = 20_000;
const KEPT_BYTES_MAX: usize = 32 << 20;
/// What one takes besides its text, rounded up.
const ITEM_BYTES: usize = 256;
/// How far a reader may be behind before it has to catch up from what is kept.
const BEHIND_MAX: usize = 1_024;

/// What news are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    State,
    Lag,
    Tables,
    Events,
    Operations,
}

impl Topic {
    pub(crate) const ALL: [Topic; 5] = [
        Topic::State,
        Topic::Lag,
        Topic::Tables,
        Topic::Events,
        Topic::Operations,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Topic::State => "state",
            Topic::Lag => "lag",
            Topic::Tables => "tables",
            Topic::Events => "events",
            Topic::Operations => "ops",
        }
    }
}

/// One piece of news.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: u64,
    pub(crate) tenant: String,
    pub(crate) pipeline: String,
    pub(crate) topic: Topic,
    /// JSON.
    pub(crate) data: String,
}

impl Item {
    fn bytes(&self) -> usize {
        self.data.len() + ITEM_BYTES
    }
}

/// See the module's text.
pub(crate) struct News {
    ring: Mutex<Ring>,
    sender: broadcast::Sender<Weak<Item>>,
    room: Arc<Semaphore>,
}

struct Ring {
    items: VecDeque<Arc<Item>>,
    bytes: usize,
    next: u64,
}

/// How a reader begins.
pub(crate) struct Subscription {
    /// What came since it was last there.
    pub(crate) missed: Vec<Arc<Item>>,
    /// It was away for too long, or another server told it last.
    pub(crate) is_reset: bool,
    /// Every item up to this is in `missed`, or not asked for.
    pub(crate) up_to: u64,
    /// Only what is kept: a reader that is slow holds nothing back, and has missed it.
    pub(crate) receiver: broadcast::Receiver<Weak<Item>>,
}

impl News {
    /// Room for one more reader, as long as it is kept; `None` where there are too many.
    pub(crate) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    pub(crate) fn new() -> News {
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        // Numbers of a server before this one are smaller, and so found to be too old.
        let first = u64::try_from(clock::now_us()).unwrap_or(1);
        let ring = Ring {
            items: VecDeque::new(),
            bytes: 0,
            next: first,
        };
        News {
            ring: Mutex::new(ring),
            sender,
            room: Arc::new(Semaphore::new(READERS_MAX)),
        }
    }

    pub(crate) fn say(&self, tenant: &str, pipeline: &str, topic: Topic, data: &Value) {
        let data = data.to_string();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let item = Arc::new(Item {
            id: ring.next,
            tenant: tenant.to_owned(),
            pipeline: pipeline.to_owned(),
            topic,
            data,
        });
        ring.next += 1;
        ring.bytes += item.bytes();
        ring.items.push_back(Arc::clone(&item));
        while ring.items.len() > KEPT || ring.bytes > KEPT_BYTES_MAX && ring.items.len() > 1 {
            let oldest = ring.items.pop_front();
            ring.bytes -= oldest.map_or(0, |oldest| oldest.bytes());
        }
        // Nobody listening is not an error.
        drop(self.sender.send(Arc::downgrade(&item)));
    }

    /// From the item after `last` on; from now on without one.
    pub(crate) fn subscribe(&self, last: Option<u64>) -> Subscription {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let oldest = ring.items.front().map_or(ring.next, |item| item.id);
        let up_to = ring.next - 1;
        let is_known = |last: u64| last < ring.next && last + 1 >= oldest;
        let missed = match last {
            Some(last) if is_known(last) => {
                let newer = ring.items.iter().filter(|item| item.id > last);
                newer.cloned().collect()
            }
            _ => Vec::new(),
        };
        Subscription {
            missed,
            is_reset: last.is_some_and(|last| !is_known(last)),
            up_to,
            receiver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s23_s24_there_is_room_for_so_many_readers_and_for_another_when_one_leaves() {
        let news = News::new();
        let mut readers: Vec<_> = (0..READERS_MAX).map(|_| news.room().unwrap()).collect();
        assert!(news.room().is_none());
        readers.pop();
        assert!(news.room().is_some());
    }

    #[test]
    fn a_reader_goes_on_where_it_was_or_is_told_to_look_anew() {
        let news = News::new();
        for number in 0..3 {
            news.say("a", "shop", Topic::Lag, &number.into());
        }
        let first = news.subscribe(None).up_to - 2;
        let again = news.subscribe(Some(first));
        let missed: Vec<u64> = again.missed.iter().map(|item| item.id).collect();
        assert_eq!(
            (missed, again.is_reset),
            (vec![first + 1, first + 2], false)
        );
        assert!(news.subscribe(Some(first + 2)).missed.is_empty());
        for other in [7, u64::MAX] {
            assert!(news.subscribe(Some(other)).is_reset, "of another server");
        }
        for number in 0..KEPT {
            news.say("a", "shop", Topic::Lag, &number.into());
        }
        assert!(news.subscribe(Some(first)).is_reset, "too old");
    }

    #[test]
    fn large_news_are_kept_for_less_long_and_a_slow_reader_keeps_none_of_them() {
        let news = News::new();
        let large = Value::String("x".repeat(1 << 20));
        let mut slow = news.subscribe(None);
        for _ in 0..100 {
            news.say("a", "wide", Topic::Tables, &large);
        }
        let oldest = slow.receiver.try_recv().unwrap();
        assert!(oldest.upgrade().is_none(), "a reader held it");
        let kept = news.subscribe(Some(slow.up_to + 90));
        assert!(
            !kept.is_reset && kept.missed.len() == 10,
            "the newest are there"
        );
        let ring = news.ring.lock().unwrap();
        let bytes: usize = ring.items.iter().map(|item| item.bytes()).sum();
        assert_eq!(ring.bytes, bytes);
        assert!(bytes <= KEPT_BYTES_MAX, "{bytes} bytes are kept");
    }
}
