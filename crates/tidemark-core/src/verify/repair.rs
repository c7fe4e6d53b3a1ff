//! Copying anew what a comparison found to differ, by the pipeline that runs.

use std::sync::Arc;

use crate::catalogue::{Code, codes};
use crate::control::anew::loaded_anew;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::mapping::TableMapping;
use crate::schema::TableName;
use crate::target::Target;

use super::compare::Report;
use super::difference::{repairs, to_repair};
use super::standstill::Ask;

/// Asks for it, and waits until the tables stream again. Tables in `aside` stay as they are, see
/// [`to_repair`].
pub async fn repair(
    target: &dyn Target,
    pipeline: &dyn Ask,
    report: &Report,
    tables: &[Arc<TableMapping>],
    aside: &[TableName],
) -> Result<()> {
    for command in repairs(report, tables, aside) {
        let answer = pipeline.ask(command).await;
        if !answer.ok {
            let code = answer.code.as_deref().and_then(Code::parse);
            let code = code.unwrap_or(codes::CLI_REFUSED);
            return Err(Error::definite(code, answer.text));
        }
        failpoint::reached(failpoint::REPAIR_ASKED);
    }
    let names: Vec<_> = to_repair(report, aside).map(|t| t.source.clone()).collect();
    loaded_anew(target, pipeline, &names).await.map(drop)
}
