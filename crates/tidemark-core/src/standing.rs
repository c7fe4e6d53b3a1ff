//! How a pipeline stands, seen from outside: its status, whether somebody runs it, and how old that is.
//!
//! It is what `status --json` and a server answer, so that whoever asks gets the same from both.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::status::{PipelineState, Status};
use crate::target::Owner;

/// The word for a pipeline that never ran.
const DRAFT: &str = "draft";

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Standing {
    /// In the dictionary's words.
    pub status: Status,
    /// Whether it ever ran against this target: without that the state is `draft`.
    pub life: Life,
    /// Age of the report that `status` was taken from, in seconds.
    pub report_age_seconds: Option<f64>,
}

/// Whether somebody runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It never ran against this target.
    Draft,
    /// Nobody runs it now.
    Still,
    /// Somebody does.
    Running(Owner),
}

impl Standing {
    /// The state's word, `draft` included.
    pub fn state(&self) -> String {
        match self.life {
            Life::Draft => DRAFT.to_owned(),
            Life::Still | Life::Running(_) => word(&self.status.state),
        }
    }

    /// As a program sees it.
    pub fn data(&self) -> Value {
        let running = match &self.life {
            Life::Running(owner) => serde_json::json!({ "host": owner.host, "pid": owner.pid }),
            Life::Draft | Life::Still => Value::Null,
        };
        let mut data = serde_json::to_value(&self.status).expect("plain data with text keys");
        data["state"] = self.state().into();
        data["stale"] = self.is_stale().into();
        data["running"] = running;
        data["report_age_seconds"] = self.report_age_seconds.into();
        data
    }

    /// From what a program sees.
    pub fn of_data(data: Value) -> Result<Standing, serde_json::Error> {
        let mut data: Map<String, Value> = serde_json::from_value(data)?;
        let is_draft = data.get("state").is_some_and(|state| state == DRAFT);
        if is_draft {
            data.insert("state".to_owned(), word(&PipelineState::Stopped).into());
        }
        let report_age_seconds = data.get("report_age_seconds").and_then(Value::as_f64);
        let owner = data.get("running").and_then(|running| {
            Some(Owner {
                host: running["host"].as_str()?.to_owned(),
                pid: u32::try_from(running["pid"].as_u64()?).ok()?,
                lease: None,
            })
        });
        let life = match owner {
            Some(owner) => Life::Running(owner),
            None if is_draft => Life::Draft,
            None => Life::Still,
        };
        Ok(Standing {
            status: serde_json::from_value(Value::Object(data))?,
            life,
            report_age_seconds,
        })
    }

    /// Whether the source's side of it is not of now.
    pub fn is_stale(&self) -> bool {
        self.life != Life::Draft && self.status.source_lsn.is_none()
    }
}

fn word(value: &impl Serialize) -> String {
    let word = serde_json::to_value(value).expect("plain data");
    word.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, Position};

    #[test]
    fn what_a_program_sees_is_all_there_is() {
        let owner = Owner {
            host: "a".to_owned(),
            pid: 7,
            lease: None,
        };
        for life in [Life::Draft, Life::Still, Life::Running(owner)] {
            let mut status = Status::unknown("shop", "full_load_and_cdc");
            status.source_lsn = Some(Position::PgLsn(Lsn(0x1A)));
            let standing = Standing {
                status,
                life,
                report_age_seconds: Some(0.5),
            };
            let read = Standing::of_data(standing.data()).unwrap();
            assert_eq!((&read.life, read.data()), (&standing.life, standing.data()));
        }
    }
}
