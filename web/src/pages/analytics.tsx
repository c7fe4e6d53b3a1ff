// Positions, gap, latency, throughput and the slot over time. A period without a measurement is a hole.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { get } from "../api";
import { bytes, clock, grouped, lsn, moment, seconds } from "../format";
import { lagsOf, link, now } from "../live";
import { setZone, zone, type Zone } from "../prefs";
import { parameter, put } from "../router";
import type { History, Lag, Pipeline } from "../shapes";
import { Code, Known, ProblemBox, useAsked } from "../ui";

const RANGES: [string, number][] = [["15 m", 900], ["1 h", 3_600], ["6 h", 21_600], ["24 h", 86_400], ["7 d", 604_800], ["30 d", 2_592_000]];

type Column = (number | null)[];

/** All panels share one time axis. */
interface Series {
  at: number[];
  step: number;
  source: Column;
  processed: Column;
  gap: Column;
  latency: Column;
  inserts: Column;
  updates: Column;
  deletes: Column;
  retained: Column;
  sourceText: (string | null)[];
  processedText: (string | null)[];
  /** Where the server has not written down yet what it measured. */
  pending: boolean[];
}

/** History is written down in portions. */
const PENDING_SECONDS = 15;

/** History, and what came since, on a grid: what was not measured is `null`. */
export function series(history: History, live: Lag[], from: number, to: number): Series {
  const step = history.step_seconds;
  const first = Math.floor(from / step) * step;
  const size = Math.max(0, Math.floor((to - first) / step) + 1);
  const empty = () => new Array<number | null>(size).fill(null);
  const made: Series = {
    at: Array.from({ length: size }, (_, index) => first + index * step), step,
    source: empty(), processed: empty(), gap: empty(), latency: empty(), inserts: empty(), updates: empty(), deletes: empty(), retained: empty(),
    sourceText: new Array(size).fill(null), processedText: new Array(size).fill(null), pending: new Array(size).fill(false),
  };
  const place = (at: string) => Math.floor((Date.parse(at) / 1000 - first) / step);
  let last = -1;
  const seen = new Set<number>();
  let before: { index: number; counts: (number | null)[] } | null = null;
  for (const point of history.points) {
    const index = place(point.at);
    if (index < 0 || index >= size) continue;
    last = Math.max(last, index);
    made.sourceText[index] = point.source_lsn;
    made.processedText[index] = point.processed_lsn;
    made.gap[index] = point.gap_bytes_max ?? point.gap_bytes;
    made.latency[index] = point.latency_seconds_max ?? point.latency_seconds;
    made.retained[index] = point.retained_bytes;
    const counts = [point.inserts, point.updates, point.deletes];
    // Counters begin anew with each run, and across a hole there is no rate.
    if (before && index - before.index <= 2) {
      const width = (index - before.index) * step;
      [made.inserts, made.updates, made.deletes].forEach((column, kind) => {
        const [a, b] = [before!.counts[kind] ?? null, counts[kind] ?? null];
        if (a !== null && b !== null && b >= a) column[index] = (b - a) / width;
      });
    }
    before = { index, counts };
  }
  for (const lag of live) {
    const index = place(lag.measured_at);
    if (index <= last || index >= size) continue;
    seen.add(index);
    made.sourceText[index] = lag.source_lsn;
    made.processedText[index] = lag.processed_lsn;
    made.gap[index] = lag.gap_bytes;
    made.latency[index] = lag.latency_seconds;
    made.retained[index] = lag.slot?.retained_bytes ?? null;
  }
  for (let index = last + 1; index < size; index += 1) {
    made.pending[index] = !seen.has(index) && to - made.at[index]! <= Math.max(PENDING_SECONDS, 2 * step);
  }
  // Positions are drawn as bytes since the start of the window, where nothing is lost to rounding.
  const known = [...made.processedText, ...made.sourceText].map(lsn).filter((n): n is number => n !== null);
  const origin = known.length ? known.reduce((a, b) => Math.min(a, b)) : 0;
  made.source = made.sourceText.map((text) => since(text, origin));
  made.processed = made.processedText.map((text) => since(text, origin));
  return bridged(made);
}

function since(text: string | null, origin: number): number | null {
  const value = lsn(text);
  return value === null ? null : value - origin;
}

/** A sample comes once a second, not on the second: a single bucket missed between two is no hole. */
function bridged(made: Series): Series {
  for (const column of [made.source, made.processed, made.gap, made.latency, made.retained, made.inserts, made.updates, made.deletes]) {
    for (let at = 1; at + 1 < column.length; at += 1) {
      if (column[at] === null && column[at - 1] !== null && column[at + 1] !== null && made.sourceText[at] === null && made.processedText[at] === null) column[at] = column[at - 1]!;
    }
  }
  return made;
}

interface Line {
  label: string;
  colour: string;
  dash?: number[];
  values: Column;
  fill?: boolean;
}

const token = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Changes when the theme does. */
function useTheme(): number {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const changed = () => setCount((count) => count + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", changed);
    const stored = new MutationObserver(changed);
    stored.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      system.removeEventListener("change", changed);
      stored.disconnect();
    };
  }, []);
  return count;
}

/** Bands where nothing was measured, in the middle of the window. */
function holes(plot: uPlot, isKnown: boolean[]) {
  const { ctx, bbox } = plot;
  const at = plot.data[0];
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  let start: number | null = null;
  for (let index = 0; index <= isKnown.length; index += 1) {
    const known = index === isKnown.length || isKnown[index];
    if (!known) start ??= index;
    else if (start !== null) {
      const left = plot.valToPos(at[start]!, "x", true);
      const right = plot.valToPos(at[Math.min(index, at.length - 1)]!, "x", true);
      start = null;
      if (right - left < 2) continue;
      ctx.fillStyle = token("sunken");
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, bbox.top, right - left, bbox.height);
      ctx.clip();
      ctx.strokeStyle = token("line");
      ctx.lineWidth = devicePixelRatio;
      ctx.beginPath();
      for (let x = left - bbox.height; x < right; x += 8 * devicePixelRatio) {
        ctx.moveTo(x, bbox.top + bbox.height);
        ctx.lineTo(x + bbox.height, bbox.top);
      }
      ctx.stroke();
      ctx.restore();
      ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
      if (right - left > ctx.measureText("not measured").width + 12) {
        ctx.fillStyle = token("muted");
        ctx.textAlign = "center";
        ctx.textBaseline = "middle";
        ctx.fillText("not measured", (left + right) / 2, bbox.top + bbox.height / 2);
      }
    }
  }
  ctx.restore();
}

function Panel({ title, at, pending, lines, height, value, summary }: { title: string; at: number[]; pending: boolean[]; lines: Line[]; height: number; value: (n: number) => string; summary: string }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const known = useRef<boolean[]>([]);
  const theme = useTheme();
  const [index, setIndex] = useState<number | null>(null);
  const data = [at, ...lines.map((line) => line.values)] as uPlot.AlignedData;
  known.current = at.map((_, index) => pending[index] || lines.some((line) => line.values[index] !== null && line.values[index] !== undefined));

  useEffect(() => {
    const own = place.current!;
    const axis: uPlot.Axis = { stroke: () => token("muted"), grid: { stroke: () => token("line"), width: 1 }, ticks: { stroke: () => token("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const made = new uPlot(
      {
        width: Math.max(200, own.clientWidth),
        height,
        legend: { show: false },
        // Ticks of days begin at midnight of the zone that is shown.
        tzDate: (at) => (zone.value === "UTC" ? uPlot.tzDate(new Date(at * 1000), "UTC") : new Date(at * 1000)),
        cursor: { sync: { key: "tidemark" }, drag: { x: false, y: false }, y: false },
        scales: { y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.08 : 1] } },
        axes: [
          { ...axis, values: (_plot, ticks) => ticks.map((tick) => (at[at.length - 1]! - at[0]! > 90_000 ? moment(new Date(tick * 1000).toISOString()).slice(0, 10) : clock(tick * 1000).slice(0, at[at.length - 1]! - at[0]! > 3_700 ? 5 : 8))), space: 90 },
          { ...axis, size: 76, values: (_plot, ticks) => ticks.map((tick) => value(tick)), space: 30 },
        ],
        series: [{}, ...lines.map((line) => ({ label: line.label, stroke: () => token(line.colour), width: 2, points: { show: false }, spanGaps: false, ...(line.dash ? { dash: line.dash } : {}), ...(line.fill ? { fill: () => `${token(line.colour)}26` } : {}) }))],
        bands: lines.length === 2 && lines[0]!.fill === undefined && title.startsWith("Position") ? [{ series: [1, 2], fill: () => `${token("gap")}33` }] : [],
        hooks: { drawClear: [(plot) => holes(plot, known.current)], setCursor: [(plot) => setIndex(plot.cursor.idx ?? null)] },
      },
      data,
      own,
    );
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: Math.max(200, own.clientWidth), height }));
    watch.observe(own);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [theme, lines.length, zone.value]);
  useEffect(() => plot.current?.setData(data), [at, ...lines.map((line) => line.values)]);

  const move = (event: KeyboardEvent) => {
    const step = event.key === "ArrowLeft" ? -1 : event.key === "ArrowRight" ? 1 : 0;
    if (!step || !plot.current) return;
    event.preventDefault();
    const to = Math.min(at.length - 1, Math.max(0, (plot.current.cursor.idx ?? at.length - 1) + step));
    plot.current.setCursor({ left: plot.current.valToPos(at[to]!, "x"), top: 10 });
  };
  const read = (line: Line) => {
    const known = line.values[index ?? newest(pending)];
    return known === null || known === undefined ? (index === null ? "unknown" : "not measured") : value(known);
  };
  return (
    <figure>
      <figcaption>
        <b>{title}</b>
        {lines.map((line) => <span key={line.label} class={`key small${line.dash ? " dashed" : ""}`} style={{ color: `var(--${line.colour})` }}>{line.label} <span class="live-value">{read(line)}</span></span>)}
        {index !== null && at[index] !== undefined && <span class="muted small">at {clock(at[index]! * 1000)}</span>}
      </figcaption>
      <div class="chart" ref={place} tabIndex={0} role="img" aria-label={`${title}. ${summary} Arrow keys move the cursor.`} onKeyDown={move} />
    </figure>
  );
}

/** The last moment of which the server has said something. */
function newest(pending: boolean[]): number {
  return pending.lastIndexOf(false);
}

/** One sentence of a series. */
function summary(values: Column, pending: boolean[], value: (n: number) => string): string {
  const known = values.filter((one): one is number => one !== null);
  if (known.length === 0) return "Nothing was measured in this period.";
  const most = known.reduce((a, b) => Math.max(a, b));
  const missing = values.filter((one, index) => one === null && !pending[index]).length;
  const last = values[newest(pending)];
  return `Now ${last === null || last === undefined ? "unknown" : value(last)}, at most ${value(most)}${missing > 2 ? `; ${missing} of ${values.length} moments were not measured` : ""}.`;
}

export function Analytics({ one }: { one: Pipeline }) {
  const range = RANGES.find(([name]) => name === parameter("range")) ?? RANGES[0]!;
  const [frozen, setFrozen] = useState<number | null>(null);
  const isTable = parameter("as") === "table";
  const tick = Math.floor(now.value / (range[1] > 3_600 ? 30_000 : 10_000));
  const to = frozen ?? Math.floor(now.value / 1000);
  // There is no hole before it was there.
  const from = Math.min(to - 60, Math.max(to - range[1], Math.floor(Date.parse(one.created_at) / 1000)));
  const asked = useAsked(
    () => get<History>(`/monitoring/pipelines/${encodeURIComponent(one.id)}/lag/history?from=${from}&to=${to + 1}&points=900`),
    [one.id, range[0], frozen ?? tick, link.value === "live"],
  );
  const live = lagsOf(one.id);
  const made = useMemo(() => (asked.value ? series(asked.value, frozen === null ? live : [], from, to) : null), [asked.value, live, from, to]);
  const lag = live.at(-1) ?? null;
  if (lag === null && link.value !== "gone") return <p class="muted" aria-busy="true">Asking the server …</p>;
  if (!made) return asked.problem ? <ProblemBox problem={asked.problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>;
  const isPostgres = lag === null || lag.position_type === null || lag.position_type === "pg_lsn";
  const rate = (n: number) => `${grouped(n)}/s`;
  return (
    <>
      <div class="row spread">
        <div class="counts" role="group" aria-label="range">
          {RANGES.map(([name]) => <button type="button" class="small" key={name} aria-pressed={name === range[0]} onClick={() => put("range", name)}>{name}</button>)}
        </div>
        <div class="row">
          <label class="inline"><span class="muted">times</span><select value={zone.value} onChange={(event) => setZone(event.currentTarget.value as Zone)}><option value="local">local</option><option value="UTC">UTC</option></select></label>
          <label class="inline"><input type="checkbox" checked={frozen !== null} onChange={(event) => setFrozen(event.currentTarget.checked ? to : null)} />freeze</label>
          <button type="button" class="small" aria-pressed={isTable} onClick={() => put("as", isTable ? null : "table")}>as table</button>
        </div>
      </div>
      <dl class="readouts">
        <div><dt>source</dt><dd class="mono"><Known value={lag?.source_lsn} why={lag?.unknown_reason ?? null}>{(text) => text}</Known></dd></div>
        <div><dt>processed</dt><dd class="mono"><Known value={lag?.processed_lsn}>{(text) => text}</Known></dd></div>
        <div><dt>gap</dt><dd><Known value={lag?.gap_bytes} why={lag?.unknown_reason ?? null}>{bytes}</Known></dd></div>
        <div><dt>latency</dt><dd><Known value={lag?.latency_seconds} why={lag?.unknown_reason ?? null}>{seconds}</Known></dd></div>
        <div><dt>caught up in</dt><dd>{lag?.eta_seconds == null ? <span class="muted">–</span> : seconds(lag.eta_seconds)}</dd></div>
        <div><dt>kept on the source</dt><dd><Known value={lag?.slot?.retained_bytes}>{bytes}</Known></dd></div>
      </dl>
      {lag?.unknown_reason && <p class="small">Not known now: <Code code={lag.unknown_reason} />{lag.last_known && <>; last known {moment(lag.last_known.at)} at <code>{lag.last_known.source_lsn}</code></>}.</p>}
      {lag?.slot && <p class="small muted">Slot <code>{lag.slot.name}</code>: {lag.slot.wal_status}, {lag.slot.safe_bytes === null ? "no limit on what it may keep" : `${bytes(lag.slot.safe_bytes)} more until the source gives it up`}{lag.slot.predicted_loss_at && <span class="error"> · at this rate lost at {moment(lag.slot.predicted_loss_at)}</span>}</p>}
      {isTable ? <Twin made={made} /> : (
        <div class="panels">
          {isPostgres && <Panel title="Position (bytes since the start of the window)" height={220} at={made.at} pending={made.pending} value={bytes} summary={`Source: ${summary(made.source, made.pending, bytes)} Processed: ${summary(made.processed, made.pending, bytes)}`}
            lines={[{ label: "source", colour: "source", values: made.source }, { label: "processed", colour: "processed", dash: [8, 4], values: made.processed }]} />}
          <Panel title="Gap (bytes not yet in the target)" height={150} at={made.at} pending={made.pending} value={bytes} summary={summary(made.gap, made.pending, bytes)} lines={[{ label: "gap", colour: "gap", values: made.gap, fill: true }]} />
          <Panel title="Latency" height={150} at={made.at} pending={made.pending} value={seconds} summary={summary(made.latency, made.pending, seconds)} lines={[{ label: "latency", colour: "latency", values: made.latency, fill: true }]} />
          <Panel title="Throughput (rows applied)" height={150} at={made.at} pending={made.pending} value={rate} summary={`Inserts: ${summary(made.inserts, made.pending, rate)}`}
            lines={[{ label: "inserts", colour: "processed", values: made.inserts }, { label: "updates", colour: "source", dash: [8, 4], values: made.updates }, { label: "deletes", colour: "gap", dash: [2, 3], values: made.deletes }]} />
          <Panel title="Log kept on the source by the slot" height={130} at={made.at} pending={made.pending} value={bytes} summary={summary(made.retained, made.pending, bytes)} lines={[{ label: "kept", colour: "latency", values: made.retained, fill: true }]} />
        </div>
      )}
    </>
  );
}

/** The same numbers as text, thinned to what can be read. */
function Twin({ made }: { made: Series }) {
  const every = Math.max(1, Math.ceil(made.at.length / 120));
  const rows = made.at.map((_, index) => index).filter((index) => (made.at.length - 1 - index) % every === 0).reverse();
  const cell = (value: number | null | undefined, as: (n: number) => string) => (value === null || value === undefined ? <span class="muted">not measured</span> : as(value));
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="measurements">
      <table>
        <caption>Measurements, newest first, one in {seconds(every * made.step)}</caption>
        <thead><tr><th scope="col">At</th><th scope="col">Source</th><th scope="col">Processed</th><th scope="col" class="n">Gap</th><th scope="col" class="n">Latency</th><th scope="col" class="n">Inserts</th><th scope="col" class="n">Updates</th><th scope="col" class="n">Deletes</th><th scope="col" class="n">Kept</th></tr></thead>
        <tbody>
          {rows.map((index) => (
            <tr key={made.at[index]}>
              <td>{moment(new Date(made.at[index]! * 1000).toISOString())}</td>
              <td><code>{made.sourceText[index] ?? "not measured"}</code></td>
              <td><code>{made.processedText[index] ?? "not measured"}</code></td>
              <td class="n">{cell(made.gap[index], bytes)}</td>
              <td class="n">{cell(made.latency[index], seconds)}</td>
              <td class="n">{cell(made.inserts[index], (n) => `${grouped(n)}/s`)}</td>
              <td class="n">{cell(made.updates[index], (n) => `${grouped(n)}/s`)}</td>
              <td class="n">{cell(made.deletes[index], (n) => `${grouped(n)}/s`)}</td>
              <td class="n">{cell(made.retained[index], bytes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
