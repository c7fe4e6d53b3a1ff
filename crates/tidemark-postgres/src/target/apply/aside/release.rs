//! Rows in quarantine that are applied again, or given up.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_core::batch::{Batch, Item};
use tidemark_core::compact::{Segment, split};
use tidemark_core::mapping::TableMapping;
use tidemark_core::quarantine::{Cause, Chosen, Key, Released};
use tidemark_core::schema::TableName;
use tidemark_core::{ErrorKind, Result};

use super::{cause_of, run, unreadable};
use crate::target::apply::PgApplier;
use crate::target::apply::parked::from_hex;
use crate::target::apply::session::Step;
use crate::target::apply::stretch::{Ended, Pace, Work};
use crate::target::apply::transaction::{Stage, State};
use crate::target::apply::{payload, refusal};
use crate::target::checkpoint::{from_json, json};

const FORGET: &str = "DELETE FROM tidemark.quarantine \
     WHERE pipeline = $1 AND sequence = ANY ($2::int8[])";

const REFUSED_AGAIN: &str = "UPDATE tidemark.quarantine SET code = $3, sqlstate = $4, cause = $5 \
     WHERE pipeline = $1 AND sequence = $2::int8";

const READ: &str = "SELECT sequence, source_schema, source_name, keys::text, payload \
     FROM tidemark.quarantine WHERE pipeline = $1 ORDER BY sequence";

/// How often rows that wait for one another are tried.
const PASSES_MAX: usize = 10;

impl PgApplier {
    /// Applies rows in quarantine again; see [`tidemark_core::target::Applier::release`].
    pub(in crate::target::apply) async fn release_now(
        &mut self,
        tables: &[Arc<TableMapping>],
        chosen: &Chosen,
    ) -> Result<Released> {
        let stage = self.open_server().await?;
        self.begin_if_unbegun(stage)?;
        let mut groups = self.groups(chosen).await?;
        for table in tables {
            // Mended, most likely: met as it is now.
            self.known.forget(&mut self.session, &table.target)?;
        }
        groups.retain(|group| tables.iter().any(|table| *table.source() == group.table));
        let mut released = Released::default();
        for pass in 0.. {
            let waiting = groups.len();
            let is_last = pass + 1 == PASSES_MAX;
            let mut refused = Vec::new();
            for group in groups {
                match self.release_group(tables, &group).await? {
                    None => {
                        self.forget_group(&group)?;
                        released.rows += 1;
                    }
                    Some(cause) => refused.push((group, cause)),
                }
            }
            if refused.is_empty() || refused.len() == waiting || is_last {
                for (group, cause) in refused {
                    self.refused_again(&group, &cause)?;
                    let key = group.keys.first().cloned().unwrap_or_default();
                    released.refused.push((group.table, key, cause));
                }
                break;
            }
            groups = refused.into_iter().map(|(group, _)| group).collect();
        }
        Ok(released)
    }

    /// Discards rows in quarantine.
    pub(in crate::target::apply) async fn discard_now(&mut self, chosen: &Chosen) -> Result<u64> {
        let stage = self.open_server().await?;
        self.begin_if_unbegun(stage)?;
        let groups = self.groups(chosen).await?;
        for group in &groups {
            self.forget_group(group)?;
        }
        Ok(groups.len() as u64)
    }

    fn begin_if_unbegun(&mut self, stage: Stage) -> Result<()> {
        if stage == Stage::Unbegun {
            self.session.run("BEGIN", Step::Own)?;
            self.state = State::Open(Stage::Begun);
        }
        Ok(())
    }

    /// Rows in quarantine that are meant, with their changes, by the first of these.
    async fn groups(&mut self, chosen: &Chosen) -> Result<Vec<Group>> {
        let found = self
            .session
            .query(READ, &[Some(self.writer.pipeline.as_str())])
            .await?;
        let mut groups: Vec<(u64, Group)> = Vec::new();
        for row in &found.rows {
            let table = TableName::new(row.get_str(1)?, row.get_str(2)?);
            let keys: Vec<Key> = from_json(row.get_str(3)?)?;
            let number = keys
                .first()
                .and_then(|key| self.quarantine.now.group(&table, key));
            let number = number.ok_or_else(|| unreadable(&table))?;
            let payload = from_hex(row.get_str(4)?.as_bytes()).ok_or_else(|| unreadable(&table))?;
            let known = groups
                .iter_mut()
                .find(|(known, group)| *known == number && group.table == table);
            let group = if let Some((_, group)) = known {
                group
            } else {
                groups.push((
                    number,
                    Group {
                        table,
                        keys: Vec::new(),
                        sequences: Vec::new(),
                        payloads: Vec::new(),
                    },
                ));
                &mut groups.last_mut().expect("just pushed").1
            };
            group.sequences.push(row.get(0)?);
            group.payloads.push(payload.into());
            for key in keys {
                if !group.keys.contains(&key) {
                    group.keys.push(key);
                }
            }
        }
        groups.retain(|(_, group)| chosen.is(&group.table, &group.keys));
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// Applies what a row's changes come to; the cause where the target refuses that.
    async fn release_group(
        &mut self,
        tables: &[Arc<TableMapping>],
        group: &Group,
    ) -> Result<Option<Cause>> {
        let mapping = tables.iter().find(|table| *table.source() == group.table);
        let mapping = mapping.ok_or_else(|| unreadable(&group.table))?;
        let mut batch = Batch::default();
        for payload in &group.payloads {
            let shapes = &mut self.old_shapes;
            let (_, one) = payload::decode(payload, mapping, |shape| shapes.share(shape))?;
            for item in one.items() {
                if let Item::Change(change) = item {
                    batch.append(&one, change);
                }
            }
        }
        let mut work = Work {
            session: &mut self.session,
            known: &mut self.known,
            batch: &batch,
            met: Vec::new(),
            pace: Pace::Net,
            opening: &["SAVEPOINT tidemark_row"],
        };
        for segment in split(&batch) {
            let Segment::Changes(stretch) = &segment else {
                continue;
            };
            if let Ended::Refused(step, said) = work.stretch(stretch).await? {
                let error = work.refused(step, *said);
                if error.kind() == ErrorKind::Transient {
                    return Err(error);
                }
                self.session
                    .run("ROLLBACK TO SAVEPOINT tidemark_row", Step::Own)?;
                self.session
                    .run("RELEASE SAVEPOINT tidemark_row", Step::Own)?;
                self.session.sync();
                if let Some((_, said)) = self.session.finish().await?.refused {
                    return Err(refusal::of_own(*said));
                }
                return Ok(Some(cause_of(&error)));
            }
        }
        self.session
            .run("RELEASE SAVEPOINT tidemark_row", Step::Own)?;
        Ok(None)
    }

    fn forget_group(&mut self, group: &Group) -> Result<()> {
        let numbers: Vec<String> = group.sequences.iter().map(i64::to_string).collect();
        let list = format!("{{{}}}", numbers.join(","));
        run(&mut self.session, FORGET, &[&self.writer.pipeline, &list])?;
        let bytes: usize = group.payloads.iter().map(Bytes::len).sum();
        let changes = group.sequences.len() as u64;
        self.quarantine
            .now
            .release(&group.table, &group.keys, changes, bytes as u64);
        Ok(())
    }

    fn refused_again(&mut self, group: &Group, cause: &Cause) -> Result<()> {
        let Some(first) = group.sequences.first() else {
            return Ok(());
        };
        let (first, text) = (first.to_string(), json(&cause.text));
        let params = [
            self.writer.pipeline.as_str(),
            &first,
            &cause.code,
            &cause.sqlstate,
            &text,
        ];
        run(&mut self.session, REFUSED_AGAIN, &params)
    }
}

/// A row in quarantine: its changes, in order.
#[derive(Debug)]
struct Group {
    table: TableName,
    keys: Vec<Key>,
    sequences: Vec<i64>,
    payloads: Vec<Bytes>,
}
