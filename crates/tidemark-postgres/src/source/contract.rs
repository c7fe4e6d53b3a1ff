//! [`PgSource`] as core's [`Source`]: nothing is decided here.

use std::time::Duration;

use async_trait::async_trait;
use tidemark_core::Result;
use tidemark_core::event::StreamTable;
use tidemark_core::finding::Finding;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::schema::{SourceSchema, TableName};
use tidemark_core::selection::Selection;
use tidemark_core::source::{
    ChangeStream, ColumnType, Feed, Keep, LogState, Partition, Relayed, Retyped, SequenceValue,
    Snapshot, Source, StreamedShape, WillStream, Within,
};
use tidemark_core::verify::View;
use tokio::sync::watch;

use super::{PgSnapshot, PgSource, blockers, snapshot};
use crate::check::SourceCheck;
use crate::schema;
use crate::target::feeds;

/// A check names transactions that have been open for longer.
const LONG_TRANSACTION: Duration = Duration::from_mins(1);

#[async_trait]
impl Source for PgSource {
    async fn check(
        &self,
        tables: &[TableMapping],
        will_stream: WillStream,
    ) -> Result<Vec<Finding>> {
        let options = &self.options;
        let check = SourceCheck {
            connect: &options.connect,
            pipeline: &options.pipeline,
            slot: &options.slot,
            publication: &options.publication,
            create: options.create,
            tables,
            will_stream,
            long_transaction: LONG_TRANSACTION,
            spool_dir: &options.spool_dir,
            relay: options.relay.as_ref(),
        };
        check.run().await
    }

    async fn describe(&self, selection: &Selection) -> Result<SourceSchema> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let described = schema::describe(&mut session, selection).await?;
        session.give_back();
        Ok(described)
    }

    async fn log_state(&self) -> Result<LogState> {
        self.log_state().await
    }

    async fn watch_log(&self) -> Result<LogState> {
        self.watch_log().await
    }

    async fn who_runs(&self, xid: u32) -> Result<Option<String>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let found = blockers::of_transaction(&mut session, xid).await?;
        session.give_back();
        Ok((!found.is_empty()).then(|| blockers::list(&found)))
    }

    async fn announce(&self, tables: &[TableName]) -> Result<()> {
        self.announce(tables).await
    }

    async fn unannounced(&self, tables: &[TableName], within: Within) -> Result<Vec<TableName>> {
        self.unannounced(tables, within).await
    }

    async fn partitions(&self, tables: &[TableName]) -> Result<Vec<(TableName, Vec<Partition>)>> {
        self.partitions(tables).await
    }

    async fn open_log(&self, keep: Keep) -> Result<(Position, Box<dyn Snapshot>)> {
        let exported = self.make_slot(keep).await?;
        let (position, name) = (exported.position, exported.name.clone());
        let connect = self.options.connect.clone();
        let snapshot = PgSnapshot::adopt(connect, name, Box::new(exported)).await?;
        Ok((Position::PgLsn(position), Box::new(snapshot)))
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(
            PgSnapshot::take(self.options.connect.clone()).await?,
        ))
    }

    async fn snapshot_of(&self, table: &TableName) -> Result<Box<dyn Snapshot>> {
        let config = self.options.connect.clone();
        Ok(Box::new(PgSnapshot::take_of(config, table).await?))
    }

    async fn view(&self) -> Result<Box<dyn View>> {
        Ok(Box::new(snapshot::view(&self.options.connect).await?))
    }

    async fn changes(&self, after: Position) -> Result<Box<dyn ChangeStream>> {
        self.changes(after).await
    }

    async fn read_ahead(&self, after: Position, is_loaded: watch::Receiver<bool>) -> Result<()> {
        self.read_ahead(after, is_loaded).await
    }

    async fn fed_by(&self) -> Result<Vec<Feed>> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let feeds = feeds::read(&mut session, self.options.origin).await?;
        session.give_back();
        Ok(feeds)
    }

    async fn relayed(&self) -> Result<Option<Relayed>> {
        self.relayed().await
    }

    fn permit_relay(&self) {
        self.permit_relay();
    }

    async fn head(&self) -> Result<Position> {
        self.head().await
    }

    async fn shape_of(&self, table: &StreamTable) -> Result<StreamedShape> {
        let mut session = self.sessions.borrow(&self.options.connect).await?;
        let shape = schema::shape_of(&mut session, table).await?;
        session.give_back();
        Ok(shape)
    }

    fn retyped(&self, from: ColumnType, to: ColumnType) -> Retyped {
        schema::retyped(from, to)
    }

    async fn heartbeat(&self) -> Result<Option<i64>> {
        self.heartbeat().await
    }

    async fn sequences(&self, tables: &[TableName]) -> Result<Vec<SequenceValue>> {
        self.sequences(tables).await
    }

    async fn end_reader(&self) -> Result<()> {
        self.end_reader().await
    }

    async fn release_slot(&self) -> Result<Option<String>> {
        self.release_slot().await
    }

    async fn take_back(&self) -> Result<Vec<String>> {
        self.take_back().await
    }

    async fn note_target(&self, target: &str) -> Result<()> {
        self.note_target(target).await
    }

    async fn noted_target(&self) -> Result<Option<String>> {
        self.noted_target().await
    }

    async fn release(&self) -> Result<Vec<String>> {
        self.release().await
    }
}
