//! A reconcile by a server: one that has the pipeline running asks it, and one that has not starts it.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::report::Report;
use super::{COMPARING, Effect, MENDING, ReconcileArgs, cut_off};
use crate::invocation::Invocation;
use crate::output::Outcome;
use crate::output::waiting::during;
use crate::problem::Failure;
use crate::remote::There;
use crate::verbs::control::names;

pub(super) async fn run(
    invocation: &Invocation,
    there: &There,
    arguments: &ReconcileArgs,
) -> Outcome {
    tokio::select! {
        outcome = reconcile(invocation, there, arguments) => outcome,
        failure = cut_off(invocation) => Err(failure),
    }
}

async fn reconcile(invocation: &Invocation, there: &There, arguments: &ReconcileArgs) -> Outcome {
    let tables = names(&arguments.tables);
    let (what, body) = if arguments.dry_run {
        (COMPARING, json!({ "tables": tables, "report": true }))
    } else {
        let asked = json!({ "tables": tables, "dry_run": true });
        let effect: Effect = read(there, there.tell("reconcile", &asked).await?)?;
        effect.confirm(invocation).await?;
        (MENDING, json!({ "tables": tables }))
    };
    let done = during(&invocation.talk, what, there.act("reconcile", &body)).await?;
    let report: Report = read(there, done.data)?;
    Ok(report.answer(invocation, &there.name))
}

fn read<T: DeserializeOwned>(there: &There, said: Value) -> Result<T, Failure> {
    let read = serde_json::from_value(said);
    Ok(read.map_err(|err| there.server.strange(&err))?)
}
