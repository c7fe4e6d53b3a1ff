//! Metrics in Prometheus' text format: base units, `_total`, what is not known is absent.
//!
//! Made anew for every scrape from what pipelines say of themselves; only requests are counted here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{Method, StatusCode};
use tidemark_core::position::{Lsn, Position};
use tidemark_core::status::{HEALTHS, STATES, Status, TableStatusState};

use crate::api::rows_quarantined;
use crate::measures::{Histogram, Measures};
use crate::notify::Counted;
use crate::store::{AlertRow, Key};
use crate::supervisor::{Member, View, word_of};

const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// How requests were answered.
#[derive(Default)]
pub(crate) struct Requests {
    by_route: Mutex<BTreeMap<(String, String, u16), Histogram>>,
}

impl Requests {
    /// Takes in an answer. Routes are templates, so there are few.
    pub(crate) fn note(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = match *method {
            Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
                method.as_str()
            }
            // A method is the caller's word: not each becomes a series.
            _ => "other",
        };
        let key = (route.to_owned(), method.to_owned(), status.as_u16());
        let mut by_route = self.by_route.lock().unwrap_or_else(PoisonError::into_inner);
        let durations = by_route.entry(key).or_insert_with(Histogram::of_answers);
        durations.note(took.as_secs_f64());
    }
}

/// A page of metrics, family by family.
#[derive(Default)]
struct Page {
    text: String,
}

type Labels<'a> = Vec<(&'a str, String)>;

impl Page {
    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'static>, f64)>,
    ) {
        let mut is_first = true;
        for (labels, value) in samples {
            if std::mem::take(&mut is_first) {
                self.head(name, kind, help);
            }
            self.sample(name, &labels, value);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a string grows");
    }

    /// A family of histograms; those that have no value are absent.
    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'static>, Histogram)>,
    ) {
        let mut is_first = true;
        for (labels, histogram) in series.into_iter().filter(|(_, it)| it.count > 0) {
            if std::mem::take(&mut is_first) {
                self.head(name, "histogram", help);
            }
            for (bound, count) in histogram.buckets() {
                let mut labels = labels.clone();
                labels.push(("le", bound));
                self.sample(&format!("{name}_bucket"), &labels, count as f64);
            }
            self.sample(&format!("{name}_sum"), &labels, histogram.sum);
            self.sample(&format!("{name}_count"), &labels, histogram.count as f64);
        }
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        writeln!(self.text, "{name}{labels} {value}").expect("a string grows");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Everything there is to say.
pub(crate) fn exposition(
    members: &[Arc<Member>],
    firing: &[AlertRow],
    told: BTreeMap<Counted, u64>,
    schedules: &Scheduled,
    requests: &Requests,
) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    page.family(
        "tidemark_build_info",
        "gauge",
        "This program.",
        [(vec![("version", version)], 1.0)],
    );
    let found: Vec<(&Member, View)> = members.iter().map(|m| (m.as_ref(), m.view())).collect();
    states(&mut page, &found);
    positions(&mut page, &found);
    slots(&mut page, &found);
    counters(&mut page, &found);
    measured(&mut page, members);
    verification(&mut page, &found);
    alerts(&mut page, firing);
    notifications(&mut page, told);
    scheduled(&mut page, schedules);
    answers(&mut page, requests);
    own(&mut page);
    page.text
}

fn labels(member: &Member) -> Labels<'static> {
    vec![
        ("pipeline", member.key.id.clone()),
        ("tenant", member.key.tenant.clone()),
    ]
}

fn with(member: &Member, label: &'static str, value: impl Into<String>) -> Labels<'static> {
    let mut labels = labels(member);
    labels.push((label, value.into()));
    labels
}

fn states(page: &mut Page, found: &[(&Member, View)]) {
    page.family(
        "tidemark_pipeline_info",
        "gauge",
        "A pipeline.",
        found
            .iter()
            .map(|(member, _)| (with(member, "mode", member.row().mode), 1.0)),
    );
    page.family(
        "tidemark_pipeline_state",
        "gauge",
        "1 for the state that the pipeline is in.",
        found.iter().flat_map(|(member, view)| {
            STATES.map(|state| (with(member, "state", state), one(view.state == state)))
        }),
    );
    page.family(
        "tidemark_pipeline_health",
        "gauge",
        "1 for the health of the pipeline.",
        found.iter().flat_map(|(member, view)| {
            let health = word_of(&view.status.health);
            HEALTHS.map(|level| (with(member, "level", level), one(health == level)))
        }),
    );
    page.family(
        "tidemark_table_state",
        "gauge",
        "1 for the state of a table that does not plainly stream.",
        found.iter().flat_map(|(member, view)| {
            let odd = view.status.tables.iter().filter(|table| {
                !matches!(
                    table.state,
                    TableStatusState::Streaming | TableStatusState::Done
                )
            });
            odd.map(|table| {
                let mut labels = with(member, "table", table.source.clone());
                labels.push(("state", word_of(&table.state)));
                (labels, 1.0)
            })
        }),
    );
    let help = "Tables that were set aside after an error; absent as long as no table is known.";
    known(page, found, "tidemark_quarantined_tables", help, |s| {
        let is_aside = |state| state == TableStatusState::Quarantined;
        let aside = s.tables.iter().filter(|table| is_aside(table.state));
        (!s.tables.is_empty()).then_some(aside.count() as f64)
    });
    let help =
        "Rows that were set aside and wait; absent as long as what is in quarantine was not read.";
    known(page, found, "tidemark_quarantined_rows", help, |s| {
        rows_quarantined(s).map(|rows| rows as f64)
    });
}

fn one(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// A gauge of what some pipelines know.
fn known(
    page: &mut Page,
    found: &[(&Member, View)],
    name: &str,
    help: &str,
    value: impl Fn(&Status) -> Option<f64>,
) {
    let samples = found
        .iter()
        .filter_map(|(member, view)| Some((labels(member), value(&view.status)?)));
    page.family(name, "gauge", help, samples);
}

/// A position as a number of bytes.
fn bytes(position: Option<Position>) -> Option<f64> {
    match position? {
        Position::PgLsn(Lsn(bytes)) => Some(bytes as f64),
    }
}

fn positions(page: &mut Page, found: &[(&Member, View)]) {
    known(
        page,
        found,
        "tidemark_source_lsn_bytes",
        "End of the source's log.",
        |s| bytes(s.source_lsn),
    );
    known(
        page,
        found,
        "tidemark_received_lsn_bytes",
        "Received by the pipeline.",
        |s| bytes(s.received_lsn),
    );
    known(
        page,
        found,
        "tidemark_processed_lsn_bytes",
        "Committed in the target.",
        |s| bytes(s.processed_lsn),
    );
    known(
        page,
        found,
        "tidemark_confirmed_lsn_bytes",
        "Told to the source.",
        |s| bytes(s.confirmed_lsn),
    );
    known(
        page,
        found,
        "tidemark_restart_lsn_bytes",
        "Oldest log that is kept.",
        |s| bytes(s.restart_lsn),
    );
    let gap = |s: &Status| s.gap_bytes.map(|gap| gap as f64);
    known(
        page,
        found,
        "tidemark_lag_bytes",
        "Log that is not in the target yet.",
        gap,
    );
    let help = "Age of the oldest transaction that is on the source and not in the target.";
    known(page, found, "tidemark_lag_seconds", help, |s| {
        s.latency_seconds
    });
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let help = "When the lag was measured last; absent while it is not known.";
    let measured = found.iter().filter_map(|(member, view)| {
        let at = now.checked_sub(view.latency_age?)?;
        Some((labels(member), at.as_secs_f64()))
    });
    page.family(
        "tidemark_lag_measured_timestamp_seconds",
        "gauge",
        help,
        measured,
    );
    page.family(
        "tidemark_latency_by_stage_seconds",
        "gauge",
        "The latency by stage.",
        found.iter().flat_map(|(member, view)| {
            let stages = view.status.latency_by_stage_seconds;
            stages.into_iter().flat_map(|stages| {
                [
                    (with(member, "stage", "read"), stages.read),
                    (with(member, "stage", "queue"), stages.queue),
                    (with(member, "stage", "apply"), stages.apply),
                ]
            })
        }),
    );
}

fn slots(page: &mut Page, found: &[(&Member, View)]) {
    let of = |value: fn(&tidemark_core::status::SlotStatus) -> Option<f64>| {
        let samples = found.iter().filter_map(|(member, view)| {
            let slot = view.status.slot.as_ref()?;
            Some((with(member, "slot", slot.name.clone()), value(slot)?))
        });
        samples.collect::<Vec<_>>()
    };
    let active = of(|slot| Some(one(slot.active)));
    page.family(
        "tidemark_slot_active",
        "gauge",
        "Whether somebody reads the slot.",
        active,
    );
    let retained = of(|slot| Some(slot.retained_bytes as f64));
    let help = "Log that the source keeps because of the slot.";
    page.family("tidemark_slot_retained_bytes", "gauge", help, retained);
    let safe = of(|slot| slot.safe_bytes.map(|safe| safe as f64));
    let help = "Log that may be written before the slot is lost; absent without a limit.";
    page.family("tidemark_slot_safe_bytes", "gauge", help, safe);
    let loss = of(|slot| {
        let rate = slot.retained_bytes_per_second.filter(|rate| *rate > 0.0)?;
        slot.predicted_loss_at.as_ref()?;
        Some((slot.safe_bytes? as f64 / rate).max(0.0))
    });
    let help = "How long until the slot is lost, at this rate; absent where it is not to come.";
    page.family("tidemark_slot_predicted_loss_seconds", "gauge", help, loss);
    page.family(
        "tidemark_slot_wal_status",
        "gauge",
        "1 for the server's word about the slot.",
        found.iter().flat_map(|(member, view)| {
            view.status.slot.iter().flat_map(|slot| {
                WAL_STATUSES.map(|status| {
                    let mut labels = with(member, "slot", slot.name.clone());
                    labels.push(("status", status.to_owned()));
                    (labels, one(slot.wal_status == status))
                })
            })
        }),
    );
}

fn counters(page: &mut Page, found: &[(&Member, View)]) {
    let running = || found.iter().filter(|(_, view)| view.is_running);
    page.family(
        "tidemark_changes_applied_total",
        "counter",
        "Rows changed in the target by this run.",
        running().flat_map(|(member, view)| {
            let totals = view.status.totals;
            [
                (with(member, "op", "insert"), totals.inserts as f64),
                (with(member, "op", "update"), totals.updates as f64),
                (with(member, "op", "delete"), totals.deletes as f64),
            ]
        }),
    );
    page.family(
        "tidemark_transactions_applied_total",
        "counter",
        "Source transactions applied by this run.",
        running().map(|(m, view)| (labels(m), view.status.totals.transactions as f64)),
    );
    page.family(
        "tidemark_retries_total",
        "counter",
        "Times that a side was connected anew by this run.",
        running().map(|(m, view)| (labels(m), view.status.totals.retries as f64)),
    );
}

/// What was counted as it happened.
fn measured(page: &mut Page, members: &[Arc<Member>]) {
    let counted: Vec<(&Member, Measures)> = members
        .iter()
        .map(|member| (member.as_ref(), member.measures().clone()))
        .collect();
    let mut histograms = |name, help, of: fn(&Measures) -> &Histogram| {
        let series = counted.iter().map(|(m, it)| (labels(m), of(it).clone()));
        page.histograms(name, help, series);
    };
    let help = "Changes in a commit of the target.";
    histograms("tidemark_apply_batch_rows", help, |it| &it.batch_rows);
    let help = "How long the target took for a commit with changes.";
    histograms("tidemark_apply_batch_duration_seconds", help, |it| {
        &it.batch_seconds
    });
    let help = "From the commit on the source to the one in the target, of its oldest transaction.";
    histograms("tidemark_commit_to_apply_seconds", help, |it| {
        &it.commit_to_apply
    });
    let help = "The same by stage: until it is received, waiting for the target, in the target.";
    let stages = counted.iter().flat_map(|(member, it)| {
        let stages = it.stages.iter();
        stages.map(|(stage, histogram)| (with(member, "stage", *stage), histogram.clone()))
    });
    page.histograms("tidemark_stage_latency_seconds", help, stages);
    let mut values = |name, kind, help, of: fn(&Measures) -> Option<f64>| {
        let samples = counted
            .iter()
            .filter_map(|(m, it)| Some((labels(m), of(it)?)));
        page.family(name, kind, help, samples);
    };
    let help = "Since the position was committed in the target by this server.";
    values("tidemark_checkpoint_age_seconds", "gauge", help, |it| {
        Some(it.committed_at?.elapsed().as_secs_f64())
    });
    let help = "Rows that loads have copied, those that were copied again as well.";
    values("tidemark_load_rows_total", "counter", help, |it| {
        Some(it.loaded?.0 as f64)
    });
    let help = "Bytes that loads have copied, those that were copied again as well.";
    values("tidemark_load_bytes_total", "counter", help, |it| {
        Some(it.loaded?.1 as f64)
    });
    let help = "Rows that verifications have compared.";
    values(
        "tidemark_verify_rows_compared_total",
        "counter",
        help,
        |it| (it.rows_compared > 0).then_some(it.rows_compared as f64),
    );
    let errors = counted.iter().flat_map(|(member, it)| {
        it.errors.iter().map(|((code, class), count)| {
            let mut labels = with(member, "code", code.clone());
            labels.push(("class", (*class).to_owned()));
            (labels, *count as f64)
        })
    });
    let help = "Errors of pipelines, those that are tried again as well.";
    page.family("tidemark_errors_total", "counter", help, errors);
}

fn verification(page: &mut Page, found: &[(&Member, View)]) {
    let whole = |member: &Member| member.compared().whole.clone();
    page.family(
        "tidemark_verify_rows_different",
        "gauge",
        "Rows that the last verification of all tables found different.",
        found
            .iter()
            .filter_map(|(member, _)| Some((labels(member), whole(member)?.different as f64))),
    );
    page.family(
        "tidemark_verify_last_timestamp_seconds",
        "gauge",
        "When the last verification of all tables ended.",
        found
            .iter()
            .filter_map(|(member, _)| Some((labels(member), whole(member)?.at_us as f64 / 1e6))),
    );
    known(
        page,
        found,
        "tidemark_verified_lsn_bytes",
        "Where both sides were compared last.",
        |s| bytes(s.verified.as_ref().map(|verified| verified.lsn)),
    );
    page.family(
        "tidemark_verified_result",
        "gauge",
        "1 for what the last comparison found.",
        found.iter().flat_map(|(member, view)| {
            view.status.verified.iter().flat_map(|verified| {
                ["identical", "different", "incomplete"]
                    .map(|word| (with(member, "result", word), one(verified.result == word)))
            })
        }),
    );
}

/// By what they look at: rules of pipelines are too many for a label.
fn alerts(page: &mut Page, firing: &[AlertRow]) {
    let mut counts: BTreeMap<[&str; 4], f64> = BTreeMap::new();
    for row in firing {
        let labels = [&row.key.id, &row.key.tenant, &row.when, &row.severity].map(String::as_str);
        *counts.entry(labels).or_default() += 1.0;
    }
    let names = ["pipeline", "tenant", "rule", "severity"];
    page.family(
        "tidemark_alerts_firing",
        "gauge",
        "Alerts that fire.",
        counts.into_iter().map(|(values, count)| {
            let values = values.map(str::to_owned);
            (names.into_iter().zip(values).collect(), count)
        }),
    );
}

fn notifications(page: &mut Page, counts: BTreeMap<Counted, u64>) {
    page.family(
        "tidemark_notifications_total",
        "counter",
        "Messages of alerts, by what came of an attempt.",
        counts
            .into_iter()
            .map(|((tenant, notifier, result), count)| {
                let labels = vec![
                    ("notifier", notifier),
                    ("tenant", tenant),
                    ("result", result.to_owned()),
                ];
                (labels, count as f64)
            }),
    );
}

/// What is known of schedules.
#[derive(Debug, Default)]
pub(crate) struct Scheduled {
    /// When each is due next, microseconds since 1970 UTC; not while it is paused.
    pub(crate) next: Vec<(Key, i64)>,
    /// Whether a load that was due did not begin, and none has begun since.
    pub(crate) missed: Vec<(Key, bool)>,
    /// How runs ended since the server began.
    pub(crate) ended: BTreeMap<(Key, &'static str), u64>,
}

fn scheduled(page: &mut Page, schedules: &Scheduled) {
    let labels = |key: &Key| -> Labels<'static> {
        vec![("pipeline", key.id.clone()), ("tenant", key.tenant.clone())]
    };
    page.family(
        "tidemark_schedule_next_run_timestamp_seconds",
        "gauge",
        "When the pipeline is loaded anew; absent while its schedule is paused.",
        schedules
            .next
            .iter()
            .map(|(key, at)| (labels(key), *at as f64 / 1e6)),
    );
    page.family(
        "tidemark_schedule_missed",
        "gauge",
        "1 while a load that was due did not begin, and none has begun since.",
        schedules
            .missed
            .iter()
            .map(|(key, is_missed)| (labels(key), one(*is_missed))),
    );
    page.family(
        "tidemark_schedule_runs_total",
        "counter",
        "Runs that were due, by what became of them.",
        schedules.ended.iter().map(|((key, result), count)| {
            let mut labels = labels(key);
            labels.push(("result", (*result).to_owned()));
            (labels, *count as f64)
        }),
    );
}

fn answers(page: &mut Page, requests: &Requests) {
    let by_route = requests
        .by_route
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let series = by_route.into_iter().map(|((route, method, status), took)| {
        let labels = vec![
            ("route", route),
            ("method", method),
            ("status", status.to_string()),
        ];
        (labels, took)
    });
    let name = "http_request_duration_seconds";
    page.histograms(name, "How long answers took.", series);
}

/// What the system says of this process; absent where it does not (proc(5)).
fn own(page: &mut Page) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let help = "Resident memory.";
    let samples = resident.map(|kib| (Vec::new(), kib * 1024.0));
    page.family("process_resident_memory_bytes", "gauge", help, samples);
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    let samples = open.map(|count| (Vec::new(), count as f64));
    page.family(
        "process_open_fds",
        "gauge",
        "Open file descriptors.",
        samples,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s25_what_is_not_known_is_absent_and_labels_are_escaped() {
        let mut page = Page::default();
        page.family("nothing", "gauge", "x", []);
        assert_eq!(page.text, "");
        page.family(
            "a",
            "gauge",
            "x",
            [(vec![("t", "q\"\\\n".to_owned())], 1.5)],
        );
        let expected = "# HELP a x\n# TYPE a gauge\na{t=\"q\\\"\\\\\\n\"} 1.5\n";
        assert_eq!(page.text, expected);
    }

    #[test]
    fn answers_are_counted_by_route() {
        let requests = Requests::default();
        let took = Duration::from_millis(7);
        requests.note(&Method::GET, "/api/v1/pipelines/{id}", StatusCode::OK, took);
        let text = exposition(&[], &[], BTreeMap::new(), &Scheduled::default(), &requests);
        let labels = "route=\"/api/v1/pipelines/{id}\",method=\"GET\",status=\"200\"";
        let name = "http_request_duration_seconds";
        assert!(
            text.contains(&format!("{name}_bucket{{{labels},le=\"0.005\"}} 0\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("{name}_bucket{{{labels},le=\"0.01\"}} 1\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("{name}_count{{{labels}}} 1\n")),
            "{text}"
        );
    }
}
