//! Names that break what does not quote them, and shapes that break what counts on a few columns.

/// Schemas, tables and columns with odd names, two rows each, and a canary that must live.
pub(super) fn setup() -> String {
    let sixty_three = "n".repeat(63);
    let multibyte = "é".repeat(31);
    let wide: Vec<String> = (1..=1600).map(|n| format!("c{n} int")).collect();
    let values: Vec<String> = (1..=1600)
        .map(|n| {
            if n % 7 == 0 {
                "NULL".into()
            } else {
                n.to_string()
            }
        })
        .collect();
    let mut sql = String::from(
        r#"
        CREATE SCHEMA odd; CREATE SCHEMA "Odd.Schema ""one"""; CREATE SCHEMA "select";
        CREATE TABLE odd.canary (id int PRIMARY KEY); INSERT INTO odd.canary VALUES (1), (2);
        "#,
    );
    for (number, table) in TABLES.iter().enumerate() {
        sql.push_str(&odd_table("odd", table, number));
    }
    sql.push_str(&odd_table("odd", &sixty_three, 100));
    sql.push_str(&odd_table("odd", &multibyte, 101));
    sql.push_str(&odd_table("select", "table", 102));
    sql.push_str(&odd_table("Odd.Schema \"one\"", "same", 103));
    sql.push_str(&odd_table("odd", "same", 104));
    let wide = [
        "CREATE TABLE odd.wide (",
        &wide.join(", "),
        ", PRIMARY KEY (c1));",
    ]
    .concat();
    let row = ["INSERT INTO odd.wide VALUES (", &values.join(", "), ");"].concat();
    sql.push_str(&wide);
    sql.push_str(&row);
    sql
}

const TABLES: [&str; 22] = [
    "MixedCase",
    "mixedcase",
    "MIXEDCASE",
    "user",
    "order",
    "with space",
    " leading and trailing ",
    "dotted.name",
    "quo\"te",
    "\"",
    "apos'trophe",
    "back\\slash",
    "back`quote",
    "1starts_with_digit",
    "🌊 emoji",
    "čeština",
    "line\nbreak",
    "tab\tbed",
    "x\"; DROP TABLE odd.canary; --",
    "x'); DROP TABLE odd.canary; --",
    "$(reboot) %s ${HOME} $1 {schema} {table}",
    "a/b,c;d:e=f&g?h#i*j[k]",
];

/// A table of this name whose columns are odd too.
fn odd_table(schema: &str, table: &str, number: usize) -> String {
    let name = [crate::server::quoted(schema), crate::server::quoted(table)].join(".");
    let fold = crate::server::quoted(table);
    format!(
        r#"CREATE TABLE {name} ("primary" int PRIMARY KEY, "Case" text, "case" text, "sp ace" int, "q""uote" text,
             "'); DROP TABLE odd.canary; --" int DEFAULT {number}, {fold} text, "🌊" int);
           INSERT INTO {name} VALUES (1, 'A', 'a', 1, '"', 1, 'x', 1), (2, NULL, '', NULL, NULL, DEFAULT, NULL, NULL);
"#
    )
}

/// A change to each of the tables above.
pub(super) fn changes() -> String {
    r#"
    DO $$ DECLARE t regclass; BEGIN
      FOR t IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND (n.nspname ILIKE 'odd%' OR n.nspname = 'select')
          AND c.relname NOT IN ('canary', 'wide') LOOP
        EXECUTE format('UPDATE %s SET "Case" = ''changed'', "sp ace" = 7 WHERE "primary" = 1', t);
        EXECUTE format('INSERT INTO %s ("primary", "q""uote") VALUES (3, ''new'')', t);
        EXECUTE format('DELETE FROM %s WHERE "primary" = 2', t);
        EXECUTE format('UPDATE %s SET "primary" = 4 WHERE "primary" = 3', t);
      END LOOP; END $$;
    UPDATE odd.wide SET c1600 = -1, c2 = NULL;
    INSERT INTO odd.wide (c1, c800) VALUES (0, 800);
    INSERT INTO odd.canary VALUES (3);
    "#
    .to_owned()
}
