//! Rows in quarantine: applied again, or discarded, each in a transaction of its own.

use std::sync::Arc;

use crate::checkpoint::CheckpointUpdate;
use crate::error::{Context, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::quarantine::Chosen;
use crate::target::Applier;

use super::DoneOutcome;

/// Applies rows again; those that are refused again stay.
pub(super) async fn release(
    applier: &mut dyn Applier,
    mappings: &[Arc<TableMapping>],
    chosen: &Chosen,
) -> Result<DoneOutcome> {
    applier.begin().await?;
    let released = applier.release(mappings, chosen).await;
    let released = released.context(|| "apply rows in quarantine again")?;
    failpoint::reached(failpoint::RELEASE_DUE);
    let applied = applier.commit(&CheckpointUpdate::default()).await?;
    failpoint::reached(failpoint::RELEASED);
    Ok(DoneOutcome::Released(released, applied))
}

/// Gives rows up.
pub(super) async fn discard(applier: &mut dyn Applier, chosen: &Chosen) -> Result<DoneOutcome> {
    applier.begin().await?;
    let count = applier.discard(chosen).await;
    let count = count.context(|| "discard rows in quarantine")?;
    let applied = applier.commit(&CheckpointUpdate::default()).await?;
    Ok(DoneOutcome::Discarded(count, applied))
}
