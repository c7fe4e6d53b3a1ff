//! `version`.

use serde_json::json;

use crate::output::Answer;

pub(crate) fn run() -> Answer {
    let version = env!("CARGO_PKG_VERSION");
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "optimised"
    };
    let platform = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    Answer::new(
        format!("tidemark {version}\n{platform}, {build}\npipeline file version 1"),
        json!({
            "version": version,
            "build": build,
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "pipeline_file_version": 1,
        }),
    )
}
