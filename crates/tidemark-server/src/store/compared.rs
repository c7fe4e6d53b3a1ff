//! What comparisons have found of a pipeline: the last of each table, and the last of all of them.
//!
//! Status, metrics and alerts ask for it every second. So a server has it in memory, brings it up to date
//! with each comparison, and reads it out of the store once, when it begins.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_core::position::Position;
use tidemark_core::schema::TableName;
use tidemark_core::selection::Pattern;
use tidemark_core::status::Verified;
use tidemark_core::{Result, clock};

use super::operations::{COLUMNS, verification};
use super::{Key, Store, VerificationRow, params};

/// How many comparisons of some tables are read, and as many of all, to know each table's last.
const READ: i64 = 50;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Compared {
    /// By the table on the source.
    pub(crate) tables: BTreeMap<String, Found>,
    /// The last comparison of all tables.
    pub(crate) whole: Option<Whole>,
}

/// What was found of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) is_different: bool,
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) lsn: String,
}

/// What was found of all tables.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) verified: Verified,
    /// Microseconds since 1970 UTC.
    pub(crate) at_us: i64,
    /// Rows.
    pub(crate) different: u64,
}

impl Compared {
    /// Whether rows of a table are known to differ.
    pub(crate) fn is_different(&self) -> bool {
        self.tables.values().any(|found| found.is_different)
    }

    /// Takes a comparison in, which is later than those that it knows.
    pub(crate) fn take(&mut self, row: &VerificationRow) {
        let mut different = 0;
        if row.whole {
            // What the pipeline has no more is nothing that differs.
            let tables = row.tables.as_array().into_iter().flatten();
            let named = tables.filter_map(|one| one["source"].as_str());
            let named: BTreeSet<String> = named.map(as_written_now).collect();
            self.tables.retain(|name, _| named.contains(name));
        }
        for table in row.tables.as_array().into_iter().flatten() {
            let word = |name: &str| table[name].as_str().unwrap_or_default();
            different += table["different"].as_u64().unwrap_or_default();
            // What could not be compared leaves what is known.
            if word("result") != "not_compared" {
                let found = Found {
                    is_different: word("result") == "different",
                    at: row.at.clone(),
                    lsn: row.lsn.clone(),
                };
                let name = as_written_now(word("source"));
                if let Some(table) = table_of(&name) {
                    self.tables.remove(&table.unquoted());
                }
                self.tables.insert(name, found);
            }
        }
        if !row.whole {
            return;
        }
        if let Ok(lsn) = Position::parse(&row.position_type, &row.lsn)
            && let Some(at_us) = clock::parse(&row.at)
        {
            let verified = Verified {
                lsn,
                result: row.result.clone(),
                values: row.depth == "deep",
                at: row.at.clone(),
            };
            self.whole = Some(Whole {
                verified,
                at_us,
                different,
            });
        }
    }
}

/// A table as its name is written now. Records of before have both parts as they are, with a dot between: with
/// one dot it is plain which table that is, and with more it is found out when the table is compared again.
fn as_written_now(text: &str) -> String {
    let is_now = table_of(text).is_some_and(|table| table.to_string() == text);
    match text.split_once('.') {
        Some((schema, name)) if !is_now && !name.contains('.') => {
            TableName::new(schema, name).to_string()
        }
        _ => text.to_owned(),
    }
}

fn table_of(text: &str) -> Option<TableName> {
    Pattern::parse(text).ok()?.exact()
}

impl Store {
    /// What is known of each pipeline.
    pub(crate) async fn compared(&self) -> Result<BTreeMap<Key, Compared>> {
        self.with(|store, _| {
            let sql = "SELECT DISTINCT tenant, pipeline FROM verifications";
            let keys = store.query(sql, &[], |row| {
                Ok(Key::new(row.get::<String>(0)?, row.get::<String>(1)?))
            })?;
            let part = format!(
                "SELECT {COLUMNS} FROM verifications WHERE tenant = $1 AND pipeline = $2 AND whole ="
            );
            let sql = format!(
                "SELECT * FROM (SELECT * FROM ({part} 0 ORDER BY id DESC LIMIT $3) AS named \
                 UNION ALL SELECT * FROM ({part} 1 ORDER BY id DESC LIMIT $3) AS entire) AS last \
                 ORDER BY id"
            );
            let mut known = BTreeMap::new();
            for key in keys {
                let mut compared = Compared::default();
                for row in store.query(&sql, params![key.tenant, key.id, READ], verification)? {
                    compared.take(&row);
                }
                known.insert(key, compared);
            }
            Ok(known)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(at: &str, whole: bool, tables: &[(&str, &str, u64)]) -> VerificationRow {
        let table = |(source, result, different): &(&str, &str, u64)| json!({ "source": source, "result": result, "different": different });
        VerificationRow {
            id: 0,
            at: at.to_owned(),
            lsn: "0/7".to_owned(),
            position_type: "pg_lsn".to_owned(),
            whole,
            result: "incomplete".to_owned(),
            depth: "deep".to_owned(),
            rows: 9,
            seconds: 0.1,
            tables: tables.iter().map(table).collect(),
        }
    }

    #[test]
    fn each_table_keeps_its_last_and_some_tables_say_nothing_of_the_whole() {
        let mut compared = Compared::default();
        let all = [("a", "identical", 0), ("b", "different", 3)];
        compared.take(&row("2026-01-01T00:00:00.000Z", true, &all));
        compared.take(&row(
            "2026-01-02T00:00:00.000Z",
            false,
            &[("a", "different", 2)],
        ));
        compared.take(&row(
            "2026-01-03T00:00:00.000Z",
            false,
            &[("b", "not_compared", 0)],
        ));
        let different: Vec<_> = compared
            .tables
            .iter()
            .map(|(name, found)| (name.as_str(), found.is_different, found.at.as_str()))
            .collect();
        let expected = [
            ("a", true, "2026-01-02T00:00:00.000Z"),
            ("b", true, "2026-01-01T00:00:00.000Z"),
        ];
        assert_eq!(different, expected);
        let whole = compared.whole.clone().unwrap();
        assert_eq!(whole.verified.at, "2026-01-01T00:00:00.000Z");
        assert_eq!(whole.different, 3);
        assert_eq!(clock::rfc3339(whole.at_us), whole.verified.at);
        // A table that is not the pipeline's any more differs no more.
        let left = [("a", "not_compared", 0)];
        compared.take(&row("2026-01-04T00:00:00.000Z", true, &left));
        assert_eq!(compared.tables.keys().collect::<Vec<_>>(), ["a"]);
        assert!(compared.is_different());
    }

    #[test]
    fn what_was_recorded_under_a_name_as_it_was_written_once_is_of_the_same_table() {
        let mut compared = Compared::default();
        let at = "2026-01-01T00:00:00.000Z";
        let before = ["public.plain", "public.st*r", "public.say \"x\"", "a.b.c"];
        let before = before.map(|name| (name, "different", 1));
        compared.take(&row(at, true, &before));
        let names: Vec<&str> = compared.tables.keys().map(String::as_str).collect();
        let written = [
            "a.b.c",
            "public.\"say \"\"x\"\"\"",
            "public.\"st*r\"",
            "public.plain",
        ];
        assert_eq!(names, written);
        // Each of them is compared by itself, and is identical.
        for name in ["\"a.b\".c", written[1], written[2], written[3]] {
            assert!(compared.is_different(), "before {name}");
            compared.take(&row(at, false, &[(name, "identical", 0)]));
        }
        assert!(!compared.is_different(), "{:?}", compared.tables);
        assert_eq!(compared.tables.len(), 4);
    }
}
