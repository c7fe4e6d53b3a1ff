//! What brings a copy, or what it rests on, into order: reconcile, repair, sequences, remedies of checks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::checkpoint::{TableCheckpoint, TableState};
use tidemark_core::finding::{Side, safe_fix};
use tidemark_core::pipeline::options::Reconcile;
use tidemark_core::schema::TableName;
use tidemark_core::status::{Status, TableStatus, TableStatusState};
use tidemark_core::{Error, Result};

use super::actions::FREE_WITHIN;
use super::member::Rest;
use super::{Member, Supervisor, open};
use crate::store::{Desired, DesiredState, Done};
use crate::systems::{Asked, Opened, Reconciling};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A statement that a person has seen, and on which side it is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Statement {
    pub(crate) on: Side,
    pub(crate) sql: String,
}

impl Supervisor {
    /// Sets the target's sequences.
    pub(super) async fn set_sequences(&self, member: &Member) -> Result<Done> {
        let opened = open(&self.shared, member).await?;
        let said = self.shared.systems.sequences(&opened, Asked::Act).await?;
        let count = said["sequences"].as_array().map_or(0, Vec::len);
        Ok(Done {
            text: format!("{count} sequences are set"),
            data: Some(said),
        })
    }

    /// Runs statements, each only if it mends what is found now, and changes no data.
    pub(super) async fn fix(&self, member: &Member, statements: &[Statement]) -> Result<Done> {
        let opened = open(&self.shared, member).await?;
        let systems = &self.shared.systems;
        let findings = systems.check(&opened).await?;
        let known = findings.iter().filter_map(|finding| {
            let sql = safe_fix(finding.verdict, &finding.fixes)?;
            Some((finding.side, sql))
        });
        let known: Vec<(Side, &str)> = known.collect();
        if let Some(Statement { on, sql }) = statements
            .iter()
            .find(|it| !known.contains(&(it.on, it.sql.as_str())))
        {
            let text = format!("no check asks for this on the {on} now: {sql}");
            return Err(Error::definite(codes::API_CONFLICT, text).first_action("check it again"));
        }
        for Statement { on, sql } in statements {
            systems.execute(&opened, *on, sql).await?;
        }
        Ok(Done {
            text: format!("{} statements were run", statements.len()),
            data: Some(json!({ "statements": statements })),
        })
    }

    /// What differs between both sides by kind; nothing is changed.
    pub(super) async fn report(&self, member: &Member, tables: &[TableName]) -> Result<Done> {
        let opened = open(&self.shared, member).await?;
        let asked = Reconciling::Report;
        let said = self.shared.systems.reconcile(&opened, tables, asked);
        let said = said.await?;
        Ok(Done {
            text: "both sides were compared; nothing was changed".to_owned(),
            data: Some(said),
        })
    }

    /// Brings tables to the source's state. Where no run goes on one begins with it, and streams on.
    pub(super) async fn reconcile(
        &self,
        member: &Arc<Member>,
        tables: &[TableName],
        by: &str,
    ) -> Result<Done> {
        let systems = &self.shared.systems;
        let said = if let Some(alive) = member.alive() {
            let asked = systems.reconcile(&alive.opened, tables, Reconciling::Ask);
            asked.await?
        } else {
            let opened = open(&self.shared, member).await?;
            if self.is_run_elsewhere(&opened).await? {
                let asked = systems.reconcile(&opened, tables, Reconciling::Ask);
                asked.await?
            } else {
                self.reconcile_first(member, &opened, tables, by).await?
            }
        };
        let moved = said["tables"].as_array().into_iter().flatten();
        let moved: u64 = moved
            .filter_map(|table| table["reconciled"]["rows_moved"].as_u64())
            .sum();
        Ok(Done {
            text: format!("reconciled: {moved} rows copied"),
            data: Some(said),
        })
    }

    async fn reconcile_first(
        &self,
        member: &Arc<Member>,
        opened: &Opened,
        tables: &[TableName],
        by: &str,
    ) -> Result<Value> {
        let began = Instant::now();
        let systems = &self.shared.systems;
        // What can be refused is refused before anything begins.
        let effect = systems.reconcile(opened, tables, Reconciling::Effect);
        effect.await?;
        let wanted = match tables {
            [] => Reconcile::All,
            named => Reconcile::Tables(named.to_vec()),
        };
        member.reconciles(wanted.clone());
        // Nothing that went wrong before counts from here on.
        member.rests(Rest::of("starting", by, None));
        let running = Desired::now(DesiredState::Running, by, None);
        let ended = async {
            self.desire(member, running).await?;
            reconciled(member, tables, &wanted).await
        };
        let ended = ended.await;
        member.reconciles(Reconcile::Nothing);
        let status = ended?;
        let done = Reconciling::Done(&status, began.elapsed());
        systems.reconcile(opened, tables, done).await
    }

    /// Whether another process runs it. The session of a run that has just ended here may be there for a
    /// moment longer.
    async fn is_run_elsewhere(&self, opened: &Opened) -> Result<bool> {
        let began = Instant::now();
        let ours = &self.shared.owner;
        loop {
            let Some(owner) = opened.target.control().await?.owner().await? else {
                return Ok(false);
            };
            let is_ours = (&owner.host, owner.pid) == (&ours.host, ours.pid);
            if !is_ours || began.elapsed() > FREE_WITHIN {
                return Ok(!is_ours);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Until the run that begins with it follows the log, and no table is left to compare: how it stands then.
async fn reconciled(member: &Member, tables: &[TableName], wanted: &Reconcile) -> Result<Status> {
    let conflict = |text: String| {
        Err(Error::definite(codes::API_CONFLICT, text).first_action("reconcile it again"))
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (view, id) = (member.view(), &member.key.id);
        if member.row().desired.state != DesiredState::Running {
            return conflict(format!("{id} was not to run any more before it was over"));
        }
        if view.state == "failed" {
            let error = view.status.error;
            let code = error.as_ref().and_then(|error| Code::parse(&error.code));
            let text = error.map_or_else(String::new, |error| error.message);
            return Err(Error::definite(code.unwrap_or(codes::INTERNAL), text));
        }
        let Some(alive) = member.alive() else {
            continue;
        };
        if alive.reconcile != *wanted {
            // The target has what is left to do, and whoever runs it does that; what came of it is lost.
            return conflict(format!(
                "another run of {id} goes on than the one that began with it"
            ));
        }
        let Ok(Some(checkpoint)) = alive.opened.target.checkpoint().await else {
            continue;
        };
        let is_ours = |name: &TableName| tables.is_empty() || tables.contains(name);
        let is_left = |table: &TableCheckpoint| {
            is_ours(&table.source) && table.state == TableState::Resyncing
        };
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        let is_shown_left = |table: &TableStatus| {
            let is_ours = names.is_empty() || names.contains(&table.source);
            let states = [
                TableStatusState::Resyncing,
                TableStatusState::Loading,
                TableStatusState::Queued,
            ];
            is_ours && states.contains(&table.state)
        };
        if view.state == "streaming"
            && !checkpoint.tables.iter().any(is_left)
            && !view.status.tables.iter().any(is_shown_left)
        {
            return Ok(view.status);
        }
    }
}
