//! What of the tables is carried, and where to: another thing with each seed.

use tidemark_lab::compare::Comparison;

use crate::stage::Stage;

/// What of the tables is carried, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    All,
    /// Rows for which [`FILTER`] is true.
    Filtered,
    /// In another schema.
    Elsewhere,
}

/// Rows move in and out by updates of a column that is in no key.
const FILTER: &str = "n > 2";
const ELSEWHERE: &str = "elsewhere";

impl Carried {
    pub(super) fn of(seed: u64) -> Carried {
        match seed % 3 {
            0 => Carried::Filtered,
            1 => Carried::Elsewhere,
            _ => Carried::All,
        }
    }

    /// Lines of the pipeline file: in `[target]`, and sections of tables.
    pub(super) fn lines(self) -> (String, String) {
        match self {
            Carried::All => (String::new(), String::new()),
            Carried::Filtered => (
                String::new(),
                format!("[[table]]\nsource = \"public.t*\"\nwhere = \"{FILTER}\"\n"),
            ),
            Carried::Elsewhere => (format!("schema = \"{ELSEWHERE}\"\n"), String::new()),
        }
    }

    /// Where the tables are on the target.
    pub(super) fn schema(self) -> &'static str {
        match self {
            Carried::Elsewhere => ELSEWHERE,
            Carried::All | Carried::Filtered => "public",
        }
    }

    /// No table yet.
    pub(super) fn comparison(self, stage: &Stage) -> Comparison<'_> {
        match self {
            Carried::Elsewhere => stage.comparison().schema("public", ELSEWHERE),
            Carried::All | Carried::Filtered => stage.comparison(),
        }
    }

    /// With this table.
    pub(super) fn add<'a>(self, comparison: Comparison<'a>, table: &str) -> Comparison<'a> {
        let comparison = comparison.only("public", table);
        match self {
            Carried::Filtered => comparison.filter(("public", table), FILTER),
            Carried::All | Carried::Elsewhere => comparison,
        }
    }
}
