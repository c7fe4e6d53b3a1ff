//! Tables of the target that have the names of those to come, or were made by an earlier start.

use std::collections::HashMap;

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Fix, Report};
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::{Index, IndexKind, TableName, TableSchema};
use tidemark_core::target::{Existing, Lacking};

use super::Triggers;
use crate::schema::describe_one;
use crate::target::catalog::{self, Relation};
use crate::target::lacks::Compared;
use crate::target::metadata::{self, Found};
use crate::target::names::quoted;
use crate::target::{PgTarget, claim, fit, lacks, prepare};
use crate::wire::{Connection, Row, quote_ident, quote_literal};

/// So many are named in one sentence.
const NAMED_MAX: usize = 20;

/// What the catalog says of a name that a table is to have.
struct There {
    relation: Relation,
    /// As the server quotes it.
    quoted: String,
    /// Privileges that the role lacks.
    lacks: String,
    is_hidden: bool,
    /// Triggers and rules that fire whatever the session's role, and those that its role keeps still.
    always: String,
    normal: String,
    foreign_keys: String,
}

/// `tgenabled`, `ev_enabled`: `O` fires unless the session's role is replica, `R` only then, `A` always
/// (PostgreSQL 15, 53.56 and 53.45).
const QUERY: &str = "SELECT n.nspname, c.relname, c.oid, c.relkind, c.relpersistence, \
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
       concat_ws(', ', \
         CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN 'SELECT' END, \
         CASE WHEN NOT has_table_privilege(c.oid, 'INSERT') THEN 'INSERT' END, \
         CASE WHEN NOT has_table_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END, \
         CASE WHEN NOT has_table_privilege(c.oid, 'DELETE') THEN 'DELETE' END, \
         CASE WHEN NOT has_table_privilege(c.oid, 'TRUNCATE') THEN 'TRUNCATE' END), \
       row_security_active(c.oid), \
       coalesce(hooks.always, ''), coalesce(hooks.normal, ''), \
       (SELECT coalesce(string_agg(k.conname, ', ' ORDER BY k.conname), '') FROM pg_constraint k \
        WHERE k.conrelid = c.oid AND k.contype = 'f') \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     CROSS JOIN LATERAL (SELECT \
       string_agg(h.name, ', ' ORDER BY h.name) FILTER (WHERE h.enabled IN ('R', 'A')) AS always, \
       string_agg(h.name, ', ' ORDER BY h.name) FILTER (WHERE h.enabled = 'O') AS normal \
       FROM (SELECT 'trigger ' || t.tgname AS name, t.tgenabled AS enabled FROM pg_trigger t \
             WHERE t.tgrelid = c.oid AND NOT t.tgisinternal \
             UNION ALL SELECT 'rule ' || r.rulename, r.ev_enabled FROM pg_rewrite r \
             WHERE r.ev_class = c.oid AND r.ev_type <> '1') h) AS hooks \
     WHERE (n.nspname, c.relname) IN ";

/// What is to be copied, by whom.
pub(super) struct Tables<'a> {
    pub(super) target: &'a PgTarget,
    pub(super) tables: &'a [TableMapping],
    /// The role, quoted.
    pub(super) role: String,
    pub(super) triggers: Triggers,
}

impl Tables<'_> {
    pub(super) async fn check(
        &self,
        report: &mut Report,
        connection: &mut Connection,
    ) -> Result<()> {
        let there = read(connection, self.tables).await?;
        let recorded = recorded(connection, &self.target.pipeline).await?;
        if recorded.is_some() {
            self.check_shared(report, connection).await?;
        }
        let compared = match recorded {
            Some(_) => self.check_lacking(report, connection).await?,
            None => HashMap::new(),
        };
        let known = recorded.unwrap_or_default();
        let failures = report.failures();
        for mapping in self.tables {
            let is_loading = known.get(&mapping.target).copied();
            let Some(found) = there.get(&mapping.target) else {
                if is_loading.is_none() {
                    self.check_missing(report, mapping);
                }
                continue;
            };
            self.check_found(report, found);
            if found.relation.obstacle().is_none() && found.lacks.is_empty() {
                let mut table = Table {
                    all: self,
                    report,
                    connection,
                    mapping,
                    found,
                    compared: compared.get(&mapping.target),
                };
                table.check(is_loading).await?;
            }
        }
        self.check_triggers(report, connection, &there);
        if report.failures() == failures {
            let found = format!(
                "{} tables, {} of them there already",
                self.tables.len(),
                there.len()
            );
            report.pass(codes::TARGET_TABLE_UNFIT, found);
        }
        Ok(())
    }

    /// What two pipelines bring into one table comes twice. Told early; what decides is the claim.
    async fn check_shared(&self, report: &mut Report, connection: &mut Connection) -> Result<()> {
        let targets: Vec<&TableName> = self.tables.iter().map(|table| &table.target).collect();
        for other in claim::shared(connection, &self.target.pipeline, &targets).await? {
            if other.is_running {
                report.fail(
                    codes::TARGET_SHARED,
                    other.found(),
                    "Changes of both would be applied: rows of tables without a key come twice.",
                    [Fix::text(other.way_out())],
                );
            } else {
                let (pipeline, what) = (&other.pipeline, &other.what);
                report.note(
                    codes::TARGET_SHARED,
                    format!("known to pipeline {pipeline} as well, which nobody runs now: {what}"),
                    "It is refused while this pipeline runs.",
                );
            }
        }
        Ok(())
    }

    /// What came on the source after the load. Gives the tables that are loaded, by name.
    async fn check_lacking(
        &self,
        report: &mut Report,
        connection: &mut Connection,
    ) -> Result<HashMap<TableName, Compared>> {
        let pipeline = &self.target.pipeline;
        let compared = match lacks::compare(connection, pipeline, self.tables).await {
            Err(error) if error.sqlstate_code() == Some("42501") => return Ok(HashMap::new()),
            compared => compared?,
        };
        let lacking = compared.iter().filter(|table| !table.lacks.is_empty());
        for Compared {
            have,
            is_loaded_here,
            lacks,
        } in lacking
        {
            let differs = differs(&have.name, lacks);
            let statements: Vec<&str> = lacks.iter().map(|it| it.sql.as_str()).collect();
            let code = codes::TARGET_LACKS;
            if *is_loaded_here {
                report.warn(
                    code,
                    differs,
                    &code.entry().effect,
                    [Fix::sql(statements.join(";\n"))],
                );
            } else {
                report.note(
                    code,
                    differs,
                    "The pipeline found the table with its rows, so this may be on purpose. \
                     tidemark cutover --dry-run shows the statements that make both alike.",
                );
            }
        }
        if !compared.is_empty() && compared.iter().all(|table| table.lacks.is_empty()) {
            let found = "loaded tables have the source's indexes, constraints and defaults";
            report.pass(codes::TARGET_LACKS, found);
        }
        let by_table = compared.into_iter().map(|it| (it.have.name.clone(), it));
        Ok(by_table.collect())
    }

    fn check_missing(&self, report: &mut Report, mapping: &TableMapping) {
        if self.target.existing == Existing::AppendIfEmpty {
            report.fail(
                codes::TARGET_TABLE_MISSING,
                format!("{} is not there", mapping.target),
                "target.existing = \"append_if_empty\" makes no tables.",
                [Fix::text(
                    "make the table, or choose another target.existing",
                )],
            );
        }
    }

    fn check_found(&self, report: &mut Report, found: &There) {
        let name = &found.quoted;
        if let Some(obstacle) = found.relation.obstacle() {
            let fix = if found.relation.is_unlogged() {
                Fix::sql(format!("ALTER TABLE {name} SET LOGGED"))
            } else {
                Fix::text("choose another target name for the table, or rename what is there")
            };
            report.fail(
                codes::TARGET_NOT_A_TABLE,
                format!("{name} {obstacle}"),
                "Rows cannot be kept in it.",
                [fix],
            );
            return;
        }
        if !found.lacks.is_empty() {
            let (lacks, role) = (&found.lacks, &self.role);
            report.fail(
                codes::TARGET_GRANTS,
                format!("the role lacks {lacks} on {name}"),
                "Rows cannot be written.",
                [Fix::sql(format!("GRANT {lacks} ON {name} TO {role}"))],
            );
        }
        if found.is_hidden {
            report.fail(
                codes::TARGET_ROW_SECURITY,
                format!("row security is in force on {name}"),
                "COPY into it is refused, and rows may be hidden from updates.",
                [Fix::text(
                    "let the table's owner, or a role with BYPASSRLS, write it",
                )],
            );
        }
    }

    fn check_triggers(
        &self,
        report: &mut Report,
        connection: &Connection,
        there: &HashMap<TableName, There>,
    ) {
        let mut firing = Vec::new();
        for found in there.values() {
            let mut add = |kind: &str, names: &str| {
                if !names.is_empty() {
                    firing.push(format!("{kind}{names} on {}", found.quoted));
                }
            };
            add("", &found.always);
            if self.triggers == Triggers::Fire {
                add("", &found.normal);
                add("foreign key ", &found.foreign_keys);
            }
        }
        firing.sort();
        match (self.triggers, firing.is_empty()) {
            (Triggers::KeepStill, true) => {
                report.pass(codes::TARGET_TRIGGERS, "triggers, rules and foreign keys keep still");
            }
            (Triggers::Fire, true) => report.note(
                codes::TARGET_TRIGGERS,
                "the role may not set session_replication_role",
                "Triggers, rules and foreign keys would fire; there are none on the tables. Foreign keys \
                 that come with the load are checked from then on.",
            ),
            (_, false) => report.warn(
                codes::TARGET_TRIGGERS,
                format!("what fires for each row that is written: {}", named_at_most(firing, "; ")),
                "Rows that a trigger writes may be doubled, cascades run twice, rows in another order \
                 than the foreign keys ask for are refused, and a table of which a trigger or rule \
                 leaves a row out is set aside.",
                self.ways_to_keep_still(connection),
            ),
        }
    }

    fn ways_to_keep_still(&self, connection: &Connection) -> Vec<Fix> {
        let mut fixes = Vec::new();
        if self.triggers == Triggers::Fire && connection.server_version() >= 150_000 {
            let role = &self.role;
            fixes.push(Fix::sql(format!(
                "GRANT SET ON PARAMETER session_replication_role TO {role}"
            )));
        }
        fixes.push(Fix::text(
            "drop or disable them while the pipeline runs: ALTER TABLE … DISABLE TRIGGER …, \
             DISABLE RULE …",
        ));
        fixes
    }
}

/// What a table lacks, and what it has beyond.
fn differs(name: &TableName, lacks: &[Lacking]) -> String {
    let named = |is_surplus: bool| {
        let of = lacks.iter().filter(|it| it.is_surplus == is_surplus);
        let named: Vec<String> = of.map(|it| format!("{} {}", it.kind, it.name)).collect();
        (!named.is_empty()).then(|| named_at_most(named, ", "))
    };
    let lacking = named(false).map(|named| format!("lacks what the source has by now: {named}"));
    let surplus = named(true).map(|named| format!("has what the source does not have: {named}"));
    let both: Vec<String> = lacking.into_iter().chain(surplus).collect();
    format!("{name} {}", both.join("; it "))
}

/// One sentence of names.
fn named_at_most(mut names: Vec<String>, between: &str) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(between)
}

async fn read(
    connection: &mut Connection,
    tables: &[TableMapping],
) -> Result<HashMap<TableName, There>> {
    if tables.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<String> = tables
        .iter()
        .map(|table| {
            let (schema, name) = (&table.target.schema, &table.target.name);
            format!("({}, {})", quote_literal(schema), quote_literal(name))
        })
        .collect();
    // A bare list of pairs is an OR in an OR, too deep for the server with ten thousand tables.
    let answer = connection
        .query(&format!("{QUERY} (VALUES {})", names.join(", ")), &[])
        .await?;
    answer.rows.iter().map(read_one).collect()
}

fn read_one(row: &Row) -> Result<(TableName, There)> {
    let there = There {
        relation: Relation::read(row, 2)?,
        quoted: row.get(5)?,
        lacks: row.get(6)?,
        is_hidden: row.get_bool(7)?,
        always: row.get(8)?,
        normal: row.get(9)?,
        foreign_keys: row.get(10)?,
    };
    Ok((TableName::new(row.get_str(0)?, row.get_str(1)?), there))
}

/// Tables that earlier starts of this pipeline recorded, and whether their rows are still to come: keys
/// are made behind them. `None` where there are no records, or none that the role may read: that it
/// lacks them is told already.
async fn recorded(
    connection: &mut Connection,
    pipeline: &str,
) -> Result<Option<HashMap<TableName, bool>>> {
    match metadata::find(connection).await {
        Ok(Found::Nothing) => return Ok(None),
        Err(error) if error.sqlstate_code() == Some("42501") => return Ok(None),
        found => found?,
    };
    let answer = connection
        .query(
            "SELECT target_schema, target_name, state = 'loading' FROM tidemark.table_state \
             WHERE pipeline = $1",
            &[Some(pipeline)],
        )
        .await;
    let answer = match answer {
        Err(error) if error.sqlstate_code() == Some("42501") => return Ok(None),
        answer => answer?,
    };
    let rows = answer.rows.iter();
    rows.map(|row| {
        let name = TableName::new(row.get_str(0)?, row.get_str(1)?);
        Ok((name, row.get_bool(2)?))
    })
    .collect::<Result<_>>()
    .map(Some)
}

/// A table that is there and may be written.
struct Table<'a> {
    all: &'a Tables<'a>,
    report: &'a mut Report,
    connection: &'a mut Connection,
    mapping: &'a TableMapping,
    found: &'a There,
    /// Where it is loaded, and what it lacks is told.
    compared: Option<&'a Compared>,
}

impl Table<'_> {
    /// `is_loading` of a table that the pipeline knows.
    async fn check(&mut self, is_loading: Option<bool>) -> Result<()> {
        if is_loading == Some(true) {
            return Ok(());
        }
        if let Some(compared) = self.compared {
            self.check_key(&compared.have);
            return Ok(());
        }
        let (name, oid) = (&self.mapping.target, self.found.relation.oid);
        let Some(have) = describe_one(self.connection, name, oid).await? else {
            return Ok(());
        };
        if is_loading.is_some() {
            self.check_key(&have);
            return Ok(());
        }
        let existing = self.all.target.existing;
        if existing == Existing::Fail {
            self.report.fail(
                codes::TARGET_TABLE_EXISTS,
                format!("{name} exists"),
                "target.existing = \"fail\" wants to make every table.",
                [Fix::text(
                    "drop the table, or choose another target.existing",
                )],
            );
            return Ok(());
        }
        if matches!(existing, Existing::Drop | Existing::Swap) {
            return Ok(());
        }
        self.check_fit(&have).await?;
        let has_rows = catalog::has_rows(self.connection, &quoted(name)).await?;
        match existing {
            _ if !has_rows => {}
            Existing::SkipLoaded => {
                self.report.note(
                    codes::TARGET_TABLE_NOT_EMPTY,
                    format!("{name} has rows and is left as it is"),
                    "It is taken for loaded: changes are applied to the rows that are there.",
                );
                self.check_key(&have);
            }
            Existing::LoadIfEmpty | Existing::AppendIfEmpty => self.report.fail(
                codes::TARGET_TABLE_NOT_EMPTY,
                format!("{name} has rows"),
                "Rows that are there already would be mixed with those of the source.",
                [Fix::text(
                    codes::TARGET_TABLE_NOT_EMPTY.entry().first_action.clone(),
                )],
            ),
            _ => {}
        }
        Ok(())
    }

    async fn check_fit(&mut self, have: &TableSchema) -> Result<()> {
        let numbers = prepare::numbers_for(self.connection, self.all.tables, self.mapping).await?;
        let mut problems = fit::problems(self.mapping, &numbers, have);
        // A trigger that fires may give them.
        if self.found.always.is_empty() {
            problems.extend(fit::left_empty(self.mapping, have));
        }
        if !problems.is_empty() {
            self.report.fail(
                codes::TARGET_TABLE_UNFIT,
                format!(
                    "{} does not fit: {}",
                    self.mapping.target,
                    fit::told(&problems)
                ),
                "Rows of the source could not be written as they are.",
                [Fix::text(
                    codes::TARGET_TABLE_UNFIT.entry().first_action.clone(),
                )],
            );
        }
        Ok(())
    }

    /// Changes find their row by the key.
    fn check_key(&mut self, have: &TableSchema) {
        let key: Vec<&str> = self
            .mapping
            .key
            .iter()
            .map(|index| self.mapping.columns[*index].target.as_str())
            .collect();
        if key.is_empty() {
            return;
        }
        let is_over_key = |index: &Index| {
            let columns: Vec<&str> = index
                .columns
                .iter()
                .filter_map(|key| key.column.as_deref())
                .collect();
            let is_unique = !matches!(index.kind, IndexKind::Plain | IndexKind::Exclusion);
            is_unique
                && index.predicate.is_none()
                && columns.len() == index.columns.len()
                && columns.iter().all(|column| key.contains(column))
        };
        if have.indexes.iter().any(is_over_key) {
            return;
        }
        let columns: Vec<String> = key.iter().map(|column| quote_ident(column)).collect();
        let (name, columns) = (&self.found.quoted, columns.join(", "));
        let mut lacks = self.compared.iter().flat_map(|compared| &compared.lacks);
        let fix = if lacks.any(|it| it.kind == lacks::PRIMARY_KEY) {
            let code = codes::TARGET_LACKS;
            Fix::text(format!(
                "make the primary key, with the statement of {code}"
            ))
        } else {
            Fix::sql(format!("CREATE UNIQUE INDEX ON {name} ({columns})"))
        };
        self.report.warn(
            codes::TARGET_NO_KEY,
            format!("{name} has no unique index over its key ({columns})"),
            "Each update and delete reads the whole table.",
            [fix],
        );
    }
}
