//! The engine's numbers and policies, from the pipeline file.

use std::time::Duration;

use tidemark_core::config::PipelineConfig;
use tidemark_core::pipeline::options::{Options, Until};

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
        on_schema_change: target.on_schema_change,
        new_tables: config.new_tables,
        on_conflict: target.on_conflict,
        on_truncate: target.on_truncate,
        parallel_tables,
        parallel_chunks,
        chunk_bytes: load.chunk_bytes,
        source_rows_per_second_max: load.max_source_rows_per_second,
        max_retained_bytes: postgres.max_retained_bytes,
        on_max_retained: postgres.on_max_retained,
        batch_rows_max: stream.batch_rows_max,
        batch_bytes_max: stream.batch_bytes_max.min(config.memory.batch_bytes()),
        heartbeat_interval: stream.heartbeat_interval.unwrap_or(NEVER),
        catalog_interval: stream.catalog_interval,
        ..Options::default()
    }
}
