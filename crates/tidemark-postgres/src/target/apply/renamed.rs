//! Types that have another name on the source by now.
//!
//! No row depends on what a type is called. But what becomes of its labels is carried out by name, so a table
//! whose type cannot get the name is set aside: it would keep labels that the source has no more.
//!
//! Each table that rests on a type brings its new name, and the first one gives it. That it was given is told
//! by what the table rests on, not by which names there are: types may take each other's.

use tidemark_core::catalogue::codes;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::TableName;
use tidemark_core::{Error, ErrorKind, Result};

use super::session::Step;
use super::stretch::Work;
use crate::config::Side;
use crate::error::classify;
use crate::schema::types_below;
use crate::target::catalog;
use crate::target::names::quoted;
use crate::target::objects::renaming;

/// SQLSTATE of a name that another type has, and of one that another composite type or a table has.
const TAKEN: [&str; 2] = ["42710", "42P07"];

impl Work<'_> {
    pub(super) async fn rename_type(
        &mut self,
        mapping: &TableMapping,
        from: &TableName,
        to: &TableName,
        step: Step,
    ) -> Result<()> {
        self.open()?;
        let connection = self.session.settled().await?;
        let Some(table) = catalog::relation(connection, &mapping.target).await? else {
            return Ok(());
        };
        let below = types_below(connection, table.oid).await?;
        // Types follow their tables into another schema, where all of these go there.
        let mut places = [beside(mapping, from), from.clone()].into_iter();
        let Some(there) = places.find(|name| below.contains(name)) else {
            return Ok(());
        };
        let schema = if from.schema == to.schema {
            there.schema.clone()
        } else {
            beside(mapping, to).schema
        };
        let new = TableName::new(schema, to.name.clone());
        if new == there {
            return Ok(());
        }
        let statements = renaming(self.session.settled().await?, &there, &new).await?;
        let mut refused = self.tried(&statements, step).await?;
        if let Some(said) = &refused
            && TAKEN.contains(&said.sqlstate.as_str())
        {
            // By what is left of a type that the source has dropped, if nothing rests on it.
            let mut anew = vec![format!("DROP TYPE {}", quoted(&new))];
            anew.extend(statements.iter().cloned());
            if self.tried(&anew, step).await?.is_none() {
                refused = None;
            }
        }
        if let Some(said) = refused {
            let message = said.message.clone();
            let error = classify(Side::Target, *said);
            if error.kind() == ErrorKind::Transient {
                return Err(error);
            }
            let text = format!(
                "type {there} of the target cannot be called {new}, as on the source: {message}"
            );
            return Err(Error::data(codes::SCHEMA_CHANGE_REFUSED, text)
                .first_action(statements.join("; "))
                .table(mapping.source().to_string()));
        }
        // The statements of all tables that have the type name it.
        self.known.forget_all(self.session)?;
        self.met.fill_with(|| None);
        Ok(())
    }
}

/// Where a type lies that went with the table.
fn beside(mapping: &TableMapping, name: &TableName) -> TableName {
    let schema = if name.schema == mapping.source().schema {
        &mapping.target.schema
    } else {
        &name.schema
    };
    TableName::new(schema.clone(), name.name.clone())
}
