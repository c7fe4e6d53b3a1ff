//! Units of the in-memory target: a unit is in together with its record, or it is not.

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::Chunk;
use tidemark_core::error::{Error, Result};
use tidemark_core::mapping::TableMapping;
use tidemark_core::source::RowStream;
use tidemark_core::target::{LoadUnit, LoadedPart, Loader, Place, Replace};

use super::{SimTarget, State};
use crate::source::table_of;
use crate::world::{Row, has_key};

pub(super) struct SimLoader {
    pub(super) target: SimTarget,
    pub(super) usable: bool,
}

#[async_trait]
impl Loader for SimLoader {
    async fn load(
        &mut self,
        mapping: &TableMapping,
        unit: &LoadUnit<'_>,
        rows: &mut dyn RowStream,
        progress: &(dyn Fn(LoadedPart) + Send + Sync),
    ) -> Result<LoadedPart> {
        self.usable = false;
        let mut read: Vec<Row> = Vec::new();
        while let Some(block) = rows.next().await? {
            let text = std::str::from_utf8(&block.bytes).expect("JSON");
            read.extend(
                text.lines()
                    .map(|line| serde_json::from_str::<Row>(line).expect("a row")),
            );
            progress(LoadedPart {
                rows: block.rows,
                bytes: block.bytes.len() as u64,
            });
        }
        let count = read.len() as u64;
        let table = table_of(mapping);
        // Other workers commit meanwhile: what is changed is changed at the commit.
        self.target.world.call("unit").await?;
        let new = {
            let mut new = self.target.lock().clone();
            let place = match unit.place {
                Place::InPlace => &mut new.rows[table],
                Place::Beside => &mut new.beside[table],
            };
            if unit.replace == Replace::Range {
                let Chunk::Rows { keys, .. } = &unit.unit.chunk else {
                    panic!("repairs rows")
                };
                place.retain(|row, _| !keys.iter().any(|key| Some(&key[0]) == row[0].as_ref()));
            }
            for row in read {
                if has_key(table) {
                    assert!(
                        !place.keys().any(|other| other[0] == row[0]),
                        "a row loaded twice"
                    );
                }
                *place.entry(row).or_default() += 1;
            }
            let recorded = SimTarget::table_mut(&mut new, mapping.source());
            let known = recorded
                .units
                .iter_mut()
                .find(|u| u.number == unit.unit.number);
            let known = known.expect("units are recorded before they are loaded");
            assert!(!known.is_loaded, "a unit is loaded again");
            known.is_loaded = true;
            known.rows = count;
            known.tidemark = Some(unit.tidemark.clone());
            new
        };
        self.commit_at_once(new)?;
        self.target.world.call("unit committed").await?;
        self.usable = true;
        Ok(LoadedPart {
            rows: count,
            bytes: count * 10,
        })
    }

    fn is_usable(&self) -> bool {
        self.usable
    }
}

impl SimLoader {
    /// Without a pause between reading the state and writing it: workers are concurrent.
    fn commit_at_once(&self, new: State) -> Result<()> {
        let mut state = self.target.lock();
        if state.generation != self.target.generation() {
            return Err(Error::definite(
                codes::INTERNAL,
                "an older generation commits",
            ));
        }
        *state = new;
        Ok(())
    }
}
