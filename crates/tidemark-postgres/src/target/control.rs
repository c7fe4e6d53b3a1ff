//! The side door: commands, answers and the reported status, as rows on the target.
//!
//! Both ends use it: the engine on a connection of its own, and whoever asks (`tidemark status`),
//! who may find no schema at all because the pipeline never ran. That is an answer, not an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::control::{Answer, Command, CommandId, Control};
use tidemark_core::quarantine::KeptChange;
use tidemark_core::status::Status;
use tidemark_core::target::Owner;
use tidemark_core::{Context, Error, Result};

use super::apply::aside;
use super::checkpoint::{from_json, json};
use super::metadata::{self, Found};
use super::owner;
use crate::wire::Connection;

/// Answers are kept this long for whoever sent the command.
const FORGET_ANSWERED: &str = "DELETE FROM tidemark.command \
     WHERE pipeline = $1 AND answered_at < now() - interval '1 day'";

/// Where whoever sends a command tells its pipeline so, by name: a command is read at once, and need not be
/// looked for all the time. A channel belongs to a database, as our schema does.
const CHANNEL: &str = "tidemark_command";

/// Either end of the side door.
#[derive(Debug)]
pub(super) struct PgControl {
    connection: Connection,
    pipeline: String,
    /// Of the run that opened the door; 0 until it owns the pipeline, and for whoever asks.
    generation: Arc<AtomicU64>,
    /// Our tables are there; asked again until they are.
    is_there: bool,
    /// We are told of commands. Behind a pooler that shares sessions nobody would be.
    is_listening: bool,
}

impl PgControl {
    /// On a connection of its own. Status and answers need not survive a crash of the target: they
    /// are told again.
    pub(super) async fn open(
        mut connection: Connection,
        pipeline: &str,
        generation: &Arc<AtomicU64>,
    ) -> Result<PgControl> {
        connection.run("SET synchronous_commit = off").await?;
        Ok(PgControl {
            connection,
            pipeline: pipeline.to_owned(),
            generation: Arc::clone(generation),
            is_there: false,
            is_listening: false,
        })
    }

    async fn is_there(&mut self) -> Result<bool> {
        if !self.is_there {
            // An older version may lack the tables: for us that is nothing.
            self.is_there = metadata::find(&mut self.connection).await? == Found::CURRENT;
        }
        Ok(self.is_there)
    }

    fn generation(&self) -> String {
        self.generation.load(Ordering::Acquire).to_string()
    }

    fn not_known(&self) -> Error {
        Error::definite(
            codes::TARGET_NOT_KNOWN,
            format!("no pipeline {} ever ran against this target", self.pipeline),
        )
    }
}

#[async_trait]
impl Control for PgControl {
    /// None for a run that does not own the pipeline: they are meant for the one that does.
    async fn commands(&mut self) -> Result<Vec<(CommandId, Command)>> {
        if !self.is_there().await? {
            return Ok(Vec::new());
        }
        if !self.is_listening && !self.connection.is_pooled() {
            self.connection.run(&format!("LISTEN {CHANNEL}")).await?;
            self.is_listening = true;
        }
        let generation = self.generation();
        let answer = self
            .connection
            .query(
                "SELECT w.id, w.command FROM tidemark.command w \
                 JOIN tidemark.checkpoint c USING (pipeline) \
                 WHERE pipeline = $1 AND w.answer IS NULL AND c.generation = $2::int8 \
                 ORDER BY w.id",
                &[Some(&self.pipeline), Some(&generation)],
            )
            .await?;
        let read =
            |row: &crate::wire::Row| Ok((CommandId(row.get(0)?), from_json(row.get_str(1)?)?));
        answer.rows.iter().map(read).collect()
    }

    async fn called(&mut self) -> Result<()> {
        if !self.is_listening {
            return std::future::pending().await;
        }
        while self.connection.notification().await?.payload != self.pipeline {}
        Ok(())
    }

    async fn answer(&mut self, id: CommandId, answer: &Answer) -> Result<()> {
        let id = id.0.to_string();
        self.connection
            .execute(
                "UPDATE tidemark.command SET answer = $3::jsonb, answered_at = now() \
                 WHERE pipeline = $1 AND id = $2::int8 AND answer IS NULL",
                &[Some(&self.pipeline), Some(&id), Some(&json(answer))],
            )
            .await
            .context(|| "answer a command")?;
        Ok(())
    }

    /// Silent while the run does not own the pipeline, and after another took it over.
    async fn report(&mut self, status: &Status) -> Result<()> {
        if !self.is_there().await? {
            return Ok(());
        }
        let generation = self.generation();
        self.connection
            .execute(
                "INSERT INTO tidemark.status AS s (pipeline, generation, status, reported_at) \
                 SELECT pipeline, generation, $3::jsonb, clock_timestamp() \
                 FROM tidemark.checkpoint WHERE pipeline = $1 AND generation = $2::int8 \
                 ON CONFLICT (pipeline) DO UPDATE SET generation = excluded.generation, \
                 status = excluded.status, reported_at = excluded.reported_at \
                 WHERE s.generation <= excluded.generation",
                &[Some(&self.pipeline), Some(&generation), Some(&json(status))],
            )
            .await
            .context(|| "report the status")?;
        Ok(())
    }

    async fn send(&mut self, command: &Command) -> Result<CommandId> {
        if !self.is_there().await? {
            return Err(self.not_known());
        }
        let pipeline = self.pipeline.clone();
        self.connection
            .execute(FORGET_ANSWERED, &[Some(&pipeline)])
            .await?;
        let sent = self
            .connection
            .query(
                &format!(
                    "WITH sent AS (INSERT INTO tidemark.command (pipeline, command) \
                     SELECT pipeline, $2::jsonb FROM tidemark.checkpoint WHERE pipeline = $1 \
                     RETURNING id, pipeline) \
                     SELECT id, pg_notify('{CHANNEL}', pipeline) FROM sent"
                ),
                &[Some(&pipeline), Some(&json(command))],
            )
            .await
            .context(|| "send a command")?;
        let row = sent.rows.first().ok_or_else(|| self.not_known())?;
        Ok(CommandId(row.get(0)?))
    }

    async fn answer_to(&mut self, id: CommandId) -> Result<Option<Answer>> {
        if !self.is_there().await? {
            return Ok(None);
        }
        let id = id.0.to_string();
        let found = self
            .connection
            .query(
                "SELECT answer FROM tidemark.command WHERE pipeline = $1 AND id = $2::int8",
                &[Some(&self.pipeline), Some(&id)],
            )
            .await?;
        let answer = found.rows.first().map(|row| row.opt_str(0)).transpose()?;
        answer.flatten().map(from_json).transpose()
    }

    async fn last_status(&mut self) -> Result<Option<(Status, f64)>> {
        if !self.is_there().await? {
            return Ok(None);
        }
        let found = self
            .connection
            .query(
                "SELECT status, extract(epoch FROM clock_timestamp() - reported_at)::float8 \
                 FROM tidemark.status WHERE pipeline = $1",
                &[Some(&self.pipeline)],
            )
            .await?;
        let Some(row) = found.rows.first() else {
            return Ok(None);
        };
        let age: f64 = row.get(1)?;
        Ok(Some((from_json(row.get_str(0)?)?, age.max(0.0))))
    }

    async fn quarantined(&mut self) -> Result<Vec<KeptChange>> {
        if !self.is_there().await? {
            return Ok(Vec::new());
        }
        aside::list(&mut self.connection, &self.pipeline).await
    }

    async fn owner(&mut self) -> Result<Option<Owner>> {
        let holder = owner::holder(&mut self.connection, &self.pipeline).await?;
        if holder.is_none() || !self.is_there().await? {
            return Ok(None);
        }
        let found = self
            .connection
            .query(
                "SELECT owner_host, owner_pid FROM tidemark.checkpoint \
                 WHERE pipeline = $1 AND owner_host IS NOT NULL",
                &[Some(&self.pipeline)],
            )
            .await?;
        let Some(row) = found.rows.first() else {
            return Ok(None);
        };
        Ok(Some(Owner {
            host: row.get_str(0)?.to_owned(),
            pid: row.get(1)?,
            lease: None,
        }))
    }

    /// Where one of its processes dies the server ends all sessions and recovers, and the time of its start stays
    /// what it was. But statistics do not outlive that: they begin anew (PostgreSQL 15, 28.2, and
    /// `pgstat_discard_stats`). Whoever else has reset them makes nobody wait for long.
    async fn up_for(&mut self) -> Result<Option<f64>> {
        let sql = "SELECT extract(epoch FROM clock_timestamp() \
                   - greatest(pg_postmaster_start_time(), stats_reset))::float8 \
                   FROM pg_stat_bgwriter";
        let found = self.connection.query(sql, &[]).await?;
        Ok(Some(found.one()?.get(0)?))
    }
}
