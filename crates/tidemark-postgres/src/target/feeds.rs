//! Who writes into a database: pipelines that run now and have it as their target, as their own records
//! there tell. Asked of a source, before it is copied to where its rows come from.

use tidemark_core::Result;
use tidemark_core::checkpoint::SourceIdentity;
use tidemark_core::config::ChangeOrigin;
use tidemark_core::schema::TableName;
use tidemark_core::source::Feed;

use super::{origin, owner};
use crate::wire::Connection;

/// The records may be of another version, but these columns are of the first.
const READABLE: &str = "SELECT count(*) = 2 FROM pg_class c \
     WHERE c.relnamespace = to_regnamespace('tidemark') \
       AND c.relname IN ('checkpoint', 'table_state') \
       AND has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')";

const FEEDS: &str = "SELECT c.pipeline, c.system, c.timeline, c.database, \
            t.target_schema, t.target_name \
     FROM tidemark.checkpoint c JOIN tidemark.table_state t USING (pipeline) \
     WHERE c.system IS NOT NULL ORDER BY 1, 5, 6";

/// Who marks what it applies leaves out what others mark: the configuration sees to that.
const IS_MARKED: &str = "SELECT EXISTS (SELECT FROM pg_replication_origin WHERE roname = $1)";

/// See the module's text. A role that may not read the records sees none.
pub(crate) async fn read(connection: &mut Connection, wanted: ChangeOrigin) -> Result<Vec<Feed>> {
    let readable = connection.query(READABLE, &[]).await?;
    if !readable.one()?.get_bool(0)? {
        return Ok(Vec::new());
    }
    let set = connection.query(FEEDS, &[]).await?;
    let mut feeds: Vec<Feed> = Vec::new();
    for row in &set.rows {
        let pipeline = row.get_str(0)?;
        let table = TableName::new(row.get_str(4)?, row.get_str(5)?);
        match feeds.last_mut() {
            Some(feed) if feed.pipeline == pipeline => feed.tables.push(table),
            _ => feeds.push(Feed {
                pipeline: pipeline.to_owned(),
                source: SourceIdentity {
                    system: row.get_str(1)?.to_owned(),
                    timeline: row.get(2)?,
                    database: row.get_str(3)?.to_owned(),
                },
                tables: vec![table],
                is_left_out: false,
            }),
        }
    }
    let mut running = Vec::new();
    for mut feed in feeds {
        if owner::holder(connection, &feed.pipeline).await?.is_some() {
            let name = origin::name(&feed.pipeline);
            let marked = connection.query(IS_MARKED, &[Some(&name)]).await?;
            feed.is_left_out = wanted == ChangeOrigin::None && marked.one()?.get_bool(0)?;
            running.push(feed);
        }
    }
    Ok(running)
}
