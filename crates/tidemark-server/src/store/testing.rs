//! Stores for tests.

use tidemark_core::Result;
use tidemark_core::config::Secret;
use tidemark_core::target::Owner;

use super::{Desired, DesiredState, Duration, Key, NewPipeline, Seal, Store};

pub(crate) fn seal(digit: char) -> Seal {
    let key: String = std::iter::repeat_n(digit, 64).collect();
    Seal::of_text(&Secret::new(key)).unwrap()
}

/// The store in a database, if nobody has it.
pub(crate) async fn open_shared(url: &str, digit: char) -> Result<Store> {
    let owner = Owner {
        host: "here".to_owned(),
        pid: 7,
        lease: None,
    };
    let url = Secret::new(url.to_owned());
    let waits = tokio::sync::watch::Sender::new(None);
    let patience = Some(Duration::ZERO);
    Store::open_shared(&url, seal(digit), &owner, "127.0.0.1:1", patience, &waits).await
}

pub(crate) fn new_pipeline(tenant: &str, id: &str) -> NewPipeline {
    NewPipeline {
        key: Key::new(tenant, id),
        mode: "full_load_and_cdc".to_owned(),
        definition: Some("password = \"hunter2\"".to_owned()),
        file: None,
        desired: Desired::now(DesiredState::Draft, "ann", None),
        by: "ann".to_owned(),
    }
}
