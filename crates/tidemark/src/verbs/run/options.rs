//! The engine's numbers and policies, from the pipeline file.

use std::time::Duration;

use tidemark_core::config::{self, PipelineConfig};
use tidemark_core::pipeline::options::{
    NewTables, OnConflict, OnMaxRetained, OnSchemaChange, OnTruncate, Options, Until,
};

/// A heartbeat that is switched off: far enough away.
const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// Everything about a run that is not source, target or mapping.
pub(crate) fn of(config: &PipelineConfig, until: Until) -> Options {
    let (load, stream, target) = (&config.load, &config.stream, &config.target);
    let postgres = &config.source.postgres;
    let (parallel_tables, parallel_chunks) = config.load_workers();
    Options {
        mode: config.mode,
        cdc_start: config.start,
        until,
        existing: target.existing,
        create_tables: target.create_tables,
        on_schema_change: match target.on_schema_change {
            config::OnSchemaChange::Apply => OnSchemaChange::Apply,
            config::OnSchemaChange::ApplyAdditive => OnSchemaChange::ApplyAdditive,
            config::OnSchemaChange::StopTable => OnSchemaChange::StopTable,
            config::OnSchemaChange::Ignore => OnSchemaChange::Ignore,
            config::OnSchemaChange::Fail => OnSchemaChange::Fail,
        },
        new_tables: match config.new_tables {
            config::NewTables::Notify => NewTables::Notify,
            config::NewTables::Add => NewTables::Add,
            config::NewTables::Ignore => NewTables::Ignore,
        },
        on_conflict: match target.on_conflict {
            config::OnConflict::Warn => OnConflict::Warn,
            config::OnConflict::Count => OnConflict::Apply,
            config::OnConflict::Fail => OnConflict::Fail,
        },
        on_truncate: match target.on_truncate {
            config::OnTruncate::Apply => OnTruncate::Apply,
            config::OnTruncate::StopTable => OnTruncate::StopTable,
            config::OnTruncate::Ignore => OnTruncate::Ignore,
        },
        parallel_tables,
        parallel_chunks,
        chunk_bytes: load.chunk_bytes,
        source_rows_per_second_max: load.max_source_rows_per_second,
        max_retained_bytes: postgres.max_retained_bytes,
        on_max_retained: match postgres.on_max_retained {
            config::OnMaxRetained::Fail => OnMaxRetained::Fail,
            config::OnMaxRetained::ReleaseSlot => OnMaxRetained::ReleaseSlot,
        },
        batch_rows_max: stream.batch_rows_max,
        batch_bytes_max: stream.batch_bytes_max.min(config.memory.batch_bytes()),
        heartbeat_interval: stream.heartbeat_interval.unwrap_or(NEVER),
        catalog_interval: stream.catalog_interval,
        ..Options::default()
    }
}
