//! Statements: tables of any make, changes of their rows, changes of their shape.

use tidemark_lab::Random;

use super::kinds::{KINDS, Kind};
use super::model::{Column, Table};

/// What statements are made from.
pub(super) struct Maker {
    random: Random,
    /// Numbers names and rows.
    next: u64,
    /// Whether TRUNCATE takes tables along that refer to what is emptied.
    pub(super) cascades: bool,
    /// Columns that the pipeline masks or leaves out. A table stands still once one of them is renamed, and
    /// no run starts once no table has one.
    pub(super) hidden: &'static [&'static str],
}

impl Maker {
    pub(super) fn new(random: Random) -> Maker {
        Maker {
            random,
            next: 1000,
            cascades: false,
            hidden: &[],
        }
    }

    /// Whether something happens that does so often, of a hundred times.
    pub(super) fn chance(&mut self, of_hundred: u64) -> bool {
        self.random.below(100) < of_hundred
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.random.below(from.len() as u64);
        from.get(usize::try_from(at).unwrap_or_default())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn kind(&mut self, is_fit: impl Fn(&Kind) -> bool) -> &'static Kind {
        let fit: Vec<&'static Kind> = KINDS.iter().filter(|kind| is_fit(kind)).collect();
        self.pick(&fit).copied().unwrap_or(&KINDS[0])
    }

    fn value_of(&mut self, kind: &Kind) -> String {
        self.pick(kind.values).copied().unwrap_or("NULL").to_owned()
    }

    /// A value for a column.
    fn value(&mut self, column: &Column) -> String {
        if column.name.starts_with("big") && self.chance(70) {
            let (salt, size) = (self.below(1000), 10 + self.below(200));
            return format!(
                "(SELECT string_agg(md5((i * {salt})::text), '') FROM generate_series(1, {size}) i)"
            );
        }
        if !column.is_not_null && self.chance(15) {
            return "NULL".to_owned();
        }
        match column.kind() {
            Some(kind) if !self.chance(3) => self.value_of(kind),
            _ => "DEFAULT".to_owned(),
        }
    }

    /// A value that is another one for each `g`.
    fn many(&mut self, column: &Column, from: u64) -> String {
        if column.name.starts_with("big") && self.chance(50) {
            return "repeat(md5(g::text), 10)".to_owned();
        }
        match column.kind() {
            Some(kind) if column.is_key || self.chance(60) => {
                kind.many.replace("{g}", &format!("({from} + g)::int"))
            }
            Some(kind) => self.value_of(kind),
            None => "NULL".to_owned(),
        }
    }

    /// A table, with what stands around it.
    pub(super) fn create(&mut self, name: &str) -> String {
        let number = self.number();
        let is_partitioned = self.chance(20);
        let mut columns = Vec::new();
        let mut key = Vec::new();
        for at in 0..=self.below(2) {
            let kind = if is_partitioned && at == 0 {
                self.kind(|kind| kind.sql == "int")
            } else {
                self.kind(|kind| kind.is_key)
            };
            let default = self.value_of(kind);
            columns.push(format!("k{at} {} NOT NULL DEFAULT {default}", kind.sql));
            key.push(format!("k{at}"));
        }
        columns.push("n int".to_owned());
        for at in 0..self.below(4) {
            let kind = self.kind(|_| true);
            columns.push(format!("c{at} {}", kind.sql));
        }
        columns.push("big text".to_owned());
        if self.chance(15) {
            columns.push("g int GENERATED ALWAYS AS (n * 2) STORED".to_owned());
        }
        if self.chance(10) {
            columns.push("serial int GENERATED ALWAYS AS IDENTITY".to_owned());
        }
        // Told by the key, by an index, by the whole row, or not.
        let (key, way) = (key.join(", "), self.below(10));
        let (constraint, identity) = match way {
            0..=4 => (format!(", PRIMARY KEY ({key})"), String::new()),
            5 => (
                format!(", PRIMARY KEY ({key})"),
                "REPLICA IDENTITY FULL".to_owned(),
            ),
            6 if !is_partitioned => (
                format!(", PRIMARY KEY ({key}) DEFERRABLE INITIALLY DEFERRED"),
                "REPLICA IDENTITY FULL".to_owned(),
            ),
            7 if !is_partitioned => (
                format!(", CONSTRAINT {name}_u{number} UNIQUE ({key})"),
                format!("REPLICA IDENTITY USING INDEX {name}_u{number}"),
            ),
            _ => (String::new(), "REPLICA IDENTITY FULL".to_owned()),
        };
        let partition = if is_partitioned {
            " PARTITION BY RANGE (k0)"
        } else {
            ""
        };
        let mut sql = format!(
            "CREATE TABLE {name} ({}{constraint}){partition};",
            columns.join(", ")
        );
        if is_partitioned {
            let parts = [
                format!("{name}_{number}a PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO (3)"),
                format!("{name}_{number}b PARTITION OF {name} FOR VALUES FROM (3) TO (1000)"),
                format!("{name}_{number}c PARTITION OF {name} DEFAULT"),
            ];
            for part in parts {
                let table = part.split(' ').next().unwrap_or_default();
                sql += &["CREATE TABLE ", &part, ";"].concat();
                if !identity.is_empty() {
                    sql += &["ALTER TABLE ", table, " ", &identity, ";"].concat();
                }
            }
        }
        if !identity.is_empty() {
            sql += &["ALTER TABLE ", name, " ", &identity, ";"].concat();
        }
        if self.chance(50) && !is_partitioned {
            sql += &["ALTER TABLE ", name, " ALTER big SET STORAGE EXTERNAL;"].concat();
        }
        if !is_partitioned {
            sql.push_str(match self.below(6) {
                0 => "CREATE UNIQUE INDEX ON {t} (n);",
                1 => "CREATE UNIQUE INDEX ON {t} (n) WHERE n > 2;",
                2 => "CREATE UNIQUE INDEX ON {t} ((n % 100));",
                3 => "ALTER TABLE {t} ADD UNIQUE (n) DEFERRABLE;",
                _ => "",
            });
        }
        sql.replace("{t}", name)
    }

    /// One change of rows.
    pub(super) fn write(&mut self, table: &Table, others: &[Table]) -> String {
        match self.below(20) {
            0..=4 => self.insert(table),
            5 => self.insert_many(table, 20),
            6 => self.insert_many(table, 400),
            7..=11 => self.update(table),
            12 => self.move_keys(table),
            13 => self.exchange(table),
            14 | 15 => self.delete(table),
            16 => self.replace(table),
            17 => format!(
                "UPDATE {} SET n = n + 1 WHERE n > {}",
                table.name,
                self.below(6)
            ),
            18 if self.chance(20) => format!("DELETE FROM {}", table.name),
            19 if self.chance(20) => self.truncate(table, others),
            _ => self.update_large(table),
        }
    }

    fn insert(&mut self, table: &Table) -> String {
        let columns = table.written();
        let names = names(&columns);
        let rows: Vec<String> = (0..=self.below(3))
            .map(|_| {
                let values: Vec<String> = columns.iter().map(|c| self.value(c)).collect();
                format!("({})", values.join(", "))
            })
            .collect();
        let rest = if self.chance(40) {
            " ON CONFLICT DO NOTHING"
        } else {
            ""
        };
        format!(
            "INSERT INTO {} ({names}) VALUES {}{rest}",
            table.name,
            rows.join(", ")
        )
    }

    fn insert_many(&mut self, table: &Table, count: u64) -> String {
        let columns = table.written();
        let from = 10 * self.number();
        let values: Vec<String> = columns.iter().map(|c| self.many(c, from)).collect();
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {}) g",
            table.name,
            names(&columns),
            values.join(", "),
            1 + self.below(count)
        )
    }

    /// Some rows, the same ones whatever their order on disk.
    fn some(&mut self, table: &Table) -> String {
        let (name, salt) = (&table.name, self.below(1_000_000));
        let count = match self.below(4) {
            0 => 1,
            1 => 3,
            2 => 12,
            _ => 40,
        };
        format!(
            "(tableoid, ctid) IN (SELECT tableoid, ctid FROM {name} s ORDER BY md5(s::text || '{salt}') LIMIT {count})"
        )
    }

    fn update(&mut self, table: &Table) -> String {
        let columns = if self.chance(25) {
            table.written()
        } else {
            table.plain()
        };
        let mut set: Vec<(&str, String)> = Vec::new();
        for _ in 0..=self.below(2) {
            if let Some(column) = self.pick(&columns).copied()
                && !set.iter().any(|(name, _)| *name == column.name)
            {
                set.push((column.name.as_str(), self.value(column)));
            }
        }
        let set: Vec<String> = set.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        if set.is_empty() {
            return format!("SELECT FROM {} LIMIT 0", table.name);
        }
        format!(
            "UPDATE {} SET {} WHERE {}",
            table.name,
            set.join(", "),
            self.some(table)
        )
    }

    /// Nothing changes but a small value beside a large one, or the large one.
    fn update_large(&mut self, table: &Table) -> String {
        let value = if self.chance(30) {
            "big = repeat(md5(n::text), 90)"
        } else {
            "n = coalesce(n, 0) + 1"
        };
        format!(
            "UPDATE {} SET {value} WHERE {}",
            table.name,
            self.some(table)
        )
    }

    /// Whole numbers of a key go up or down by one; others become another value.
    fn move_keys(&mut self, table: &Table) -> String {
        let columns = table.written();
        let keys: Vec<&Column> = columns.iter().copied().filter(|c| c.is_key).collect();
        let Some(key) = self.pick(&keys).copied() else {
            return self.update(table);
        };
        let (name, is_number) = (
            &key.name,
            matches!(key.shown.as_str(), "integer" | "bigint" | "small"),
        );
        let value = match self.below(3) {
            0 if is_number => format!("{name} + 1"),
            1 if is_number => format!("7 - {name}"),
            _ => self.value(key),
        };
        let which = if self.chance(50) {
            "true".to_owned()
        } else {
            self.some(table)
        };
        format!("UPDATE {} SET {name} = {value} WHERE {which}", table.name)
    }

    /// Two rows exchange a value that may be unique.
    fn exchange(&mut self, table: &Table) -> String {
        let columns = table.written();
        let Some(column) = self.pick(&columns).copied() else {
            return self.update(table);
        };
        let (t, c, salt) = (&table.name, &column.name, self.below(1_000_000));
        format!(
            "WITH p AS (SELECT tableoid AS o, ctid AS i, {c}, row_number() OVER (ORDER BY md5(s::text || '{salt}')) AS k \
             FROM {t} s), q AS (SELECT * FROM p WHERE k <= 2) \
             UPDATE {t} SET {c} = (SELECT w.{c} FROM q w WHERE w.k = 3 - q.k) FROM q WHERE {t}.ctid = q.i AND {t}.tableoid = q.o"
        )
    }

    fn delete(&mut self, table: &Table) -> String {
        format!("DELETE FROM {} WHERE {}", table.name, self.some(table))
    }

    /// Rows go and come again, with another value beside the same key.
    fn replace(&mut self, table: &Table) -> String {
        let columns = table.written();
        let all = names(&columns);
        let again: Vec<String> = columns
            .iter()
            .map(|column| match column.name.as_str() {
                "n" => "n + 1".to_owned(),
                name => name.to_owned(),
            })
            .collect();
        format!(
            "WITH d AS (DELETE FROM {} WHERE {} RETURNING *) INSERT INTO {} ({all}) SELECT {} FROM d",
            table.name,
            self.some(table),
            table.name,
            again.join(", ")
        )
    }

    fn truncate(&mut self, table: &Table, others: &[Table]) -> String {
        let mut names = vec![table.name.as_str()];
        if let Some(other) = self.pick(others)
            && self.chance(50)
            && other.name != table.name
        {
            names.push(&other.name);
        }
        let cascade = if self.cascades && self.chance(60) {
            " CASCADE"
        } else {
            ""
        };
        format!("TRUNCATE {}{cascade}", names.join(", "))
    }

    fn is_hidden(&self, column: &str) -> bool {
        self.hidden.contains(&column)
    }

    /// One change of shape, to be carried out in a transaction.
    pub(super) fn alter(&mut self, table: &Table, others: &[Table]) -> String {
        let t = &table.name;
        let number = self.number();
        let plain = table.plain();
        let Some(column) = self.pick(&plain).copied() else {
            return self.add_column(t, number);
        };
        let c = &column.name;
        match self.below(24) {
            0..=4 => self.add_column(t, number),
            5 | 6 if c != "n" && c != "big" && !self.is_hidden(c) => {
                format!("ALTER TABLE {t} DROP COLUMN {c}")
            }
            7 if c != "n" && c != "big" && !self.is_hidden(c) => {
                format!("ALTER TABLE {t} RENAME {c} TO r{number}")
            }
            8 => match self.pick(&plain) {
                Some(other)
                    if other.name != *c
                        && other.name != "n"
                        && c != "n"
                        && !self.is_hidden(c)
                        && !self.is_hidden(&other.name) =>
                {
                    let (from, o) = (format!("x{number}"), &other.name);
                    format!(
                        "ALTER TABLE {t} RENAME {c} TO {from}; ALTER TABLE {t} RENAME {o} TO {c}; \
                         ALTER TABLE {t} RENAME {from} TO {o}"
                    )
                }
                _ => format!("ALTER TABLE {t} ALTER {c} SET STATISTICS 50"),
            },
            9..=12 => self.retype(t, column),
            13 => format!("ALTER TABLE {t} ALTER {c} SET NOT NULL"),
            14 => format!("ALTER TABLE {t} ALTER {c} DROP NOT NULL"),
            15 => format!("ALTER TABLE {t} ALTER {c} SET DEFAULT NULL"),
            16 if !table.is_partitioned => {
                let more = self.pick(&table.candidates).cloned();
                let identity = match (self.below(3), more) {
                    (0, Some(index)) => format!("USING INDEX {index}"),
                    (1, _) if table.key.is_some() => "DEFAULT".to_owned(),
                    _ => "FULL".to_owned(),
                };
                format!("ALTER TABLE {t} REPLICA IDENTITY {identity}")
            }
            17 => match &table.key {
                Some(key) if table.identity == "f" => {
                    format!("ALTER TABLE {t} DROP CONSTRAINT {key}")
                }
                None if !table.is_partitioned => {
                    format!("ALTER TABLE {t} ADD PRIMARY KEY (k0, n)")
                }
                _ => format!("ALTER TABLE {t} ALTER {c} SET STATISTICS 60"),
            },
            18 => format!("CREATE UNIQUE INDEX ON {t} ({c})"),
            19 => match self.pick(others) {
                Some(other) if other.name != *t => {
                    let (from, o) = (format!("x{number}"), &other.name);
                    format!(
                        "ALTER TABLE {t} RENAME TO {from}; ALTER TABLE {o} RENAME TO {t}; \
                         ALTER TABLE {from} RENAME TO {o}"
                    )
                }
                _ => format!("ALTER TABLE {t} RENAME TO {t}_{number}"),
            },
            20 => {
                let made = self.create(t);
                format!("DROP TABLE {t}; {made}")
            }
            21 => {
                let kept = format!("{t}_{number}");
                let made = self.create(t);
                format!("ALTER TABLE {t} RENAME TO {kept}; {made}")
            }
            _ => format!("ALTER TABLE {t} ALTER {c} SET STATISTICS 70"),
        }
    }

    fn add_column(&mut self, table: &str, number: u64) -> String {
        let kind = self.kind(|_| true);
        let default = match self.below(5) {
            0 => String::new(),
            1 | 2 => format!("DEFAULT {}", self.value_of(kind)),
            3 => format!("NOT NULL DEFAULT {}", self.value_of(kind)),
            _ if kind.sql == "float8" => "DEFAULT random()".to_owned(),
            _ => format!(
                "DEFAULT {}; ALTER TABLE {table} ALTER a{number} SET DEFAULT NULL",
                self.value_of(kind)
            ),
        };
        format!("ALTER TABLE {table} ADD a{number} {} {default}", kind.sql)
    }

    fn retype(&mut self, table: &str, column: &Column) -> String {
        let c = &column.name;
        let to = match column.shown.as_str() {
            "integer" if self.chance(50) => "bigint".to_owned(),
            "integer" => format!("int USING {c} + 1"),
            "bigint" => "numeric".to_owned(),
            "numeric(8,2)" => "numeric(12,2)".to_owned(),
            "character varying(12)" => "varchar(40)".to_owned(),
            "text" if self.chance(50) => "varchar".to_owned(),
            "text" => format!("text USING upper({c})"),
            "character(5)" => "text".to_owned(),
            "date" => "timestamptz".to_owned(),
            "boolean" => format!("boolean USING NOT {c}"),
            _ => return format!("ALTER TABLE {table} ALTER {c} SET STATISTICS 80"),
        };
        format!("ALTER TABLE {table} ALTER {c} TYPE {to}")
    }
}

fn names(columns: &[&Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    names.join(", ")
}
