// What the API answers, as far as the pages read it. `null` is "not known", never 0.

export type Health = "ok" | "notice" | "warning" | "error" | "unknown";

export interface Caller {
  name: string;
  tenant: string;
  role: "viewer" | "operator" | "admin";
}

export interface Verified {
  lsn: string;
  result: string;
  at: string;
}

export interface Pipeline {
  id: string;
  mode: string;
  /** `null` until its definition was read. */
  tags: string[] | null;
  state: string;
  since: string;
  reason: string | null;
  by: string;
  health: Health;
  trend: string;
  desired_state: string;
  source: string | null;
  target: string | null;
  full_load_lsn: string | null;
  gap_bytes: number | null;
  latency_seconds: number | null;
  tables: { state: string; count: number }[];
  rows_quarantined: number | null;
  verified: Verified | null;
  unverified: string | null;
  error: { code: string; message: string; action: string; since: string } | null;
  file: string | null;
  created_at: string;
  created_by: string;
  etag: string;
}

/** From what runs to what is defined. */
export interface Changes {
  changed: boolean;
  diff: string[];
  running: boolean;
}

export interface Overview {
  by_health: Partial<Record<Health, number>>;
  total: number;
  worst_lag: { pipeline_id: string; latency_seconds: number; gap_bytes: number | null } | null;
  lag_unknown: number;
  tables_quarantined: number;
  alerts_firing: number;
  slots_at_risk: { pipeline_id: string; slot: Slot }[];
  pipelines: Pipeline[];
  measured_at: string;
}

export interface Slot {
  name: string;
  active: boolean;
  wal_status: string;
  retained_bytes: number;
  safe_bytes: number | null;
  max_retained_bytes: number | null;
  predicted_loss_at: string | null;
}

export interface Lag {
  pipeline_id: string;
  state: string;
  health: Health;
  trend: string;
  position_type: string | null;
  source_lsn: string | null;
  received_lsn: string | null;
  processed_lsn: string | null;
  confirmed_lsn: string | null;
  restart_lsn: string | null;
  gap_bytes: number | null;
  latency_seconds: number | null;
  latency_by_stage_seconds: { read: number; queue: number; apply: number } | null;
  slot: Slot | null;
  verified: Verified | null;
  eta_seconds: number | null;
  measured_at: string;
  stale: boolean;
  last_known: { source_lsn: string; at: string } | null;
  unknown_reason: string | null;
}

export interface Table {
  /** As a pipeline file names it, and the API is asked for it. */
  source: string;
  target: string;
  state: string;
  reason: string | null;
  rows_loaded: number;
  rows_estimated: number | null;
  bytes_loaded: number;
  chunks_loaded: number;
  chunks: number;
  changes: number;
  parked: number;
  conflicts: number;
  quarantined: number;
}

export interface Event {
  id: number;
  pipeline: string;
  at: string;
  level: "info" | "warn" | "error";
  kind: string;
  code: string | null;
  table: string | null;
  text: string;
  by: string | null;
}

export interface Operation {
  id: string;
  pipeline: string;
  kind: string;
  state: "running" | "succeeded" | "failed" | "cancelled";
  by: string;
  created_at: string;
  text: string | null;
  code: string | null;
  /** `null` for whoever only looks. */
  data: { result?: string } | null;
}

export interface Point {
  at: string;
  state: string;
  gap_bytes: number | null;
  gap_bytes_max: number | null;
  latency_seconds: number | null;
  latency_seconds_max: number | null;
  source_lsn: string | null;
  processed_lsn: string | null;
  retained_bytes: number | null;
  inserts: number | null;
  updates: number | null;
  deletes: number | null;
}

export interface History {
  step_seconds: number;
  points: Point[];
}

export interface Verification {
  id: number;
  at: string;
  lsn: string;
  result: string;
  depth: string;
  rows: number;
  seconds: number;
  tables: {
    source: string;
    target: string;
    result: string;
    reason: string | null;
    source_rows: number | null;
    target_rows: number | null;
    different: number;
    is_counted: boolean;
  }[];
}

export interface Checked {
  ok: boolean;
  failed: number;
  warnings: number;
  findings: {
    code: string;
    verdict: "passed" | "note" | "warning" | "failed";
    side: string;
    found: string;
    why: string;
    fixes: { text: string; kind: string }[];
  }[];
}

export interface Plan {
  pipeline: string;
  mode: string;
  checkpoint: string | null;
  tables: { source: string; target: string; rows_estimated: number | null; size_bytes: number; key: string[]; notes: string[] }[];
  not_carried: { kind: string; name: string; note: string }[];
  estimate: { load_seconds_best: number; load_seconds_worst: number; log_bytes_during_load: number | null } | null;
  creates: { source: string; target: string };
}

export interface Alert {
  id: string;
  pipeline_id: string;
  rule: string;
  when: string;
  severity: string;
  since: string;
  fired_at: string | null;
  over_since: string | null;
  snoozed_until: string | null;
  snoozed_by: string | null;
  text: string;
}

export interface AlertRule {
  pipeline_id: string;
  rule: string;
  severity: string;
  resolve_after: string;
  state: string;
  known: boolean;
  notify: string[];
  unknown_notifiers: string[];
}

export interface Delivery {
  id: string;
  notifier: string;
  pipeline_id: string | null;
  kind: string;
  state: string;
  attempts: number;
  created_at: string;
  next_at: string | null;
  ended_at: string | null;
  code: string | null;
  result: string | null;
}

export interface Notifier {
  name: string;
  type: string;
  host: string;
  tls: boolean;
  waiting: number;
  last: Delivery | null;
}

export interface ScheduleRun {
  due_at: string;
  state: string;
  by: string;
  began_at: string | null;
  ended_at: string | null;
  reason: string | null;
}

export interface Schedule {
  pipeline_id: string;
  full_load: string;
  timezone: string | null;
  overlap: "skip" | "queue";
  missed: "run_once" | "skip";
  paused: { by: string; since: string } | null;
  next: { at: string; local: string; skipped_by: string | null }[];
  last: ScheduleRun | null;
  missed_run: ScheduleRun | null;
  open: ScheduleRun[];
}

export interface Token {
  id: string;
  tenant: string;
  name: string;
  role: string;
  created_at: string;
  created_by: string;
  expires_at: string | null;
  revoked_at: string | null;
}

export interface Audit {
  id: number;
  at: string;
  who: string;
  address: string;
  action: string;
  object: string;
  detail: string;
}
