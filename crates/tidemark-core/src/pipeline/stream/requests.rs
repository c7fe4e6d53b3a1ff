//! What is asked of a pipeline that streams: to stand still for a comparison, to stop, to pause, to load
//! tables or rows anew. Each request is answered at once, but for a hold and a stop, which are answered
//! when the target stands where it was asked to.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use crate::catalogue::codes;
use crate::checkpoint::{Checkpoint, Chunk, LoadPhase, Reason, TableState};
use crate::control::{Answer, Command, HoldAt, HoldId, ResyncStrategy};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::position::Position;
use crate::schema::TableName;
use crate::words::counted;

use super::Stream;
use crate::pipeline::away;
use crate::pipeline::commands::{accepted, answer, refusal};
use crate::pipeline::observe::PipelineEvent;
use crate::pipeline::resync::What;
use crate::pipeline::{Request, state_change};

/// Somebody wants the target to stand still, at a position or where it is.
pub(super) struct Hold {
    id: HoldId,
    position: Option<Position>,
    limit: Duration,
    stage: HoldStage,
}

enum HoldStage {
    /// It does not stand there yet.
    Wanted(oneshot::Sender<Answer>),
    /// It stands, until then at most.
    Stands { until: Instant },
}

/// What was asked of tables: their states, once recorded, are the answer.
pub(super) struct Asked {
    states: Vec<(TableName, TableState)>,
    text: String,
}

/// A request whose answer waits for a commit.
pub(super) struct Unrecorded {
    asked: Asked,
    reply: oneshot::Sender<Answer>,
}

impl Stream<'_> {
    pub(super) fn on_request(&mut self, request: Request) {
        let Request { command, reply } = request;
        let text = match command {
            Command::Stop => {
                self.begin_stop();
                self.lasting.is_paused = false;
                self.lasting.stops.push(reply);
                return;
            }
            Command::Hold {
                id,
                at,
                seconds_max,
            } => return self.on_hold(id, at, seconds_max, reply),
            Command::Release { id } => return self.on_release(id, reply),
            Command::Pause { tables } if tables.is_empty() => {
                self.lasting.is_paused = true;
                self.holds.clear();
                self.show_state();
                "paused; the source keeps its log meanwhile"
            }
            Command::Resume { tables } if tables.is_empty() => {
                self.lasting.is_paused = false;
                self.show_state();
                "goes on"
            }
            Command::Pause { tables } => return self.on_tables(reply, |s| s.pause_tables(&tables)),
            Command::Resume { tables } => {
                return self.on_tables(reply, |s| s.resume_tables(&tables));
            }
            Command::Resync { tables, strategy } => {
                return self.on_tables(reply, |s| s.begin_resync(&tables, strategy));
            }
            Command::Reconcile { tables } => {
                return self.on_tables(reply, |s| s.begin_reconcile(&tables));
            }
            Command::Retry(chosen) => return self.on_retry(chosen, reply),
            Command::Discard(chosen) => return self.on_discard(chosen, reply),
            Command::Skip { tables } => return self.on_tables(reply, |s| s.skip_tables(&tables)),
            Command::Repair { table, chunks } => {
                return self.on_tables(reply, |s| s.begin_repair(&table, &chunks));
            }
        };
        answer(reply, accepted(text));
    }

    /// Answers now what is refused or done, and later what has to be recorded first.
    fn on_tables(
        &mut self,
        reply: oneshot::Sender<Answer>,
        request: impl FnOnce(&mut Self) -> Result<Asked, String>,
    ) {
        match request(self) {
            Err(why) => answer(reply, refusal(why)),
            Ok(asked) if asked.states.is_empty() => answer(reply, accepted(asked.text)),
            Ok(asked) => self.unrecorded.push(Unrecorded { asked, reply }),
        }
    }

    fn on_hold(
        &mut self,
        id: HoldId,
        at: HoldAt,
        seconds_max: u32,
        reply: oneshot::Sender<Answer>,
    ) {
        let held = self.holds.iter().position(|hold| hold.id == id);
        let why_not = if self.lasting.is_paused {
            Some("it is paused")
        } else if self.is_stopping() {
            Some("it is stopping")
        } else if at != HoldAt::Here && held.is_none() {
            Some("it does not stand still any more, and may have passed the position")
        } else {
            None
        };
        if let Some(why_not) = why_not {
            return answer(reply, refusal(why_not));
        }
        let limit = Duration::from_secs(seconds_max.into());
        let position = match at {
            HoldAt::Here => None,
            HoldAt::Position(position) => Some(position),
            HoldAt::Still => {
                let prolonged = held.and_then(|held| self.holds.get_mut(held));
                if let Some(HoldStage::Stands { until }) = prolonged.map(|hold| &mut hold.stage) {
                    *until = Instant::now() + limit;
                }
                return answer(reply, accepted("stands still"));
            }
        };
        if let Some(held) = held {
            self.holds.remove(held);
        }
        self.holds.push(Hold {
            id,
            position,
            limit,
            stage: HoldStage::Wanted(reply),
        });
    }

    fn on_release(&mut self, id: HoldId, reply: oneshot::Sender<Answer>) {
        let Some(held) = self.holds.iter().position(|hold| hold.id == id) else {
            return answer(reply, refusal("it did not stand still any more"));
        };
        self.holds.remove(held);
        answer(reply, accepted("goes on"));
    }

    /// A hold ends by itself: whoever asked for it may be gone.
    pub(super) fn look_at_holds(&mut self) {
        self.holds.retain(|hold| match hold.stage {
            HoldStage::Wanted(ref reply) => !reply.is_closed(),
            HoldStage::Stands { until } => Instant::now() < until,
        });
    }

    /// Whether the target stands still for somebody.
    pub(super) fn is_held(&self) -> bool {
        let stands = |hold: &Hold| matches!(hold.stage, HoldStage::Stands { .. });
        self.holds.iter().any(stands)
    }

    /// Answers holds once the target stands where they want it to.
    pub(super) fn answer_holds(&mut self) {
        let stands = !self.applier.is_busy()
            && self.assembler.is_at_boundary()
            && !self.assembler.has_changes();
        if !stands || self.holds.is_empty() {
            return;
        }
        let assembled = self.assembler.assembled();
        let next = self.block.as_ref();
        let next = next.and_then(|(block, next)| block.events.get(*next));
        for hold in &mut self.holds {
            let until = Instant::now() + hold.limit;
            if hold.is_reached(next, assembled) && matches!(hold.stage, HoldStage::Wanted(_)) {
                let stage = std::mem::replace(&mut hold.stage, HoldStage::Stands { until });
                if let HoldStage::Wanted(reply) = stage {
                    answer(reply, accepted(assembled.to_string()));
                }
            }
        }
    }

    /// Table by table: a table that is set aside already stays so, for its own reason.
    fn pause_tables(&mut self, tables: &[TableName]) -> Result<Asked, String> {
        let routes = self.routes_of(tables)?;
        self.must_be_free(&routes)?;
        for route in &routes {
            let route = self.assembler.router.route(*route);
            if !matches!(route.state, TableState::Streaming | TableState::Paused) {
                let table = route.mapping.source();
                return Err(format!(
                    "{table} is set aside already, its changes are kept in order"
                ));
            }
        }
        for route in &routes {
            let mapping = Arc::clone(&self.assembler.router.route(*route).mapping);
            let why = Some(Reason::plain("paused"));
            self.assembler
                .set_state(*route, state_change(&mapping, TableState::Paused, why));
        }
        Ok(self.asked(
            &routes,
            format!(
                "{} paused; changes are kept in order",
                counted(routes.len(), "table")
            ),
        ))
    }

    /// A table whose rows are not whole is loaded anew: its changes alone would not bring it back.
    fn resume_tables(&mut self, tables: &[TableName]) -> Result<Asked, String> {
        let routes = self.routes_of(tables)?;
        self.must_be_free(&routes)?;
        let mut loaded = Vec::new();
        for route in &routes {
            let entry = self.assembler.router.route(*route);
            if entry.state.is_parked() && entry.has_rows {
                self.resyncs.take_back(*route);
            } else if entry.state.is_parked() {
                self.load_anew(*route, What::Table(ResyncStrategy::Truncate));
                loaded.push(*route);
            }
        }
        let going_on = routes.len() - loaded.len();
        let mut text = format!(
            "{} resumed with the changes that were kept",
            counted(going_on, "table")
        );
        if !loaded.is_empty() {
            let count = loaded.len();
            text = format!("{text}, {count} to be loaded anew because not all rows were in");
        }
        Ok(self.asked(&loaded, text))
    }

    fn begin_resync(
        &mut self,
        tables: &[TableName],
        strategy: ResyncStrategy,
    ) -> Result<Asked, String> {
        let routes = self.routes_or_all(tables)?;
        self.must_be_free(&routes)?;
        for route in &routes {
            self.load_anew(*route, What::Table(strategy));
        }
        Ok(self.asked(
            &routes,
            format!(
                "{} to be loaded anew while the others stream",
                counted(routes.len(), "table")
            ),
        ))
    }

    /// A table whose rows are not whole is loaded anew: there is nothing to compare.
    fn begin_reconcile(&mut self, tables: &[TableName]) -> Result<Asked, String> {
        let routes = self.routes_or_all(tables)?;
        self.must_be_free(&routes)?;
        for route in &routes {
            let has_rows = self.assembler.router.route(*route).has_rows;
            let what = if has_rows {
                What::Reconcile
            } else {
                What::Table(ResyncStrategy::Truncate)
            };
            self.load_anew(*route, what);
        }
        Ok(self.asked(
            &routes,
            format!(
                "{} to be compared and brought to the source while the others stream",
                counted(routes.len(), "table")
            ),
        ))
    }

    fn begin_repair(&mut self, table: &TableName, chunks: &[Chunk]) -> Result<Asked, String> {
        let routes = self.routes_of(std::slice::from_ref(table))?;
        self.must_be_free(&routes)?;
        for route in &routes {
            let entry = self.assembler.router.route(*route);
            if entry.mapping.key.is_empty() {
                return Err("a table without a key is repaired by a resync".to_owned());
            }
            if let Some(kept) = self.quarantine.kept.get(table) {
                // Their changes are older than what would be loaded, and would come after it.
                return Err(format!(
                    "{table} has {} rows in quarantine: retry or drop them first, or resync the table",
                    kept.rows
                ));
            }
            if chunks.iter().any(|chunk| chunk.key_columns().is_none()) {
                return Err("a repair names its rows by their keys".to_owned());
            }
            // The rows that are not repaired must have nothing more to ask of their own load.
            if entry.state != TableState::Streaming || !self.assembler.router.has_passed(table) {
                return Err(format!(
                    "{table} does not stream yet; verify it again when it does"
                ));
            }
            self.load_anew(*route, What::Rows(chunks.to_vec()));
        }
        Ok(self.asked(&routes, "the rows that differ are loaded anew".to_owned()))
    }

    /// What is asked counts once the tables' states are recorded.
    pub(super) fn asked(&self, routes: &[usize], text: String) -> Asked {
        let state = |route: &usize| {
            let route = self.assembler.router.route(*route);
            (route.mapping.source().clone(), route.state)
        };
        Asked {
            states: routes.iter().map(state).collect(),
            text,
        }
    }

    /// A table's state is recorded: whoever asked for it is told.
    pub(super) fn answer_recorded(&mut self, table: &TableName, state: TableState) {
        for waiting in &mut self.unrecorded {
            waiting
                .asked
                .states
                .retain(|asked| *asked != (table.clone(), state));
        }
        let is_recorded = |waiting: &mut Unrecorded| waiting.asked.states.is_empty();
        for waiting in self.unrecorded.extract_if(.., is_recorded) {
            answer(waiting.reply, accepted(waiting.asked.text));
        }
    }

    /// Tables that a killed run left in the middle of a resync start it again.
    pub(super) fn begin_recorded_resyncs(&mut self, checkpoint: &Checkpoint) {
        for table in &checkpoint.tables {
            if away::is_left_behind(table) {
                match self.assembler.router.named(&table.source) {
                    Some(route) => self.load_what_was_left(route),
                    None => {
                        self.left_behind
                            .insert(table.source.clone(), table.source_id);
                    }
                }
                continue;
            }
            if table.state != TableState::Resyncing {
                continue;
            }
            if let Some(route) = self.assembler.router.named(&table.source) {
                let what = What::recorded(table, self.engine.options.existing);
                // The whole table: foreign keys are taken off, and are to be made again.
                self.phase = LoadPhase::Finishing;
                self.resyncs.request(route, what);
                self.resyncs.recorded(route, self.engine, &self.assembler);
            }
        }
    }

    /// Changes of the table are missing that an earlier run has passed.
    fn load_what_was_left(&mut self, route: usize) {
        let entry = self.assembler.router.route_mut(route);
        entry.has_rows = false;
        let table = entry.mapping.source().clone();
        self.load_anew(route, What::Unannounced(self.strategy(route)));
        self.engine.observer.say(PipelineEvent::SchemaChanged {
            table,
            text: "a run did not follow it, so changes are missing: the table is loaded anew"
                .to_owned(),
        });
    }

    /// A table that is loaded anew already is not loaded twice at once, and nobody may take it for
    /// whole before it is.
    pub(super) fn must_be_free(&self, routes: &[usize]) -> Result<(), String> {
        match routes
            .iter()
            .find(|route| self.resyncs.is_under_way(**route))
        {
            Some(route) => {
                let table = self.assembler.router.route(*route).mapping.source();
                Err(format!(
                    "{table} is being loaded anew, or goes on with what was kept; ask again when it streams"
                ))
            }
            None => Ok(()),
        }
    }

    /// All of them, if none is named.
    fn routes_or_all(&self, tables: &[TableName]) -> Result<Vec<usize>, String> {
        let all = self.assembler.router.names();
        self.routes_of(if tables.is_empty() { &all } else { tables })
    }

    pub(super) fn routes_of(&self, tables: &[TableName]) -> Result<Vec<usize>, String> {
        tables
            .iter()
            .map(|table| {
                let route = self.assembler.router.named(table);
                route.ok_or_else(|| format!("{table} is not a table of this pipeline"))
            })
            .collect()
    }

    pub(super) fn load_all_anew(&mut self, routes: &[usize]) {
        for route in routes {
            self.load_anew(*route, What::Table(ResyncStrategy::Truncate));
        }
    }

    pub(super) fn say_kept(&self, routes: &[usize]) {
        for route in routes {
            let table = self.assembler.router.route(*route).mapping.source();
            self.engine.observer.say(PipelineEvent::Warning {
                code: codes::TRUNCATE_NOT_APPLIED,
                text: format!(
                    "{table} was emptied on the source, and keeps its rows on the target"
                ),
            });
        }
    }

    /// Whoever has asked for a table to be loaded anew has mended what such changes came from, as a rule.
    pub(super) fn not_kept(&mut self, route: usize, why: Error) -> Result<()> {
        let lost = match self.assembler.origin() {
            Some(origin) => self.resyncs.lose(route, origin, why),
            None => Some(why),
        };
        lost.map_or(Ok(()), |why| self.set_aside(route, why))
    }
}

impl Hold {
    /// Whether the target would pass the hold by taking this event in.
    pub(super) fn stops_before(&self, event: &Event) -> bool {
        let Event::Begin(begin) = event else {
            return false;
        };
        self.position
            .is_none_or(|position| begin.commit >= position)
    }

    /// Whether a target with nothing on its way stands where it was asked to: everything before the
    /// position is assembled, or what was read already goes on beyond it (`next`). That something was
    /// read and waits is not enough: another hold may keep it back.
    fn is_reached(&self, next: Option<&Event>, assembled: Position) -> bool {
        let is_next_beyond = next.is_some_and(|event| self.stops_before(event));
        self.position
            .is_none_or(|position| assembled >= position || is_next_beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Begin;
    use crate::position::Lsn;

    #[test]
    fn a_hold_is_reached_when_nothing_before_it_is_left() {
        let at = |lsn| Position::PgLsn(Lsn(lsn));
        let begin = |commit| {
            Event::Begin(Begin {
                xid: 1,
                commit: at(commit),
                committed_at_us: 0,
            })
        };
        for (position, next, assembled, expected) in [
            (None, Some(50), 40, true),
            (Some(60), None, 40, false),
            (Some(60), None, 60, true),
            (Some(60), Some(60), 40, true),
            (Some(60), Some(70), 40, true),
            // Kept back by another hold.
            (Some(60), Some(50), 40, false),
        ] {
            let hold = Hold {
                id: HoldId::random(),
                position: position.map(at),
                limit: Duration::from_secs(1),
                stage: HoldStage::Stands {
                    until: Instant::now(),
                },
            };
            let next = next.map(begin);
            let reached = hold.is_reached(next.as_ref(), at(assembled));
            assert_eq!(reached, expected, "{position:?} {next:?} {assembled}");
        }
    }
}
