//! The statements: what is prepared for a table, as SQL.
//!
//! Names are quoted, types are given by their numbers from the target's catalog, values travel as
//! text. Three choices carry the policy towards rows that are not as the log implies:
//!
//! - an update that knows all columns inserts the row if there is none to update, in the same
//!   statement; so nothing has to be asked in between, and a batch of such statements can be sent
//!   with its commit;
//! - an insert that expects surprises ([`Shape::Overwrite`]) updates the row if there is one. Not
//!   by `ON CONFLICT`: that needs a unique index of exactly the key, which a target need not have;
//! - every statement's row count tells whether it met what it expected;
//! - a trigger or rule of the target can leave a row out in silence, and a count that is too low by that
//!   looks like a row that somebody has taken away. Where one fires (`TargetTable::has_hooks`) a
//!   statement for one row ends in a question ([`Writer::counted`]): was a row left out that ought to be
//!   written? If so it fails, as a division by zero, and nothing is committed behind it.
//!
//! `OVERRIDING SYSTEM VALUE` stands in every insert: it is what lets an identity column keep the
//! source's value, and means nothing to other columns. Key columns are never in a `SET` unless the
//! key changes, so that an update can stay within its page (HOT).

use super::table::TargetTable;

/// A statement's text and the types of its parameters.
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) types: Vec<u32>,
}

/// Which columns a statement carries, by position.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Columns {
    /// Every one of the table.
    All,
    /// These.
    Some(Box<[u16]>),
}

impl Columns {
    /// These positions.
    pub(super) fn some(places: impl Iterator<Item = usize>) -> Columns {
        let narrow = |place| u16::try_from(place).expect("a table has at most 1,600 columns");
        Columns::Some(places.map(narrow).collect())
    }

    /// The positions, in a table of `count` columns.
    pub(super) fn places(&self, count: usize) -> Vec<usize> {
        match self {
            Columns::All => (0..count).collect(),
            Columns::Some(places) => places.iter().map(|place| usize::from(*place)).collect(),
        }
    }
}

/// Kinds of statement. Parameters in their order are said at each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// A row that is not there: all columns.
    Insert,
    /// A row that may be there: all columns. Counts 1 if it was not.
    Overwrite,
    /// The row of a key. All columns (and counts 0, or 1 if the row was missing and came), or these
    /// and then the key (and counts 1).
    Update(Columns),
    /// The row of an old key gets a new one: these columns, the new key among them, then the old
    /// key. Counts as [`Shape::Update`].
    Move(Columns),
    /// As `Update` and `Move` of some columns, by delete and insert: these, then the old key.
    Rewrite(Columns),
    /// As `Update`, `Move` or `Rewrite` of some columns (of none: nothing is changed), of a row that
    /// must be there: fails with `division_by_zero` where it is not. Counts 1.
    Must(Box<Shape>),
    /// Removes another row at a new key if there is one at the old: new key, old key. Counts 0. Both keys
    /// may be the same row's, by an equality under which different texts are equal.
    MakeRoom,
    /// The row of a key: the key. Counts 1.
    Delete,
    /// One row like this one: the columns that are not NULL in it, these.
    DeleteLike(Columns),
    /// One row like the old one becomes the new one: all columns, then those of the old row that
    /// are not NULL, these. Counts 0, or 1 if there was none and the new one came.
    UpdateLike(Columns),
    /// Rows of many keys: the key's columns as lists.
    DeleteMany,
    /// Rows of many keys: the key's columns, then these, as lists.
    UpdateMany(Columns),
    /// Those of many rows that are not there: all columns as lists.
    InsertMissing,
    /// As many rows like each of these as is said: all columns as lists, then a list of counts.
    DeleteManyLike,
    /// `COPY` of whole rows.
    Copy,
}

/// Makes the statement of a shape for a table.
pub(super) fn sql(table: &TargetTable, shape: &Shape) -> Sql {
    let mut writer = Writer {
        table,
        types: Vec::new(),
    };
    let text = match shape {
        Shape::Insert => writer.insert(),
        Shape::Overwrite | Shape::Update(Columns::All) => writer.update_or_insert(),
        // The same text: with a new key among the columns, the old one follows all the same.
        Shape::Update(columns) | Shape::Move(columns @ Columns::Some(_)) => {
            let (statement, there) = writer.update(columns);
            writer.watched("", &statement, &there)
        }
        Shape::Move(Columns::All) => writer.move_or_insert(),
        Shape::Rewrite(columns) => {
            let rewrite = writer.rewrite(columns);
            writer.watched(&rewrite.with, &rewrite.statement, &rewrite.there)
        }
        Shape::Must(shape) => writer.must(shape),
        Shape::MakeRoom => writer.make_room(),
        Shape::Delete => writer.delete(),
        Shape::DeleteLike(present) => writer.delete_like(present),
        Shape::UpdateLike(present) => writer.update_like(present),
        Shape::DeleteMany => writer.delete_many(),
        Shape::UpdateMany(columns) => writer.update_many(columns),
        Shape::InsertMissing => writer.insert_missing(),
        Shape::DeleteManyLike => writer.delete_many_like(),
        Shape::Copy => writer.copy(),
    };
    Sql {
        text,
        types: writer.types,
    }
}

/// Columns by which most rows are told from those that are looked for.
const FIRST_COLUMNS: usize = 2;

/// OID of `int8[]`.
const COUNTS_OID: u32 = 1016;

struct Writer<'a> {
    table: &'a TargetTable,
    types: Vec<u32>,
}

/// A row that is deleted and inserted again.
struct Rewrite {
    /// What deletes it.
    with: String,
    /// What inserts it.
    statement: String,
    /// Whether there is one.
    there: String,
}

impl Writer<'_> {
    fn insert(&mut self) -> String {
        let name = &self.table.name;
        let statement = if self.table.columns.is_empty() {
            format!("INSERT INTO {name} DEFAULT VALUES")
        } else {
            let values = self.all_params();
            format!("{} VALUES ({})", self.insert_into(), join(&values, ", "))
        };
        self.watched("", &statement, "true")
    }

    /// A statement for one row, which has to write one where `due` is true. `with` are the queries that it
    /// refers to.
    fn watched(&self, with: &str, statement: &str, due: &str) -> String {
        match (self.table.has_hooks(), with) {
            (true, "") => format!("WITH {}", Self::counted(statement, due)),
            (true, _) => format!("WITH {with}, {}", Self::counted(statement, due)),
            (false, "") => statement.to_owned(),
            (false, _) => format!("WITH {with} {statement}"),
        }
    }

    /// As many rows as the statement writes, and `division_by_zero` where it writes none although `due`.
    /// Whatever is asked of the table is answered as it was before (PostgreSQL 15, 7.8.4).
    fn counted(statement: &str, due: &str) -> String {
        format!(
            "w AS ({statement} RETURNING 1) SELECT 1 FROM w UNION ALL SELECT 1 FROM (SELECT 1 / \
             CASE WHEN {due} AND NOT EXISTS (SELECT FROM w) THEN 0 ELSE 1 END) AS left_out(x) \
             WHERE x IS NULL"
        )
    }

    /// Where hooks may leave an update out, that it wrote nothing does not mean that there is no row.
    fn not_there(&self, found: &str) -> String {
        if self.table.has_hooks() {
            format!("NOT EXISTS (SELECT FROM u) AND NOT {found}")
        } else {
            "NOT EXISTS (SELECT FROM u)".to_owned()
        }
    }

    fn update_or_insert(&mut self) -> String {
        let name = &self.table.rows;
        let params = self.all_params();
        let insert = format!("{} SELECT {}", self.insert_into(), join(&params, ", "));
        let of_key = self.is_key(|place| params[place].clone());
        let set: Vec<String> = self
            .table
            .values()
            .map(|c| self.set(c, &params[c]))
            .collect();
        let there = format!("EXISTS (SELECT FROM {name} WHERE {of_key})");
        if set.is_empty() {
            let insert = format!("{insert} WHERE NOT {there}");
            return self.watched("", &insert, &format!("NOT {there}"));
        }
        let set = join(&set, ", ");
        self.watched(
            &format!("u AS (UPDATE {name} SET {set} WHERE {of_key} RETURNING 1)"),
            &format!("{insert} WHERE {}", self.not_there(&there)),
            "NOT EXISTS (SELECT FROM u)",
        )
    }

    fn move_or_insert(&mut self) -> String {
        let name = &self.table.rows;
        let params = self.all_params();
        let old_key = self.key_params();
        let insert = format!("{} SELECT {}", self.insert_into(), join(&params, ", "));
        let set: Vec<String> = (0..params.len()).map(|c| self.set(c, &params[c])).collect();
        let set = join(&set, ", ");
        let there = format!("EXISTS (SELECT FROM {name} WHERE {old_key})");
        self.watched(
            &format!("u AS (UPDATE {name} SET {set} WHERE {old_key} RETURNING 1)"),
            &format!("{insert} WHERE {}", self.not_there(&there)),
            "NOT EXISTS (SELECT FROM u)",
        )
    }

    /// The statement, and the condition under which it finds its row.
    fn update(&mut self, columns: &Columns) -> (String, String) {
        let places = columns.places(self.table.columns.len());
        let params: Vec<String> = places.iter().map(|place| self.param(*place)).collect();
        let set = places
            .iter()
            .zip(&params)
            .map(|(place, param)| self.set(*place, param));
        let set: Vec<String> = set.collect();
        let of_key = self.key_params();
        let name = &self.table.rows;
        let set = join(&set, ", ");
        (
            format!("UPDATE {name} SET {set} WHERE {of_key}"),
            format!("EXISTS (SELECT FROM {name} WHERE {of_key})"),
        )
    }

    /// The count is asked for in the same statement, so that it need not be looked at before the
    /// commit that is sent behind it.
    fn must(&mut self, shape: &Shape) -> String {
        let ask = "SELECT 1 / count(*) FROM";
        match shape {
            Shape::Rewrite(columns) => {
                let Rewrite {
                    with, statement, ..
                } = self.rewrite(columns);
                format!("WITH {with}, m AS ({statement} RETURNING 1) {ask} m")
            }
            Shape::Update(columns) | Shape::Move(columns)
                if *columns != Columns::some(std::iter::empty()) =>
            {
                let (statement, _) = self.update(columns);
                format!("WITH m AS ({statement} RETURNING 1) {ask} m")
            }
            _ => format!("{ask} {} WHERE {}", self.table.rows, self.key_params()),
        }
    }

    fn rewrite(&mut self, columns: &Columns) -> Rewrite {
        let places = columns.places(self.table.columns.len());
        let mut values: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|column| format!("d.{}", column.name))
            .collect();
        for place in places {
            values[place] = self.param(place);
        }
        let of_key = self.key_params();
        let name = &self.table.rows;
        let (insert, values) = (self.insert_into(), join(&values, ", "));
        Rewrite {
            with: format!("d AS (DELETE FROM {name} WHERE {of_key} RETURNING *)"),
            statement: format!("{insert} SELECT {values} FROM d"),
            there: format!("EXISTS (SELECT FROM {name} WHERE {of_key})"),
        }
    }

    fn make_room(&mut self) -> String {
        let name = &self.table.rows;
        let (new, old) = (self.key_params(), self.key_params());
        format!(
            "DELETE FROM {name} WHERE {new} AND NOT ({old}) \
             AND EXISTS (SELECT FROM {name} WHERE {old})"
        )
    }

    fn delete(&mut self) -> String {
        let (name, of_key) = (&self.table.rows, self.key_params());
        let statement = format!("DELETE FROM {name} WHERE {of_key}");
        let there = format!("EXISTS (SELECT FROM {name} WHERE {of_key})");
        self.watched("", &statement, &there)
    }

    fn delete_like(&mut self, present: &Columns) -> String {
        let one = self.one_like(present);
        let statement = format!(
            "DELETE FROM {} AS t USING m WHERE t.ctid = m.c AND t.tableoid = m.o",
            self.table.rows
        );
        self.watched(&one, &statement, "EXISTS (SELECT FROM m)")
    }

    fn update_like(&mut self, present: &Columns) -> String {
        let params = self.all_params();
        let one = self.one_like(present);
        let set: Vec<String> = (0..params.len()).map(|c| self.set(c, &params[c])).collect();
        let with = format!(
            "{one}, u AS (UPDATE {} AS t SET {} FROM m \
             WHERE t.ctid = m.c AND t.tableoid = m.o RETURNING 1)",
            self.table.rows,
            join(&set, ", "),
        );
        let statement = format!(
            "{} SELECT {} WHERE {}",
            self.insert_into(),
            join(&params, ", "),
            self.not_there("EXISTS (SELECT FROM m)")
        );
        self.watched(&with, &statement, "NOT EXISTS (SELECT FROM u)")
    }

    /// The place of one row that has these values where they are given, and NULL elsewhere.
    /// Equality by which different texts are equal would pick a wrong row, so such types are
    /// compared by the bytes of what a row of them prints, and both sides in the column's own type: a cast
    /// to text leaves the spaces of `bpchar` out. `IS NULL` is true of a composite value whose fields are
    /// all NULL (PostgreSQL 15, 9.2).
    fn one_like(&mut self, present: &Columns) -> String {
        let present = present.places(self.table.columns.len());
        let mut conditions = Vec::new();
        for (place, column) in self.table.columns.iter().enumerate() {
            let name = &column.name;
            conditions.push(if !present.contains(&place) {
                format!("{name} IS NOT DISTINCT FROM NULL")
            } else if column.is_exact {
                format!("{name} = {}", self.param(place))
            } else {
                let param = self.param(place);
                let type_name = &column.type_name;
                format!("ROW({name})::text COLLATE \"C\" = ROW({param}::{type_name})::text")
            });
        }
        let condition = if conditions.is_empty() {
            "true".to_owned()
        } else {
            join(&conditions, " AND ")
        };
        let name = &self.table.rows;
        format!("m AS (SELECT tableoid AS o, ctid AS c FROM {name} WHERE {condition} LIMIT 1)")
    }

    fn delete_many(&mut self) -> String {
        let lists = self.lists(&self.table.key).relation();
        let of_key = self.is_listed();
        format!(
            "DELETE FROM {} AS t USING {lists} WHERE {of_key}",
            self.table.rows
        )
    }

    fn update_many(&mut self, columns: &Columns) -> String {
        let columns = match columns {
            Columns::All => self.table.values().collect(),
            Columns::Some(_) => columns.places(self.table.columns.len()),
        };
        let mut places = self.table.key.clone();
        places.extend(&columns);
        let lists = self.lists(&places).relation();
        let set: Vec<String> = columns
            .iter()
            .map(|place| self.set(*place, &self.listed(*place)))
            .collect();
        let of_key = self.is_listed();
        let set = join(&set, ", ");
        format!(
            "UPDATE {} AS t SET {set} FROM {lists} WHERE {of_key}",
            self.table.rows
        )
    }

    fn insert_missing(&mut self) -> String {
        let places: Vec<usize> = (0..self.table.columns.len()).collect();
        let lists = self.lists(&places).relation();
        let values: Vec<String> = places.iter().map(|place| self.listed(*place)).collect();
        format!(
            "{} SELECT {} FROM {lists} WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})",
            self.insert_into(),
            join(&values, ", "),
            self.table.rows,
            self.is_listed()
        )
    }

    /// Whole rows are matched by the text of a composite of them, which can be hashed whatever the
    /// types are, so that many rows cost one pass over the table: `s` are the wanted rows, `c` those
    /// of the table that are like one of them, `m` the same numbered within each.
    ///
    /// `(… IN (…)) IS TRUE` keeps the planner from making a join of it. It would choose between
    /// joins of a table that it may only scan at a price so high that all of them look the same.
    fn delete_many_like(&mut self) -> String {
        let places: Vec<usize> = (0..self.table.columns.len()).collect();
        let mut lists = self.lists(&places);
        self.types.push(COUNTS_OID);
        lists.add(self.types.len(), "n");
        let lists = lists.numbered();
        let columns = &self.table.columns;
        let wanted: Vec<String> = places
            .iter()
            .map(|place| format!("s.c{place}::{}", columns[*place].type_name))
            .collect();
        let theirs: Vec<String> = columns.iter().map(|c| format!("r.{}", c.name)).collect();
        let (wanted, theirs) = (join(&wanted, ", "), join(&theirs, ", "));
        // Cheaper to ask, and mostly enough to tell that a row is not wanted.
        let first = places
            .iter()
            .filter(|place| columns[**place].is_exact)
            .take(FIRST_COLUMNS);
        let first: Vec<String> = first
            .map(|place| {
                let name = &columns[*place].name;
                format!("(r.{name} IN (SELECT s.c{place} FROM s)) IS NOT FALSE AND ")
            })
            .collect();
        let first = first.concat();
        let name = &self.table.rows;
        format!(
            "WITH s AS MATERIALIZED (SELECT s.*, ROW({wanted})::text AS row FROM {lists}), \
             c AS MATERIALIZED (SELECT r.tableoid AS o, r.ctid AS c, ROW({theirs})::text AS row \
             FROM {name} AS r WHERE {first}(ROW({theirs})::text IN (SELECT s.row FROM s)) IS TRUE), \
             m AS MATERIALIZED (SELECT c.o, c.c, s.n, row_number() OVER (PARTITION BY s.i) AS k \
             FROM c JOIN s ON c.row = s.row) \
             DELETE FROM {name} AS t USING m \
             WHERE t.ctid = m.c AND t.tableoid = m.o AND m.k <= m.n"
        )
    }

    fn copy(&mut self) -> String {
        format!(
            "COPY {} ({}) FROM STDIN",
            self.table.name,
            self.column_names()
        )
    }

    fn insert_into(&self) -> String {
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE",
            self.table.name,
            self.column_names()
        )
    }

    fn column_names(&self) -> String {
        let names: Vec<&str> = self.table.columns.iter().map(|c| c.name.as_str()).collect();
        names.join(", ")
    }

    fn set(&self, place: usize, value: &str) -> String {
        format!("{} = {value}", self.table.columns[place].name)
    }

    /// A new parameter with one value of a column.
    fn param(&mut self, place: usize) -> String {
        self.types.push(self.table.columns[place].type_oid);
        format!("${}", self.types.len())
    }

    fn all_params(&mut self) -> Vec<String> {
        (0..self.table.columns.len())
            .map(|place| self.param(place))
            .collect()
    }

    /// New parameters for a key, as a condition.
    fn key_params(&mut self) -> String {
        let key = &self.table.key;
        let params: Vec<String> = key.iter().map(|place| self.param(*place)).collect();
        let param = |place: usize| {
            let at = key.iter().position(|other| *other == place);
            params[at.expect("asked for key columns only")].clone()
        };
        self.is_key(param)
    }

    fn is_key(&self, value: impl Fn(usize) -> String) -> String {
        let equal = |place: &usize| self.equal("", *place, &value(*place));
        let conditions: Vec<String> = self.table.key.iter().map(equal).collect();
        join(&conditions, " AND ")
    }

    /// New parameters with lists of these columns' values.
    fn lists(&mut self, places: &[usize]) -> Lists {
        let mut lists = Lists::default();
        for place in places {
            self.types.push(self.table.columns[*place].list.array_oid);
            lists.add(self.types.len(), &format!("c{place}"));
        }
        lists
    }

    /// A value out of the lists, in its own type.
    fn listed(&self, place: usize) -> String {
        match &self.table.columns[place].list.cast {
            None => format!("s.c{place}"),
            Some(type_name) => format!("s.c{place}::{type_name}"),
        }
    }

    /// `t` is the row of `s`, by its key.
    fn is_listed(&self) -> String {
        let equal = |place: &usize| self.equal("t.", *place, &self.listed(*place));
        let conditions: Vec<String> = self.table.key.iter().map(equal).collect();
        join(&conditions, " AND ")
    }

    /// The first condition is for the index of a primary key, the second, where there is one, for that of
    /// another collation.
    fn equal(&self, prefix: &str, place: usize, value: &str) -> String {
        let column = &self.table.columns[place];
        let name = &column.name;
        let equal = format!("{prefix}{name} {} {value}", column.equals);
        if column.is_by_bytes {
            format!("{equal} AND {prefix}{name} COLLATE \"C\" = {value}")
        } else {
            equal
        }
    }
}

/// Parameters that are lists, side by side as the columns of a relation `s`.
#[derive(Default)]
struct Lists {
    params: Vec<String>,
    names: Vec<String>,
}

impl Lists {
    fn add(&mut self, number: usize, name: &str) {
        self.params.push(format!("${number}"));
        self.names.push(name.to_owned());
    }

    /// Called in a select list the functions give row by row (PostgreSQL 15, `nodeProjectSet.c`). In `FROM`
    /// each of them fills a store of its own first, which costs an update by lists a sixteenth of its time.
    fn relation(&self) -> String {
        let columns = self.params.iter().zip(&self.names);
        let columns: Vec<String> = columns
            .map(|(param, name)| format!("unnest({param}) AS {name}"))
            .collect();
        format!("(SELECT {}) AS s", join(&columns, ", "))
    }

    /// With the number of the row as a last column `i`.
    fn numbered(&self) -> String {
        let (params, names) = (join(&self.params, ", "), join(&self.names, ", "));
        format!("unnest({params}) WITH ORDINALITY AS s({names}, i)")
    }
}

fn join(parts: &[String], separator: &str) -> String {
    parts.join(separator)
}
