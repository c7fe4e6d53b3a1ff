//! Constraints that go on the source, and those that only seem to.

use tidemark_core::mapping::Rules;
use tidemark_core::target::{Loosened, Occasion};

use crate::prepare::renaming;
use crate::target::Pair;

/// What both sides demand, as they are now.
async fn look(pair: &Pair, rules: &Rules) -> Loosened {
    let schema = pair.source.describe(&["public.*"]).await;
    let tables = rules.map(&schema).unwrap();
    let of: Vec<_> = tables.iter().map(|table| table.source().clone()).collect();
    let loosened = pair.target.loosen(&tables, &of, Occasion::Look).await;
    loosened.unwrap()
}

/// A column that the target does not have yet makes it say everything otherwise for a while.
#[tokio::test]
async fn a_check_of_a_renamed_column_stays_while_other_columns_come() {
    let rules = Rules {
        tables: vec![renaming("public.t", &[("n", "amount")])],
        ..Rules::default()
    };
    let script = "CREATE TABLE t (a int PRIMARY KEY, n int CONSTRAINT positive CHECK (n > 0)); \
                  CREATE UNIQUE INDEX few ON t (n, a) WHERE n > 10";
    let pair = crate::target_lacks::loaded(script, &rules).await;
    let there = "SELECT (SELECT count(*) FROM pg_constraint WHERE conname = 'positive') \
                 + (SELECT count(*) FROM pg_class WHERE relname = 'few')";
    for (source, target) in [
        ("", ""),
        ("ALTER TABLE t ADD later int", ""),
        ("", "ALTER TABLE t ADD later int"),
    ] {
        pair.source.run(source).await;
        pair.database.run(target).await;
        assert_eq!(
            look(&pair, &rules).await,
            Loosened::default(),
            "{source} {target}"
        );
        assert_eq!(pair.database.value(there).await, "2", "{source} {target}");
    }
    pair.source
        .run("ALTER TABLE t DROP CONSTRAINT positive; DROP INDEX few")
        .await;
    let gone = look(&pair, &rules).await.gone;
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert_eq!(pair.database.value(there).await, "0");
}
