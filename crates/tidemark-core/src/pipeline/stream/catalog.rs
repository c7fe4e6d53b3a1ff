//! What a look at the catalog means for the stream: tables that are new, made anew, or gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalogue::codes;
use crate::checkpoint::{Reason, TableState};
use crate::error::{Error, Result};
use crate::schema::{TableName, TableSchema};
use crate::source::{Logged, Partition};

use super::Stream;
use super::idle::Looked;
use crate::mapping::TableMapping;
use crate::pipeline::discover::{self, Found, Look};
use crate::pipeline::observe::PipelineEvent;
use crate::pipeline::options::{NewTables, OnSchemaChange};
use crate::pipeline::partitions::Doubt;
use crate::pipeline::resync::What;
use crate::pipeline::schema_change::IS_ANOTHER;
use crate::pipeline::state_change;

impl Stream<'_> {
    /// The catalog was looked at. That it could not be is no reason to end the stream.
    pub(super) fn on_looked(&mut self, look: Result<Look>) -> Result<()> {
        if let Ok(look) = look {
            self.release_followed(&look.followed);
            self.set_unlogged_aside(&look.unlogged)?;
            self.set_untold_aside(&look.partitions)?;
            self.compare(look);
        }
        Ok(())
    }

    /// See [`crate::pipeline::unlogged`].
    fn set_unlogged_aside(&mut self, unlogged: &HashSet<TableName>) -> Result<()> {
        let routes = self.assembler.router.routes();
        let unlogged: Vec<usize> = routes
            .filter(|(_, entry)| unlogged.contains(&entry.mapping.target))
            .filter(|(route, entry)| entry.state.has_rows() && !self.resyncs.is_under_way(*route))
            .map(|(route, _)| route)
            .collect();
        for route in unlogged {
            let mapping = Arc::clone(&self.assembler.router.route(route).mapping);
            let reason = self
                .engine
                .reason_of_unlogged(mapping.source(), &mapping.target)?;
            self.assembler.router.route_mut(route).has_rows = false;
            let change = state_change(&mapping, TableState::Unloaded, Some(reason));
            self.assembler.set_state(route, change);
        }
        Ok(())
    }

    /// Tables that have got a partition of which the log has not what their rows are found by.
    fn set_untold_aside(&mut self, tables: &[(TableName, Vec<Partition>)]) -> Result<()> {
        let partitions = tables
            .iter()
            .flat_map(|(root, partitions)| partitions.iter().map(move |it| (root, it)));
        for (root, Partition { name, logged, .. }) in partitions {
            let Some(route) = self.assembler.router.named(root) else {
                continue;
            };
            let entry = self.assembler.router.route(route);
            let mapping = &entry.mapping;
            let is_enough = match logged {
                Logged::Enough => true,
                Logged::KeyAlone => !mapping.key.is_empty() && mapping.filter.is_none(),
                Logged::Otherwise => false,
            };
            if is_enough || entry.state == TableState::Unloaded {
                continue;
            }
            let why = format!("the log tells rows of {name} by other columns than those of {root}");
            let why = Error::data(codes::CHANGE_INCOMPLETE, why).table(root.to_string());
            self.set_aside(route, why)?;
        }
        Ok(())
    }

    /// A table of which a change is missing waits to be loaded anew; the others go on, if they may.
    pub(super) fn set_aside(&mut self, route: usize, why: Error) -> Result<()> {
        let entry = self.assembler.router.route_mut(route);
        if !self.engine.sets_aside(entry.mapping.source()) {
            return Err(why);
        }
        (entry.has_rows, entry.is_away) = (false, false);
        let mapping = Arc::clone(&entry.mapping);
        let reason = Some(Reason::of(&why));
        let change = state_change(&mapping, TableState::Unloaded, reason);
        self.assembler.set_state(route, change);
        Ok(())
    }

    /// What the catalog has that the pipeline does not, or has otherwise.
    pub(super) fn compare(&mut self, look: Look) {
        let mut look = look;
        let partitions = std::mem::take(&mut look.partitions);
        self.lasting.partitions.looked(partitions, look.head);
        let routes = self.assembler.router.routes();
        let known: Vec<(TableName, u32)> = routes
            .map(|(_, r)| (r.mapping.source().clone(), r.source_id))
            .collect();
        let (mut said, mut gone, mut gone_again) = (HashMap::new(), Vec::new(), 0);
        for found in discover::compare(&look, &known) {
            let (table, text) = match found {
                // It is not new to the pipeline, whatever the policy for those that are.
                Found::New(schema) if self.left_behind.contains_key(&schema.name) => {
                    (schema.name.clone(), self.take_back(&schema))
                }
                Found::New(schema) if self.is_wanted(&schema.name) => {
                    (schema.name.clone(), self.take_in(&schema))
                }
                Found::New(_) if self.engine.options.new_tables == NewTables::Ignore => continue,
                Found::New(schema) => {
                    let text = "matches the patterns and is not carried: tables.new_tables says so";
                    (schema.name, text.to_owned())
                }
                Found::Recreated(schema) => (schema.name.clone(), self.load_again(&schema)),
                Found::Unannounced(table) => {
                    let text = self.announce_again(&table);
                    (table, text)
                }
                Found::Gone(table) => {
                    let route = self.assembler.router.named(&table);
                    gone_again += usize::from(route >= Some(self.tables_at_begin));
                    gone.push(table.clone());
                    let text = match look.schema.why_not_carried(&table) {
                        Some(why) => {
                            format!("cannot be copied any more: {why}; the target keeps it")
                        }
                        None => "is gone on the source; the target keeps it".to_owned(),
                    };
                    if self.discovery.is_news(&table, &text) {
                        self.left_out(table.clone(), Some(text.clone()));
                    }
                    said.insert(table, text);
                    continue;
                }
            };
            if self.discovery.is_news(&table, &text) {
                self.engine.observer.say(PipelineEvent::NewTable {
                    table: table.clone(),
                    text: text.clone(),
                });
            }
            said.insert(table, text);
        }
        self.gone_again = gone_again;
        for table in self.discovery.looked(said, gone) {
            self.left_out(table, None);
        }
        self.looked = Some(Looked {
            schema: look.schema,
            head: look.head,
        });
    }

    /// Nothing of a table comes any more, once what the log still has of it is in; or it is there again.
    fn left_out(&self, table: TableName, reason: Option<String>) {
        let event = PipelineEvent::LeftOut { table, reason };
        self.engine.observer.say(event);
    }

    /// Partitions that may have changed in a way that the log does not tell.
    pub(super) fn look_into_partitions(&mut self) {
        for (route, xid) in self.assembler.take_emptied() {
            let table = self.assembler.router.route(route).mapping.source().clone();
            self.lasting.partitions.emptied(table, xid);
        }
        for (partition, at) in self.assembler.take_partitions() {
            self.lasting.partitions.written(partition, at);
        }
        let (router, resyncs) = (&self.assembler.router, &self.resyncs);
        let is_followed = self.engine.options.on_schema_change == OnSchemaChange::Apply;
        let is_busy = |root: &TableName| {
            let route = router.named(root);
            route.is_some_and(|route| {
                // It is compared once it goes on.
                let is_halted = router.route(route).state == TableState::Paused;
                resyncs.is_under_way(route) || is_followed && is_halted
            })
        };
        let assembled = self.assembler.assembled();
        let due = self.lasting.partitions.due_at(assembled, is_busy);
        for Doubt {
            root, seen, effect, ..
        } in due
        {
            let event = if self.reconciles(&root) {
                PipelineEvent::SchemaChanged {
                    table: root,
                    text: format!("{seen}: compared and brought to the source"),
                }
            } else {
                PipelineEvent::Warning {
                    code: codes::PARTITIONS_UNANNOUNCED,
                    text: format!("{seen}: {effect}; tidemark verify tells, and repairs it"),
                }
            };
            self.engine.observer.say(event);
        }
        // In the commit that records what is to be done about what was in doubt.
        let settled = self.lasting.partitions.take_settled();
        self.assembler.keep_partitions(settled);
    }

    /// Has a table compared and brought to the source where all that happens to it is to be followed.
    fn reconciles(&mut self, table: &TableName) -> bool {
        let Some(route) = self.assembler.router.named(table) else {
            return false;
        };
        let is_streaming = self.assembler.router.route(route).state == TableState::Streaming;
        let is_followed = self.engine.options.on_schema_change == OnSchemaChange::Apply;
        let is_under_way = self.resyncs.is_under_way(route);
        if is_followed && is_streaming && !is_under_way {
            self.load_anew(route, What::Reconcile);
        }
        is_followed && (is_streaming || is_under_way)
    }

    /// Ends the stream for the next one where very many tables have come and gone, and all that the log had of
    /// them is in. One that is called otherwise for a while would not be found again by the next one.
    pub(super) fn look_at_gone(&mut self) {
        let gone = self.gone_again;
        let is_due = gone >= self.engine.options.gone_tables_max
            && self.looked.is_none()
            && self.end_at.is_none();
        let is_free = !self.is_stopping()
            && !self.lasting.is_paused
            && self.holds.is_empty()
            && self.unrecorded.is_empty()
            && !self.resyncs.is_running()
            && self.assembler.is_at_boundary();
        // Asked of every table, so last.
        let router = &self.assembler.router;
        let keeps = || router.is_catching_up() || router.routes().any(|(_, it)| it.is_away);
        if is_due && is_free && !keeps() {
            tracing::info!(
                pipeline = %self.engine.name,
                "{gone} tables have come and gone on the source: begins anew without them"
            );
            self.begins_anew = true;
            self.begin_stop();
        }
    }

    /// A table that is named in full is wanted; one that a pattern happens to match, by policy.
    fn is_wanted(&self, table: &TableName) -> bool {
        self.engine.options.new_tables == NewTables::Add
            || self.engine.rules.selection().names(table)
    }

    fn take_in(&mut self, schema: &TableSchema) -> String {
        match self.add_table(schema) {
            Ok(route) => {
                self.load_anew(route, What::New(self.engine.options.existing));
                "is new: it is loaded and followed from now on".to_owned()
            }
            Err(text) => text,
        }
    }

    /// A table is back that this run began without, and whose changes it has passed.
    fn take_back(&mut self, schema: &TableSchema) -> String {
        let is_it = self.left_behind.get(&schema.name) == Some(&schema.id);
        match self.add_table(schema) {
            Ok(route) => {
                let what = if is_it {
                    What::Unannounced(self.strategy(route))
                } else {
                    What::Recreated
                };
                self.load_anew(route, what);
                "is back, and changes of it are missing: it is loaded anew".to_owned()
            }
            Err(text) => text,
        }
    }

    /// Its route, or why it cannot be carried.
    fn add_table(&mut self, schema: &TableSchema) -> Result<usize, String> {
        let mapping = match self.engine.rules.map_table(schema) {
            Ok(mapping) => Arc::new(mapping),
            Err(err) => return Err(format!("cannot be carried: {err}")),
        };
        let routes = self.assembler.router.routes();
        let all = routes.map(|(_, route)| route.mapping.as_ref());
        let shared = self
            .engine
            .rules
            .problems_of_targets(all.chain([mapping.as_ref()]));
        if !shared.is_empty() {
            return Err(format!("cannot be carried: {}", shared.into_error()));
        }
        self.goes_on_as(&mapping);
        self.lasting.partitions.comes(mapping.source().clone());
        let router = &mut self.assembler.router;
        Ok(router.add(&mapping, TableState::Resyncing, None))
    }

    /// What is kept of a table that is called otherwise goes to the table of that name from now on.
    fn goes_on_as(&mut self, mapping: &TableMapping) {
        let mut routes = self.assembler.router.routes();
        let before = routes.find(|(_, it)| it.is_away && it.source_id == mapping.schema.id);
        let Some((route, before)) = before.map(|(route, it)| (route, Arc::clone(&it.mapping)))
        else {
            return;
        };
        drop(routes);
        let entry = self.assembler.router.route_mut(route);
        (entry.is_away, entry.has_rows) = (false, false);
        let name = mapping.source();
        let text = format!("it is followed as {name}, which it is called now");
        let why = Reason::coded(codes::SCHEMA_CHANGE_REFUSED, text);
        let change = state_change(&before, TableState::Unloaded, Some(why));
        self.assembler.set_state(route, change);
    }

    fn load_again(&mut self, schema: &TableSchema) -> String {
        let Some(route) = self.assembler.router.named(&schema.name) else {
            return String::new();
        };
        let mapping = match self.engine.rules.map_table(schema) {
            Ok(mapping) => Arc::new(mapping),
            Err(err) => return format!("was made anew and cannot be carried: {err}"),
        };
        self.assembler.router.replace(route, &mapping);
        self.load_anew(route, What::Recreated);
        IS_ANOTHER.to_owned()
    }

    /// What changed in the table since it was taken off is not in the log, and nobody knows since when.
    fn announce_again(&mut self, table: &TableName) -> String {
        let Some(route) = self.assembler.router.named(table) else {
            return String::new();
        };
        if !self.resyncs.is_under_way(route) {
            let strategy = self.strategy(route);
            self.load_anew(route, What::Unannounced(strategy));
        }
        "was not announced by the source any more, so changes are missing: it is loaded anew"
            .to_owned()
    }
}
