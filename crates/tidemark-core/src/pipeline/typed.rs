//! Types of the target, made and kept alike to the source's.
//!
//! A type is told by the source's number for it. Its name may pass to another type (`ALTER TYPE … RENAME TO`),
//! and the target has types by their names alone: what the one has become must not be done to the other, or
//! rows would show labels that they never had. So whatever is made of a type goes by what tables have recorded
//! of it ([`KnownTypes`]): a table keeps the name under which the target has its type until it is loaded anew,
//! whatever the source calls it. Until then nobody changes that type on the target under its old name, nor
//! another one under its new name.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{ErrorKind, Result};
use crate::mapping::TableMapping;
use crate::schema::{MemberKind, SourceSchema, TableName, TypeMembers};
use crate::selection::Selection;
use crate::target::{KnownTypes, TypeChanges, TypeHistory};

use super::Engine;
use super::observe::PipelineEvent;

impl Engine {
    /// [`crate::target::Target::prepare_objects`], with what is recorded of the types.
    pub(super) async fn prepare_objects(
        &self,
        schema: &SourceSchema,
        tables: &[TableMapping],
        changes: TypeChanges,
    ) -> Result<bool> {
        let histories = self.type_histories(schema).await?;
        let target = &self.target;
        target
            .prepare_objects(schema, tables, changes, &histories)
            .await
    }

    /// Has types follow that are not as they were (`schema.objects`), and says so of a table for each that
    /// has one; of which tables they are. One that cannot does not keep the others from it: a value that does
    /// not fit stops its table, and says why.
    pub(super) async fn make_types_alike(&self, schema: &SourceSchema) -> Result<Vec<TableName>> {
        let tables = self.carried(schema);
        let histories = self.type_histories(schema).await?;
        let mut followed = Vec::new();
        for object in &schema.objects {
            let has_type = |table: &&TableMapping| {
                let mut columns = table.schema.columns.iter();
                columns.any(|column| column.type_name.contains(&object.name.name))
            };
            let of = tables.iter().filter(has_type);
            let of: Vec<TableName> = of.map(|table| table.source().clone()).collect();
            let mut all = histories.iter();
            if all.any(|it| it.name == object.name && !it.known_otherwise_by.is_empty()) {
                // It is made with the next load of a table that has it.
                self.say_known_otherwise(&object.name, &of);
                continue;
            }
            let one = SourceSchema {
                objects: vec![object.clone()],
                ..SourceSchema::default()
            };
            let changes = self.type_changes();
            let made = self
                .target
                .prepare_objects(&one, &tables, changes, &histories);
            match made.await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(err) if err.kind() == ErrorKind::Transient => return Err(err),
                Err(err) => {
                    tracing::warn!(code = %err.code(), "{err}");
                    continue;
                }
            }
            if let Some(table) = of.first().cloned() {
                let text = format!(
                    "type {} is not as it was: done on the target too",
                    object.name
                );
                self.observer
                    .say(PipelineEvent::SchemaChanged { table, text });
            }
            followed.extend(of);
        }
        Ok(followed)
    }

    fn say_known_otherwise(&self, name: &TableName, of: &[TableName]) {
        let Some(table) = of.first().cloned() else {
            return;
        };
        let text = format!(
            "its type is called {name} on the source by now: the target keeps the name that it had until \
             the table is loaded anew, and nothing is changed there"
        );
        self.observer
            .say(PipelineEvent::SchemaChanged { table, text });
    }

    /// What is recorded of the types of these tables, as far as it matters for what may become of them.
    async fn type_histories(&self, schema: &SourceSchema) -> Result<Vec<TypeHistory>> {
        let types = schema.tables.iter().flat_map(|table| &table.types);
        let types: BTreeMap<u32, &TypeMembers> = types.map(|now| (now.id, now)).collect();
        if types.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.target.known_types().await?;
        let mut histories = Vec::new();
        for now in types.into_values() {
            let mut history = history(now, &known);
            for (of, id) in others_of_its_name(now, &known) {
                if self.still_has(schema, &of.table, id).await? {
                    history.held_by.push(names(of));
                }
            }
            histories.push(history);
        }
        Ok(histories)
    }

    /// Whether a table of the source has this type by now.
    async fn still_has(&self, schema: &SourceSchema, table: &TableName, id: u32) -> Result<bool> {
        let has = |schema: &SourceSchema| {
            let mut tables = schema.tables.iter();
            let found = tables.find(|it| it.name == *table)?;
            Some(found.types.iter().any(|now| now.id == id))
        };
        if let Some(has) = has(schema) {
            return Ok(has);
        }
        let found = self.source.describe(&Selection::of(table)).await?;
        Ok(has(&found).unwrap_or_default())
    }
}

/// Tables that know another type by the name that this one has, and that type's number.
fn others_of_its_name<'a>(
    now: &'a TypeMembers,
    known: &'a [KnownTypes],
) -> impl Iterator<Item = (&'a KnownTypes, u32)> {
    known.iter().filter_map(|of| {
        let mut types = of.types.iter();
        let other = types.find(|old| old.name == now.name && old.id != now.id)?;
        Some((of, other.id))
    })
}

fn names(of: &KnownTypes) -> (TableName, TableName) {
    (of.table.clone(), of.target.clone())
}

fn history(now: &TypeMembers, known: &[KnownTypes]) -> TypeHistory {
    let all = known
        .iter()
        .flat_map(|of| of.types.iter().map(move |old| (of, old)));
    let same: Vec<_> = all.filter(|(_, old)| old.id == now.id).collect();
    let members: BTreeSet<_> = same
        .iter()
        .filter_map(|(_, old)| members(old, now))
        .collect();
    let is_known = same.iter().any(|(_, old)| old.name == now.name);
    let otherwise = same.iter().filter(|_| !is_known);
    TypeHistory {
        name: now.name.clone(),
        known_otherwise_by: otherwise.map(|(of, _)| names(of)).collect(),
        held_by: Vec::new(),
        members: members.into_iter().collect(),
    }
}

/// What members are called now; of labels where some are called otherwise.
fn members(old: &TypeMembers, now: &TypeMembers) -> Option<Vec<(String, Option<String>)>> {
    let called = old.members.iter().map(|before| {
        let mut members = now.members.iter();
        let after = members.find(|after| after.number == before.number);
        (before.name.clone(), after.map(|after| after.name.clone()))
    });
    let called: Vec<_> = called.collect();
    let is_other = |(before, after): &(String, Option<String>)| {
        after.as_ref().is_some_and(|after| after != before)
    };
    let tells = now.kind == MemberKind::Attributes || called.iter().any(is_other);
    tells.then_some(called)
}

/// Gives types that a table has the names under which the target has them.
pub(super) fn keep_names(types: &mut [TypeMembers], known: &[TypeMembers]) {
    for now in types {
        if let Some(old) = known.iter().find(|old| old.id == now.id) {
            now.name.clone_from(&old.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Member;

    fn mood(id: u32, name: &str, labels: &[(u32, &str)]) -> TypeMembers {
        let member = |(number, name): &(u32, &str)| Member {
            number: *number,
            name: (*name).to_owned(),
        };
        TypeMembers {
            id,
            name: TableName::new("public", name),
            kind: MemberKind::Labels,
            members: labels.iter().map(member).collect(),
        }
    }

    fn of(table: &str, types: Vec<TypeMembers>) -> KnownTypes {
        KnownTypes {
            table: TableName::new("public", table),
            target: TableName::new("there", table),
            types,
        }
    }

    #[test]
    fn a_type_is_told_by_its_number_and_not_by_its_name() {
        let labels = &[(1, "x"), (2, "y")];
        let known = [
            of("one", vec![mood(1, "a", labels)]),
            of("two", vec![mood(2, "b", labels)]),
        ];
        // They have exchanged their names.
        let now = mood(1, "b", labels);
        let found = history(&now, &known);
        assert_eq!(found.known_otherwise_by, [names(&known[0])]);
        let others: Vec<_> = others_of_its_name(&now, &known).collect();
        assert_eq!(others, [(&known[1], 2)]);
        // One that nobody knows may have been made in the place of a former one.
        let now = mood(3, "b", labels);
        assert_eq!(history(&now, &known).known_otherwise_by, []);
        assert_eq!(others_of_its_name(&now, &known).count(), 1);
        // As it was.
        let now = mood(2, "b", labels);
        assert_eq!(history(&now, &known).members.len(), 0);
        assert_eq!(others_of_its_name(&now, &known).count(), 0);
        // A table that was loaded since has it under its new name.
        let mut known = known.to_vec();
        known.push(of("three", vec![mood(1, "b", labels)]));
        let now = mood(1, "b", labels);
        assert_eq!(history(&now, &known).known_otherwise_by, []);
    }

    #[test]
    fn labels_are_told_by_their_numbers() {
        let known = [of(
            "one",
            vec![mood(1, "a", &[(1, "x"), (2, "y"), (3, "z")])],
        )];
        let now = mood(1, "a", &[(1, "n"), (2, "x"), (9, "y")]);
        let called =
            |before: &str, after: Option<&str>| (before.to_owned(), after.map(str::to_owned));
        assert_eq!(
            history(&now, &known).members,
            [[
                called("x", Some("n")),
                called("y", Some("x")),
                called("z", None)
            ]]
        );
    }

    #[test]
    fn a_name_stays_until_the_table_is_loaded_anew() {
        let mut types = vec![mood(1, "b", &[(1, "x")]), mood(3, "c", &[(1, "x")])];
        keep_names(&mut types, &[mood(1, "a", &[]), mood(2, "b", &[])]);
        let names: Vec<_> = types.iter().map(|it| it.name.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
