//! What a run of the benchmark is asked to do: its arguments, which `bench/run` makes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The parts, in the order they are measured.
pub(crate) const PARTS: [&str; 11] = [
    "load", "wide", "values", "inserts", "updates", "tpcb", "bulk", "compare", "latency", "serve",
    "fleet",
];

/// What is measured only when it is asked for by name: it takes long, and has no peers.
const ASKED_FOR: [&str; 1] = ["long"];

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// 1 is what the requirements speak of; 0.1 is a tenth of the rows.
    pub(crate) scale: f64,
    /// How often everything is measured; the medians count.
    pub(crate) runs: usize,
    /// Which parts.
    parts: Vec<String>,
    /// Whether the others are measured too.
    pub(crate) peers: Peers,
    /// Where the page goes, if anywhere.
    pub(crate) page: Option<PathBuf>,
    /// The program.
    pub(crate) tidemark: PathBuf,
}

/// Whether the others are measured too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    Measured,
    LeftOut,
}

impl Settings {
    /// From the command line, the program's name left out.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Settings> {
        let mut settings = Settings {
            scale: 1.0,
            runs: 3,
            parts: PARTS.map(str::to_owned).to_vec(),
            peers: Peers::Measured,
            page: None,
            tidemark: PathBuf::from("target/release/tidemark"),
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            settings.set(&name, &value)?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--scale" => {
                self.scale = value.parse().context("--scale takes a number")?;
                if !(0.001..=10.0).contains(&self.scale) {
                    bail!("--scale is between 0.001 and 10");
                }
            }
            "--runs" => {
                self.runs = value.parse().context("--runs takes a number")?;
                if self.runs == 0 {
                    bail!("--runs is at least 1");
                }
            }
            "--only" if value == "all" => {}
            "--only" => {
                self.parts = value.split(',').map(str::to_owned).collect();
                if let Some(unknown) = self.parts.iter().find(|p| !is_part(p)) {
                    bail!(
                        "no part is called {unknown}; there are {}",
                        [&PARTS[..], &ASKED_FOR].concat().join(", ")
                    );
                }
            }
            "--peers" => {
                self.peers = match value {
                    "yes" => Peers::Measured,
                    "no" => Peers::LeftOut,
                    _ => bail!("--peers takes yes or no"),
                }
            }
            "--page" => self.page = Some(PathBuf::from(value)),
            "--tidemark" => self.tidemark = PathBuf::from(value),
            _ => bail!("there is no option {name}"),
        }
        Ok(())
    }

    /// Whether a part is measured.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|p| p == part)
    }

    /// A number of rows or transactions at this scale.
    pub(crate) fn scaled(&self, count: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "both factors are positive and small"
        )]
        let scaled = (count as f64 * self.scale).round() as u64;
        scaled.max(1)
    }
}

fn is_part(name: &str) -> bool {
    PARTS.contains(&name) || ASKED_FOR.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::{Peers, Settings};

    fn parse(line: &str) -> anyhow::Result<Settings> {
        Settings::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_what_the_script_passes() {
        let settings = parse("--scale 0.1 --only load,latency --peers no --page p.md").unwrap();
        assert!(settings.has("load") && settings.has("latency") && !settings.has("tpcb"));
        assert_eq!(settings.scaled(1_000_000), 100_000);
        assert_eq!(settings.peers, Peers::LeftOut);
        let all = parse("--only all").unwrap();
        assert!(all.has("bulk") && !all.has("long"));
        assert!(parse("--only long").unwrap().has("long"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in [
            "--only loud",
            "--runs 0",
            "--scale x",
            "--sacle 1",
            "--page",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
