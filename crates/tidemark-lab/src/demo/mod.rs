//! The sample of `tidemark demo`: a shop of six tables with every trap that copies fall into, and
//! the customers who keep it busy.
//!
//! | table | trap |
//! |--|--|
//! | `customers` | personal data, to be masked |
//! | `products` | a generated column, a secondary unique key |
//! | `orders` | partitioned, enum, interval |
//! | `order_items` | most of the rows, a name and columns to be renamed (`oid`, `qty`) |
//! | `audit_log` | no key, replica identity full, equal rows |
//! | `curiosities` | NaN, infinity, BC, '' beside NULL, Unicode, `\N`, a 3 MB value no update touches |
//!
//! The rows follow from their numbers, so that every run makes the same ones. They are made inside
//! the server on two sessions at once.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use tokio_postgres::{Client, Config, NoTls};

use crate::random::Random;
use crate::traffic::{Ending, Script, Workload};

const TABLES: &str = include_str!("tables.sql");
const CURIOSITIES: &str = include_str!("curiosities.sql");
const CURIOSITY_ROWS: u64 = 17;

/// How many rows the shop has when nobody says otherwise.
pub const ROWS: u64 = 823_417;

/// Fewer would leave a table empty.
pub const ROWS_MIN: u64 = 10_000;

/// How many rows each table gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shop {
    customers: u64,
    products: u64,
    orders: u64,
    items: u64,
    audits: u64,
}

impl Shop {
    /// A shop of exactly this many rows in all tables together, at least [`ROWS_MIN`].
    pub fn of(rows: u64) -> Result<Shop> {
        ensure!(rows >= ROWS_MIN, "the shop needs at least {ROWS_MIN} rows");
        let share = |of_default: u64| {
            let exact = u128::from(rows) * u128::from(of_default) / u128::from(ROWS);
            u64::try_from(exact).unwrap_or(u64::MAX)
        };
        let (customers, products) = (share(20_000), share(1_200));
        let (orders, items) = (share(200_000), share(600_000));
        let audits = rows - customers - products - orders - items - CURIOSITY_ROWS;
        Ok(Shop {
            customers,
            products,
            orders,
            items,
            audits,
        })
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.customers + self.products + self.orders + self.items + self.audits + CURIOSITY_ROWS
    }

    /// Makes tables and rows in an empty database.
    pub async fn create(&self, config: &Config) -> Result<()> {
        let (one, two) = try_join(connect(config), connect(config)).await?;
        one.batch_execute(TABLES)
            .await
            .context("create the tables of the shop")?;
        let partitions = self.partitions();
        one.batch_execute(&partitions)
            .await
            .context("create the partitions of the shop")?;
        // No statement waits for another session's: the foreign keys come last.
        let (items, others) = (
            self.items_sql(),
            [self.others_sql(), CURIOSITIES.to_owned()].concat(),
        );
        try_join(one.batch_execute(&items), two.batch_execute(&others))
            .await
            .context("fill the shop")?;
        one.batch_execute(FOREIGN_KEYS)
            .await
            .context("tie the tables of the shop together")
    }

    fn partitions(&self) -> String {
        let quarter = self.orders.div_ceil(4).max(1);
        let (second, third, fourth) = (quarter + 1, 2 * quarter + 1, 3 * quarter + 1);
        format!(
            "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ({second});
             CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM ({second}) TO ({third});
             CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM ({third}) TO ({fourth});
             CREATE TABLE orders_4 PARTITION OF orders FOR VALUES FROM ({fourth}) TO (MAXVALUE);"
        )
    }

    fn items_sql(&self) -> String {
        let Shop {
            products,
            orders,
            items,
            ..
        } = self;
        format!(
            "INSERT INTO order_items (id, oid, product_id, qty, price, discount, internal_note)
             SELECT i, 1 + i % {orders}, 1 + (i * 7919) % {products}, 1 + i % 5,
               (i % 20000) / 100.0, CASE WHEN i % 9 = 0 THEN 0.1 * (i % 7) END,
               CASE i % 50 WHEN 0 THEN '' WHEN 1 THEN 'fragile, handle like an egg 🥚' END
             FROM generate_series(1::bigint, {items}) i;
             ALTER TABLE order_items ADD PRIMARY KEY (id);
             CREATE INDEX ON order_items (oid);
             SELECT setval(pg_get_serial_sequence('order_items', 'id'), {items});"
        )
    }

    fn others_sql(&self) -> String {
        let Shop {
            customers,
            products,
            orders,
            audits,
            ..
        } = self;
        format!(
            "INSERT INTO customers (id, name, email, phone, born, settings, created)
             SELECT i, 'Customer ' || i || CASE i % 10 WHEN 0 THEN ' Ærøskøbing' WHEN 1 THEN ' 陳' ELSE '' END,
               'customer' || i || '@example.invalid', CASE WHEN i % 3 > 0 THEN '+49 30 ' || 100000 + i END,
               date '1930-01-01' + (i * 7 % 30000)::int,
               jsonb_build_object('news', i % 2 = 0, 'limit', i % 1000 / 10.0),
               timestamptz '2020-01-01 00:00:00+00' + i * interval '1 hour'
             FROM generate_series(1::bigint, {customers}) i;
             ALTER TABLE customers ADD PRIMARY KEY (id);
             SELECT setval(pg_get_serial_sequence('customers', 'id'), {customers});
             INSERT INTO products (id, code, title, price, stock, tags)
             SELECT i, md5(i::text)::uuid, 'Product number ' || i, i % 500 + 0.99, 1000000,
               CASE i % 3 WHEN 0 THEN '{{}}' ELSE ARRAY['tag ' || i % 7, NULL] END
             FROM generate_series(1, {products}) i;
             SELECT setval(pg_get_serial_sequence('products', 'id'), {products});
             INSERT INTO orders (id, customer_id, status, placed, deliver_within, address, total)
             SELECT i, 1 + (i * 31) % {customers},
               (ARRAY['new', 'paid', 'shipped', 'cancelled'])[1 + i % 4]::order_status,
               timestamptz '2023-01-01 00:00:00+00' + i * interval '2 minutes',
               CASE WHEN i % 5 > 0 THEN (i % 30) * interval '1 day 1 hour' END,
               CASE WHEN i % 4 > 0 THEN i % 200 || ' Harbour Road, floor ' || i % 12 END, (i % 90000) / 100.0
             FROM generate_series(1::bigint, {orders}) i;
             ALTER TABLE orders ADD PRIMARY KEY (id);
             SELECT setval(pg_get_serial_sequence('orders', 'id'), {orders});
             INSERT INTO audit_log (at, actor, address, message)
             SELECT timestamptz '2024-01-01 00:00:00+00' + (i / 2) * interval '1 second', 'clerk ' || i % 9,
               ('10.0.' || i % 200 || '.1/24')::inet, CASE WHEN i % 7 > 0 THEN 'looked at order ' || i / 2 END
             FROM generate_series(1::bigint, {audits}) i;"
        )
    }
}

const FOREIGN_KEYS: &str = "
    ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
    ALTER TABLE order_items ADD FOREIGN KEY (oid) REFERENCES orders ON DELETE CASCADE;
    ALTER TABLE order_items ADD FOREIGN KEY (product_id) REFERENCES products;
    ANALYZE;";

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("connect to the shop")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session of the shop ended");
        }
    });
    client
        .batch_execute("SET work_mem = '128MB'; SET maintenance_work_mem = '256MB'")
        .await?;
    Ok(client)
}

/// The customers: orders, payments, shipments, cancellations, and clerks who look.
impl Workload for Shop {
    fn setup(&self) -> String {
        // Shop::create does it in two sessions; in one it is the same.
        let parts = [
            TABLES,
            &self.partitions(),
            &self.items_sql(),
            &self.others_sql(),
            CURIOSITIES,
            FOREIGN_KEYS,
        ];
        parts.concat()
    }

    fn transaction(&self, writer: usize, random: &mut Random) -> Script {
        let order = 1 + random.below(self.orders);
        let customer = 1 + random.below(self.customers);
        let number = random.below(1_000_000);
        let body = match random.below(20) {
            0..=7 => self.place_order(customer, random),
            8..=11 => format!(
                "UPDATE orders SET status = 'paid', total = {number} / 100.0 WHERE id = {order};"
            ),
            12 | 13 => format!("UPDATE orders SET status = 'shipped' WHERE id = {order};"),
            14 => format!("DELETE FROM orders WHERE id = {order};"),
            15 => format!(
                "UPDATE customers SET email = 'new{number}@example.invalid', \
                 settings = settings || '{{\"moved\": {number}}}' WHERE id = {customer};"
            ),
            16 | 17 => format!(
                "INSERT INTO audit_log (actor, message) VALUES ('clerk {writer}', 'saw {order}'), \
                 ('clerk {writer}', NULL);"
            ),
            18 => format!(
                "UPDATE audit_log SET message = 'seen' WHERE ctid = (SELECT ctid FROM audit_log \
                 WHERE message IS NULL LIMIT 1 OFFSET {});",
                number % 20
            ),
            _ => format!(
                "UPDATE curiosities SET looks = looks + 1 WHERE id = {};",
                1 + number % CURIOSITY_ROWS
            ),
        };
        if random.below(50) == 0 {
            return Script {
                sql: ["BEGIN;", &body, "ROLLBACK"].concat(),
                ending: Ending::Rollback,
            };
        }
        Script {
            sql: ["BEGIN;", &body, "COMMIT"].concat(),
            ending: Ending::Commit,
        }
    }
}

impl Shop {
    fn place_order(&self, customer: u64, random: &mut Random) -> String {
        let mut sql = format!("INSERT INTO orders (customer_id) VALUES ({customer});");
        // In ascending order, so that two orders do not wait for each other's products.
        let mut products: Vec<u64> = (0..=random.below(3))
            .map(|_| 1 + random.below(self.products))
            .collect();
        products.sort_unstable();
        products.dedup();
        for product in products {
            sql.push_str(&sell(product, 1 + random.below(4)));
        }
        sql
    }
}

fn sell(product: u64, quantity: u64) -> String {
    format!(
        "INSERT INTO order_items (oid, product_id, qty, price) SELECT \
         currval('orders_id_seq'), {product}, {quantity}, price FROM products WHERE id = {product}; \
         UPDATE products SET stock = stock - {quantity} WHERE id = {product};"
    )
}

#[cfg(test)]
mod tests {
    use super::{ROWS, ROWS_MIN, Shop};

    #[test]
    fn has_exactly_the_rows_that_were_asked_for() {
        for rows in [ROWS, ROWS_MIN, 50_000, 10_000_019] {
            let shop = Shop::of(rows).unwrap();
            assert_eq!(shop.rows(), rows);
            assert!(shop.audits > 0 && shop.products > 0);
        }
        assert_eq!(Shop::of(ROWS).unwrap().items, 600_000);
        assert!(Shop::of(ROWS_MIN - 1).is_err());
    }
}
