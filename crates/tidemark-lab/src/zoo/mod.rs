//! The zoo: every type of PostgreSQL with its extremes, names that must be quoted, and changes that
//! carry each value through the log as well.
//!
//! Schema `zoo` has a table `of_...` for each type, with a key `id`, the value `v` and an array of it `vs`,
//! and for types that can be keys a table `key_...` whose key is the value. What a load brings has
//! ids below 1000; [`Zoo::changes`] brings the same values again above 1000 by the log, so that an
//! oracle sees both ways. Schemas `odd`, `Odd.Schema "one"` and `select` hold the odd names.
//!
//! - [`kinds`]: the list of types and values
//! - [`names`]: odd names and a table of 1,600 columns

use anyhow::{Context, Result};
use tokio_postgres::Client;

use kinds::{KINDS, Kind, Shape, TYPES};

mod kinds;
mod names;

/// What was created.
#[derive(Clone, Debug)]
pub struct Zoo {
    tables: Vec<Exhibit>,
    /// Extensions whose types are used; a target needs them too.
    pub extensions: Vec<String>,
    /// `name: why` of what this server does not have.
    pub left_out: Vec<String>,
}

#[derive(Clone, Debug)]
struct Exhibit {
    kind: usize,
    values: usize,
}

impl Zoo {
    /// Makes tables and rows in a database; what the server lacks (an extension, XML) is left out
    /// and told.
    pub async fn create(client: &Client) -> Result<Zoo> {
        let version = client.query_one("SELECT current_setting('server_version_num')::int", &[]);
        let major = u32::try_from(version.await?.get::<_, i32>(0) / 10_000)?;
        client
            .batch_execute("SET lc_monetary = 'C'; SET timezone = 'UTC'")
            .await?;
        client
            .batch_execute(TYPES)
            .await
            .context("create the types of the zoo")?;
        let mut zoo = Zoo {
            tables: Vec::new(),
            extensions: Vec::new(),
            left_out: Vec::new(),
        };
        for (number, kind) in KINDS.iter().enumerate() {
            if let Some(why) = zoo.lacks(client, kind, major).await? {
                zoo.left_out.push(format!("{}: {why}", kind.name));
                continue;
            }
            let sql = create(kind);
            client
                .batch_execute(&sql)
                .await
                .with_context(|| format!("create {}", kind.name))?;
            zoo.tables.push(Exhibit {
                kind: number,
                values: kind.values.len() + 1,
            });
        }
        client
            .batch_execute(&names::setup())
            .await
            .context("create the odd names")?;
        Ok(zoo)
    }

    /// Makes the extensions in a target, where nobody but its owner may.
    pub async fn prepare_target(&self, target: &Client) -> Result<()> {
        for extension in &self.extensions {
            let sql = format!("CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public");
            target
                .batch_execute(&sql)
                .await
                .with_context(|| sql.clone())?;
        }
        Ok(())
    }

    /// How many types are shown.
    pub fn kinds(&self) -> usize {
        self.tables.len()
    }

    /// Statements that bring every value by the log: inserted, updated to, updated from, deleted,
    /// as a new key and as an old one. Each is a transaction of its own.
    pub fn changes(&self) -> Vec<String> {
        let mut changes = Vec::new();
        for exhibit in &self.tables {
            if let Some(kind) = KINDS.get(exhibit.kind) {
                changes.extend(exhibit.changes(kind));
            }
        }
        changes.push(names::changes());
        changes
    }

    async fn lacks(&mut self, client: &Client, kind: &Kind, major: u32) -> Result<Option<String>> {
        if major < kind.since {
            return Ok(Some(format!("since PostgreSQL {}", kind.since)));
        }
        if kind.name == "xml" && client.batch_execute("SELECT '<a/>'::xml").await.is_err() {
            return Ok(Some("the server was built without libxml".to_owned()));
        }
        let Some(extension) = kind.extension else {
            return Ok(None);
        };
        let sql = "SELECT FROM pg_available_extensions WHERE name = $1";
        if client.query_opt(sql, &[&extension]).await?.is_none() {
            return Ok(Some(format!("extension {extension} is not installed")));
        }
        let sql = format!("CREATE EXTENSION IF NOT EXISTS {extension} SCHEMA public");
        client.batch_execute(&sql).await?;
        self.extensions.push(extension.to_owned());
        Ok(None)
    }
}

/// A NOT NULL domain has no NULL row.
fn holds_null(kind: &Kind) -> bool {
    kind.name != "present"
}

/// Arrays of different bounds do not go into one array.
fn has_array(kind: &Kind) -> bool {
    kind.shape != Shape::Alone && !kind.sql_type.ends_with("[]")
}

fn create(kind: &Kind) -> String {
    let Kind {
        name,
        sql_type,
        values,
        ..
    } = kind;
    let bare_type = sql_type.trim_end_matches(" COLLATE \"C\"");
    let has_array = has_array(kind);
    let array = if has_array {
        format!(", vs {bare_type}[]")
    } else {
        String::new()
    };
    let mut sql = vec![format!(
        "CREATE TABLE zoo.of_{name} (id int PRIMARY KEY, v {sql_type}{array})"
    )];
    let rows = values.iter().zip(1..).map(|(value, id)| {
        format!("INSERT INTO zoo.of_{name} (id, v) VALUES ({id}, ({value})::{bare_type})")
    });
    sql.extend(rows);
    if has_array {
        sql.push(format!("UPDATE zoo.of_{name} SET vs = ARRAY[v, NULL, v]"));
    }
    if holds_null(kind) {
        sql.push(format!(
            "INSERT INTO zoo.of_{name} (id) VALUES ({})",
            values.len() + 1
        ));
    }
    if kind.shape == Shape::Key {
        // The last value waits until a row's key changes to it.
        let waiting = values.len();
        sql.push(format!(
            "CREATE TABLE zoo.key_{name} (v {sql_type} PRIMARY KEY, n int NOT NULL, note text)"
        ));
        sql.push(format!(
            "INSERT INTO zoo.key_{name} SELECT DISTINCT ON (v) v, id, 'row ' || id \
             FROM zoo.of_{name} WHERE id < {waiting} ORDER BY v, id"
        ));
    }
    sql.join(";\n")
}

impl Exhibit {
    fn changes(&self, kind: &Kind) -> Vec<String> {
        let (name, rows) = (kind.name, self.values);
        let columns = if has_array(kind) { "v, vs" } else { "v" };
        let copy = |offset: u32| {
            format!(
                "INSERT INTO zoo.of_{name} (id, {columns}) SELECT id + {offset}, {columns} \
                 FROM zoo.of_{name} WHERE id < 1000"
            )
        };
        let turn = format!(
            "UPDATE zoo.of_{name} t SET v = o.v FROM zoo.of_{name} o \
             WHERE t.id > 2000 AND o.id = 1 + (t.id - 2000) % {rows}"
        );
        let mut changes = vec![
            format!("{}; {}; {}", copy(1000), copy(2000), copy(3000)),
            // NOT NULL domains have one row less, so the last turn finds nothing there.
            turn,
            format!("DELETE FROM zoo.of_{name} WHERE id > 3000"),
        ];
        if kind.shape == Shape::Key {
            changes.push(format!(
                "UPDATE zoo.key_{name} SET note = 'updated' WHERE n % 2 = 0; \
                 WITH gone AS (DELETE FROM zoo.key_{name} WHERE n = 1 RETURNING *) \
                   SELECT count(*) FROM gone; \
                 INSERT INTO zoo.key_{name} SELECT v, 1, 'came back' FROM zoo.of_{name} WHERE id = 1; \
                 UPDATE zoo.key_{name} SET v = (SELECT v FROM zoo.of_{name} WHERE id = {}) WHERE n = 1",
                kind.values.len()
            ));
        }
        changes
    }
}
