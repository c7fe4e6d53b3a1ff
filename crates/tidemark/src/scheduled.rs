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
    line_of(&data(config), width)
}

/// The same from what a program is told.
pub(crate) fn line_of(data: &Value, width: Option<usize>) -> Option<String> {
    let word = |name: &str| data[name].as_str();
    let text = word("full_load")?;
    let zone = word("timezone").map_or_else(String::new, |zone| format!(" {zone}"));
    let next = data["next"].as_array().into_iter().flatten();
    let next: Vec<&str> = next.filter_map(Value::as_str).collect();
    let text = format!(
        "\"{text}\"{zone}, where a server runs it (overlap: {}, missed: {}); next: {}",
        word("overlap").unwrap_or_default(),
        word("missed").unwrap_or_default(),
        next.join(", "),
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
