use super::*;

fn table(name: &str) -> TableName {
    TableName::new("public", name)
}

fn complete() -> Publication {
    Publication {
        name: "tidemark_shop".to_owned(),
        is_ours: true,
        is_via_root: true,
        unsent_operations: Vec::new(),
        unpublished: Vec::new(),
        restricted: Vec::new(),
    }
}

#[test]
fn s01_tables_of_a_publication_are_quoted_whatever_they_hold() {
    let wanted = Wanted {
        name: "Order \"1\"",
        pipeline: "o'neill",
        create: Create::IfMissing,
        tables: &[table("a;b"), TableName::new("S", "select")],
    };
    assert_eq!(
        wanted.create_sql(),
        "CREATE PUBLICATION \"Order \"\"1\"\"\" FOR TABLE \"public\".\"a;b\", \"S\".\"select\" \
         WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true)"
    );
    assert_eq!(
        wanted.comment_sql(None),
        "COMMENT ON PUBLICATION \"Order \"\"1\"\"\" IS 'tidemark pipeline: o''neill'"
    );
}

#[test]
fn nothing_is_done_to_one_that_covers_all() {
    assert_eq!(complete().lacks(), None);
    assert!(complete().repair_sql().is_empty());
}

#[test]
fn what_is_missing_is_named_with_its_statements() {
    let publication = Publication {
        is_via_root: false,
        unsent_operations: vec!["truncate"],
        unpublished: vec![table("a"), table("b")],
        restricted: vec![table("c")],
        ..complete()
    };
    assert_eq!(
        publication.lacks().unwrap(),
        "does not send truncate; sends partitions under their own names; \
         lacks public.a and 1 more; leaves out rows or columns of public.c"
    );
    assert_eq!(
        publication.repair_sql(),
        [
            "ALTER PUBLICATION \"tidemark_shop\" SET (publish = 'insert, update, delete, \
             truncate', publish_via_partition_root = true)",
            "ALTER PUBLICATION \"tidemark_shop\" DROP TABLE \"public\".\"c\"",
            "ALTER PUBLICATION \"tidemark_shop\" ADD TABLE \"public\".\"c\"",
            "ALTER PUBLICATION \"tidemark_shop\" ADD TABLE \"public\".\"a\", \"public\".\"b\"",
        ]
    );
}
