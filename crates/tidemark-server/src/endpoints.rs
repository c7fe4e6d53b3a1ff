//! Connections of the store: databases that pipelines of a tenant name instead of saying where they are.
//!
//! All of them are in memory, so that a pipeline can begin while the store is away. A name is looked for in
//! `connections.toml` first, where a definition has one beside it: the file wins. Only definitions that are
//! in the store themselves use these; a file uses files.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use tidemark_core::Result;
use tokio::sync::{Mutex, MutexGuard};

use crate::store::{ConnectionRow, Key, Store};
use crate::supervisor::{Member, Supervisor};
use crate::systems::{Connection, Place};

/// See the module's text.
pub(crate) struct Endpoints {
    known: RwLock<BTreeMap<Key, ConnectionRow>>,
    /// Held while one changes, or a pipeline comes to name one: so none goes that is needed.
    changing: Mutex<()>,
}

impl Endpoints {
    pub(crate) async fn load(store: &Store) -> Result<Endpoints> {
        let rows = store.connections().await?;
        let known = rows.into_iter().map(|row| (row.key.clone(), row));
        Ok(Endpoints {
            known: RwLock::new(known.collect()),
            changing: Mutex::new(()),
        })
    }

    /// Until it is dropped no connection changes.
    pub(crate) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    pub(crate) fn find(&self, key: &Key) -> Option<ConnectionRow> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }

    /// Those of a tenant, by name.
    pub(crate) fn of(&self, tenant: &str) -> Vec<ConnectionRow> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let own = known.values().filter(|row| row.key.tenant == tenant);
        own.cloned().collect()
    }

    /// Of which tenants they are, one by one.
    pub(crate) fn tenants(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().map(|key| key.tenant.clone()).collect()
    }

    pub(crate) fn keep(&self, row: ConnectionRow) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(row.key.clone(), row);
    }

    pub(crate) fn forget(&self, key: &Key) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(key);
    }

    /// Those that a definition of this place names.
    pub(crate) fn named(&self, tenant: &str, text: &str, place: &Place) -> Vec<Connection> {
        if matches!(place, Place::File(_)) {
            return Vec::new();
        }
        let names = names(text).into_iter();
        let rows = names.filter_map(|name| self.find(&Key::new(tenant, name)));
        rows.map(|row| connection(&row.key.id, &row.keys, place.clone()))
            .collect()
    }
}

/// A connection by itself, as whoever knows databases reads it.
pub(crate) fn connection(name: &str, keys: &str, place: Place) -> Connection {
    Connection {
        name: name.to_owned(),
        text: format!(
            "version = 1\n[[connection]]\nname = {}\n{keys}",
            Value::from(name)
        ),
        place,
    }
}

/// The connections that a definition names, each once.
pub(crate) fn names(text: &str) -> Vec<String> {
    let tree: Value = toml::from_str(text).unwrap_or_default();
    let sides = [&tree["source"], &tree["target"]];
    let named = sides.iter().filter_map(|side| side["connection"].as_str());
    let mut names: Vec<String> = named.map(str::to_owned).collect();
    names.dedup();
    names
}

/// The pipelines whose definition is in the store and names this connection.
pub(crate) fn users(supervisor: &Supervisor, key: &Key) -> Vec<Arc<Member>> {
    let mut members = supervisor.members_of(&key.tenant);
    members.retain(|member| {
        let definition = member.row().definition;
        definition.is_some_and(|text| names(&text).contains(&key.id))
    });
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_definition_names_is_found_whatever_else_it_says() {
        for (text, expected) in [
            (
                "[source]\nconnection = \"a\"\n[target]\nconnection = \"b\"",
                &["a", "b"][..],
            ),
            (
                "source.connection = \"a\"\ntarget.connection = \"a\"",
                &["a"],
            ),
            (
                "[source]\nurl = \"postgres://a\"\n[target]\nconnection = \"b\"",
                &["b"],
            ),
            ("[source]\nconnection = 7", &[]),
            ("not TOML", &[]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn a_connection_is_a_file_with_one_section() {
        let made = connection("orders", "url = \"postgres://a@b/c\"\n", Place::Confined);
        let tree: Value = toml::from_str(&made.text).unwrap();
        assert_eq!(tree["connection"][0]["name"], "orders");
        assert_eq!(tree["connection"][0]["url"], "postgres://a@b/c");
    }
}
