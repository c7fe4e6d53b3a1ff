//! A cutover by a server. The server asks back where others would notice what comes next, and takes
//! everything back when nobody agrees, or whoever asked goes away.

use serde::Deserialize;
use serde_json::{Value, json};
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use super::{CutoverArgs, Ended, Report, answer, answer_of_abort, confirm_abort, consent};
use crate::invocation::Invocation;
use crate::output::{Consent, Outcome};
use crate::problem::Failure;
use crate::remote::There;

pub(super) async fn run(
    invocation: &Invocation,
    there: &There,
    arguments: &CutoverArgs,
) -> Outcome {
    let wishes = &arguments.wishes;
    if wishes.stop_writers.is_some() || wishes.reverse.is_some() {
        let text = "commands and the way back belong to this machine: --stop-writers and --reverse \
                    work where the pipeline's file is";
        return Err(Error::definite(codes::SERVER_VERB, text).into());
    }
    if arguments.abort {
        return abort(invocation, there).await;
    }
    let asked = json!({
        "fence": wishes.fence,
        "silence_seconds": wishes.silence.as_secs_f64(),
        "patience_seconds": wishes.patience.as_secs_f64(),
        "sequence_margin": wishes.sequence_margin,
    });
    if arguments.dry_run {
        let body = json!({ "cutover": asked, "dry_run": true });
        let told = there.tell("cutover", &body);
        let told = tokio::select! {
            told = told => told?,
            late = invocation.late() => return Err(late),
            name = invocation.signals.stop() => return Err(Failure::interrupted(name)),
        };
        return answer(ended(there, told, None)?, arguments);
    }
    let is_agreed = invocation.talk.consent == Consent::Given;
    let confirm = is_agreed.then_some(there.name.as_str());
    let body = json!({ "cutover": asked, "confirm": confirm });
    let operation = there.begin("cutover", &body).await?;
    let failure = tokio::select! {
        done = follow(invocation, there, &operation) => done.err(),
        late = invocation.late() => Some(late),
        name = invocation.signals.stop() =>
            Some(Failure::Signalled(name.exit(), "interrupted".to_owned())),
    };
    if failure.is_some() {
        // One that is over by now stays as it is.
        there.server.cancel(&operation).await?;
    }
    let over = there.server.over(&operation).await?;
    if over.data["steps"].is_null() {
        // It was refused before it began.
        return Err(over.refusal().into());
    }
    let is_done = over.is_done();
    let mut ended = ended(there, over.data, failure)?;
    if is_done {
        ended.failure = None;
    }
    answer(ended, arguments)
}

/// Says each step once it is done, and agrees where that is asked, until it is over.
async fn follow(invocation: &Invocation, there: &There, operation: &str) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Asks {
        asks: Option<String>,
    }
    let mut said = 0;
    loop {
        let now = there.server.now(operation).await?;
        let is_over = now.is_over();
        if !now.data.is_null() {
            let strange = |err| there.server.strange(&err);
            let asks: Asks = serde_json::from_value(now.data.clone()).map_err(strange)?;
            let (report, _) = Report::of_data(now.data).map_err(strange)?;
            for line in report.lines(said) {
                invocation.talk.say(&line);
                said += 1;
            }
            if let Some(effect) = asks.asks.filter(|_| !is_over) {
                consent(invocation, &there.name, effect).await?;
                there.server.agree(operation, &there.name).await?;
            }
        }
        if is_over {
            return Ok(());
        }
        tokio::time::sleep(crate::remote::LOOK_EVERY).await;
    }
}

/// What a server tells; `failure` is why it was given up from here, if it was.
fn ended(there: &There, told: Value, failure: Option<Failure>) -> Result<Ended, Failure> {
    let told = Report::of_data(told).map_err(|err| there.server.strange(&err))?;
    let (report, refusal) = told;
    let failure = failure.or_else(|| refusal.map(Failure::from));
    Ok(Ended { report, failure })
}

async fn abort(invocation: &Invocation, there: &There) -> Outcome {
    let told = there.tell("abort", &json!({ "dry_run": true })).await?;
    if told["fenced"] == true {
        confirm_abort(invocation, &there.name)?;
        there.act("abort", &json!({})).await?;
    }
    Ok(answer_of_abort(
        &there.name,
        &there.name,
        told["fenced"] == true,
    ))
}
