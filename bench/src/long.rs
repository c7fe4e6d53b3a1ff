//! Long and large: what could make memory grow, and what may take time no more than in proportion.
//!
//! Each case is made on the source after the load, so that the program meets it in the log, and is
//! measured from start to end of `tidemark run --until caught-up`. Nobody else is measured: what
//! counts is the memory, and rows per second from one scale to the next (`BENCH_SCALE`).

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::load::run_tidemark;
use crate::meter::Meter;
use crate::pipeline_file::PipelineFile;
use crate::settings::Settings;
use crate::stage::Stage;

const NAME: &str = "bench_long";

struct Case {
    what: String,
    tables: String,
    changes: String,
    /// Rows that change.
    rows: u64,
    /// Equal on both sides in the end.
    digest: &'static str,
}

const ROWS: &str =
    "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM t";

fn cases(settings: &Settings) -> Vec<Case> {
    let table = "CREATE TABLE t (id bigint PRIMARY KEY, body text)";
    let rows = settings.scaled(10_000_000);
    let savepoints = settings.scaled(100_000);
    let tables = settings.scaled(10_000);
    let bytes = settings.scaled(500_000_000);
    let each_table = |statement: &str| {
        format!(
            "DO $$ BEGIN FOR n IN 1..{tables} LOOP EXECUTE format('{statement}', n); COMMIT; END LOOP; END $$"
        )
    };
    vec![
        Case {
            what: format!("a transaction of {rows} rows"),
            tables: table.to_owned(),
            changes: format!("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, {rows}) i"),
            rows,
            digest: ROWS,
        },
        Case {
            what: format!("a transaction of {savepoints} savepoints, every third rolled back"),
            tables: table.to_owned(),
            changes: format!(
                "DO $$ BEGIN FOR i IN 1..{savepoints} LOOP BEGIN INSERT INTO t VALUES (i, 'kept'); \
                 IF i % 3 = 0 THEN RAISE EXCEPTION 'back'; END IF; \
                 EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$"
            ),
            rows: savepoints,
            digest: ROWS,
        },
        Case {
            what: format!("a value of {bytes} bytes"),
            tables: "CREATE TABLE t (id int PRIMARY KEY, body bytea); ALTER TABLE t ALTER body SET STORAGE EXTERNAL"
                .to_owned(),
            changes: format!("INSERT INTO t SELECT 1, decode(repeat(md5('v'), {}), 'hex')", bytes.div_ceil(16)),
            rows: 1,
            digest: "SELECT count(*) || md5(string_agg(sha256(body)::text, '' ORDER BY id)) FROM t",
        },
        Case {
            what: format!("{tables} tables, a row of each"),
            tables: each_table("CREATE TABLE t%s (id int PRIMARY KEY, body text)"),
            changes: each_table("INSERT INTO t%s VALUES (1, md5(''''))"),
            rows: tables,
            digest: "SELECT sum((xpath('//c/text()', query_to_xml(format('SELECT count(*) AS c FROM %s', \
                     oid::regclass), false, true, '')))[1]::text::int) FROM (SELECT oid FROM pg_class \
                     WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
                     ORDER BY relname DESC LIMIT 1000) AS last",
        },
    ]
}

/// Measures all cases and prints what each took.
pub(crate) async fn measure(stage: &Stage, settings: &Settings) -> Result<()> {
    for case in cases(settings) {
        let (seconds, peak) = run(stage, &case).await.with_context(|| case.what.clone())?;
        writeln!(
            std::io::stdout(),
            "{}: {seconds:.1} s, {:.0} rows/s, peak memory {} MB",
            case.what,
            case.rows as f64 / seconds,
            peak / 1_000_000,
        )?;
    }
    Ok(())
}

/// How many seconds it took, and the most memory in bytes.
async fn run(stage: &Stage, case: &Case) -> Result<(f64, u64)> {
    let (source, target) = (stage.on_source(NAME), stage.on_target(NAME));
    source.make(None).await?;
    target.make(None).await?;
    source.execute(&case.tables).await?;
    let file = PipelineFile {
        name: NAME,
        mode: "full_load_and_cdc",
        source: &source,
        target: &target,
    };
    let path = file.write(stage)?;
    run_tidemark(stage, &path, &["--until", "caught-up"])?;
    source.execute(&case.changes).await?;
    stage.settle().await?;
    let meter = Meter::start(stage);
    let peak = run_tidemark(stage, &path, &["--until", "caught-up"])?;
    let cost = meter.read(peak);
    let (wanted, found) = (
        source.value(case.digest).await?,
        target.value(case.digest).await?,
    );
    if wanted != found {
        bail!("the target has {found}, the source {wanted}");
    }
    source.drop().await?;
    target.drop().await?;
    Ok((cost.wall_s, peak))
}
