//! A pooler in between: noticed by the process that answers, which is not the one of the login.

use tidemark_lab::pooler::{Lends, Pooler};

use super::{ROWS, Refusal, assert_check_fails, assert_refused, assert_succeeds, checked};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn f52_a_source_behind_a_pooler_is_refused() {
    let stage = Stage::new("bad_pooled_source").await;
    stage.source_sql(ROWS).await;
    for lends in [Lends::WholeSession, Lends::OneTransaction] {
        let pooler = Pooler::start(stage.source_server.port(), lends)
            .await
            .unwrap();
        let server = stage.source_server;
        let url = server.url_through(pooler.address(), &stage.source_name);
        stage.write_between(&url, &stage.target_url(), "");
        let (code, exit, words) = ("TM1025", 6, &["pooler", "source.url"][..]);
        assert_refused(&stage, Refusal { code, exit, words }).await;
        assert_check_fails(&stage, code).await;
    }
    stage.write("");
    assert_succeeds(&stage).await;
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f52_a_target_behind_a_pooler_needs_whole_sessions() {
    let stage = Stage::new("bad_pooled_target").await;
    stage.source_sql(ROWS).await;
    let through = async |lends| {
        let server = stage.target_server;
        let pooler = Pooler::start(server.port(), lends).await.unwrap();
        let url = server.url_through(pooler.address(), &stage.target_name);
        stage.write_between(&stage.source_url(), &url, "");
        pooler
    };
    let pooler = through(Lends::OneTransaction).await;
    let (code, exit, words) = ("TM2025", 6, &["shares sessions", "target.url"][..]);
    assert_refused(&stage, Refusal { code, exit, words }).await;
    assert_check_fails(&stage, code).await;
    drop(pooler);

    let _pooler = through(Lends::WholeSession).await;
    assert_eq!(checked(&stage, code).await.0, "warning");
    assert_succeeds(&stage).await;
    stage.clear().await;
}
