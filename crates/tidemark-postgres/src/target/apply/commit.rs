//! Commits: a light transaction in one flight, an open one at its end, and the wait for the disk.

use std::time::Instant;

use tidemark_core::batch::Batch;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::CheckpointUpdate;
use tidemark_core::compact::{Segment, split};
use tidemark_core::position::Lsn;
use tidemark_core::target::Applied;
use tidemark_core::{Error, ErrorKind, Result, failpoint};

use super::known::Met;
use super::refusal;
use super::session::{Outcome, Step};
use super::stretch::Pace;
use super::transaction::{Part, Stage, State, count, merge, went_well};
use super::{PgApplier, out_of_turn};
use crate::target::checkpoint::Write;
use crate::wire::ServerError;

/// Where the target's log goes on, and how far it is on disk.
const LOG: &str = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";

impl PgApplier {
    /// Commits: all that was held in one flight, or what is open.
    pub(super) async fn commit_now(&mut self, update: &CheckpointUpdate) -> Result<Applied> {
        let writes = self.writer.update(update);
        let applied = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => return Err(out_of_turn("commit without begin")),
            State::Held(parts) => self.commit_held(parts, &writes, update).await?,
            State::Open(stage) => {
                self.state = State::Open(stage);
                self.commit_open(stage, &writes, update).await?;
                std::mem::take(&mut self.early)
            }
        };
        self.state = State::Idle;
        Ok(applied)
    }

    /// A light transaction: one write, one read.
    async fn commit_held(
        &mut self,
        parts: Vec<Part>,
        writes: &[Write],
        update: &CheckpointUpdate,
    ) -> Result<Applied> {
        // Tables that are new to us are described before anything is queued.
        let mut met = Vec::new();
        for part in &parts {
            met.push(match part {
                Part::Changes(batch) => self.meet_light(batch).await?,
                Part::Parcel(_) => Vec::new(),
            });
        }
        for (part, met) in parts.iter().zip(&met) {
            match part {
                Part::Parcel(parcel) => parcel.send(&mut self.session, &self.writer.pipeline)?,
                Part::Changes(batch) => self.queue_light(batch, met).await?,
            }
        }
        self.known.ask_for_hooks(&mut self.session)?;
        self.queue_writes(writes)?;
        self.session.sync();
        let outcome = self.end(update).await?;
        let mut applied = Applied::default();
        let Some((step, said)) = outcome.refused else {
            for (part, met) in parts.into_iter().zip(&met) {
                if let Part::Changes(batch) = part {
                    self.count_light(&mut applied, &batch, met, &outcome.surprises);
                    self.spare = batch;
                }
            }
            self.note_commit(update, &outcome);
            return Ok(applied);
        };
        if !matches!(step, Step::Change { .. }) || !refusal::is_worth_a_replay(&said) {
            return Err(self.refused_own(step, said));
        }
        if let Some(Part::Changes(batch)) =
            parts.iter().find(|part| matches!(part, Part::Changes(_)))
        {
            self.note_refusal(batch, step, &said);
        }
        self.state = State::Open(Stage::Unbegun);
        for part in parts {
            merge(&mut applied, self.unhold(part, Pace::Careful).await?);
        }
        let State::Open(stage) = self.state else {
            return Err(out_of_turn("a transaction that is lost"));
        };
        self.commit_open(stage, writes, update).await?;
        Ok(applied)
    }

    async fn commit_open(
        &mut self,
        stage: Stage,
        writes: &[Write],
        update: &CheckpointUpdate,
    ) -> Result<()> {
        if stage == Stage::Unbegun {
            self.session.run("BEGIN", Step::Own)?;
        }
        if self.quarantine.is_dirty() {
            let pipeline = &self.writer.pipeline;
            self.quarantine.send(&mut self.session, pipeline)?;
        }
        self.known.ask_for_hooks(&mut self.session)?;
        self.queue_writes(writes)?;
        self.session.run("COMMIT", Step::Own)?;
        self.session.sync();
        let outcome = self.end(update).await?;
        if let Some((step, said)) = outcome.refused {
            return Err(self.refused_own(step, said));
        }
        self.note_commit(update, &outcome);
        Ok(())
    }

    fn queue_writes(&mut self, writes: &[Write]) -> Result<()> {
        for write in writes {
            let statement = self.session.own_statement(write.sql)?;
            let mut bind = self.session.bind(statement, write.params.len());
            for param in &write.params {
                bind.value(param.as_deref().map(str::as_bytes));
            }
            bind.execute(Step::Own, 0)?;
        }
        Ok(())
    }

    /// Sends the commit that is queued, and takes in its answer.
    async fn end(&mut self, update: &CheckpointUpdate) -> Result<Outcome> {
        self.queue_log_question(update)?;
        self.session.flush().await?;
        failpoint::reached(failpoint::COMMIT_SENT);
        self.session.finish().await
    }

    /// Asks how far the log is, right behind the commit and in the same flight, where that is due.
    fn queue_log_question(&mut self, update: &CheckpointUpdate) -> Result<()> {
        let is_needless = self.is_synchronous || update.position.is_none();
        if is_needless || !self.durability.must_ask(Instant::now()) {
            return Ok(());
        }
        let statement = self.session.own_statement(LOG)?;
        self.session.bind(statement, 0).execute(Step::Rows, 0)?;
        self.session.sync();
        Ok(())
    }

    fn note_commit(&mut self, update: &CheckpointUpdate, outcome: &Outcome) {
        let Some(position) = update.position else {
            return;
        };
        self.durability.committed(position);
        if self.is_synchronous {
            return self.durability.flushed_all();
        }
        let answer = outcome.rows.last().and_then(|row| {
            let lsn = |i| std::str::from_utf8(row.cell(i)??).ok()?.parse::<Lsn>().ok();
            Some((lsn(0)?, lsn(1)?))
        });
        // Without an answer nothing says when it is durable, until a later one or a flush does.
        if let Some((end, flushed)) = answer {
            self.durability.placed(end);
            self.durability.flushed(flushed);
        }
    }

    /// A commit that waits for the disk, and for no standby, after which everything before it is there
    /// too. It must write something: a commit without a change waits for nothing (PostgreSQL 15, xact.c).
    /// What it writes is the fence, so a zombie learns here, too, that it is one.
    pub(super) async fn flush_now(&mut self) -> Result<()> {
        self.session.run("BEGIN", Step::Own)?;
        self.session
            .run("SET LOCAL synchronous_commit = local", Step::Own)?;
        self.queue_writes(&[self.writer.advance(None)])?;
        self.session.run("COMMIT", Step::Own)?;
        self.session.sync();
        if let Some((_, said)) = self.session.finish().await?.refused {
            return Err(refusal::of_own(*said));
        }
        self.durability.flushed_all();
        Ok(())
    }

    /// A refusal that no change of ours is named for: the question for hooks, the checkpoint, or the commit
    /// itself, where a deferred constraint may speak of a table.
    fn refused_own(&self, step: Step, said: Box<ServerError>) -> Error {
        if step == Step::Hooks && said.sqlstate == refusal::DIVISION_BY_ZERO {
            return Error::transient(
                codes::TARGET_HOOKS,
                "target: a trigger or rule came to a table since the table was looked at",
            );
        }
        let table = match (&said.schema, &said.table) {
            (Some(schema), Some(name)) => self.known.source_of(schema, name),
            _ => None,
        };
        let error = refusal::of_own(*said);
        match table {
            Some(table) if error.kind() != ErrorKind::Transient => {
                error.with_kind(ErrorKind::Data).table(table.to_string())
            }
            _ => error,
        }
    }

    async fn meet_light(&mut self, batch: &Batch) -> Result<Vec<Option<Met>>> {
        let mut work = self.work(batch, Pace::Fast, &[]);
        for place in 0..batch.tables().len() {
            work.meet(place).await?;
        }
        Ok(work.met)
    }

    async fn queue_light(&mut self, batch: &Batch, met: &[Option<Met>]) -> Result<()> {
        let mut work = self.work(batch, Pace::Fast, &[]);
        work.met = met.to_vec();
        work.queue_one_by_one().await
    }

    fn count_light(
        &mut self,
        applied: &mut Applied,
        batch: &Batch,
        met: &[Option<Met>],
        surprises: &[(u32, u64)],
    ) {
        let mut work = self.work(batch, Pace::Fast, &[]);
        work.met = met.to_vec();
        let conflicts = work.unexpected(surprises.to_vec());
        for segment in split(batch) {
            if let Segment::Changes(stretch) = segment {
                count(applied, batch, &stretch, &conflicts);
                went_well(&mut self.known, batch, &stretch);
            }
        }
    }
}
