//! Prerequisites of the target.

use tidemark_core::Result;
use tidemark_core::catalogue::codes;
use tidemark_core::finding::{Finding, Side, Verdict};
use tidemark_core::mapping::TableMapping;

use super::PgTarget;

impl PgTarget {
    /// What stands in the way of writing.
    pub async fn check_target(&self, _tables: &[TableMapping]) -> Result<Vec<Finding>> {
        let (verdict, found) = match self.session().await {
            Ok(session) => {
                session.keep();
                (Verdict::Passed, "reachable".to_owned())
            }
            Err(err) => (Verdict::Failed, err.to_string()),
        };
        let (why, fixes) = (String::new(), Vec::new());
        Ok(vec![Finding {
            code: codes::TARGET_UNREACHABLE,
            verdict,
            side: Side::Target,
            found,
            why,
            fixes,
        }])
    }
}
