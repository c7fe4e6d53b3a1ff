//! The selected tables: may they be read, all of their rows, and how are old rows told apart.
//!
//! Partitions are looked at too: they are read one by one, and it is their replica identity that the
//! log goes by.

use std::collections::BTreeSet;

use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Fix, Report};
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::ColumnDefault;
use tidemark_core::source::WillStream;
use tidemark_core::words::counted;
use tidemark_core::{Error, Result};

use super::SourceCheck;
use super::log::Owns;
use super::server::Facts;
use crate::schema::{Oids, identity_columns};
use crate::target::lookup_key;
use crate::wire::{Connection, Row};

/// So many tables are named in one sentence or statement.
const NAMED_MAX: usize = 100;

/// A selected table, or a partition of one, as it is now. Names are quoted where they must be.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a row of the catalog, each read in one place"
)]
struct Relation {
    root: u32,
    oid: u32,
    schema: String,
    name: String,
    is_partitioned: bool,
    is_unlogged: bool,
    may_enter: bool,
    may_read: bool,
    hides_rows: bool,
    /// `relreplident`.
    identity: char,
    /// Whether old rows can be told apart by it.
    has_identity: bool,
    /// Whether the log has of its old rows what the partitioned table that it belongs to tells rows by.
    has_roots_key: bool,
    /// Whole rows are logged, and have a generated column, which is not published.
    has_unpublished_identity: bool,
    /// A unique index over columns without NULLs.
    candidate: Option<String>,
    has_primary_key: bool,
    /// Which is no identity.
    has_deferrable_key: bool,
    /// Whether there is a column `id` that a key could be made of.
    has_id: bool,
    is_owned: bool,
}

/// A deferrable key is no identity (`RelationGetIndexList`). The roots are `$1`. An identity with a generated
/// column that is not published is refused from PostgreSQL 18 on (`CheckCmdReplicaIdentity`).
const QUERY: &str = concat!(
    "WITH RECURSIVE part (root, oid) AS ( \
      SELECT w, w FROM unnest($1::oid[]) AS w \
      UNION ALL SELECT p.root, i.inhrelid FROM part p JOIN pg_inherits i ON i.inhparent = p.oid \
                JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition) \
    SELECT part.root, c.oid, quote_ident(n.nspname) AS schema, \
           quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, \
           c.relkind = 'p' AS is_partitioned, c.relpersistence = 'u' AS is_unlogged, \
           has_schema_privilege(n.oid, 'USAGE') AS may_enter, \
           has_table_privilege(c.oid, 'SELECT') \
             OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                            AND NOT a.attisdropped \
                            AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')) AS may_read, \
           row_security_active(c.oid) AS hides_rows, c.relreplident AS identity, \
           CASE c.relreplident WHEN 'f' THEN true WHEN 'n' THEN false \
             WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid \
                                   AND i.indisprimary AND i.indisvalid AND i.indimmediate) \
             ELSE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident \
                          AND i.indisvalid) END AS has_identity, \
           c.relreplident = 'f' OR NOT EXISTS (",
    identity_columns!("r", "r.relreplident"),
    " EXCEPT ",
    identity_columns!("c", "c.relreplident"),
    ") AS has_roots_key, \
           c.relreplident = 'f' AND current_setting('server_version_num')::int >= 180000 \
             AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                         AND NOT a.attisdropped AND a.attgenerated <> '') \
             AS has_unpublished_identity, \
           (SELECT quote_ident(ic.relname) FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid \
            WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate \
              AND i.indpred IS NULL AND i.indexprs IS NULL \
              AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid \
                              AND a.attnum = ANY (i.indkey) AND NOT a.attnotnull) \
            ORDER BY ic.relname LIMIT 1) AS candidate, \
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
                   AND i.indisvalid AND i.indimmediate) AS has_primary_key, \
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary \
                   AND NOT i.indimmediate) AS has_deferrable_key, \
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'id' \
                   AND NOT a.attisdropped AND a.attgenerated = '') \
             AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) \
             AS has_id, pg_has_role(c.relowner, 'USAGE') AS is_owned \
    FROM part JOIN pg_class c ON c.oid = part.oid JOIN pg_class r ON r.oid = part.root \
    JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 4"
);

fn relation(row: &Row) -> Result<Relation> {
    let flag = |name: &str| row.get_bool(row.index(name)?);
    Ok(Relation {
        root: row.get(0)?,
        oid: row.get(1)?,
        schema: row.get(2)?,
        name: row.get(3)?,
        is_partitioned: flag("is_partitioned")?,
        is_unlogged: flag("is_unlogged")?,
        may_enter: flag("may_enter")?,
        may_read: flag("may_read")?,
        hides_rows: flag("hides_rows")?,
        identity: row.get(row.index("identity")?)?,
        has_identity: flag("has_identity")?,
        has_roots_key: flag("has_roots_key")?,
        has_unpublished_identity: flag("has_unpublished_identity")?,
        candidate: row.opt(row.index("candidate")?)?,
        has_primary_key: flag("has_primary_key")?,
        has_deferrable_key: flag("has_deferrable_key")?,
        has_id: flag("has_id")?,
        is_owned: flag("is_owned")?,
    })
}

pub(super) async fn check(
    connection: &mut Connection,
    report: &mut Report,
    facts: &Facts,
    check: &SourceCheck<'_>,
) -> Result<Owns> {
    if check.tables.is_empty() {
        report.fail(
            codes::NOTHING_SELECTED,
            "no table is selected",
            "There is nothing to copy.",
            [Fix::text(
                "compare [tables] include and exclude with the tables that tidemark plan lists",
            )],
        );
        return Ok(Owns::All);
    }
    report.pass(
        codes::NOTHING_SELECTED,
        format!("{} selected", counted(check.tables.len(), "table")),
    );
    let roots = Oids::of(check.tables.iter().map(|table| table.schema.id));
    let set = connection.query(QUERY, &[Some(roots.param())]).await?;
    let relations = set.rows.iter().map(relation).collect::<Result<Vec<_>>>()?;
    must_be_there(check, &relations)?;
    carried(report, &relations);
    let sequences = unread_sequences(connection, &roots).await?;
    privileges(report, facts, &relations, &sequences);
    row_security(report, facts, &relations);
    types(connection, report, &roots).await?;
    generated_columns(report, check);
    if check.will_stream == WillStream::Yes {
        identities(report, check, &relations);
        rows_aside(report, check);
        partitioned(report, &relations);
    }
    let owns_all = relations.iter().all(|relation| relation.is_owned);
    Ok(if owns_all { Owns::All } else { Owns::Some })
}

/// Names for a sentence.
fn named<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let text = names
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match more {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A table that went since it was described is nothing that a person has to mend: whoever looks again does
/// not find it any more.
fn must_be_there(check: &SourceCheck<'_>, relations: &[Relation]) -> Result<()> {
    let there: BTreeSet<u32> = relations.iter().map(|relation| relation.oid).collect();
    let gone: Vec<String> = check
        .tables
        .iter()
        .filter(|table| !there.contains(&table.schema.id))
        .map(|table| table.source().to_string())
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    Err(Error::transient(
        codes::TABLE_REWRITTEN,
        format!(
            "{} was dropped or made anew after the source had been looked at",
            named(gone.iter())
        ),
    ))
}

/// What became of the tables since they were described.
fn carried(report: &mut Report, relations: &[Relation]) {
    let mut is_fine = true;
    for relation in relations.iter().filter(|relation| relation.is_unlogged) {
        is_fine = false;
        report.fail(
            codes::TABLE_NOT_CARRIED,
            format!("{} is unlogged", relation.name),
            "Its changes are not in the log.",
            [Fix::sql(format!(
                "ALTER TABLE {} SET LOGGED",
                relation.name
            ))],
        );
    }
    if is_fine {
        report.pass(codes::TABLE_NOT_CARRIED, "every table is logged");
    }
}

/// What the log does not tell of them.
fn partitioned(report: &mut Report, relations: &[Relation]) {
    let roots: Vec<&String> = relations
        .iter()
        .filter(|relation| relation.is_partitioned && relation.oid == relation.root)
        .map(|relation| &relation.name)
        .collect();
    if roots.is_empty() {
        report.pass(codes::PARTITIONS_UNANNOUNCED, "no table is partitioned");
        return;
    }
    report.note(
        codes::PARTITIONS_UNANNOUNCED,
        format!("partitioned: {}", named(roots.iter().copied())),
        "TRUNCATE of a single partition, and attaching, detaching or dropping one that has rows, is not \
         in the log: the target stays as it was, until tidemark verify --repair. A pipeline notices it \
         within 20 s, or with its next start: it is said, or mended where target.on_schema_change is \
         \"apply\".",
    );
}

/// Sequences of the tables (owned, or read by a default) whose values the role may not see.
async fn unread_sequences(connection: &mut Connection, roots: &Oids) -> Result<Vec<String>> {
    let set = connection
        .query(
            "SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM ( \
               SELECT d.objid AS oid FROM pg_depend d \
               WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass \
                 AND d.refobjid = ANY ($1::oid[]) AND d.deptype IN ('a', 'i') \
               UNION SELECT d.refobjid FROM pg_attrdef f \
               JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid \
                AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' \
               WHERE f.adrelid = ANY ($1::oid[])) AS s \
             JOIN pg_class c ON c.oid = s.oid JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') \
                   ELSE false END ORDER BY 1",
            &[Some(roots.param())],
        )
        .await?;
    set.rows.iter().map(|row| row.get(0)).collect()
}

/// All that is missing, in one finding.
fn privileges(
    report: &mut Report,
    facts: &Facts,
    relations: &[Relation],
    unread_sequences: &[String],
) {
    let role = &facts.role;
    let closed: BTreeSet<&String> = relations
        .iter()
        .filter(|relation| !relation.may_enter)
        .map(|relation| &relation.schema)
        .collect();
    let unread: Vec<&String> = relations
        .iter()
        .filter(|relation| !relation.may_read)
        .map(|relation| &relation.name)
        .collect();
    let mut statements = Vec::new();
    if !closed.is_empty() {
        let schemas: Vec<&str> = closed.iter().map(|schema| schema.as_str()).collect();
        statements.push(format!(
            "GRANT USAGE ON SCHEMA {} TO {role}",
            schemas.join(", ")
        ));
    }
    for part in unread.chunks(NAMED_MAX) {
        let names: Vec<&str> = part.iter().map(|name| name.as_str()).collect();
        statements.push(format!("GRANT SELECT ON {} TO {role}", names.join(", ")));
    }
    for part in unread_sequences.chunks(NAMED_MAX) {
        statements.push(format!(
            "GRANT SELECT ON SEQUENCE {} TO {role}",
            part.join(", ")
        ));
    }
    if statements.is_empty() {
        report.pass(
            codes::SOURCE_GRANTS,
            format!("role {role} may read every table"),
        );
        return;
    }
    let mut found = Vec::new();
    if !closed.is_empty() {
        found.push(format!("USAGE on {}", named(closed.iter().copied())));
    }
    if !unread.is_empty() {
        found.push(format!("SELECT on {}", named(unread.iter().copied())));
    }
    if !unread_sequences.is_empty() {
        found.push(format!(
            "SELECT on sequences {}",
            named(unread_sequences.iter())
        ));
    }
    report.fail(
        codes::SOURCE_GRANTS,
        format!("role {role} lacks {}", found.join(" and ")),
        "The load reads every row of every selected table, partition by partition.",
        [Fix::sql(statements.join(";\n"))],
    );
}

fn row_security(report: &mut Report, facts: &Facts, relations: &[Relation]) {
    let role = &facts.role;
    let hidden: Vec<&String> = relations
        .iter()
        .filter(|relation| relation.hides_rows)
        .map(|relation| &relation.name)
        .collect();
    if hidden.is_empty() {
        report.pass(codes::ROW_SECURITY, "no policy hides rows");
        return;
    }
    report.fail(
        codes::ROW_SECURITY,
        format!(
            "policies may hide rows of {} from role {role}",
            named(hidden.iter().copied())
        ),
        "Tidemark does not copy part of a table unknowingly: reading it would fail.",
        [Fix::sql(format!("ALTER ROLE {role} BYPASSRLS"))],
    );
}

/// Columns of a base type that is neither the server's nor an extension's.
async fn types(connection: &mut Connection, report: &mut Report, roots: &Oids) -> Result<()> {
    let set = connection
        .query(
            "SELECT n.nspname || '.' || c.relname || '.' || a.attname || ' (' \
                    || format_type(a.atttypid, a.atttypmod) || ')' \
             FROM unnest($1::oid[]) AS w JOIN pg_class c ON c.oid = w \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = w AND a.attnum > 0 AND NOT a.attisdropped \
             JOIN pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem \
             JOIN pg_type base ON base.oid = coalesce(e.oid, t.oid) \
             JOIN pg_namespace bn ON bn.oid = base.typnamespace \
             WHERE base.typtype = 'b' AND bn.nspname <> 'pg_catalog' \
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass \
                               AND d.objid = base.oid AND d.deptype = 'e') \
             ORDER BY 1",
            &[Some(roots.param())],
        )
        .await?;
    let mut columns = Vec::with_capacity(set.rows.len());
    for row in &set.rows {
        columns.push(row.get::<String>(0)?);
    }
    if columns.is_empty() {
        report.pass(
            codes::TYPE_NOT_CARRIED,
            "every type can be made on the target",
        );
        return Ok(());
    }
    report.warn(
        codes::TYPE_NOT_CARRIED,
        format!(
            "types that belong to no extension cannot be made on the target: {}",
            named(columns.iter())
        ),
        "The target must have a type of the same name before the load.",
        [Fix::text(
            "make the type on the target first, or leave the column out (drop_columns)",
        )],
    );
    Ok(())
}

fn generated_columns(report: &mut Report, check: &SourceCheck<'_>) {
    let generated: Vec<String> = check
        .tables
        .iter()
        .flat_map(|table| {
            let columns = table.schema.columns.iter();
            columns
                .filter(|column| matches!(column.default, ColumnDefault::Generated(_)))
                .map(|column| format!("{}.{}", table.source(), column.name))
        })
        .collect();
    if generated.is_empty() {
        report.pass(codes::GENERATED_COLUMNS, "no generated columns");
        return;
    }
    report.note(
        codes::GENERATED_COLUMNS,
        format!(
            "generated columns are not copied: {}",
            named(generated.iter())
        ),
        "The target computes them by the same expression.",
    );
}

/// One finding for each table whose old rows cannot be told apart.
fn identities(report: &mut Report, check: &SourceCheck<'_>, relations: &[Relation]) {
    let mut nothing_without_key = true;
    let mut nothing_odd = true;
    // A partitioned table itself has no rows.
    for relation in relations.iter().filter(|relation| !relation.is_partitioned) {
        if relation.has_unpublished_identity {
            nothing_odd = false;
            identity_unpublished(report, relation);
        } else if relation.has_identity {
            nothing_odd &= !is_odd_part(report, check, relation, relations);
        } else if relation.identity == 'd' {
            nothing_without_key = false;
            without_key(report, relation);
        } else {
            nothing_odd = false;
            identity_nothing(report, relation);
        }
    }
    if nothing_without_key {
        report.pass(
            codes::TABLE_WITHOUT_KEY,
            "every table has a key or logs whole rows",
        );
    }
    if nothing_odd {
        report.pass(
            codes::IDENTITY_NOTHING,
            "every replica identity can be used",
        );
    }
}

/// Where the file wants single rows in quarantine, but their table has no key to tell them by.
fn rows_aside(report: &mut Report, check: &SourceCheck<'_>) {
    let mut by_row = check
        .tables
        .iter()
        .filter(|table| table.on_row_error.is_by_row());
    let is_stopped = |table: &&TableMapping| lookup_key(table).is_empty();
    let stopped = by_row.clone().filter(is_stopped);
    let stopped: Vec<String> = stopped.map(|table| table.source().to_string()).collect();
    if by_row.next().is_none() {
        return;
    }
    if stopped.is_empty() {
        let found = "every table whose rows may go into quarantine has a key";
        report.pass(codes::QUARANTINE_WITHOUT_KEY, found);
        return;
    }
    report.warn(
        codes::QUARANTINE_WITHOUT_KEY,
        format!(
            "on_row_error is \"quarantine_row\", and without a key: {}",
            named(stopped.iter())
        ),
        "A row that the target refuses stops the whole table there: later changes of it could not be \
         told from those of other rows.",
        [Fix::text(
            "give the tables a primary key, or set on_row_error = \"stop_table\" for them",
        )],
    );
}

fn without_key(report: &mut Report, relation: &Relation) {
    let name = &relation.name;
    let mut fixes = Vec::new();
    if let Some(index) = &relation.candidate {
        fixes.push(Fix::sql(format!(
            "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {index}"
        )));
    } else if relation.has_id {
        fixes.push(Fix::sql(format!("ALTER TABLE {name} ADD PRIMARY KEY (id)")));
    }
    fixes.push(Fix::sql(format!(
        "ALTER TABLE {name} REPLICA IDENTITY FULL"
    )));
    let found = if relation.has_deferrable_key {
        format!("{name} has a primary key that is deferrable")
    } else {
        format!("{name} has no primary key")
    };
    report.warn(
        codes::TABLE_WITHOUT_KEY,
        found,
        "Inserts replicate; updates and deletes need the whole old row. Once the table is \
         published, the source refuses them in every application.",
        fixes,
    );
}

fn identity_nothing(report: &mut Report, relation: &Relation) {
    let name = &relation.name;
    let found = match relation.identity {
        'n' => format!("the replica identity of {name} is NOTHING"),
        _ => format!("the index that was the replica identity of {name} is gone"),
    };
    let default = Fix::sql(format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"));
    let full = Fix::sql(format!("ALTER TABLE {name} REPLICA IDENTITY FULL"));
    // Without a key the default is nothing as well.
    let fixes = if relation.has_primary_key {
        vec![default, full]
    } else {
        vec![full]
    };
    report.warn(
        codes::IDENTITY_NOTHING,
        found,
        "Inserts replicate; the source refuses updates and deletes of the table once it is \
         published, in every application.",
        fixes,
    );
}

fn identity_unpublished(report: &mut Report, relation: &Relation) {
    let name = &relation.name;
    let fix = if relation.has_primary_key {
        Fix::sql(format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"))
    } else {
        Fix::text("give the table a primary key and REPLICA IDENTITY DEFAULT, or leave it out")
    };
    report.warn(
        codes::IDENTITY_NOTHING,
        format!("the replica identity of {name} is FULL, and the table has a generated column"),
        "Inserts replicate; since PostgreSQL 18 the source refuses updates and deletes of the table once \
         it is published, in every application, as generated columns are not published.",
        [fix],
    );
}

/// Whole rows asked of a partitioned table must be asked of each partition, too. The log calls old rows
/// whole by what the partitioned table says, and has of them what the partition says: that is enough where
/// rows are found by the primary key alone. So it is with a key: a partition must have the columns of it.
fn is_odd_part(
    report: &mut Report,
    check: &SourceCheck<'_>,
    relation: &Relation,
    relations: &[Relation],
) -> bool {
    let root = relations.iter().find(|root| root.oid == relation.root);
    if let Some(root) = root.filter(|_| !relation.has_roots_key) {
        report.fail(
            codes::IDENTITY_NOTHING,
            format!(
                "{} tells rows by columns that its partition {} does not log",
                root.name, relation.name
            ),
            "ALTER TABLE … REPLICA IDENTITY on a partitioned table does not reach its partitions, nor the \
             other way round. Deletes of the partition's rows, and updates of their key, would not find them.",
            [Fix::sql(format!(
                "ALTER TABLE {} REPLICA IDENTITY FULL",
                relation.name
            ))],
        );
        return true;
    }
    if let Some(root) = root.filter(|root| !root.has_identity) {
        report.warn(
            codes::IDENTITY_NOTHING,
            format!(
                "{} has no replica identity, its partition {} has one",
                root.name, relation.name
            ),
            "Inserts replicate. The first update or delete of the partition stops the table: the log does not \
             say which of the table's rows it is.",
            [Fix::sql(format!(
                "ALTER TABLE {} REPLICA IDENTITY FULL; ALTER TABLE {} REPLICA IDENTITY FULL",
                root.name, relation.name
            ))],
        );
        return true;
    }
    let Some(root) = root.filter(|root| root.identity == 'f' && relation.identity != 'f') else {
        return false;
    };
    let mut tables = check.tables.iter();
    let mapping = tables.find(|table| table.schema.id == root.oid);
    let by_key = mapping.is_some_and(|table| !table.key.is_empty() && table.filter.is_none());
    let found = format!(
        "{} logs whole old rows, its partition {} does not",
        root.name, relation.name
    );
    let fix = Fix::sql(format!(
        "ALTER TABLE {} REPLICA IDENTITY FULL",
        relation.name
    ));
    let why = "ALTER TABLE … REPLICA IDENTITY on a partitioned table does not reach its partitions";
    if by_key && relation.identity == 'd' {
        report.warn(codes::IDENTITY_NOTHING, found, &format!("{why}."), [fix]);
    } else {
        let why = format!("{why}. Its updates and deletes would not find their rows.");
        report.fail(codes::IDENTITY_NOTHING, found, &why, [fix]);
    }
    true
}
