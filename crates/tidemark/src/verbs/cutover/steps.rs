//! The steps, in order, and what a rehearsal says of them.

use std::time::{Duration, Instant, SystemTime};

use tidemark_core::Error;
use tidemark_core::catalogue::codes;
use tidemark_core::control::{Command, HoldAt};
use tidemark_core::finding::Side;
use tidemark_core::mapping::TableMapping;
use tidemark_core::position::Position;
use tidemark_core::status::{PipelineState, TableStatus, TableStatusState};
use tidemark_core::target::all_set;
use tidemark_core::verify::standstill::Ask;

use super::back::Back;
use super::compared::Weight;
use super::report::Left;
use super::{Cutover, Stopped};
use crate::output::numbers::{bytes, counted, duration, parse_rfc3339};
use crate::problem::Failure;
use crate::systems::{self, Seen, Silence};
use crate::verbs::control::{answered, ask, wait_until_nobody_owns};
use crate::verbs::status;
use crate::verbs::verify::{self, Elsewhere};

/// How old a comparison may be.
const VERIFIED_WITHIN: Duration = Duration::from_hours(1);

/// What may be on its way when the writers are stopped.
const GAP_MAX: u64 = 1_000_000;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the pipeline stands still at most for a look at where it stands.
const HOLD_SECONDS: u32 = 2;
const HOLD_EVERY: Duration = Duration::from_millis(50);

impl<'a> Cutover<'a> {
    /// From a pipeline that streams to a target that may be written to.
    pub(super) async fn switch(&self) -> Result<(), Failure> {
        let mappings = self.mappings().await?;
        self.step("streaming", self.streaming()).await?;
        self.step("verified", self.verified()).await?;
        self.step("left behind", self.left_behind(&mappings))
            .await?;
        let back = match self.home {
            Some(home) => Some(
                self.step("way back", self.look_back(home, &mappings))
                    .await?,
            ),
            None => None,
        };
        self.step("gap", self.small_gap()).await?;
        if self.wishes.fence {
            self.may_fence().await?;
            let effect = "The source is made read-only by default, and the sessions of its clients \
                          are ended. Both is undone if the cutover is given up.";
            self.company.agrees(effect.to_owned()).await?;
        }
        let stopped_at = Instant::now();
        let limit = self.wishes.max_downtime;
        let proof = Box::pin(self.while_nobody_writes(back, &mappings));
        let proven = tokio::time::timeout(limit, proof).await;
        let position = proven.unwrap_or_else(|_| Err(self.too_long(limit).into()))?;
        self.with_report(|report| {
            report.position = Some(position);
            report.downtime = Some(stopped_at.elapsed());
        });
        // From here on the target may be written to: nothing is taken back any more.
        self.undo().is_past = true;
        self.step("switched", self.stop_pipeline()).await
    }

    /// From stopping the writers to the proof that the target has everything; up to where.
    async fn while_nobody_writes(
        &self,
        back: Option<Back<'a>>,
        mappings: &[TableMapping],
    ) -> Result<Position, Failure> {
        let writers = async { Ok(((), self.stop_writers().await?)) };
        self.step("writers", writers).await?;
        let silent = self.in_time(self.silent());
        let (mut watch, end) = self.step("silence", silent).await?;
        let drained = self.in_time(self.drained(end));
        self.step("drained", drained).await?;
        let sequences = self.in_time(self.sequences(mappings));
        self.step("sequences", sequences).await?;
        // How long that takes the rows tell: `--max-downtime` is its end.
        self.step("compared", self.compared(Weight::Proof)).await?;
        if let Some(back) = back {
            let made = self.in_time(self.make_back(back));
            self.step("way back made", made).await?;
        }
        let still = async {
            let seen = watch.look().await?;
            if !seen.is_silent() {
                return Err(not_silent(&seen).into());
            }
            Ok((
                seen.position,
                format!("nothing was written up to {}", seen.position),
            ))
        };
        self.step("still silent", self.in_time(still)).await
    }

    /// Writers have stood still for as long as they may.
    fn too_long(&self, limit: Duration) -> Error {
        let step = self.with_report(|report| report.under_way().map(str::to_owned));
        let step = step.unwrap_or_else(|| "the next step".to_owned());
        let how_far = match step.as_str() {
            "compared" => format!(" ({})", verify::how_far(&self.progress)),
            _ => String::new(),
        };
        let text = format!(
            "writers have stood still for {}, as long as --max-downtime lets them, and `{step}` is not \
             done{how_far}",
            duration(limit)
        );
        let word = self.opened.word();
        not_ready(text).first_action(format!(
            "see how long a comparison takes: tidemark verify {word}; then begin again with a longer \
             --max-downtime"
        ))
    }

    /// A step for which writers stand still. Each has its own limits; a server that takes a question and never
    /// answers it knows none of them.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.wishes.patience * 3 + self.wishes.silence;
        let done = tokio::time::timeout(limit, Box::pin(work)).await;
        done.unwrap_or_else(|_| {
            let limit = duration(limit);
            let text = format!("a server has not answered within {limit}");
            let word = self.opened.word();
            let answers = format!("see that both servers answer: tidemark check {word}");
            Err(not_ready(text).first_action(answers).into())
        })
    }

    /// What would happen, and what stands in the way.
    pub(super) async fn rehearse(&self) -> Result<(), Failure> {
        let mappings = self.mappings().await?;
        self.step("streaming", self.streaming()).await?;
        let verified = async {
            let text = match self.recently_verified().await? {
                Some(text) => text,
                None => "both sides would be compared first".to_owned(),
            };
            Ok(((), text))
        };
        self.step("verified", verified).await?;
        self.step("left behind", self.left_behind(&mappings))
            .await?;
        if let Some(home) = self.home {
            self.step("way back", self.look_back(home, &mappings))
                .await?;
        }
        let gap = async {
            let gap = status::look(self.opened).await?.status.gap_bytes;
            Ok(((), gap.map_or("unknown".to_owned(), bytes)))
        };
        self.step("gap", gap).await?;
        let writers = async {
            let mut would = Vec::new();
            if let Some(command) = &self.wishes.stop_writers {
                would.push(format!("would run `{command}`"));
            }
            if self.wishes.fence {
                self.may_fence().await?;
                would.push(
                    "would make the source read-only and end its clients' sessions".to_owned(),
                );
            }
            if would.is_empty() {
                would.push("you would be asked to stop them".to_owned());
            }
            Ok(((), would.join(", ")))
        };
        self.step("writers", writers).await?;
        let watched = async {
            let seen = Silence::look(
                &mut systems::watch_source(&self.opened.config, self.wishes.patience).await?,
            )
            .await?;
            let now = if seen.open.is_empty() {
                "no transaction is open now".to_owned()
            } else {
                format!("open now: {}", seen.open.join(", "))
            };
            Ok((
                (),
                format!(
                    "{} of it would be waited for; {now}",
                    duration(self.wishes.silence)
                ),
            ))
        };
        self.step("silence", watched).await?;
        let sequences = async {
            let count = self
                .opened
                .source
                .sequences(&sources(&mappings))
                .await?
                .len();
            let count = counted(count as u64, "sequence");
            let margin = self.wishes.sequence_margin;
            Ok(((), format!("{count} would be set {margin} values ahead")))
        };
        self.step("sequences", sequences).await
    }

    async fn mappings(&self) -> Result<Vec<TableMapping>, Failure> {
        let rules = &self.opened.config.rules;
        let schema = self.opened.source.describe(rules.selection()).await?;
        let mappings = rules.map(&schema)?;
        if mappings.is_empty() {
            return Err(not_ready("the selection has no table").into());
        }
        self.with_report(|report| {
            report.note_left(schema.not_carried.iter().map(|left| Left {
                kind: left.kind.clone(),
                name: left.name.clone(),
                note: Some(left.note.clone()),
                sql: None,
            }));
        });
        Ok(mappings)
    }

    /// Every table streams. A pipeline that has just been started is waited for.
    async fn streaming(&self) -> Result<((), String), Failure> {
        loop {
            let standing = status::look(self.opened).await?;
            let state = standing.status.state;
            let is_beginning = matches!(
                state,
                PipelineState::Checking
                    | PipelineState::Starting
                    | PipelineState::Loading
                    | PipelineState::CatchingUp
            );
            // What is left out has nothing to come.
            let is_carried = |table: &&TableStatus| table.state != TableStatusState::Excluded;
            let tables = standing.status.tables.iter().filter(is_carried);
            let aside = tables.clone().find(|table| {
                !matches!(
                    table.state,
                    TableStatusState::Streaming
                        | TableStatusState::CatchingUp
                        | TableStatusState::Loading
                        | TableStatusState::Queued
                )
            });
            if let Some(table) = aside {
                let (_, word, _) = crate::output::style::of_table(table.state);
                return Err(not_ready(format!("{} is {word}", table.source)).into());
            }
            let all_stream = tables
                .clone()
                .all(|table| table.state == TableStatusState::Streaming);
            if state == PipelineState::Streaming && all_stream {
                return Ok(((), counted(tables.count() as u64, "table")));
            }
            if !is_beginning && state != PipelineState::Streaming && !self.runs_here {
                let (word, _) = crate::output::style::of_state(state);
                return Err(not_ready(format!("{} is {word}", self.opened.name())).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Where rows were only counted nothing is known of their values.
    async fn recently_verified(&self) -> Result<Option<String>, Failure> {
        let Some(verified) = status::look(self.opened).await?.status.verified else {
            return Ok(None);
        };
        let age =
            parse_rfc3339(&verified.at).and_then(|at| SystemTime::now().duration_since(at).ok());
        Ok(match age {
            Some(age)
                if verified.result == "identical" && verified.values && age <= VERIFIED_WITHIN =>
            {
                Some(format!(
                    "identical up to {}, {} ago",
                    verified.lsn,
                    duration(age)
                ))
            }
            _ => None,
        })
    }

    /// Not a proof of what will be, but of that it is worth stopping anybody.
    async fn verified(&self) -> Result<((), String), Failure> {
        match self.recently_verified().await? {
            Some(text) => Ok(((), text)),
            None => self.compared(Weight::Impression).await,
        }
    }

    async fn left_behind(&self, mappings: &[TableMapping]) -> Result<((), String), Failure> {
        let found = systems::left_behind(&self.opened.config, &sources(mappings)).await?;
        let lacks = self.opened.target.lacks(mappings).await?;
        let count = self.with_report(|report| {
            report.note_left(found.into_iter().map(|left| Left {
                kind: left.kind,
                name: left.name,
                note: None,
                sql: Some(left.sql),
            }));
            report.left.extend(lacks.into_iter().map(|lacking| {
                let note = if lacking.is_surplus {
                    "the target alone has it"
                } else {
                    "the target lacks it"
                };
                Left {
                    kind: lacking.kind.to_owned(),
                    name: format!("{} on {}", lacking.name, lacking.table),
                    note: Some(note.to_owned()),
                    sql: Some(lacking.sql),
                }
            }));
            report.left.len()
        });
        let things = counted(count as u64, "thing");
        Ok((
            (),
            format!("{things} that the pipeline does not carry; the report lists them"),
        ))
    }

    async fn small_gap(&self) -> Result<((), String), Failure> {
        loop {
            let standing = status::look(self.opened).await?;
            if let Some(gap) = standing.status.gap_bytes.filter(|gap| *gap < GAP_MAX) {
                return Ok(((), bytes(gap)));
            }
            if standing.status.state == PipelineState::Paused {
                return Err(not_ready(format!("{} is paused", self.opened.name())).into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn may_fence(&self) -> Result<(), Failure> {
        match systems::fence_obstacle(&self.opened.config).await? {
            None => Ok(()),
            Some(why) => Err(Error::definite(codes::CUTOVER_NO_FENCE, why).into()),
        }
    }

    /// Nobody writes for a while: the position before which everything lies.
    async fn silent(&self) -> Result<((Silence, Position), String), Failure> {
        let began = Instant::now();
        let mut watch = systems::watch_source(&self.opened.config, self.wishes.patience).await?;
        watch.look().await?;
        loop {
            tokio::time::sleep(self.wishes.silence).await;
            let seen = watch.look().await?;
            if seen.is_silent() {
                let lasted = duration(self.wishes.silence);
                let text = format!("nothing was written for {lasted}, up to {}", seen.position);
                return Ok(((watch, seen.position), text));
            }
            if began.elapsed() >= self.wishes.patience {
                return Err(not_silent(&seen).into());
            }
        }
    }

    /// The target has everything before the position.
    async fn drained(&self, end: Position) -> Result<((), String), Failure> {
        let pipeline = Elsewhere(self.opened);
        let deadline = Instant::now() + self.wishes.patience;
        self.undo().held = true;
        let reached = loop {
            // An idle source moves only if something is written to its log.
            self.opened.source.heartbeat().await?;
            let held = pipeline.ask(Command::Hold {
                id: self.hold,
                at: HoldAt::Here,
                seconds_max: HOLD_SECONDS,
            });
            if let Ok(answer) = tokio::time::timeout(self.wishes.patience, held).await
                && answer.ok
            {
                pipeline.ask(Command::Release { id: self.hold }).await;
                let stands = Position::parse(end.kind(), &answer.text)?;
                if stands >= end {
                    break stands;
                }
            }
            if Instant::now() >= deadline {
                return Err(not_ready(format!(
                    "the pipeline did not reach {end} within {}",
                    duration(self.wishes.patience)
                ))
                .into());
            }
            tokio::time::sleep(HOLD_EVERY).await;
        };
        self.undo().held = false;
        Ok(((), format!("the target has everything before {reached}")))
    }

    /// Nobody draws from them any more, so their values are final; the margin is for what a session
    /// had cached and gave out without a row.
    async fn sequences(&self, mappings: &[TableMapping]) -> Result<((), String), Failure> {
        let values = self.opened.source.sequences(&sources(mappings)).await?;
        let margin = self.wishes.sequence_margin;
        let ahead: Vec<_> = values.iter().map(|value| value.ahead(margin)).collect();
        if !ahead.is_empty() {
            all_set(self.opened.target.set_sequences(&ahead, mappings).await?)?;
        }
        self.with_report(|report| report.sequences = Some(ahead.len()));
        let count = counted(ahead.len() as u64, "sequence");
        Ok(((), format!("{count} set, {margin} values ahead")))
    }

    /// Nothing streams from the old primary any more. What its end flushes is durable.
    async fn stop_pipeline(&self) -> Result<((), String), Failure> {
        if self.company.stops().await? == Stopped::ByTarget {
            let answer = ask(self.opened, &Command::Stop).await?;
            answered(self.opened, &answer)?;
        }
        if !self.runs_here {
            wait_until_nobody_owns(self.opened).await?;
        }
        if self.home.is_some() {
            // Started again by mistake, it would bring what the way back has brought there.
            self.opened.source.release().await?;
        }
        let config = &self.opened.config;
        if systems::is_fenced(config, Side::Target).await? {
            // An earlier cutover, in the other direction, left it so.
            systems::lower_fence(config, Side::Target).await?;
        }
        Ok((
            (),
            "the pipeline has stopped; the target may be written to".to_owned(),
        ))
    }
}

fn sources(mappings: &[TableMapping]) -> Vec<tidemark_core::schema::TableName> {
    mappings
        .iter()
        .map(|mapping| mapping.source().clone())
        .collect()
}

fn not_ready(why: impl Into<String>) -> Error {
    Error::definite(codes::CUTOVER_NOT_READY, why)
}

fn not_silent(seen: &Seen) -> Error {
    let mut why = Vec::new();
    if seen.changes > 0 {
        let tables: Vec<String> = seen.tables.iter().map(ToString::to_string).collect();
        let of = if tables.is_empty() {
            String::new()
        } else {
            format!(", of {}", tables.join(", "))
        };
        why.push(format!("{} came last{of}", counted(seen.changes, "change")));
    }
    if !seen.open.is_empty() {
        why.push(format!("open: {}", seen.open.join(", ")));
    }
    Error::definite(codes::CUTOVER_NOT_SILENT, why.join("; "))
}
