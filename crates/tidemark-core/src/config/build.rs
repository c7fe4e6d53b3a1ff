//! From [`Settings`] to a [`PipelineConfig`]: what single keys mean together.

use std::time::Duration;

use super::choice::{Choice, Create, MaskKind, OnMaxRetained, OnRowError, Origin as ChangeOrigin};
use super::endpoint::{self, Connections};
use super::keys::LATER_VALUES;
use super::memory::Memory;
use super::problem::{Located, Place, Problem, Problems, suggestion};
use super::secret::Secret;
use super::settings::{Settings, Value};
use super::{
    LoadConfig, PipelineConfig, PostgresSource, Reach, RelayConfig, SourceConfig, StreamConfig,
    TargetConfig, VerifyConfig,
};
use crate::catalogue::codes;
use crate::filter::Filter;
use crate::mapping::{ColumnPattern, MaskRule, MaskWith, Rules, TableRule};
use crate::pipeline::plan::{CdcStart, Mode};
use crate::position::{Lsn, Position};
use crate::quarantine;
use crate::selection::{Pattern, Selection};
use crate::target::Existing;

/// Puts the pipeline together; `None` where something needed is missing, which was recorded.
pub(super) fn build(
    settings: &Settings,
    connections: &Connections,
    problems: &mut Problems,
) -> Option<PipelineConfig> {
    let source = endpoint::endpoint("source", settings, connections, problems);
    let target = endpoint::endpoint("target", settings, connections, problems);
    let mode: Option<Mode> = choice(settings, "pipeline.mode");
    let start = start(settings, mode, problems);
    refuse_what_nobody_minds(settings, problems);
    marks_and_leaves_out(settings, problems);
    swaps_a_load_alone(settings, mode, problems);
    let mut rules = rules(settings, problems);
    let alerts = super::alert::alerts(settings, mode, problems);
    let schedule = super::schedule::schedule(settings, mode, problems);
    let name = settings.text("pipeline.name").map(|name| name.value);
    let (source, target, name, mode) = (source?, target?, name?, mode?);
    rules.is_same_database = endpoint::is_same_database(&source, &target);
    let postgres = postgres_source(settings, &name, problems)?;
    Some(PipelineConfig {
        alerts,
        schedule,
        mode,
        start: start?,
        description: settings.text("pipeline.description").map(|text| text.value),
        tags: settings
            .list("pipeline.tags")
            .into_iter()
            .map(|tag| tag.value)
            .collect(),
        memory: Memory(settings.number("pipeline.memory")?),
        source: SourceConfig {
            endpoint: source,
            postgres,
        },
        target: TargetConfig {
            endpoint: target,
            create_tables: settings.flag("target.create_tables")?,
            existing: choice(settings, "target.existing")?,
            on_schema_change: choice(settings, "target.on_schema_change")?,
            on_conflict: choice(settings, "target.on_conflict")?,
            on_truncate: choice(settings, "target.on_truncate")?,
            mark_origin: settings.flag("target.mark_origin")?,
        },
        new_tables: choice(settings, "tables.new_tables")?,
        rules,
        load: load(settings)?,
        stream: stream(settings)?,
        verify: VerifyConfig {
            after_load: choice(settings, "verify.after_load")?,
            max_rows_per_second: limit(settings, "verify.max_rows_per_second"),
        },
        name,
        reach: Reach::default(),
    })
}

/// A value that the engine would pass over is an error: going on would not be what was asked for.
fn refuse_what_nobody_minds(settings: &Settings, problems: &mut Problems) {
    for (path, minded, why) in LATER_VALUES {
        let Some(setting) = settings.get(path) else {
            continue;
        };
        let is_minded = match &setting.value {
            Value::Text(word) => word == minded,
            Value::Count(number) | Value::Bytes(number) => number.to_string() == *minded,
            _ => false,
        };
        if !is_minded {
            problems.push(
                Problem::new(
                    codes::CONFIG_LATER,
                    format!("this value of `{path}` is not in this version"),
                )
                .at(setting.place.clone())
                .label(*why),
            );
        }
    }
}

/// Who marks what it applies does so for another that copies back; and must not send back in turn what
/// that one marks.
fn marks_and_leaves_out(settings: &Settings, problems: &mut Problems) {
    let leaves_out = choice(settings, "source.postgres.origin") == Some(ChangeOrigin::None);
    if settings.flag("target.mark_origin") == Some(true)
        && !leaves_out
        && let Some(setting) = settings.get("target.mark_origin")
    {
        problems.push(
            Problem::new(
                codes::CONFIG_CONFLICT,
                "`mark_origin` goes with `source.postgres.origin = \"none\"`",
            )
            .at(setting.key_place.clone())
            .label("changes that another pipeline brings to the source would be sent back to it"),
        );
    }
}

/// A load that is followed by changes goes on where it was cut off, in the table itself; there a single
/// table is loaded anew by a resync.
fn swaps_a_load_alone(settings: &Settings, mode: Option<Mode>, problems: &mut Problems) {
    let swaps = choice(settings, "target.existing") == Some(Existing::Swap);
    if swaps
        && mode.is_some_and(|mode| mode != Mode::FullLoadOnly)
        && let Some(setting) = settings.get("target.existing")
    {
        problems.push(
            Problem::new(
                codes::CONFIG_CONFLICT,
                "`existing = \"swap\"` is for `full_load_only` alone",
            )
            .at(setting.place.clone())
            .label("a table of a pipeline that streams is loaded anew by `tidemark resync`"),
        );
    }
}

fn choice<T: Choice>(settings: &Settings, path: &str) -> Option<T> {
    T::from_word(&settings.text(path)?.value)
}

/// A limit of which 0 means none.
fn limit(settings: &Settings, path: &str) -> Option<u64> {
    settings.number(path).filter(|limit| *limit > 0)
}

fn small(settings: &Settings, path: &str) -> Option<u32> {
    u32::try_from(settings.number(path)?).ok()
}

fn load(settings: &Settings) -> Option<LoadConfig> {
    Some(LoadConfig {
        parallel_tables: small(settings, "load.parallel_tables")?,
        parallel_chunks: small(settings, "load.parallel_chunks")?,
        chunk_bytes: settings.number("load.chunk_size")?,
        max_source_rows_per_second: limit(settings, "load.max_source_rows_per_second"),
    })
}

fn stream(settings: &Settings) -> Option<StreamConfig> {
    let size = |path: &str| usize::try_from(settings.number(path)?).ok();
    let heartbeat = settings.time("stream.heartbeat_interval")?;
    Some(StreamConfig {
        batch_rows_max: size("stream.batch_rows")?,
        batch_bytes_max: size("stream.batch_bytes")?,
        heartbeat_interval: (heartbeat > Duration::ZERO).then_some(heartbeat),
        catalog_interval: settings.time("stream.catalog_interval")?,
        spool_dir: settings.text("stream.spool_dir").map(|path| path.value),
    })
}

fn postgres_source(
    settings: &Settings,
    name: &str,
    problems: &mut Problems,
) -> Option<PostgresSource> {
    let text = |path: &str| settings.text(path).map(|text| text.value);
    let slot = text("source.postgres.slot")
        .unwrap_or_else(|| format!("tidemark_{}", name.replace('-', "_")));
    check_release(settings, problems);
    Some(PostgresSource {
        publication: text("source.postgres.publication").unwrap_or_else(|| slot.clone()),
        slot,
        create: choice(settings, "source.postgres.create")?,
        slot_behind: choice(settings, "source.postgres.slot_behind")?,
        slot_ahead: choice(settings, "source.postgres.slot_ahead")?,
        slot_creation_timeout: settings.time("source.postgres.slot_creation_timeout")?,
        max_retained_bytes: settings.number("source.postgres.max_retained"),
        on_max_retained: choice(settings, "source.postgres.on_max_retained")?,
        relay: relay(settings, problems),
        origin: choice(settings, "source.postgres.origin")?,
    })
}

fn relay(settings: &Settings, problems: &mut Problems) -> Option<RelayConfig> {
    let key = settings.secret("source.postgres.relay_key");
    let bytes_max = settings.number("source.postgres.relay_max")?;
    let Some(directory) = settings.text("source.postgres.relay_dir") else {
        if let Some(key) = key {
            let problem = Problem::new(codes::CONFIG_CONFLICT, "`relay_key` without `relay_dir`");
            problems.push(problem.at(key.place).label("there is nothing to encrypt"));
        }
        return None;
    };
    if settings.number("source.postgres.max_retained").is_none() {
        let problem = Problem::new(codes::CONFIG_CONFLICT, "`relay_dir` needs `max_retained`");
        let label = "without a budget there is nothing to begin at";
        problems.push(problem.at(directory.place.clone()).label(label));
    }
    if key
        .as_ref()
        .is_some_and(|key| key.value == Secret::default())
    {
        let problem = Problem::new(codes::CONFIG_VALUE, "`relay_key` is empty");
        problems.push(
            problem
                .at(directory.place.clone())
                .label("anybody could read it"),
        );
    }
    Some(RelayConfig {
        directory: directory.value,
        bytes_max,
        key: key.map(|key| key.value),
    })
}

/// A slot can be released only where there is a budget to be above, and where it is ours to remove.
fn check_release(settings: &Settings, problems: &mut Problems) {
    let on_max_retained = "source.postgres.on_max_retained";
    if choice(settings, on_max_retained) != Some(OnMaxRetained::ReleaseSlot) {
        return;
    }
    let why = if settings.number("source.postgres.max_retained").is_none() {
        "it needs `max_retained`"
    } else if choice(settings, "source.postgres.create") == Some(Create::Never) {
        "with `create = \"never\"` the slot is not ours to remove"
    } else {
        return;
    };
    let message = "`on_max_retained = \"release_slot\"` cannot be carried out";
    let place = settings
        .get(on_max_retained)
        .and_then(|setting| setting.key_place.clone());
    problems.push(
        Problem::new(codes::CONFIG_CONFLICT, message)
            .at(place)
            .label(why),
    );
}

fn start(settings: &Settings, mode: Option<Mode>, problems: &mut Problems) -> Option<CdcStart> {
    let start = settings.text("pipeline.start");
    match (mode?, start) {
        (Mode::CdcOnly, Some(start)) => match parse_start(&start.value) {
            Ok(start) => Some(start),
            Err(why) => {
                problems.push(
                    Problem::new(
                        codes::CONFIG_VALUE,
                        "`pipeline.start` is not a place to start from",
                    )
                    .at(start.place)
                    .label(why),
                );
                None
            }
        },
        (Mode::CdcOnly, None) => {
            let place = settings
                .get("pipeline.mode")
                .and_then(|mode| mode.place.clone());
            let problem = Problem::new(codes::CONFIG_MISSING, "`cdc_only` needs `pipeline.start`");
            problems.push(problem.at(place).label("add `start = \"now\"`, or `start = \"lsn:…\"` for a position that the slot still has"));
            None
        }
        (_, Some(_)) => {
            let place = settings
                .get("pipeline.start")
                .and_then(|start| start.key_place.clone());
            let problem = Problem::new(codes::CONFIG_CONFLICT, "`start` is for `cdc_only` alone");
            problems.push(
                problem
                    .at(place)
                    .label("a full load fixes the position itself, before the first row"),
            );
            None
        }
        (_, None) => Some(CdcStart::Now),
    }
}

fn parse_start(text: &str) -> Result<CdcStart, String> {
    if text == "now" {
        return Ok(CdcStart::Now);
    }
    match text.strip_prefix("lsn:") {
        Some(lsn) => match lsn.parse::<Lsn>() {
            Ok(lsn) if lsn != Lsn(0) => Ok(CdcStart::At(Position::PgLsn(lsn))),
            _ => Err("a position looks like lsn:16/B374D848".to_owned()),
        },
        None => {
            Err("write \"now\", or \"lsn:16/B374D848\" with the position to start from".to_owned())
        }
    }
}

fn rules(settings: &Settings, problems: &mut Problems) -> Rules {
    let include = settings.list("tables.include");
    if let (Some(setting), true) = (settings.get("tables.include"), include.is_empty()) {
        let problem = Problem::new(codes::CONFIG_VALUE, "`tables.include` selects nothing");
        problems.push(
            problem
                .at(setting.place.clone())
                .label("name tables or patterns, such as \"public.*\""),
        );
    }
    let include_places = include
        .iter()
        .map(|pattern| pattern.place.clone())
        .collect();
    let selection = Selection {
        include: patterns(include, problems),
        exclude: patterns(settings.list("tables.exclude"), problems),
    };
    let target_schema = settings.text("target.schema");
    if let Some(schema) = &target_schema {
        check_template(schema, &["schema"], problems);
    }
    let tables: Vec<TableRule> = (0..settings.count("table"))
        .filter_map(|index| table_rule(settings, index, problems))
        .collect();
    check_twice(&tables, problems);
    Rules {
        selection,
        include_places,
        target_schema,
        tables,
        masks: (0..settings.count("mask"))
            .filter_map(|index| mask_rule(settings, index, problems))
            .collect(),
        is_same_database: false,
        on_row_error: on_row_error(settings, "stream.on_row_error").unwrap_or_default(),
    }
}

fn on_row_error(settings: &Settings, path: &str) -> Option<quarantine::OnRowError> {
    use quarantine::{Bounds, OnRowError as Policy};
    let default = Bounds::default();
    Some(match choice::<OnRowError>(settings, path)? {
        OnRowError::StopPipeline => Policy::StopPipeline,
        OnRowError::StopTable => Policy::StopTable,
        OnRowError::QuarantineRow => Policy::QuarantineRow(Bounds {
            rows_max: settings
                .number("stream.quarantine_rows")
                .unwrap_or(default.rows_max),
            bytes_max: settings
                .number("stream.quarantine_bytes")
                .unwrap_or(default.bytes_max),
        }),
    })
}

fn patterns(list: Vec<Located<String>>, problems: &mut Problems) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for item in list {
        match Pattern::parse(&item.value) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => problems.push(not_a_pattern(item, why)),
        }
    }
    patterns
}

fn not_a_pattern(item: Located<String>, why: String) -> Problem {
    let message = format!("`{}` does not name a table", item.value);
    Problem::new(codes::CONFIG_NAME, message)
        .at(item.place)
        .label(why)
}

fn table_rule(settings: &Settings, index: usize, problems: &mut Problems) -> Option<TableRule> {
    let at = |name: &str| format!("table[{index}].{name}");
    let filter = settings.text(&at("where"));
    if let Some(filter) = &filter
        && let Err(problem) = Filter::check_syntax(&filter.value)
    {
        problems.push(filter_problem(filter, problem));
    }
    let target = settings.text(&at("target"));
    if let Some(target) = &target {
        check_template(target, &["schema", "table"], problems);
        match Pattern::parse(&target.value) {
            Ok(pattern) if pattern.exact().is_some() => {}
            Ok(_) => {
                let why = "a target has no wildcards; {schema} and {table} stand for the source's";
                problems.push(not_a_pattern(target.clone(), why.to_owned()));
            }
            Err(why) => problems.push(not_a_pattern(target.clone(), why)),
        }
    }
    let rename = settings.map(&at("rename"));
    let drop_columns = settings.list(&at("drop_columns"));
    check_columns(&rename, &drop_columns, problems);
    let source = settings.text(&at("source"))?;
    let pattern = match Pattern::parse(&source.value) {
        Ok(pattern) => pattern,
        Err(why) => {
            problems.push(not_a_pattern(source, why));
            return None;
        }
    };
    Some(TableRule {
        source: Located {
            value: pattern,
            place: source.place,
        },
        target,
        rename,
        drop_columns,
        filter,
        chunk_rows: settings.number(&at("chunk_rows")),
        on_row_error: on_row_error(settings, &at("on_row_error")),
    })
}

/// A filter's problem, at its place within the text.
pub(crate) fn filter_problem(
    filter: &Located<String>,
    problem: crate::filter::FilterProblem,
) -> Problem {
    let place = filter.within(&problem.span);
    Problem::new(codes::CONFIG_FILTER, "this row filter cannot be used")
        .at(place)
        .label(problem.message)
        .help(problem.help)
}

/// Names in braces must be known ones.
fn check_template(text: &Located<String>, known: &[&str], problems: &mut Problems) {
    let mut rest = text.value.as_str();
    while let Some((_, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').unwrap_or((after, ""));
        if !known.contains(&name) {
            let label = match suggestion(name, known.iter().copied()) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => format!(
                    "known: {}",
                    known
                        .iter()
                        .map(|name| format!("{{{name}}}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            };
            let message = format!("`{{{name}}}` stands for nothing");
            problems.push(
                Problem::new(codes::CONFIG_VALUE, message)
                    .at(text.place.clone())
                    .label(label),
            );
        }
        rest = behind;
    }
}

/// One column to two names, two columns to one, and columns that are renamed and left out.
fn check_columns(
    rename: &[(Located<String>, Located<String>)],
    drop: &[Located<String>],
    problems: &mut Problems,
) {
    for (index, (_, target)) in rename.iter().enumerate() {
        if rename[..index]
            .iter()
            .any(|(_, other)| other.value == target.value)
        {
            let message = format!("two columns would be called `{}`", target.value);
            problems.push(
                Problem::new(codes::MAPPING_COLLISION, message)
                    .at(target.place.clone())
                    .label("this name is taken"),
            );
        }
    }
    for (source, _) in rename {
        if drop.iter().any(|dropped| dropped.value == source.value) {
            let message = format!("column `{}` is renamed and left out", source.value);
            problems.push(
                Problem::new(codes::CONFIG_CONFLICT, message)
                    .at(source.place.clone())
                    .label("it is in `drop_columns` too"),
            );
        }
    }
}

/// Two rules for one table, and two tables that go to one, as far as the file alone can tell.
fn check_twice(tables: &[TableRule], problems: &mut Problems) {
    for (index, rule) in tables.iter().enumerate() {
        let earlier = &tables[..index];
        if earlier
            .iter()
            .any(|other| other.source.value == rule.source.value)
        {
            let message = format!("there are two [[table]] for `{}`", rule.source.value);
            problems.push(
                Problem::new(codes::CONFIG_CONFLICT, message)
                    .at(rule.source.place.clone())
                    .label("put them together"),
            );
            continue;
        }
        let Some(target) = rule
            .target
            .as_ref()
            .filter(|target| !target.value.contains('{'))
        else {
            continue;
        };
        let taken = earlier.iter().find(|other| {
            other
                .target
                .as_ref()
                .is_some_and(|other| other.value == target.value)
        });
        if let Some(taken) = taken {
            let message = format!("two tables would go to `{}`", target.value);
            let label = format!("`{}` goes there already", taken.source.value);
            problems.push(
                Problem::new(codes::MAPPING_COLLISION, message)
                    .at(target.place.clone())
                    .label(label),
            );
        }
    }
}

fn mask_rule(settings: &Settings, index: usize, problems: &mut Problems) -> Option<MaskRule> {
    let at = |name: &str| format!("mask[{index}].{name}");
    let section = settings
        .lists
        .get("mask")
        .and_then(|places| places.get(index))
        .cloned();
    let mut columns = Vec::new();
    for item in settings.list(&at("columns")) {
        match ColumnPattern::parse(&item.value) {
            Ok(pattern) => columns.push(Located {
                value: pattern,
                place: item.place,
            }),
            Err(why) => {
                let message = format!("`{}` does not name columns", item.value);
                problems.push(
                    Problem::new(codes::CONFIG_NAME, message)
                        .at(item.place)
                        .label(why),
                );
            }
        }
    }
    let kind: MaskKind = choice(settings, &at("with"))?;
    for (key, with) in [("salt", MaskKind::Hash), ("value", MaskKind::Fixed)] {
        if let (Some(setting), true) = (settings.get(&at(key)), kind != with) {
            let message = format!("`{key}` is for masks with \"{}\" alone", with.word());
            let label = format!("this one is with \"{}\"", kind.word());
            problems.push(
                Problem::new(codes::CONFIG_CONFLICT, message)
                    .at(setting.key_place.clone())
                    .label(label),
            );
        }
    }
    let missing = |problems: &mut Problems, place: Option<Place>, key: &str, label: &str| {
        let message = format!("a mask with \"{}\" needs `{key}`", kind.word());
        problems.push(
            Problem::new(codes::CONFIG_MISSING, message)
                .at(place)
                .label(label),
        );
    };
    let with_place = || {
        settings
            .get(&at("with"))
            .and_then(|with| with.place.clone())
            .or(section)
    };
    let with = match kind {
        MaskKind::Hash => match settings.secret(&at("salt")) {
            Some(Located { value: salt, .. }) if salt != Secret::default() => {
                MaskWith::Hash { salt }
            }
            _ => {
                missing(
                    problems,
                    with_place(),
                    "salt",
                    "without one, names and numbers are found by trying; add `salt = \"${env:MASK_SALT}\"`",
                );
                return None;
            }
        },
        MaskKind::Fixed => {
            let Some(value) = settings.text(&at("value")) else {
                let label = "the value that every row gets";
                missing(problems, with_place(), "value", label);
                return None;
            };
            MaskWith::Fixed { value: value.value }
        }
        MaskKind::Redact => MaskWith::Redact,
        MaskKind::Null => MaskWith::Null,
        MaskKind::Partial => MaskWith::Partial,
    };
    Some(MaskRule { columns, with })
}
