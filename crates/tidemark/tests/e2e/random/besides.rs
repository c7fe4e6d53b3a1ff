//! What else is otherwise, by the thousands of the seed: 2007 tells the story of 7 with transactions that are
//! prepared. Below 1000 nothing is.

use tidemark_lab::compare::Comparison;

use super::carried::Carried;
use crate::stage::Stage;

/// What is otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Besides {
    Nothing,
    /// Tables and columns have other names, columns are masked or left out.
    Names,
    /// Transactions are prepared, and end later.
    Prepared,
    /// Tables refer to each other and to themselves.
    ForeignKeys,
    /// `on_schema_change`.
    Additive,
    Ignore,
    StopTable,
    /// The target refuses some rows, which go into quarantine.
    Planted,
    /// The target's role may not keep triggers still, and tables refer to each other.
    Unprivileged,
}

/// Tables that refer to each other: what happens to one happens to others.
const REFERRING: &str = "
    CREATE TABLE t7 (k0 int PRIMARY KEY, n int, c0 text, big text);
    CREATE TABLE t8 (k0 int PRIMARY KEY, n int,
      c0 int REFERENCES t7 ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED,
      c1 int REFERENCES t8 ON DELETE SET NULL, big text);
    CREATE TABLE t9 (k0 int, k1 int REFERENCES t7 ON DELETE CASCADE ON UPDATE CASCADE,
      n int REFERENCES t8 ON DELETE SET NULL ON UPDATE CASCADE, big text, PRIMARY KEY (k0, k1))";

/// What the target refuses from then on.
const PLANTED: &str = "DO $$ DECLARE t regclass; BEGIN
    FOR t IN SELECT a.attrelid::regclass FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      WHERE attname = 'n' AND relkind = 'r' AND NOT relispartition
        AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'elsewhere'))
    LOOP EXECUTE format('ALTER TABLE %s ADD CONSTRAINT planted CHECK (n IS DISTINCT FROM 3) NOT VALID', t);
    END LOOP; END $$";
const UPROOTED: &str = "DO $$ DECLARE t regclass; BEGIN
    FOR t IN SELECT conrelid::regclass FROM pg_constraint WHERE conname = 'planted'
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT planted', t); END LOOP; END $$";

/// Another name of `n`, and of tables.
const NUMBER: &str = "number of";
const PREFIX: &str = "x_";

impl Besides {
    pub(super) fn of(seed: u64) -> Besides {
        match seed / 1000 % 9 {
            0 => Besides::Nothing,
            1 => Besides::Names,
            2 => Besides::Prepared,
            3 => Besides::ForeignKeys,
            4 => Besides::Additive,
            5 => Besides::Ignore,
            6 => Besides::StopTable,
            7 => Besides::Planted,
            _ => Besides::Unprivileged,
        }
    }

    /// `on_schema_change`.
    pub(super) fn policy(self) -> &'static str {
        match self {
            Besides::Additive => "apply_additive",
            Besides::Ignore => "ignore",
            Besides::StopTable => "stop_table",
            _ => "apply",
        }
    }

    /// Lines of the pipeline file: of tables, behind those of what is carried, and of `[stream]`.
    pub(super) fn lines(self, carried: Carried) -> (String, &'static str) {
        match self {
            Besides::Names => {
                let head = match carried {
                    Carried::Filtered => String::new(),
                    _ => "[[table]]\nsource = \"public.t*\"\n".to_owned(),
                };
                let schema = carried.schema();
                let lines = format!(
                    "{head}target = \"{schema}.{PREFIX}{{table}}\"\nrename = {{ n = \"{NUMBER}\" }}\n\
                     drop_columns = [\"c0\"]\n[[mask]]\ncolumns = [\"public.*.big\"]\nwith = \"null\"\n\
                     [[mask]]\ncolumns = [\"public.*.c1\"]\nwith = \"hash\"\nsalt = \"salt\"\n"
                );
                (lines, "")
            }
            Besides::Planted => (String::new(), "on_row_error = \"quarantine_row\"\n"),
            _ => (String::new(), ""),
        }
    }

    /// Tables beside those that are made at random.
    pub(super) fn tables(self) -> Option<&'static str> {
        self.has_references().then_some(REFERRING)
    }

    /// Columns that are masked or left out.
    pub(super) fn hidden(self) -> &'static [&'static str] {
        match self {
            Besides::Names => &["c0", "c1", "big"],
            _ => &[],
        }
    }

    pub(super) fn has_references(self) -> bool {
        matches!(self, Besides::ForeignKeys | Besides::Unprivileged)
    }

    /// With this table.
    pub(super) fn add<'a>(
        self,
        comparison: Comparison<'a>,
        carried: Carried,
        table: &str,
    ) -> Comparison<'a> {
        let comparison = carried.add(comparison, table);
        if self != Besides::Names {
            return comparison;
        }
        let source = ("public", table);
        let comparison = comparison
            .table(source, (carried.schema(), &format!("{PREFIX}{table}")))
            .column(source, "n", NUMBER);
        self.hidden().iter().fold(comparison, |comparison, column| {
            comparison.skip_column(source, column)
        })
    }

    /// Whether a column that only one side has is as it should be.
    pub(super) fn may_stand_alone(self, difference: &str) -> bool {
        match self {
            Besides::Additive => difference.ends_with("is in the target only"),
            Besides::Ignore => {
                difference.ends_with("is in the target only")
                    || difference.ends_with("is not in the target")
            }
            _ => false,
        }
    }

    /// The target refuses some rows, once the first ones are in.
    pub(super) async fn plant(self, stage: &Stage) {
        if self == Besides::Planted {
            stage.target_sql(PLANTED).await;
        }
    }

    /// It takes them again, and they are tried again.
    pub(super) async fn uproot(self, stage: &Stage) {
        if self == Besides::Planted {
            stage.target_sql(UPROOTED).await;
        }
    }
}
