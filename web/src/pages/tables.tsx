// The tables of a pipeline, those that need a person first, with the progress of loads. However many there are, only
// the rows near what is seen are there.

import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, may, post } from "../api";
import { bytes, grouped, seconds, short, words } from "../format";
import { link, now, tables as told } from "../live";
import { parameter, put } from "../router";
import type { Operation, Pipeline, Table } from "../shapes";
import { act, Bar, ProblemBox, Reason, State, useAsked } from "../ui";
import { ResyncDialog } from "./dialogs";

/** Rows that come and go together, how high one is until it was seen, and how near they must be. */
const PART = 50;
const ROW_PX = 41;
const NEAR_PX = 1_000;
const URGENCY = ["quarantined", "resyncing", "loading", "queued", "catching_up", "paused", "streaming", "done", "excluded"];

const urgency = new Map(URGENCY.map((state, rank) => [state, rank]));
const rank = (state: string) => urgency.get(state) ?? -1;

/** As somebody looks for it who does not think of quotes. */
const sought = (text: string) => text.toLowerCase().replaceAll('"', "");

/** What is known so far, and how many there are. */
interface Found {
  tables: Table[];
  counts: { state: string; count: number }[];
}

/** All of them, page by page; the first page is told as soon as it is there. */
async function all(id: string, begin: (found: Found) => void): Promise<Found> {
  const tables: Table[] = [];
  let counts: Found["counts"] = [];
  let cursor: string | null = "";
  while (cursor !== null) {
    const more = cursor === "" ? "limit=100" : `limit=500&cursor=${encodeURIComponent(cursor)}`;
    const page: Found & { next_cursor: string | null } = await get(`/pipelines/${encodeURIComponent(id)}/tables?${more}`);
    tables.push(...page.tables);
    if (cursor === "") {
      counts = page.counts;
      begin({ tables: page.tables, counts });
    }
    cursor = page.next_cursor;
  }
  return { tables, counts };
}

const NONE = new Map<string, Table>();

export function Tables({ one }: { one: Pipeline }) {
  const [first, setFirst] = useState<{ id: string; found: Found } | null>(null);
  const isRunning = !["draft", "stopped", "completed", "failed"].includes(one.state);
  // News come while it runs; else it is asked when its state changes, or more is known of its tables: they
  // are looked for in the target some time after it has ended.
  const counted = isRunning ? "" : one.tables.map((some) => `${some.state} ${some.count}`).join();
  const asked = useAsked(() => all(one.id, (found) => setFirst({ id: one.id, found })), [one.id, one.state, counted, link.value === "polling" ? Math.floor(now.value / 5_000) : 0]);
  const [resync, setResync] = useState<string | null>(null);
  // What its tables did when it ran is no news of now.
  const isOld = !["loading", "catching_up", "streaming"].includes(one.state);
  const news = isRunning && link.value !== "polling" ? told.value[one.id] : undefined;
  const isWhole = news?.isWhole ?? false;
  const found = isWhole ? null : (asked.value ?? (first?.id === one.id ? first.found : null));
  const isPart = found !== null && found !== asked.value;
  const state = parameter("state");
  const wanted = sought(parameter("q") ?? "");
  const base = useMemo(() => (found ? new Map(found.tables.map((table) => [table.source, table])) : NONE), [found]);
  const known = news?.known ?? NONE;
  const of = (name: string) => known.get(name) ?? base.get(name)!;
  // Their order is made anew only when a table comes, goes or is in another state.
  const { shown, counts, total } = useMemo(() => {
    const tables = [...new Map([...base, ...known]).values()];
    const some = tables.filter((table) => (state === null || table.state === state) && (wanted === "" || sought(`${table.source} ${table.target}`).includes(wanted)));
    some.sort((a, b) => rank(a.state) - rank(b.state) || (a.source < b.source ? -1 : 1));
    const counts = new Map<string, number>();
    for (const table of tables) counts.set(table.state, (counts.get(table.state) ?? 0) + 1);
    return { shown: some.map((table) => table.source), counts, total: tables.length };
  }, [base, known, news?.shape, state, wanted]);
  if (!found && !isWhole) return asked.problem ? <ProblemBox problem={asked.problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>;
  // The first page knows how many there are of each.
  const ofState = isPart ? found.counts.map((one) => [one.state, one.count] as const) : [...counts];
  const count = isPart ? found.counts.reduce((sum, one) => sum + one.count, 0) : total;
  const rows = isPart && state === null && wanted === "" ? count : shown.length;
  if (count === 0) return <p class="empty">{one.state === "draft" ? "Its tables are known when it has been started." : "No table is known of it yet."}</p>;
  const parts = Array.from({ length: Math.ceil(shown.length / PART) }, (_, part) => part * PART);
  return (
    <>
      <div class="row spread">
        <div class="counts" role="group" aria-label="filter by state">
          <button type="button" class="small" aria-pressed={state === null} onClick={() => put("state", null)}>all {count}</button>
          {[...ofState].sort((a, b) => rank(a[0]) - rank(b[0])).map(([name, count]) => (
            <button type="button" class="small" key={name} aria-pressed={state === name} onClick={() => put("state", state === name ? null : name)}>{words(name)} {count}</button>
          ))}
        </div>
        <label class="inline"><span class="muted">find</span><input id="find" type="search" placeholder="table" value={parameter("q") ?? ""} onInput={(event) => put("q", event.currentTarget.value)} /></label>
      </div>
      {isOld && one.state !== "completed" && <p class="small muted">The pipeline is {words(one.state)}: its tables are shown as they were when it ran.</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="tables">
        <table class="fold" aria-rowcount={rows + 1}>
          <caption class="hidden">Tables of {one.id}, those that need you first</caption>
          <thead><tr><th scope="col">Table → target</th><th scope="col">State</th><th scope="col">Progress</th><th scope="col" class="n">Rows loaded</th><th scope="col" class="n">Changes</th>{may("operator") && <th scope="col">Actions</th>}</tr></thead>
          {parts.map((from) => (
            <Part key={from} rows={Math.min(PART, shown.length - from)} columns={may("operator") ? 6 : 5} isFirst={from === 0}>
              {() => shown.slice(from, from + PART).map((name, at) => <Row key={name} id={one.id} table={of(name)} number={from + at + 2} isRunning={isRunning} isOld={isOld} onResync={setResync} />)}
            </Part>
          ))}
        </table>
      </div>
      {shown.length === 0 && <p>No table is like that.</p>}
      {resync !== null && <ResyncDialog one={one} table={resync} onClose={() => setResync(null)} />}
    </>
  );
}

/** Some rows; while they are far from what is seen, as much room as they took. */
function Part({ rows, columns, isFirst, children }: { rows: number; columns: number; isFirst: boolean; children: () => ComponentChildren }) {
  const place = useRef<HTMLTableSectionElement>(null);
  const height = useRef<number | null>(null);
  const [isNear, setNear] = useState(isFirst);
  useEffect(() => {
    const watch = new IntersectionObserver((entries) => setNear(entries.at(-1)!.isIntersecting), { rootMargin: `${NEAR_PX}px 0px` });
    watch.observe(place.current!);
    return () => watch.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (isNear) height.current = place.current!.offsetHeight / rows;
  }, [isNear, rows]);
  return (
    <tbody ref={place}>
      {isNear ? children() : <tr aria-hidden="true" style={{ height: `${(height.current ?? ROW_PX) * rows}px` }}><td colSpan={columns} /></tr>}
    </tbody>
  );
}

function Row({ id, table, number, isRunning, isOld, onResync }: { id: string; table: Table; number: number; isRunning: boolean; isOld: boolean; onResync: (table: string) => void }) {
  const isMoving = ["loading", "resyncing", "queued"].includes(table.state);
  const rate = useRate(table.rows_loaded, isMoving);
  const estimated = table.rows_estimated === null ? null : Math.max(table.rows_estimated, table.rows_loaded);
  const ratio = estimated === null ? null : estimated === 0 ? 0 : table.rows_loaded / estimated;
  const percent = ratio === null ? "" : `${Math.floor(ratio * 100)} percent, `;
  const of = estimated === null ? "; how many there are is unknown" : ` of about ${grouped(estimated)}`;
  const ask = (action: string, body: unknown = {}) =>
    act(`${action} ${table.source}`, () =>
      post<Operation>(`/pipelines/${encodeURIComponent(id)}/tables/${encodeURIComponent(table.source)}/actions/${action}`, body));
  return (
    <tr aria-rowindex={number}>
      <td class="name"><span><bdi>{table.source}</bdi>{table.target !== table.source && <span class="muted"> → <bdi>{table.target}</bdi></span>}
        {table.reason && <span class={table.state === "quarantined" ? "small error" : "small muted"}><br /><Reason text={table.reason} /></span>}
        {table.quarantined > 0 && <span class="small error"><br /><a href={`/p/${encodeURIComponent(id)}/quarantine?table=${encodeURIComponent(table.source)}`}>{grouped(table.quarantined)} {table.quarantined === 1 ? "row" : "rows"} in quarantine</a></span>}
        {table.conflicts > 0 && <span class="small warning"><br />{grouped(table.conflicts)} changes met another row than the log implies</span>}</span></td>
      <td data-k="state"><State state={table.state} isOld={isOld} /></td>
      <td data-k="progress">
        {isMoving ? (
          <span class="grow">
            <Bar ratio={ratio} text={`${percent}${grouped(table.rows_loaded)}${of} rows`} />
            <span class="small muted">
              {ratio !== null && `${Math.floor(ratio * 100)}\u00a0% · `}{table.chunks > 0 && `chunk ${table.chunks_loaded} of ${table.chunks}`}
              {rate !== null && rate > 0 && ` · ${short(rate)} rows/s`}
              {rate !== null && rate > 0 && estimated !== null && ` · about ${seconds(Math.max(1, (estimated - table.rows_loaded) / rate))} left`}
            </span>
          </span>
        ) : table.parked > 0 && table.state !== "streaming" ? <span>{grouped(table.parked)} {table.parked === 1 ? "change" : "changes"} parked</span>
          : <span class="muted small">{table.chunks > 0 ? `loaded in ${table.chunks_loaded} chunk${table.chunks_loaded === 1 ? "" : "s"}` : "–"}{table.bytes_loaded > 0 && `, ${bytes(table.bytes_loaded)}`}</span>}
      </td>
      <td data-k="rows" class="n live-value">{grouped(table.rows_loaded)}{isMoving && estimated !== null && <span class="muted"> / {grouped(estimated)}</span>}</td>
      <td data-k="changes" class="n live-value">{grouped(table.changes)}</td>
      {may("operator") && (
        <td>
          <span class="row buttons">
            {table.state === "paused" || table.state === "quarantined"
              ? <button type="button" class="small" disabled={!isRunning} onClick={() => ask(table.state === "paused" ? "resume" : "retry")} aria-label={`${table.state === "paused" ? "resume" : "retry"} ${table.source}`}>{table.state === "paused" ? "Resume" : "Retry"}</button>
              : <button type="button" class="small" disabled={!isRunning || table.state !== "streaming"} onClick={() => ask("pause")} aria-label={`pause ${table.source}`}>Pause</button>}
            <button type="button" class="small" disabled={!isRunning && table.state !== "done"} onClick={() => ask("verify", { depth: "deep" })} aria-label={`verify ${table.source}`}>Verify</button>
            <a class="small" href={`/p/${encodeURIComponent(id)}/data?table=${encodeURIComponent(table.source)}`} aria-label={`rows of ${table.source}`}>Rows</a>
            <button type="button" class="small" disabled={!isRunning} onClick={() => onResync(table.source)} aria-label={`force resync of ${table.source}`}>Resync …</button>
          </span>
        </td>
      )}
    </tr>
  );
}

/** Rows a second, smoothed; `null` until two looks. */
function useRate(rows: number, isMoving: boolean): number | null {
  const last = useRef<{ at: number; rows: number; rate: number | null } | null>(null);
  if (!isMoving) {
    last.current = null;
    return null;
  }
  const at = Date.now();
  const before = last.current;
  if (!before) last.current = { at, rows, rate: null };
  else if (rows !== before.rows && at - before.at >= 500) {
    const rate = Math.max(0, ((rows - before.rows) * 1000) / (at - before.at));
    last.current = { at, rows, rate: before.rate === null ? rate : before.rate * 0.5 + rate * 0.5 };
  }
  return last.current?.rate ?? null;
}
