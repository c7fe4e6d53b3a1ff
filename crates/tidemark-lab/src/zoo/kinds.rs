//! The list: each type of PostgreSQL with its extreme values, as SQL.
//!
//! Ranges are those of PostgreSQL 15, chapter 8, and hold for 14 to 18 where no `since` says else.

/// One type and its values.
pub(super) struct Kind {
    /// The name of its table.
    pub(super) name: &'static str,
    /// The type in SQL.
    pub(super) sql_type: &'static str,
    /// Expressions, each of which is cast to the type; NULL is added by itself.
    pub(super) values: &'static [&'static str],
    pub(super) shape: Shape,
    /// The first major version that has it.
    pub(super) since: u32,
    /// The extension it comes from.
    pub(super) extension: Option<&'static str>,
}

/// What tables a kind gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One with a column of the type and one of its array.
    Plain,
    /// As plain, and another whose key it is.
    Key,
    /// One with a column of the type alone.
    Alone,
}

const fn kind(
    name: &'static str,
    sql_type: &'static str,
    shape: Shape,
    values: &'static [&'static str],
) -> Kind {
    Kind {
        name,
        sql_type,
        values,
        shape,
        since: 14,
        extension: None,
    }
}

impl Kind {
    const fn since(mut self, major: u32) -> Kind {
        self.since = major;
        self
    }

    const fn of(mut self, extension: &'static str) -> Kind {
        self.extension = Some(extension);
        self
    }
}

use Shape::{Alone, Key, Plain};

/// Types the zoo makes for itself, in the order they need each other.
pub(super) const TYPES: &str = r#"
    CREATE SCHEMA zoo;
    CREATE TYPE zoo.mood AS ENUM ('', ' ', 'plain', 'PLAIN', 'two words', 'com,ma', 'quo"te', 'it''s',
      'back\slash', '{brace}', 'NULL', 'žluťoučký 🐎', '0123456789012345678901234567890123456789012345678901234567890');
    CREATE TYPE zoo."Odd Type" AS ENUM ('a', 'A');
    CREATE DOMAIN zoo.positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN zoo.present AS text NOT NULL;
    CREATE DOMAIN zoo.good_mood AS zoo.mood CHECK (VALUE <> 'NULL');
    CREATE DOMAIN zoo.vector AS int[] CHECK (array_ndims(VALUE) = 1);
    CREATE TYPE zoo.pair AS (a int, "B b" text);
    CREATE TYPE zoo.nest AS (p zoo.pair, many zoo.pair[], m zoo.mood, at timestamptz);
    CREATE DOMAIN zoo.strict_pair AS zoo.pair CHECK ((VALUE).a > 0);
    CREATE TYPE zoo.float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
    CREATE TYPE zoo.mood_range AS RANGE (subtype = zoo.mood);
"#;

#[rustfmt::skip] // a table: one kind after the other, values side by side
pub(super) const KINDS: &[Kind] = &[
    kind("int2", "int2", Key, &["-32768", "-1", "0", "32767"]),
    kind("int4", "int4", Key, &["-2147483648", "-1", "0", "1", "2147483647"]),
    kind("int8", "int8", Key, &[
        "'-9223372036854775808'", "-1", "0", "9007199254740993", "9223372036854775807",
    ]),
    kind("numeric", "numeric", Key, &[
        "'NaN'", "'Infinity'", "'-Infinity'", "0", "1.10", "-1.1", "0.000", "1e-16383", "-1e131071",
        "repeat('9', 131072)", "'0.' || repeat('0', 16382) || '7'",
        "repeat('1', 5000) || '.' || repeat('2', 5000)", "12345678901234567890.12345678901234567890",
        "10000", "1000000000000",
    ]),
    kind("numeric_5_2", "numeric(5,2)", Key, &["999.99", "-999.99", "'NaN'", "0.005"]),
    kind("numeric_3_minus2", "numeric(3,-2)", Key, &["99900", "-99900", "149"]).since(15),
    kind("numeric_2_5", "numeric(2,5)", Key, &["0.00099", "-0.00001"]).since(15),
    kind("numeric_1000_500", "numeric(1000,500)", Plain, &[
        "repeat('9', 500) || '.' || repeat('9', 500)", "-1",
    ]),
    kind("float4", "float4", Plain, &[
        "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0", "1e-45", "3.4028235e38", "0.1", "16777217",
    ]),
    kind("float8", "float8", Key, &[
        "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "5e-324", "1.7976931348623157e308",
        "0.30000000000000004", "0.1", "9007199254740993",
    ]),
    kind("money", "money", Plain, &[
        "'-92233720368547758.08'", "'92233720368547758.07'", "'0'", "'-0.01'",
    ]),
    kind("bool", "bool", Key, &["true", "false"]),
    kind("text", "text", Key, &[
        "''", "' '", "'a'", "'A'", "'a '", "'NULL'", r"'\N'", r"'\.'", r"'\\'", r"E'\\x41'",
        r"E'tab\there'", r"E'line\nbreak'", r"E'\r'", r"E'\r\n'", r"E'\b\f\v'",
        "'''quoted'' \"twice\"'", "'{\"looks\": \"json\"}'", "'{a,b}'", "'🌊'", "'👩‍👩‍👧‍👦'",
        r"U&'e\0301'", "'é'", r"U&'\FFFF'", r"U&'\+10FFFF'", r"U&'\FEFFmark'", r"U&'\200Bzero'",
        "'שלום'", "'__debezium_unavailable_value'", "'unchanged'", "'%s $1 ${x} `y`'",
        "(SELECT string_agg(chr(i), '') FROM generate_series(1, 31) i)",
    ]),
    kind("text_large", "text", Alone, &[
        "repeat('x', 1000000)",
        "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 40000) i)", "repeat('🌊', 300000)",
        "repeat(E'\\\\\\n', 200000)",
    ]),
    kind("text_c", "text COLLATE \"C\"", Key, &["''", "'a'", "'B'", "'ä'", "'Z'"]),
    kind("varchar_10", "varchar(10)", Key, &["''", "'0123456789'", "'🌊🌊🌊🌊🌊🌊🌊🌊🌊🌊'", "'a   '"]),
    kind("varchar", "varchar", Plain, &["''", "'any length'"]),
    kind("char_5", "char(5)", Key, &["''", "'a'", "'a b'", "'🌊'", "'12345'"]),
    kind("char_1", "char", Plain, &["''", "'x'"]),
    kind("single_char", "\"char\"", Plain, &["''", "'a'", r"'\'", "'\"'", "127", "10"]),
    // Before 16 it was written as a byte, which is no text in UTF8.
    kind("single_char_high", "\"char\"", Plain, &[r"'\200'", r"'\377'"]).since(16),
    kind("name", "name", Key, &["''", "repeat('n', 63)", "'Mixed Case'", "repeat('é', 31)"]),
    kind("bytea", "bytea", Key, &[
        r"'\x'", r"'\x00'", r"'\x5c'", r"'\xdeadbeef'", "decode('ff', 'hex')",
        "(SELECT string_agg(set_byte('\\x00', 0, i), '') FROM generate_series(0, 255) i)",
    ]),
    kind("bytea_large", "bytea", Alone, &[
        "(SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 65536) i)",
        "decode(repeat('00', 1000000), 'hex')",
    ]),
    kind("bit_1", "bit(1)", Plain, &["B'0'", "B'1'"]),
    kind("bit_8", "bit(8)", Key, &["B'00000000'", "B'10000001'"]),
    kind("bit_65", "bit(65)", Plain, &["repeat('10', 32) || '1'", "repeat('0', 65)"]),
    kind("varbit", "varbit", Plain, &["B''", "B'1'", "repeat('01', 1000)"]),
    kind("date", "date", Key, &[
        "'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'0001-12-31 BC'",
        "'0001-01-01'", "'1582-10-10'", "'1970-01-01'", "'2000-02-29'",
    ]),
    kind("time", "time", Key, &["'00:00:00'", "'24:00:00'", "'23:59:59.999999'", "'12:00:00.1'"]),
    kind("time_0", "time(0)", Plain, &["'23:59:59.4'", "'12:34:56'"]),
    kind("timetz", "timetz", Key, &[
        "'00:00:00+15:59:59'", "'24:00:00-15:59:59'", "'12:00:00+05:45'", "'23:59:59.999999Z'",
    ]),
    kind("timestamp", "timestamp", Key, &[
        "'infinity'", "'-infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'",
        "'1582-10-10 12:00'", "'0001-01-01 00:00:00'", "'1999-12-31 23:59:59.999999'",
        "'2024-03-31 02:30:00'",
    ]),
    kind("timestamp_3", "timestamp(3)", Plain, &["'2024-01-01 00:00:00.1239'"]),
    kind("timestamptz", "timestamptz", Key, &[
        "'infinity'", "'-infinity'", "'4714-11-24 00:00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'",
        "'0044-03-15 12:00:00+00 BC'", "'2038-01-19 03:14:08+00'",
        "'2024-10-27 02:30:00 Europe/Berlin'",
    ]),
    kind("interval", "interval", Plain, &[
        "'178000000 years'", "'-178000000 years'", "'2147483647:59:59.999999'",
        "'-2147483647:59:59.999999'", "'1 mon -1 day +00:00:00.000001'",
        "'-1 year +1 mon -1 day +1:00'", "'0'", "'24:00:00'", "'1 day'", "'30 days'", "'1 mon'",
    ]),
    kind("interval_longest", "interval", Plain, &["'2562047788:00:54.775807'", "'-2562047788:00:54.775807'"]).since(15),
    kind("interval_infinite", "interval", Plain, &["'infinity'", "'-infinity'"]).since(17),
    kind("interval_day_to_second", "interval day to second(2)", Plain, &["'1 day 00:00:00.129'"]),
    kind("uuid", "uuid", Key, &[
        "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "md5('x')",
    ]),
    kind("json", "json", Plain, &[
        r#"'{"b":1,  "a":2, "b":3}'"#, r#"'"\u0000"'"#, "'1e400'",
        "'123456789012345678901234567890.10'", "' null '", "'[ ]'", "'\"\"'", r#"E'{\n\t"a": "\\\\"}'"#,
        r#"'"\ud83c\udf0a"'"#,
    ]),
    kind("jsonb", "jsonb", Plain, &[
        r#"'{"b":1,  "a":2, "b":3}'"#, "'null'", "'1.0'", "'1.00'", "'1e100'",
        "'123456789012345678901234567890.10'", "'\"\"'", "'{}'", "'[]'",
        r#"'{"": {"a b": [null, true, "🌊\\ \" \n"]}}'"#, "repeat('[', 500) || repeat(']', 500)",
    ]),
    kind("jsonpath", "jsonpath", Plain, &[
        "'$'", r#"'strict $."a b"[*] ? (@.x > 1.5 && @ like_regex "^\\d" flag "i")'"#,
    ]),
    kind("xml", "xml", Plain, &[
        "''", "'text'", "'<a b=\"1\">ü&amp;<!-- c --></a>'", "'<?xml version=\"1.0\"?><a/>'",
        "'<a/><b/>'", r"E'\n<a/>\n'", "'<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>ü</a>'",
        "'<?xml version=\"1.0\" standalone=\"yes\"?><a/>'", "'<?xml version=\"1.1\"?><a/>'",
        "'<!DOCTYPE a><a/>'",
    ]),
    kind("tsvector", "tsvector", Plain, &[
        "''", "'a:1A b:2 ''quo te'':3C'", "to_tsvector('simple', 'the \\ cat '' sat')",
    ]),
    kind("tsquery", "tsquery", Plain, &["''", "'a & !(b | ''c d'') <2> e:*AB'"]),
    kind("inet", "inet", Key, &[
        "'0.0.0.0/0'", "'10.1.2.3/8'", "'255.255.255.255'", "'::/0'", "'::ffff:1.2.3.4'",
        "'2001:db8::1/64'",
    ]),
    kind("cidr", "cidr", Key, &["'0.0.0.0/0'", "'10.0.0.0/8'", "'2001:db8::/32'"]),
    kind("macaddr", "macaddr", Key, &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"]),
    kind("macaddr8", "macaddr8", Plain, &["'00:00:00:00:00:00:00:00'", "'08:00:2b:01:02:03:04:05'"]),
    kind("point", "point", Plain, &[
        "'(0,-0)'", "'(NaN,Infinity)'", "'(1e-300,-1e300)'", "'(0.1,0.30000000000000004)'",
    ]),
    kind("lseg", "lseg", Plain, &["'[(1,2),(3,4)]'", "'[(0,0),(0,0)]'"]),
    kind("line", "line", Plain, &["'{1,-1,0}'", "'{0,1,0.5}'"]),
    kind("box", "box", Alone, &["'(1,2),(3,4)'", "'(0,0),(-1,-1)'"]),
    kind("box_array", "box[]", Alone, &["ARRAY['(1,2),(3,4)'::box, NULL, '(0,0),(5,5)']", "'{}'"]),
    kind("path", "path", Plain, &["'[(0,0),(1,1),(2,0)]'", "'((0,0),(1,1),(2,0))'", "'[(1,1)]'"]),
    kind("polygon", "polygon", Plain, &["'((0,0),(1,1),(2,0))'", "'((0,0))'"]),
    kind("circle", "circle", Plain, &["'<(1,2),3>'", "'<(0,0),Infinity>'"]),
    kind("int4range", "int4range", Key, &[
        "'empty'", "'(,)'", "'[1,5]'", "'(1,)'", "'[-2147483648,2147483647)'",
    ]),
    kind("int8range", "int8range", Plain, &["'[9007199254740993,9223372036854775807)'", "'(,0]'"]),
    kind("numrange", "numrange", Plain, &["'[1.10,2.20)'", "'(-Infinity,Infinity]'", "'(0,NaN)'"]),
    kind("tsrange", "tsrange", Plain, &["'[2024-01-01,infinity]'", "'(,)'", "'[-infinity,)'"]),
    kind("tstzrange", "tstzrange", Plain, &["'[2024-01-01 00:00+02,2024-06-01 00:00+00)'", "'empty'"]),
    kind("daterange", "daterange", Plain, &["'[2024-02-29,2024-02-29]'", "'[-infinity,infinity]'"]),
    kind("float_range", "zoo.float_range", Plain, &["'[-0,NaN)'", "'(1e-300,Infinity]'"]),
    kind("mood_range", "zoo.mood_range", Plain, &["zoo.mood_range('com,ma', 'quo\"te')", "'(,)'"]),
    kind("int4multirange", "int4multirange", Plain, &["'{}'", "'{(,)}'", "'{[1,3),[5,7),(10,)}'"]),
    kind("nummultirange", "nummultirange", Plain, &["'{[1.10,2.0],(3,4)}'"]),
    kind("tstzmultirange", "tstzmultirange", Plain, &[
        "'{[2024-01-01,2024-02-01),(2025-01-01,infinity)}'",
    ]),
    kind("float_multirange", "zoo.float_multirange", Plain, &["'{[0.1,0.2],[5,5]}'"]),
    kind("int_array", "int[]", Alone, &[
        "'{}'", "'{NULL}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'{{{1}},{{NULL}}}'", "'[-5:-4]={1,2}'",
        "'[2:3][0:1]={{1,2},{3,4}}'",
    ]),
    kind("text_array", "text[]", Key, &[
        "'{}'", "'{NULL,\"NULL\",null,\"\"}'", r#"'{"a\\b","c\"d","{e}",",",";"," "}'"#,
        "'{{a,b},{c,d}}'", "'[0:1]={🌊,x}'",
    ]),
    kind("mood_array", "zoo.mood[]", Alone, &[
        "ARRAY['', 'NULL', NULL, 'com,ma', 'quo\"te', 'back\\slash', '{brace}']::zoo.mood[]",
    ]),
    kind("pair_array", "zoo.pair[]", Alone, &[
        "ARRAY[ROW(1, 'a'), NULL, ROW(NULL, NULL), ROW(2, '\"(,)')]::zoo.pair[]", "'{}'",
    ]),
    kind("numeric_array", "numeric(6,2)[]", Alone, &["'{1.1,NaN,NULL}'"]),
    kind("mood", "zoo.mood", Key, &[
        "''", "' '", "'plain'", "'PLAIN'", "'two words'", "'com,ma'", "'quo\"te'", "'it''s'",
        r"'back\slash'", "'{brace}'", "'NULL'", "'žluťoučký 🐎'",
    ]),
    kind("odd_type", "zoo.\"Odd Type\"", Key, &["'a'", "'A'"]),
    kind("positive", "zoo.positive", Key, &["1", "2147483647"]),
    kind("present", "zoo.present", Alone, &["''", "'here'"]),
    kind("good_mood", "zoo.good_mood", Plain, &["'plain'", "'com,ma'"]),
    kind("vector", "zoo.vector", Alone, &["'{1,2}'", "'[0:1]={3,NULL}'"]),
    kind("pair", "zoo.pair", Key, &[
        "ROW(1, 'a')", "ROW(NULL, NULL)", "ROW(2, '')", r#"ROW(3, 'quo"te, (paren) back\slash')"#,
        "ROW(4, ' ')",
    ]),
    kind("nest", "zoo.nest", Plain, &[
        "ROW(ROW(1, 'x'), ARRAY[ROW(2, 'y,\"z')::zoo.pair, NULL], 'com,ma', 'infinity')",
        "ROW(NULL, '{}', '', NULL)",
    ]),
    kind("strict_pair", "zoo.strict_pair", Alone, &["ROW(1, NULL)::zoo.pair"]),
    kind("oid", "oid", Key, &["0", "'4294967295'"]),
    kind("xid", "xid", Plain, &["'0'", "'4294967295'"]),
    kind("xid8", "xid8", Plain, &["'0'", "'18446744073709551615'"]),
    kind("cid", "cid", Plain, &["'4294967295'"]),
    kind("tid", "tid", Plain, &["'(4294967295,65535)'", "'(0,1)'"]),
    kind("pg_lsn", "pg_lsn", Key, &["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
    kind("pg_snapshot", "pg_snapshot", Plain, &["'10:20:10,14,15'"]),
    kind("txid_snapshot", "txid_snapshot", Plain, &["'10:20:'"]),
    kind("regclass", "regclass", Plain, &["'pg_class'", "0"]),
    // Its number differs between the two servers, its name does not.
    kind("regtype", "regtype", Plain, &["'integer'", "'zoo.mood'", "'zoo.\"Odd Type\"'"]),
    kind("regproc", "regproc", Plain, &["'pg_catalog.now'"]),
    kind("regprocedure", "regprocedure", Plain, &["'abs(integer)'"]),
    kind("regrole", "regrole", Plain, &["'postgres'"]),
    kind("regnamespace", "regnamespace", Plain, &["'pg_catalog'", "'zoo'"]),
    kind("int2vector", "int2vector", Plain, &["'1 2 -3'"]),
    kind("oidvector", "oidvector", Plain, &["'1 4294967295'"]),
    kind("aclitem", "aclitem", Plain, &["'postgres=r*w/postgres'", "'=r/postgres'"]),
    kind("refcursor", "refcursor", Plain, &["'a cursor'"]),
    kind("hstore", "public.hstore", Plain, &[
        "''", r#"'a=>1, b=>NULL, "c d"=>"q\"uote", ""=>""'"#,
    ]).of("hstore"),
    kind("citext", "public.citext", Key, &["''", "'MixedCase'", "'other'"]).of("citext"),
    kind("ltree", "public.ltree", Plain, &["''", "'Top.Science.Astronomy'"]).of("ltree"),
    kind("cube", "public.cube", Plain, &["'(1,2),(3,4)'", "'(0)'"]).of("cube"),
];
