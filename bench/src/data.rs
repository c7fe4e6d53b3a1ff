//! The data: tables like those of TPC-H, one wide table, one of large values; made in SQL.
//!
//! Row counts, column types and the length of texts are those of TPC-H (specification 3.0.1, 1.4 and
//! 4.2); values are of a simple arithmetic, since nobody queries them. Nothing here is random, so
//! every run copies the same bytes.

use anyhow::Result;

use crate::settings::Settings;
use crate::stage::Database;

/// A set of tables for a load.
pub(crate) struct Tables {
    /// Name of the part.
    pub(crate) name: &'static str,
    /// Makes the tables, without keys.
    pub(crate) create: &'static str,
    /// Table and columns of its primary key, largest first.
    pub(crate) keys: &'static [(&'static str, &'static str)],
    /// Tables that a copy by two workers reads in two halves.
    pub(crate) halved: &'static [&'static str],
}

pub(crate) const TPCH: Tables = Tables {
    name: "load",
    create: "
CREATE TABLE region (r_regionkey integer NOT NULL, r_name char(25) NOT NULL, r_comment varchar(152));
CREATE TABLE nation (n_nationkey integer NOT NULL, n_name char(25) NOT NULL,
  n_regionkey integer NOT NULL, n_comment varchar(152));
CREATE TABLE supplier (s_suppkey integer NOT NULL, s_name char(25) NOT NULL,
  s_address varchar(40) NOT NULL, s_nationkey integer NOT NULL, s_phone char(15) NOT NULL,
  s_acctbal numeric(15,2) NOT NULL, s_comment varchar(101) NOT NULL);
CREATE TABLE customer (c_custkey integer NOT NULL, c_name varchar(25) NOT NULL,
  c_address varchar(40) NOT NULL, c_nationkey integer NOT NULL, c_phone char(15) NOT NULL,
  c_acctbal numeric(15,2) NOT NULL, c_mktsegment char(10) NOT NULL, c_comment varchar(117) NOT NULL);
CREATE TABLE part (p_partkey integer NOT NULL, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL,
  p_brand char(10) NOT NULL, p_type varchar(25) NOT NULL, p_size integer NOT NULL,
  p_container char(10) NOT NULL, p_retailprice numeric(15,2) NOT NULL, p_comment varchar(23) NOT NULL);
CREATE TABLE partsupp (ps_partkey integer NOT NULL, ps_suppkey integer NOT NULL,
  ps_availqty integer NOT NULL, ps_supplycost numeric(15,2) NOT NULL, ps_comment varchar(199) NOT NULL);
CREATE TABLE orders (o_orderkey integer NOT NULL, o_custkey integer NOT NULL,
  o_orderstatus char(1) NOT NULL, o_totalprice numeric(15,2) NOT NULL, o_orderdate date NOT NULL,
  o_orderpriority char(15) NOT NULL, o_clerk char(15) NOT NULL, o_shippriority integer NOT NULL,
  o_comment varchar(79) NOT NULL);
CREATE TABLE lineitem (l_orderkey integer NOT NULL, l_partkey integer NOT NULL,
  l_suppkey integer NOT NULL, l_linenumber integer NOT NULL, l_quantity numeric(15,2) NOT NULL,
  l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
  l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL,
  l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL,
  l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, l_comment varchar(44) NOT NULL);",
    keys: &[
        ("lineitem", "l_orderkey, l_linenumber"),
        ("orders", "o_orderkey"),
        ("partsupp", "ps_partkey, ps_suppkey"),
        ("part", "p_partkey"),
        ("customer", "c_custkey"),
        ("supplier", "s_suppkey"),
        ("nation", "n_nationkey"),
        ("region", "r_regionkey"),
    ],
    halved: &["lineitem"],
};

pub(crate) const WIDE: Tables = Tables {
    name: "wide",
    create: "
CREATE TABLE wide (id bigint NOT NULL, small smallint, whole integer, large bigint, r real,
  d double precision, amount numeric(18,4), flag boolean, code char(8), name varchar(40), note text,
  day date, at timestamptz, ref uuid, doc jsonb, tags integer[]);",
    keys: &[("wide", "id")],
    halved: &["wide"],
};

pub(crate) const VALUES: Tables = Tables {
    name: "values",
    create: "CREATE TABLE large (id bigint NOT NULL, body bytea NOT NULL);",
    keys: &[("large", "id")],
    halved: &["large"],
};

/// The lengths follow from the position, so texts are of all lengths between the two.
const TEXT: &str = "
CREATE FUNCTION words(at bigint, shortest int, longest int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT substr(
    'furiously regular deposits sleep carefully across the blithely pending requests; quickly even '
    'accounts nag above the slyly ironic packages. express theodolites haggle after the final ideas '
    'unusual platelets detect fluffily among the bold instructions; silent foxes wake daringly even '
    'dependencies cajole around the special pinto beans, ruthless sauternes are never idle asymptotes',
    (1 + (at * 7919) % 170)::int, (shortest + (at * 104729) % (longest - shortest + 1))::int) $$;
CREATE FUNCTION price(at bigint, most int) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
  SELECT ((at * 15485863) % (most * 100::bigint))::numeric / 100 $$;";

fn tpch(settings: &Settings) -> String {
    let [suppliers, customers, parts, orders] =
        [10_000, 150_000, 200_000, 1_500_000].map(|rows| settings.scaled(rows));
    format!(
        "INSERT INTO region SELECT i, 'REGION ' || i, words(i, 31, 115) FROM generate_series(0, 4) i;
INSERT INTO nation SELECT i, 'NATION ' || i, i % 5, words(i, 31, 114) FROM generate_series(0, 24) i;
INSERT INTO supplier SELECT i, 'Supplier#' || lpad(i::text, 9, '0'), words(i, 10, 40), i % 25,
  '27-918-335-1736', price(i, 9999), words(i * 3, 25, 100) FROM generate_series(1, {suppliers}) i;
INSERT INTO customer SELECT i, 'Customer#' || lpad(i::text, 9, '0'), words(i, 10, 40), i % 25,
  '25-989-741-2988', price(i, 9999), 'BUILDING', words(i * 3, 29, 116)
  FROM generate_series(1, {customers}) i;
INSERT INTO part SELECT i, words(i, 27, 42), 'Manufacturer#' || i % 5, 'Brand#' || i % 55,
  'PROMO BURNISHED COPPER', i % 50, 'JUMBO PKG', price(i, 2000), words(i * 3, 5, 22)
  FROM generate_series(1, {parts}) i;
INSERT INTO partsupp SELECT p, 1 + (p + s * 2501) % {suppliers}, (p * 31 + s) % 9999,
  price(p * 4 + s, 1000), words(p * 4 + s, 49, 198)
  FROM generate_series(1, {parts}) p, generate_series(0, 3) s WHERE s < {suppliers};
INSERT INTO orders SELECT o, 1 + (o * 31) % {customers}, 'O', price(o, 400000),
  date '1992-01-01' + o % 2406, '5-LOW', 'Clerk#' || lpad((o % 1000)::text, 9, '0'), 0,
  words(o, 19, 78) FROM generate_series(1, {orders}) o;
INSERT INTO lineitem SELECT o, 1 + (o * 7 + l) % {parts}, 1 + (o * 3 + l) % {suppliers}, l,
  1 + (o + l) % 50, price(o * 7 + l, 100000), ((o + l) % 11)::numeric / 100,
  ((o + l) % 9)::numeric / 100, 'N', 'O', date '1992-01-02' + ((o + l) % 2500)::int,
  date '1992-01-31' + ((o + l) % 2460)::int, date '1992-01-03' + ((o + l) % 2520)::int, 'DELIVER IN PERSON',
  'TRUCK', words(o * 7 + l, 10, 43)
  FROM generate_series(1::bigint, {orders}) o, generate_series(1, 7) l WHERE l <= 1 + (o * 5) % 7;"
    )
}

/// As many rows as take about as long as the tables of [`TPCH`]: a copy of two seconds would measure how a
/// run starts.
fn wide(settings: &Settings) -> String {
    let rows = settings.scaled(4_000_000);
    format!(
        "INSERT INTO wide SELECT i, i % 30000, i * 7 % 2000000000, i * 1000003, i / 7.0, i / 3.0::float8,
  price(i, 9999999), i % 3 = 0, 'CODE' || i % 1000, words(i, 5, 40), words(i * 3, 20, 160),
  date '2000-01-01' + (i % 9000)::int, timestamptz '2020-01-01 00:00Z' + i * interval '1.7 s',
  md5(i::text)::uuid, jsonb_build_object('id', i, 'name', words(i, 5, 20), 'ok', i % 2 = 0),
  ARRAY[i % 10, i % 100, i % 1000]::int[] FROM generate_series(1::bigint, {rows}) i;"
    )
}

/// Values of 100,000 bytes that no compression makes smaller, of a pool of sixteen.
fn values(settings: &Settings) -> String {
    let rows = settings.scaled(5_000);
    format!(
        "INSERT INTO large SELECT i, body FROM generate_series(1, {rows}) i
  JOIN (SELECT n, decode(string_agg(md5(n || ' ' || j), ''), 'hex') AS body
          FROM generate_series(0, 15) n, generate_series(1, 6250) j GROUP BY n) pool
    ON n = i % 16;"
    )
}

impl Tables {
    /// Makes tables, rows and keys on the source.
    pub(crate) async fn fill(&self, database: &Database<'_>, settings: &Settings) -> Result<()> {
        let rows = match self.name {
            "load" => tpch(settings),
            "wide" => wide(settings),
            _ => values(settings),
        };
        database.make(None).await?;
        database.execute(self.create).await?;
        database.execute(TEXT).await?;
        database.execute(&rows).await?;
        database.execute(DROP_TEXT).await?;
        for (table, _) in self.keys {
            database.execute(&self.key_of(table)).await?;
        }
        database.execute("VACUUM ANALYZE").await
    }

    /// The statement that makes a table's primary key.
    pub(crate) fn key_of(&self, table: &str) -> String {
        let columns = self.keys.iter().find(|(name, _)| *name == table);
        let columns = columns.map_or("", |(_, columns)| columns);
        format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns})")
    }
}

const DROP_TEXT: &str = "DROP FUNCTION words; DROP FUNCTION price;";
