//! Reading the log ahead while rows are loaded.
//!
//! Frames are thrown away undecoded, since the stream reads them again from the same position: what
//! counts is that the *server* decodes them, and what it says if it cannot. Nothing is acknowledged, so
//! the slot stays where it is; unless it keeps so much that the relay log reads it, which then decodes
//! as well. Where that ends before the rows are in, this goes on behind what it has kept.

use std::time::Duration;

use tidemark_core::catalogue::codes;
use tidemark_core::position::{Lsn, Position};
use tidemark_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{PgSource, slot, stream};
use crate::wire::ReplicationReader;

/// How long the end of the log is waited for once the rows are in: the stream reads all of it anyway.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the slot is waited for to be free.
const FREE_TIMEOUT: Duration = Duration::from_secs(10);
const FREE_PAUSE: Duration = Duration::from_millis(50);

/// Between two tries. Nothing is urgent here: whoever loads notices a source that is away.
const RETRY_WAIT_MIN: Duration = Duration::from_secs(1);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

impl PgSource {
    /// See the trait.
    pub async fn read_ahead(
        &self,
        after: Position,
        mut is_loaded: watch::Receiver<bool>,
    ) -> Result<()> {
        let Position::PgLsn(after) = after;
        let mut wait = RETRY_WAIT_MIN;
        loop {
            let Err(error) = self.read_ahead_once(after, &mut is_loaded).await else {
                return Ok(());
            };
            if error.kind() != ErrorKind::Transient {
                return Err(error);
            }
            tracing::debug!(%error, "the log is not read ahead for now");
            if timeout(wait, loaded(&mut is_loaded)).await.is_ok() {
                // The stream meets what it is.
                return Ok(());
            }
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }

    async fn read_ahead_once(
        &self,
        after: Lsn,
        is_loaded: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let Some(mut reader) = self.open_ahead(after).await? else {
            return self.relayed_ahead(is_loaded).await;
        };
        *self.stream() = reader.shutdown_notice();
        loop {
            tokio::select! {
                passed = self.pass(&mut reader) => passed?,
                () = loaded(is_loaded) => break,
            }
        }
        let Position::PgLsn(head) = self.head().await?;
        let passing = async {
            while reader.received() < head {
                self.pass(&mut reader).await?;
            }
            Ok(())
        };
        timeout(PASS_TIMEOUT, passing).await.unwrap_or(Ok(()))?;
        if let Err(error) = reader.stop().await {
            tracing::debug!(%error, "the reading ahead ends");
        }
        // The server takes a moment to see that nobody reads any more.
        let freed = timeout(FREE_TIMEOUT, self.slot_is_free()).await;
        freed.unwrap_or(Ok(()))
    }

    /// Reads the slot, unless the relay log does; not what that has kept, which the source has forgotten.
    async fn open_ahead(&self, after: Lsn) -> Result<Option<ReplicationReader>> {
        let open = async |from| stream::open_wire(&self.options, &self.sessions, from).await;
        let Some(relay) = &self.relay else {
            return open(after).await.map(Some);
        };
        let _gate = relay.gate().await;
        if relay.is_written() {
            return Ok(None);
        }
        let reader = if let Some(end) = relay.end_behind(after) {
            relay.same_log(&self.origin(), end).await?;
            open(end).await?
        } else {
            let reader = open(after).await?;
            relay.discard();
            reader
        };
        relay.set_stopper(reader.stopper());
        Ok(Some(reader))
    }

    /// As [`PgSource::read_ahead_once`], while the relay log reads.
    async fn relayed_ahead(&self, is_loaded: &mut watch::Receiver<bool>) -> Result<()> {
        let Some(relay) = &self.relay else {
            return Ok(());
        };
        tokio::select! {
            () = relay.unwritten() => {
                let ended = "the relay log takes no more";
                return Err(Error::transient(codes::SOURCE_SHUTDOWN, ended));
            }
            () = loaded(is_loaded) => {}
        }
        let Position::PgLsn(head) = self.head().await?;
        // However it ends: the stream meets what it is.
        timeout(PASS_TIMEOUT, relay.written_to(head))
            .await
            .unwrap_or(());
        Ok(())
    }

    /// Throws the next block away.
    async fn pass(&self, reader: &mut ReplicationReader) -> Result<()> {
        let block = reader.next_block().await;
        let block = block.map_err(|error| stream::broken(error, &self.options))?;
        let ended = || Error::transient(codes::SOURCE_SHUTDOWN, "the reading ahead was ended");
        block.map(drop).ok_or_else(ended)
    }

    async fn slot_is_free(&self) -> Result<()> {
        loop {
            let mut session = self.sessions.borrow(&self.options.connect).await?;
            let found = slot::read(&mut session, &self.options.slot).await?;
            session.give_back();
            if found.is_none_or(|slot| slot.holder.is_none()) {
                return Ok(());
            }
            sleep(FREE_PAUSE).await;
        }
    }
}

/// Returns when the rows are in.
async fn loaded(is_loaded: &mut watch::Receiver<bool>) {
    // Whoever would say so is gone with the load.
    drop(is_loaded.wait_for(|is_loaded| *is_loaded).await);
}
