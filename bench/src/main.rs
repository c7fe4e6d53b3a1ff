//! `make bench`: every row of the speed requirements, measured beside its peers in one run.
//!
//! - [`settings`]: what is asked
//! - [`stage`]: two servers, the programs
//! - [`data`], [`load`]: full loads; [`drain`]: backlogs; [`compare`]; [`latency`]
//! - [`serve`], [`fleet`]: a server, alone and with many pipelines; [`served`]: how it is asked
//! - [`long`]: what could make memory grow; only when asked for
//! - [`meter`]: what a run costs; [`report`]: medians and requirements; [`page`]: text of it all
//!
//! Never run as a test: a figure is for people to judge, on a machine that does nothing else.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;

mod compare;
mod data;
mod drain;
mod fleet;
mod latency;
mod load;
mod long;
mod meter;
mod page;
mod pipeline_file;
mod report;
mod serve;
mod served;
mod settings;
mod stage;

use drain::Backlog;
use load::Against;
use report::Contest;
use settings::Settings;
use stage::Stage;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match measure().await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(std::io::stderr(), "bench: {error:#}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn measure() -> Result<()> {
    let settings = Settings::parse(std::env::args().skip(1))?;
    let load_before = page::load_average();
    let stage = Stage::start(&settings.tidemark).await?;
    let mut contests = Vec::new();
    for (part, tables, against) in [
        ("load", &data::TPCH, Against::Everybody),
        ("wide", &data::WIDE, Against::RawPipes),
        ("values", &data::VALUES, Against::RawPipes),
    ] {
        if settings.has(part) {
            announce(part)?;
            show(
                &mut contests,
                load::measure(&stage, &settings, tables, against).await?,
            )?;
        }
    }
    for (part, backlog) in [
        ("inserts", Backlog::Inserts),
        ("updates", Backlog::Updates),
        ("tpcb", Backlog::TpcB),
        ("bulk", Backlog::BulkInsert),
        ("bulk", Backlog::BulkUpdate),
        ("bulk", Backlog::BulkDelete),
    ] {
        if settings.has(part) {
            announce(backlog.name())?;
            show(
                &mut contests,
                drain::measure(&stage, &settings, backlog).await?,
            )?;
        }
    }
    if settings.has("compare") {
        announce("verify and reconcile")?;
        for contest in compare::measure(&stage, &settings).await? {
            show(&mut contests, contest)?;
        }
    }
    if settings.has("latency") {
        announce("latency")?;
        show(&mut contests, latency::measure(&stage, &settings).await?)?;
    }
    if settings.has("serve") {
        announce("serve")?;
        show(&mut contests, serve::measure(&stage, &settings).await?)?;
    }
    if settings.has("fleet") {
        announce("fleet")?;
        show(&mut contests, fleet::measure(&stage, &settings).await?)?;
    }
    if settings.has("long") {
        announce("long")?;
        long::measure(&stage, &settings).await?;
    }
    write!(std::io::stdout(), "\n{}", page::tables(&contests))?;
    if let Some(path) = &settings.page {
        let page = page::page(&stage, &settings, load_before, &contests);
        std::fs::write(path, page)?;
    }
    Ok(())
}

fn announce(work: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "bench: {work} ...")?)
}

fn show(contests: &mut Vec<Contest>, contest: Contest) -> Result<()> {
    let text = page::tables(std::slice::from_ref(&contest));
    writeln!(std::io::stderr(), "{text}")?;
    contests.push(contest);
    Ok(())
}
