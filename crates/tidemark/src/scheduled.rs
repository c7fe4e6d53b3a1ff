//! When a server will load a pipeline anew, as `check`, `plan` and `config lint` show it.

use serde_json::{Value, json};
use tidemark_core::clock;
use tidemark_core::config::PipelineConfig;
use tidemark_core::schedule::Schedule;

use crate::output::wrap;

/// How many runs are shown.
const SHOWN: usize = 5;

/// When it is due, and the next times; nothing without a schedule.
pub(crate) fn line(config: &PipelineConfig, width: Option<usize>) -> Option<String> {
    let schedule = config.schedule.as_ref()?;
    let zone = match schedule.zone() {
        Some(zone) => format!(" {zone}"),
        None => String::new(),
    };
    let text = format!(
        "\"{}\"{zone}, where a server runs it (overlap: {}, missed: {}); next: {}",
        schedule.text,
        schedule.overlap.word(),
        schedule.missed.word(),
        next(schedule).join(", "),
    );
    Some(wrap::labelled("Schedule", &text, 0, 11, width))
}

/// The same for a program.
pub(crate) fn data(config: &PipelineConfig) -> Value {
    let Some(schedule) = &config.schedule else {
        return Value::Null;
    };
    json!({
        "full_load": schedule.text,
        "timezone": schedule.zone(),
        "overlap": schedule.overlap.word(),
        "missed": schedule.missed.word(),
        "next": next(schedule),
    })
}

fn next(schedule: &Schedule) -> Vec<String> {
    let times = schedule.next(clock::now_us(), SHOWN);
    times.iter().map(|time| schedule.show(*time)).collect()
}
