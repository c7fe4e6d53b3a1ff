//! Rows as a person is shown them.

use tidemark_core::verify::View;
use tidemark_core::verify::look::{CellText, Limits, Which};
use tidemark_postgres::config::Side;
use tidemark_postgres::wire::{Connection, Role};

use super::{original, shuffled, source_view, target_view};
use crate::lab::{database, mapping};

fn limits(within: std::time::Duration) -> Limits {
    Limits {
        rows_max: 600,
        chars_max: 8,
        within,
    }
}

/// Whoever looks at rows is told of a difference where verification is, cell by cell.
#[tokio::test]
async fn cells_that_are_shown_are_equal_whatever_their_form() {
    let limits = limits(std::time::Duration::from_mins(1));
    let source = database(&original()).await;
    let target = database(&shuffled()).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut ours = source_view(&source).await;
    let mut theirs = target_view(&target.config(Side::Target)).await;
    let of_source = ours.shown(&t, Which::First, &limits).await.unwrap();
    let of_target = theirs.shown(&t, Which::First, &limits).await.unwrap();
    assert_eq!(of_source.len(), 500);
    for (a, b) in of_source.iter().zip(&of_target) {
        assert_eq!(a, b);
    }
    let txt = t.columns.iter().position(|c| c.target == "txt").unwrap();
    let shown = |row: usize| of_source[row].cells[txt].as_ref().map(|cell| &cell.text);
    let text = |text: &str| CellText::Whole(text.to_owned());
    assert_eq!(
        [shown(0), shown(1), shown(2)],
        [Some(&text("")), Some(&text("ä🐘2")), None]
    );
    let u = t.columns.iter().position(|c| c.target == "u").unwrap();
    assert!(
        matches!(&of_source[0].cells[u].as_ref().unwrap().text, CellText::Cut(text) if text.len() == 8)
    );

    // Some by their keys, and a cell of each column that is another by now.
    let keys = [vec!["7".to_owned()], vec!["9999".to_owned()]];
    let by_key = theirs.shown(&t, Which::Keys(&keys), &limits).await.unwrap();
    assert_eq!(by_key, [of_source[6].clone()]);
    let nothing = theirs.shown(&t, Which::Keys(&[]), &limits).await.unwrap();
    assert_eq!(nothing, []);
    target
        .run("UPDATE t SET num = num + 0.10, txt = coalesce(txt, ''), ch = NULL WHERE id IN (2, 3)")
        .await;
    let mut theirs = target_view(&target.config(Side::Target)).await;
    let changed = theirs.shown(&t, Which::First, &limits).await.unwrap();
    let differ = |row: usize| {
        let cells = of_source[row].cells.iter().zip(&changed[row].cells);
        let differ = t.columns.iter().zip(cells).filter(|(_, (a, b))| a != b);
        let names: Vec<&str> = differ.map(|(column, _)| column.target.as_str()).collect();
        names.join(" ")
    };
    assert_eq!(
        (differ(1), differ(2)),
        ("num ch".into(), "num txt ch".into())
    );
}

/// A person who looks does not wait for ever, and the view is good afterwards. What is large is a size.
#[tokio::test]
async fn rows_are_shown_in_time_or_not_at_all() {
    let source = database(
        "CREATE TABLE t (id int PRIMARY KEY, v bytea); CREATE TABLE other (id int PRIMARY KEY, v text); \
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL; INSERT INTO other VALUES (1, 'x'); \
         INSERT INTO t SELECT 1, string_agg(sha512(i::text::bytea), '') FROM generate_series(1, 20000) i",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let (t, other) = (
        mapping(&schema, "public.t"),
        mapping(&schema, "public.other"),
    );
    let mut view = source_view(&source).await;
    let soon = limits(std::time::Duration::from_millis(200));
    let long = limits(std::time::Duration::from_mins(1));
    let shown = view.shown(&t, Which::First, &long).await.unwrap();
    let large = &shown[0].cells[1].as_ref().unwrap().text;
    assert_eq!(*large, CellText::Large(1_280_000));

    let config = source.config(Side::Source);
    let mut blocker = Connection::connect(&config, Role::Ordinary).await.unwrap();
    blocker.run("BEGIN; LOCK TABLE public.other").await.unwrap();
    let late = view.shown(&other, Which::First, &soon).await.unwrap_err();
    assert_eq!(late.sqlstate_code(), Some("57014"), "{late}");
    blocker.run("ROLLBACK").await.unwrap();
    let shown = view.shown(&other, Which::First, &long).await.unwrap();
    assert_eq!(shown.len(), 1);
}

#[tokio::test]
async fn f59_sixteen_hundred_columns_are_shown() {
    let names: Vec<String> = (1..1600).map(|i| format!("c{i} int DEFAULT {i}")).collect();
    let names = names.join(", ");
    let sql = format!("CREATE TABLE t (id int PRIMARY KEY, {names}); INSERT INTO t VALUES (1)");
    let source = database(&sql).await;
    let schema = source.describe(&["public.*"]).await;
    let t = mapping(&schema, "public.t");
    let mut view = source_view(&source).await;
    let limits = limits(std::time::Duration::from_mins(1));
    let shown = view.shown(&t, Which::First, &limits).await.unwrap();
    assert_eq!(shown[0].cells.len(), 1600);
}
