//! Types of columns, and values that collide: few of each, many of them equal and not the same.

/// A type and what is written into it.
pub(super) struct Kind {
    /// As a column is declared.
    pub(super) sql: &'static str,
    /// As the catalog shows it, the collation behind a blank.
    pub(super) shown: &'static str,
    /// Whether it can be in a key.
    pub(super) is_key: bool,
    /// Literals.
    pub(super) values: &'static [&'static str],
    /// Values of many rows: `{g}` counts them.
    pub(super) many: &'static str,
}

const fn kind(
    sql: &'static str,
    shown: &'static str,
    is_key: bool,
    values: &'static [&'static str],
    many: &'static str,
) -> Kind {
    Kind {
        sql,
        shown,
        is_key,
        values,
        many,
    }
}

/// What the types need.
pub(super) const TYPES: &str = "CREATE EXTENSION IF NOT EXISTS citext;
    CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
    CREATE DOMAIN small AS int CHECK (VALUE < 100000);
    CREATE TYPE pair AS (a int, b text);";

#[rustfmt::skip]
pub(super) const KINDS: &[Kind] = &[
    kind("int", "integer", true, &["0", "1", "2", "3", "4", "5", "6", "7", "-2147483648"], "{g}"),
    kind("bigint", "bigint", true, &["0", "1", "2", "3", "4", "5", "9223372036854775807"], "{g}"),
    kind("numeric", "numeric", true, &["0", "0.0", "1", "1.0", "1.00", "2.5", "'NaN'", "-1"], "{g} / 10.0"),
    kind("numeric(8,2)", "numeric(8,2)", true, &["0", "1", "2.5", "2.50", "-1"], "{g} / 100.0"),
    kind("text", "text", true, &["''", "'a'", "'A'", "'b'", "'NULL'", "'é'", "E'tab\\t\\\\N'", "'it''s {,}'"], "'k' || {g}"),
    kind("text COLLATE \"C\"", "text C", true, &["''", "'a'", "'A'", "'b'", "'Z'"], "'k' || {g}"),
    kind("text COLLATE any_case", "text any_case", true, &["''", "'a'", "'A'", "'b'", "'B'", "'É'", "'é'"], "'k' || {g}"),
    kind("varchar(12)", "character varying(12)", true, &["''", "'a'", "'a '", "'b'"], "'k' || {g}"),
    kind("char(5)", "character(5)", true, &["''", "'a'", "'b'", "'é'"], "{g}::text"),
    kind("bpchar", "bpchar", false, &["''", "'a'", "'a '", "'a  '"], "'k' || {g}"),
    kind("public.citext", "citext", true, &["''", "'a'", "'A'", "'b'", "'B'"], "'k' || {g}"),
    kind("timestamptz", "timestamp with time zone", true, &["'infinity'", "'-infinity'",
        "'2024-03-31 01:00:00.000001+00'", "'0044-03-15 00:00+00 BC'", "'2024-01-01 00:00+05'"],
        "timestamptz '2020-01-01' + {g} * interval '1 s'"),
    kind("date", "date", true, &["'infinity'", "'2024-02-29'", "'4714-11-24 BC'"], "date '2020-01-01' + {g}"),
    kind("interval", "interval", true, &["'1 day'", "'24:00:00'", "'1 mon'", "'30 days'", "'0'"], "{g} * interval '1 min'"),
    kind("uuid", "uuid", true, &["md5('1')::uuid", "md5('2')::uuid", "md5('3')::uuid"], "md5(({g})::text)::uuid"),
    kind("bytea", "bytea", true, &["'\\x'", "'\\x00'", "'\\xdeadbeef'", "'\\x5c'"], "int4send({g})"),
    kind("float8", "double precision", true, &["0", "'-0'", "'NaN'", "'-Infinity'", "0.1", "1e-300"], "{g} / 7.0"),
    kind("int4range", "int4range", true, &["'empty'", "'[1,5)'", "'(,)'", "'[3,9)'"], "int4range({g}, {g} + 3)"),
    kind("mood", "mood", true, &["'sad'", "'so so'", "'happy'"], "'sad'"),
    kind("small", "small", true, &["0", "1", "2", "3", "4"], "{g}"),
    kind("int[]", "integer[]", true, &["'{}'", "'{1,NULL}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'{1,2}'"], "ARRAY[{g}]"),
    kind("text[]", "text[]", false, &["'{}'", "'{NULL,\"NULL\",\"\"}'", "'{a,\"b c\"}'"], "ARRAY['k' || {g}]"),
    kind("pair", "pair", true, &["'(,)'", "'(1,a)'", "'(1,\"\")'", "'(2,\"q\"\"(,)\")'"], "ROW({g}, 'p')::pair"),
    kind("jsonb", "jsonb", true, &["'1'", "'1.0'", "'null'", "'{\"a\": [1, \"x\"]}'"], "to_jsonb({g})"),
    kind("inet", "inet", true, &["'10.0.0.1'", "'10.0.0.0/8'", "'::1'"], "inet '10.0.0.0' + {g}"),
    kind("bool", "boolean", false, &["true", "false"], "true"),
];

/// The kind of a column as the catalog shows it.
pub(super) fn shown(shown: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.shown == shown)
}
