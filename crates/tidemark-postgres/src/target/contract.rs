//! [`PgTarget`] as core's [`Target`]: nothing is decided here.

use std::collections::HashSet;

use async_trait::async_trait;
use tidemark_core::batch::SchemaChange;
use tidemark_core::checkpoint::{
    Checkpoint, Generation, KnownPartitions, LoadPhase, RelayHome, Release, SourceIdentity, Unit,
};
use tidemark_core::control::Control;
use tidemark_core::finding::Finding;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::source::SequenceValue;
use tidemark_core::target::{
    Applier, Existing, KnownTypes, Lacking, LoadStart, Loader, Loosened, Occasion, Owner, Place,
    Prepared, Target, TypeChanges, TypeHistory,
};
use tidemark_core::verify::View;
use tidemark_core::{Error, Result};

use super::{Origin, PgTarget};

#[async_trait]
impl Target for PgTarget {
    async fn check(&self, tables: &[TableMapping]) -> Result<Vec<Finding>> {
        self.check_target(tables).await
    }

    async fn is_source(&self, source: &SourceIdentity) -> Result<bool> {
        self.is_source(source).await
    }

    fn marks(&self) -> bool {
        self.origin == Origin::Marked
    }

    async fn identity(&self) -> Result<Option<String>> {
        self.identity().await
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.checkpoint().await
    }

    async fn partitions(&self) -> Result<Vec<KnownPartitions>> {
        self.partitions().await
    }

    async fn acquire(&self, owner: &Owner) -> Result<Generation> {
        self.acquire(owner).await
    }

    fn has_ended_another(&self) -> bool {
        self.has_ended_another()
    }

    async fn keep_lock(&self, owner: &Owner) -> Error {
        self.keep_lock(owner).await
    }

    async fn claim(&self, tables: &[&TableName]) -> Result<()> {
        self.claim(tables).await
    }

    async fn unlogged(&self) -> Result<HashSet<TableName>> {
        self.unlogged().await
    }

    async fn start_load(&self, start: &LoadStart) -> Result<()> {
        self.start_load(start).await
    }

    async fn prepare_objects(
        &self,
        schema: &SourceSchema,
        tables: &[TableMapping],
        changes: TypeChanges,
        histories: &[TypeHistory],
    ) -> Result<bool> {
        self.prepare_objects(schema, tables, changes, histories)
            .await
    }

    async fn known_types(&self) -> Result<Vec<KnownTypes>> {
        self.known_types().await
    }

    async fn reshape(&self, mapping: &TableMapping, changes: &[SchemaChange]) -> Result<bool> {
        self.reshape(mapping, changes).await
    }

    async fn prepare(
        &self,
        mapping: &TableMapping,
        existing: Existing,
        place: Place,
        units: &[Unit],
    ) -> Result<Prepared> {
        self.prepare(mapping, existing, place, units).await
    }

    async fn loader(&self) -> Result<Box<dyn Loader>> {
        self.loader().await
    }

    async fn finish(&self, mapping: &TableMapping, place: Place) -> Result<()> {
        self.finish(mapping, place).await
    }

    async fn finish_foreign_keys(&self, tables: &[TableMapping]) -> Result<()> {
        self.finish_foreign_keys(tables).await
    }

    async fn loosen(
        &self,
        tables: &[TableMapping],
        of: &[TableName],
        occasion: Occasion,
    ) -> Result<Loosened> {
        self.loosen(tables, of, occasion).await
    }

    async fn lacks(&self, tables: &[TableMapping]) -> Result<Vec<Lacking>> {
        self.lacks(tables).await
    }

    async fn set_phase(&self, phase: LoadPhase) -> Result<()> {
        self.set_phase(phase).await
    }

    async fn follow_timeline(&self, timeline: u32) -> Result<()> {
        self.follow_timeline(timeline).await
    }

    async fn record_release(&self, release: &Release) -> Result<()> {
        self.record_release(release).await
    }

    async fn record_relay(&self, relay: &RelayHome) -> Result<()> {
        self.record_relay(relay).await
    }

    async fn swap(&self, mapping: &TableMapping) -> Result<()> {
        self.swap(mapping).await
    }

    async fn set_sequences(
        &self,
        values: &[SequenceValue],
        tables: &[TableMapping],
    ) -> Result<Vec<Error>> {
        self.set_sequences(values, tables).await
    }

    async fn applier(&self) -> Result<Box<dyn Applier>> {
        Ok(Box::new(self.applier().await?))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        Ok(Box::new(self.view().await?))
    }

    async fn control(&self) -> Result<Box<dyn Control>> {
        self.control().await
    }

    async fn forget(&self) -> Result<()> {
        self.forget().await
    }
}
