// News of the server, as they come; where they do not, the server is asked every five seconds, and where
// it does not answer, everything stays as it was last known, with its age.
//
// Tabs of one browser share one stream: the one that holds a lock listens, and tells the others what it
// hears. When it is closed another holds the lock, and goes on after the last that it heard.

import { batch, effect, signal, type Signal } from "@preact/signals";
import { get, headers, needsToken, Problem } from "./api";
import type { Event, Lag, Overview, Pipeline, Table } from "./shapes";

export type Link = "connecting" | "live" | "polling" | "gone";

const POLL_MS = 5_000;
/** The server says at least a comment every 15 s. */
const SILENCE_MS = 20_000;
/** Failures of the stream after which the server is asked instead. */
const FAILURES_MAX = 3;
/** How many gaps of a pipeline are remembered, one a second; and lags, all pipelines together and of each at least. */
const GAPS_KEPT = 120;
const LAGS_KEPT = 15_000;
const LAGS_LEAST = 60;
/** The server's past of a pipeline is asked for no further back than this. */
const LAGS_MOST = 900;

export const link = signal<Link>("connecting");
/** When the server last said anything. */
export const heard = signal<number | null>(null);
/** Ticks once a second, for ages. */
export const now = signal(Date.now());
export const overview = signal<Overview | null>(null);
/** What is remembered of each pipeline, so that news of one draw nothing of another. */
const memories = new Map<string, { lags: Signal<Lag[]>; gaps: Signal<(number | null)[]> }>();
/** What was told of the tables of a pipeline, by name on the source: of those that changed since this page listens. */
export interface Told {
  known: Map<string, Table>;
  /** Whether all of them were told, so that there are no others. */
  isWhole: boolean;
  /** Grows when a table comes, goes or is in another state. */
  shape: number;
}
export const tables = signal<Record<string, Told>>({});
/** Grows with every event of a pipeline; the last one is in it. */
export const lastEvent = signal<Event | null>(null);
/** Grows whenever an action begins or ends. */
export const operations = signal(0);
/** Grows whenever something was not heard. */
export const resets = signal(0);
/** Messages of the stream, for tests. */
export const messages = signal(0);

/** What the tab that listens tells the others: what came, or how it stands; and what a new one asks. */
type Word = { parts: string[] } | { link: Link } | { asks: true };
const LOCK = "tidemark.news";
/** After so long without a word the tab that listens does not turn any more. */
const DEAF_MS = SILENCE_MS + 10_000;
// Without locks (a page that came neither encrypted nor from this machine) each tab listens by itself.
const others = navigator.locks ? new BroadcastChannel(LOCK) : null;
const tell = (word: Word) => others?.postMessage(word);
/** What ends this tab's listening, while it is the one that does. */
let listening: AbortSignal | null = null;
let told = Date.now();

let failures = 0;
let lastId: string | null = null;
let stopped: AbortController | null = null;

/** How old what no news tells may be: the worst of all, slots at risk. */
const REFRESH_MS = 10_000;
let refreshed = 0;

setInterval(() => {
  now.value = Date.now();
  if (link.value === "live" && !document.hidden && Date.now() - refreshed > REFRESH_MS) refreshSoon();
  if (others && !listening && !needsToken.value && Date.now() - told > DEAF_MS) void listen(true);
}, 1_000);

/** Asks for everything at once. */
export async function refresh(): Promise<boolean> {
  try {
    refreshed = Date.now();
    const found = await get<Overview>("/monitoring/overview");
    batch(() => {
      overview.value = { ...found, pipelines: sameAs(overview.value?.pipelines ?? [], found.pipelines) };
      const there = new Set(found.pipelines.map((one) => one.id));
      if (found.total === there.size) for (const id of memories.keys()) if (!there.has(id)) memories.delete(id);
      note();
    });
    return true;
  } catch (wrong) {
    if (wrong instanceof Problem && wrong.isSilence) link.value = "gone";
    return false;
  }
}

/** The same pipelines; those that are as they were are the objects that they were, and are not drawn anew. */
function sameAs(before: Pipeline[], found: Pipeline[]): Pipeline[] {
  const known = new Map(before.map((one) => [one.id, one]));
  return found.map((one) => {
    const was = known.get(one.id);
    return was && JSON.stringify(was) === JSON.stringify(one) ? was : one;
  });
}

function note() {
  heard.value = Date.now();
  now.value = Date.now();
}

let waiting: number | undefined;

/** Soon, once, however often it is asked for. */
function refreshSoon() {
  waiting ??= window.setTimeout(() => {
    waiting = undefined;
    void refresh();
  }, 250);
}

effect(() => {
  const said = { link: link.value };
  if (listening) tell(said);
});

others?.addEventListener("message", ({ data }: MessageEvent<Word>) => {
  if ("asks" in data) {
    if (listening) tell({ link: link.value });
    return;
  }
  if (listening) return;
  told = Date.now();
  // What was not told meanwhile is asked for.
  if (link.value !== "live") refreshSoon();
  if ("parts" in data) {
    heardOf(data.parts);
    return;
  }
  if (data.link === "live") note();
  link.value = data.link;
  if (data.link === "polling") void refresh();
});

effect(() => {
  // What changes while no news come is asked for, and what was told before is older than that.
  if (link.value === "polling") tables.value = {};
});

/** Listens until told otherwise, or has another tab do it; `takes` the lock from one that does not turn. */
export async function listen(takes = false) {
  stopped?.abort();
  const own = new AbortController();
  stopped = own;
  failures = 0;
  lastId = null;
  tables.value = {};
  if (!others) return hear(own.signal);
  told = Date.now();
  void refresh();
  tell({ asks: true });
  try {
    await navigator.locks.request(LOCK, takes ? { steal: true } : { signal: own.signal }, () => hear(own.signal));
  } catch {
    // It was told to stop, or another tab took the lock away.
    if (!own.signal.aborted) void listen();
  }
}

async function hear(stop: AbortSignal) {
  listening = stop;
  while (!stop.aborted && !needsToken.value) {
    const reached = await refresh();
    if (reached && failures >= FAILURES_MAX) link.value = "polling";
    tell({ link: link.value });
    if (reached) {
      try {
        await stream(stop);
      } catch {
        // Whatever ended it: the server is asked, and then listened to again.
      }
      if (stop.aborted) break;
      failures += 1;
      if (link.value === "live") link.value = (await refresh()) ? "connecting" : "gone";
    }
    const wait = !reached ? 1_000 : failures >= FAILURES_MAX ? POLL_MS : 500;
    await new Promise((done) => {
      setTimeout(done, wait);
      stop.addEventListener("abort", done);
    });
  }
  if (listening === stop) listening = null;
}

/** Asks now, whatever waits. */
export function retry() {
  void listen();
}

async function stream(ended: AbortSignal) {
  const silence = new AbortController();
  const stop = () => silence.abort();
  ended.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const more: Record<string, string> = { accept: "text/event-stream" };
    if (lastId !== null) more["last-event-id"] = lastId;
    const response = await fetch("/api/v1/events/stream", { headers: headers(more), signal: silence.signal, cache: "no-store" });
    if (response.status === 401) needsToken.value = true;
    if (!response.ok || !response.body) throw new Error(String(response.status));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      text += value;
      const parts = text.split(/\r?\n\r?\n/);
      text = parts.pop() ?? "";
      failures = 0;
      heardOf(parts);
      tell({ parts });
    }
  } finally {
    clearTimeout(timer);
    ended.removeEventListener("abort", stop);
  }
}

function heardOf(parts: string[]) {
  batch(() => {
    link.value = "live";
    note();
    for (const part of parts) take(part);
  });
}

function take(part: string) {
  let kind = "message";
  let data = "";
  for (const line of part.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const [field, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (field === "event") kind = value;
    else if (field === "id") lastId = value;
    else if (field === "data") data += value;
  }
  if (data === "") return;
  messages.value += 1;
  const said = JSON.parse(data);
  switch (kind) {
    case "reset":
      resets.value += 1;
      tables.value = {};
      operations.value += 1;
      refreshSoon();
      break;
    case "ops":
      operations.value += 1;
      refreshSoon();
      break;
    case "lag":
      lag(said as Lag);
      break;
    case "tables":
      ofTables(said);
      break;
    case "state":
      patch(said.pipeline_id, said);
      refreshSoon();
      break;
    case "events":
      lastEvent.value = said as Event;
      // How many fire is counted by the server.
      if ((said as Event).kind.startsWith("alert")) refreshSoon();
      break;
  }
}

/** Asks for the lag of one pipeline, where news of it are not there yet or do not come. */
export async function askLag(id: string) {
  try {
    lag(await get<Lag>(`/monitoring/pipelines/${encodeURIComponent(id)}/lag`));
  } catch {
    // It is said that the server does not answer; what was known stays.
  }
}

function ofTables(said: { pipeline_id: string; whole: boolean; tables: Table[] }) {
  const before = tables.value[said.pipeline_id];
  const known = said.whole || !before ? new Map<string, Table>() : before.known;
  let isOther = said.whole || !before;
  for (const table of said.tables) {
    const was = known.get(table.source);
    isOther ||= was?.state !== table.state || was?.quarantined !== table.quarantined;
    known.set(table.source, table);
  }
  const shape = (before?.shape ?? 0) + (isOther ? 1 : 0);
  tables.value = { ...tables.value, [said.pipeline_id]: { known, isWhole: said.whole || (before?.isWhole ?? false), shape } };
  // How many are in which state is counted by the server.
  if (isOther) refreshSoon();
}

function memory(id: string) {
  let known = memories.get(id);
  if (!known) memories.set(id, (known = { lags: signal([]), gaps: signal([]) }));
  return known;
}

/** The last lags of a pipeline, the newest last. */
export const lagsOf = (id: string): Lag[] => memory(id).lags.value;
/** Its gaps in the last two minutes. */
export const gapsOf = (id: string): (number | null)[] => memory(id).gaps.value;

function lag(said: Lag) {
  const { lags, gaps } = memory(said.pipeline_id);
  const last = lags.value.at(-1);
  if (last && last.measured_at >= said.measured_at) return;
  const kept = Math.min(LAGS_MOST, Math.max(LAGS_LEAST, Math.floor(LAGS_KEPT / memories.size)));
  lags.value = [...lags.value.slice(1 - kept), said];
  gaps.value = [...gaps.value.slice(1 - GAPS_KEPT), said.gap_bytes];
  const { state, health, trend, gap_bytes, latency_seconds, verified } = said;
  patch(said.pipeline_id, { state, health, trend, gap_bytes, latency_seconds, verified });
}

function patch(id: string, change: Partial<Pipeline>) {
  const all = overview.value;
  if (!all) return;
  const at = all.pipelines.findIndex((pipeline) => pipeline.id === id);
  const old = all.pipelines[at];
  if (!old) return refreshSoon();
  const pipelines = [...all.pipelines];
  const { id: _, ...rest } = change;
  const one = { ...old, ...rest };
  pipelines[at] = one;
  const by_health = { ...all.by_health };
  // More than the overview has in full are counted by the server alone.
  if (one.health !== old.health && pipelines.length === all.total) {
    by_health[old.health] = (by_health[old.health] ?? 1) - 1;
    by_health[one.health] = (by_health[one.health] ?? 0) + 1;
  }
  overview.value = { ...all, pipelines, by_health };
}

export const pipelineOf = (id: string) => overview.value?.pipelines.find((one) => one.id === id) ?? null;
