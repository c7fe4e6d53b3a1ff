//! Checks and foreign keys.

use tidemark_core::Result;
use tidemark_core::schema::{Check, ForeignKey, NotCarried};

use super::{Oids, Tables, table_name};
use crate::wire::{Connection, Row};

/// Fills in checks and foreign keys; gives those that are not carried.
pub(super) async fn read(
    connection: &mut Connection,
    oids: &Oids,
    tables: &mut Tables,
) -> Result<Vec<NotCarried>> {
    read_checks(connection, oids, tables).await?;
    read_foreign_keys(connection, oids, tables).await
}

/// Inherited ones too: on the target each table stands by itself.
async fn read_checks(connection: &mut Connection, oids: &Oids, tables: &mut Tables) -> Result<()> {
    let set = connection
        .query(
            "SELECT c.conrelid, c.conname, pg_get_constraintdef(c.oid), \
                    ARRAY(SELECT a.attname FROM unnest(c.conkey) AS k \
                          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k)::text[] \
             FROM unnest($1::oid[]) AS wanted JOIN pg_constraint c ON c.conrelid = wanted \
             WHERE c.contype = 'c' ORDER BY c.conrelid, c.conname",
            &[Some(oids.param())],
        )
        .await?;
    for row in &set.rows {
        if let Some(table) = tables.get_mut(&row.get(0)?) {
            table.checks.push(Check {
                name: row.get(1)?,
                definition: row.get(2)?,
                columns: text_array(row.get_str(3)?),
            });
        }
    }
    Ok(())
}

/// `conparentid` is set for the copies that partitions of either side have.
fn foreign_keys_query(server_version: u32) -> String {
    let set_columns = if server_version >= 150_000 {
        "(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.n) \
          FROM unnest(c.confdelsetcols) WITH ORDINALITY AS k (attnum, n) \
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum)"
    } else {
        "NULL"
    };
    let (enforced, period) = if server_version >= 180_000 {
        ("c.conenforced", "c.conperiod")
    } else {
        ("true", "false")
    };
    let names = |keys: &str, table: &str| {
        format!(
            "ARRAY(SELECT a.attname FROM unnest({keys}) WITH ORDINALITY AS k (attnum, n) \
             JOIN pg_attribute a ON a.attrelid = {table} AND a.attnum = k.attnum \
             ORDER BY k.n)::text[]"
        )
    };
    let columns = names("c.conkey", "c.conrelid");
    let referenced = names("c.confkey", "c.confrelid");
    format!(
        "SELECT c.conrelid, c.conname, {columns}, n.nspname, r.relname, {referenced}, \
                c.confmatchtype, c.confupdtype, c.confdeltype, {set_columns}, c.condeferrable, \
                c.condeferred, c.convalidated, {enforced}, {period} \
         FROM unnest($1::oid[]) AS wanted JOIN pg_constraint c ON c.conrelid = wanted \
         JOIN pg_class r ON r.oid = c.confrelid JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE c.contype = 'f' AND c.conparentid = 0 ORDER BY c.conrelid, c.conname"
    )
}

async fn read_foreign_keys(
    connection: &mut Connection,
    oids: &Oids,
    tables: &mut Tables,
) -> Result<Vec<NotCarried>> {
    let sql = foreign_keys_query(connection.server_version());
    let set = connection.query(&sql, &[Some(oids.param())]).await?;
    let mut not_carried = Vec::new();
    for row in &set.rows {
        let Some(table) = tables.get_mut(&row.get(0)?) else {
            continue;
        };
        let name: String = row.get(1)?;
        if row.get_bool(14)? {
            not_carried.push(NotCarried {
                kind: "foreign key".to_owned(),
                name: format!("{name} on {}", table.name),
                note: "foreign keys over periods are not made on the target".to_owned(),
            });
            continue;
        }
        table.foreign_keys.push(ForeignKey {
            name,
            columns: text_array(row.get_str(2)?),
            references: table_name(row, 3, 4)?,
            referenced_columns: text_array(row.get_str(5)?),
            options: options(row)?,
        });
    }
    Ok(not_carried)
}

/// What stands behind the reference, in the order of `pg_get_constraintdef` (PostgreSQL 15 and 18,
/// `pg_get_constraintdef_worker`).
fn options(row: &Row) -> Result<String> {
    let action = |letter: &str| match letter {
        "r" => Some("RESTRICT"),
        "c" => Some("CASCADE"),
        "n" => Some("SET NULL"),
        "d" => Some("SET DEFAULT"),
        _ => None,
    };
    let mut options = Vec::new();
    match row.get_str(6)? {
        "f" => options.push("MATCH FULL".to_owned()),
        "p" => options.push("MATCH PARTIAL".to_owned()),
        _ => {}
    }
    if let Some(action) = action(row.get_str(7)?) {
        options.push(format!("ON UPDATE {action}"));
    }
    if let Some(action) = action(row.get_str(8)?) {
        options.push(match row.opt_str(9)? {
            Some(columns) => format!("ON DELETE {action} ({columns})"),
            None => format!("ON DELETE {action}"),
        });
    }
    if row.get_bool(10)? {
        options.push("DEFERRABLE".to_owned());
    }
    if row.get_bool(11)? {
        options.push("INITIALLY DEFERRED".to_owned());
    }
    match (row.get_bool(13)?, row.get_bool(12)?) {
        (false, _) => options.push("NOT ENFORCED".to_owned()),
        (true, false) => options.push("NOT VALID".to_owned()),
        (true, true) => {}
    }
    Ok(options.join(" "))
}

/// The elements of a one-dimensional `text[]` without NULLs, out of its text form (PostgreSQL 15,
/// 8.15.6).
pub(super) fn text_array(text: &str) -> Vec<String> {
    let inner = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default();
    let mut elements = Vec::new();
    let mut element = String::new();
    let (mut is_quoted, mut is_open) = (false, false);
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                is_quoted = !is_quoted;
                is_open = true;
            }
            '\\' => element.extend(characters.next()),
            ',' if !is_quoted => {
                elements.push(std::mem::take(&mut element));
                is_open = true;
            }
            other => {
                element.push(other);
                is_open = true;
            }
        }
    }
    if is_open {
        elements.push(element);
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::text_array;

    #[test]
    fn arrays_are_read_as_the_server_prints_them() {
        for (text, expected) in [
            ("{}", &[][..]),
            ("{a}", &["a"]),
            (
                "{a,\"b c\",\"q\\\"q\",\"\\\\\",\"\"}",
                &["a", "b c", "q\"q", "\\", ""],
            ),
            ("{\"a,b\",c}", &["a,b", "c"]),
        ] {
            assert_eq!(text_array(text), expected, "{text}");
        }
    }
}
