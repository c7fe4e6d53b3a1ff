// What could not be applied: rows and tables, why, and what can be done about each.

import { useEffect, useState } from "preact/hooks";
import { get, may, post, word } from "../api";
import { grouped, moment } from "../format";
import { link, now, overview } from "../live";
import { parameter, put } from "../router";
import type { Operation, Pipeline, Table } from "../shapes";
import { act, Code, Copyable, Dialog, HealthMark, ProblemBox, Reason, State, TypedName, useAsked } from "../ui";

interface Cause {
  code: string;
  sqlstate: string;
  text: string | null;
}

interface KeptRow {
  number: number;
  table: string;
  target: string;
  keys: string[][] | null;
  op: string;
  changes: number;
  position: string;
  since: string;
  cause: Cause | null;
}

interface KeptRowFull extends KeptRow {
  first_action: string | null;
  kept: { number: number; op: string; xid: number; position: string; since: string; cause: Cause | null; row: Record<string, string | null> }[];
}

interface Kept {
  tables: Table[];
  rows: KeptRow[];
  rows_total: number;
  changes_total: number;
  next_cursor: number | null;
}

const many = (count: number, what: string) => `${grouped(count)} ${what}${count === 1 ? "" : "s"}`;
const keyOf = (row: KeptRow) => row.keys?.at(-1)?.join(", ") ?? null;
const pathOf = (id: string) => `/pipelines/${encodeURIComponent(id)}`;
const isAtWork = (one: Pipeline) => !["draft", "stopped", "completed", "failed"].includes(one.state);
const tablesAside = (one: Pipeline) => one.tables.find((count) => count.state === "quarantined")?.count ?? 0;

/** What is to be asked about before it is done. */
interface Wanted {
  title: string;
  /** Of the API, where it is asked for. */
  path: string;
  verb: string;
  button: string;
  command: string;
  /** What it takes away is not given back. */
  isFinal: boolean;
}

/** The tab of a pipeline. */
export function QuarantineTab({ one }: { one: Pipeline }) {
  const table = parameter("table");
  const query = table ? `?table=${encodeURIComponent(table)}` : "";
  const [more, setMore] = useState<KeptRow[]>([]);
  const [cursor, setCursor] = useState<number | null>(null);
  const [shown, setShown] = useState<number | null>(null);
  const [wanted, setWanted] = useState<Wanted | null>(null);
  const [late, setLate] = useState<unknown>(null);
  const { value, problem, reload } = useAsked(
    () => get<Kept>(`${pathOf(one.id)}/quarantine${query}`),
    [one.id, query, one.state, one.rows_quarantined, tablesAside(one), link.value === "polling" ? Math.floor(now.value / 5_000) : 0],
  );
  useEffect(() => {
    setMore([]);
    setCursor(value?.next_cursor ?? null);
  }, [value]);
  if (!value) return problem ? <><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></> : <p class="muted" aria-busy="true">Asking the target …</p>;
  const rows = [...value.rows, ...more];
  const older = async () => {
    try {
      const page = await get<Kept>(`${pathOf(one.id)}/quarantine${query}${query ? "&" : "?"}cursor=${cursor}`);
      setMore([...more, ...page.rows]);
      setCursor(page.next_cursor);
      setLate(null);
    } catch (wrong) {
      setLate(wrong);
    }
  };
  const isNothing = rows.length === 0 && value.tables.length === 0;
  const flag = table ? ` --table ${word(table)}` : "";
  const ofAll = (verb: string, title: string, command: string, isFinal: boolean): Wanted => ({
    title, verb, command, isFinal, button: isFinal ? "Drop" : "Retry",
    path: table ? `${pathOf(one.id)}/tables/${encodeURIComponent(table)}/actions/${verb}` : `${pathOf(one.id)}/actions/${verb}`,
  });
  return (
    <>
      {table && <div class="row"><span>Only <bdi class="mono">{table}</bdi></span><button type="button" class="small" onClick={() => put("table", null)}>Show all tables</button></div>}
      {problem ? <ProblemBox problem={problem} /> : null}
      {isNothing ? (
        <div class="empty">
          <p>Nothing is in quarantine{table ? " of this table" : ""}: no row was refused that is not in by now.</p>
          <p class="muted">A row that the target refuses stops its table, or goes aside alone where the pipeline file says <code>on_row_error = "quarantine_row"</code>. It is shown here then, with its cause.</p>
        </div>
      ) : (
        <div class="row spread">
          <p data-testid="kept">{many(value.rows_total, "row")} in quarantine with {many(value.changes_total, "change")}; {many(value.tables.length, "table")} set aside.{isAtWork(one) && " Everything else goes on."}</p>
          {may("operator") && (
            <div class="row">
              <button type="button" class="primary" disabled={!isAtWork(one)} onClick={() => setWanted(ofAll("retry", "Retry everything that is shown", `tidemark retry ${one.id}${flag}`, false))}>Retry all …</button>
              {value.rows_total > 0 && <button type="button" class="danger" disabled={!isAtWork(one)} onClick={() => setWanted(ofAll("drop", "Drop every row that is shown", `tidemark quarantine drop ${one.id}${flag}`, true))}>Drop all rows …</button>}
            </div>
          )}
        </div>
      )}
      {!isNothing && may("operator") && !isAtWork(one) && <p class="warning">! {one.id} does not run. Start it first: what is in quarantine is applied by the pipeline itself.</p>}
      {!may("operator") && rows.length > 0 && <p class="muted">Keys and values of rows are shown to operators.</p>}
      {value.tables.length > 0 && <Aside one={one} tables={value.tables} want={setWanted} />}
      {rows.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="rows in quarantine">
          <table class="fold">
            <caption>Rows, by when the first change of each came</caption>
            <thead><tr><th scope="col">Table</th><th scope="col">Key</th><th scope="col">Refused</th><th scope="col">Cause</th><th scope="col" class="n">Changes</th><th scope="col">Since</th>{may("operator") && <th scope="col">Actions</th>}</tr></thead>
            <tbody>{rows.map((row) => <Row key={row.number} one={one} row={row} show={() => setShown(row.number)} want={setWanted} />)}</tbody>
          </table>
        </div>
      )}
      <ProblemBox problem={late} />
      {cursor !== null && <div class="row"><button type="button" onClick={() => void older()}>Show more: {grouped(rows.length)} of {grouped(value.rows_total)} are shown</button></div>}
      {shown !== null && <Shown one={one} number={shown} onClose={() => setShown(null)} />}
      {wanted && <Ask one={one} wanted={wanted} onClose={() => setWanted(null)} onDone={reload} />}
    </>
  );
}

function Aside({ one, tables, want }: { one: Pipeline; tables: Table[]; want: (wanted: Wanted) => void }) {
  const of = (table: Table, verb: string, title: string, button: string, command: string): Wanted => ({
    title, verb, button, command: `${command} --table ${word(table.source)}`, isFinal: false,
    path: `${pathOf(one.id)}/tables/${encodeURIComponent(table.source)}/actions/${verb}`,
  });
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="tables that are set aside">
      <table class="fold">
        <caption>Tables that are set aside</caption>
        <thead><tr><th scope="col">Table</th><th scope="col">Why</th><th scope="col" class="n">Changes kept</th>{may("operator") && <th scope="col">Actions</th>}</tr></thead>
        <tbody>
          {tables.map((table) => (
            <tr key={table.source}>
              <td class="name"><bdi>{table.source}</bdi></td>
              <td data-k="why"><Reason text={table.reason} /></td>
              <td data-k="kept" class="n">{grouped(table.parked)}</td>
              {may("operator") && (
                <td>
                  <span class="row buttons">
                    <button type="button" class="small" disabled={!isAtWork(one)} aria-label={`retry ${table.source}`} onClick={() => want(of(table, "retry", `Retry ${table.source}`, "Retry", `tidemark retry ${one.id}`))}>Retry …</button>
                    <button type="button" class="small" disabled={!isAtWork(one)} aria-label={`skip rows of ${table.source}`} onClick={() => want(of(table, "skip", `Go on with ${table.source}`, "Go on", `tidemark skip ${one.id} --rows`))}>Skip rows …</button>
                  </span>
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ one, row, show, want }: { one: Pipeline; row: KeptRow; show: () => void; want: (wanted: Wanted) => void }) {
  const key = keyOf(row);
  const who = `${row.table} key ${key}`;
  const of = (verb: string, title: string, button: string, command: string, isFinal: boolean): Wanted => ({
    title, verb, button, isFinal, path: `${pathOf(one.id)}/quarantine/${row.number}/actions/${verb}`,
    command: `${command} ${one.id} --table ${word(row.table)} --key ${word(JSON.stringify(row.keys?.at(-1) ?? []))}`,
  });
  return (
    <tr data-number={row.number}>
      <td class="name"><bdi>{row.table}</bdi></td>
      <td data-k="key" class="name">{key === null ? <span class="muted">not shown</span> : <bdi class="mono">{key}</bdi>}</td>
      <td data-k="refused">{row.op}</td>
      <td data-k="cause">{row.cause ? <span><Code code={row.cause.code} /> <span class="muted">{row.cause.sqlstate}</span> {row.cause.text}</span> : <span class="muted">waits behind another</span>}</td>
      <td data-k="changes" class="n">{grouped(row.changes)}</td>
      <td data-k="since">{moment(row.since)}</td>
      {may("operator") && (
        <td>
          <span class="row buttons">
            <button type="button" class="small" aria-label={`show ${who}`} onClick={show}>Show</button>
            <button type="button" class="small" disabled={!isAtWork(one)} aria-label={`retry ${who}`} onClick={() => want(of("retry", `Retry a row of ${row.table}`, "Retry", "tidemark quarantine release", false))}>Retry …</button>
            <button type="button" class="small danger" disabled={!isAtWork(one)} aria-label={`drop ${who}`} onClick={() => want(of("drop", `Drop a row of ${row.table}`, "Drop", "tidemark quarantine drop", true))}>Drop …</button>
          </span>
        </td>
      )}
    </tr>
  );
}

/** A row with its changes and their values. */
function Shown({ one, number, onClose }: { one: Pipeline; number: number; onClose: () => void }) {
  const { value, problem } = useAsked(() => get<KeptRowFull>(`${pathOf(one.id)}/quarantine/${number}`), [number]);
  return (
    <Dialog title="Row in quarantine" onClose={onClose}>
      {!value && !problem && <p class="muted" aria-busy="true">Asking the target …</p>}
      <ProblemBox problem={problem} />
      {value && (
        <>
          <dl class="facts stacked">
            <div><dt>table</dt><dd class="name">{value.table} → {value.target}</dd></div>
            <div><dt>key</dt><dd class="name mono">{value.keys?.map((key) => key.join(", ")).join(" → ")}</dd></div>
            {value.cause && <div><dt>cause</dt><dd><Code code={value.cause.code} /> {value.cause.sqlstate}: {value.cause.text}</dd></div>}
            <div><dt>effect</dt><dd>The row in the target is not as on the source; {many(value.changes - 1, "change")} of it wait{value.changes === 2 ? "s" : ""} behind the first. All other rows go on.</dd></div>
            {value.first_action && <div><dt>do first</dt><dd>{value.first_action}; then retry it.</dd></div>}
          </dl>
          {value.kept.map((change) => (
            <div class="scroll" key={change.number} tabIndex={0} role="region" aria-label={`${change.op} at ${change.position}`}>
              <table>
                <caption class="small">{change.op} at <code>{change.position}</code>, transaction {change.xid}, {moment(change.since)} {change.cause ? <span class="error">✗ refused, {change.cause.sqlstate}</span> : <span class="muted">waits</span>}</caption>
                <tbody>
                  {Object.entries(change.row).map(([column, cell]) => (
                    <tr key={column}><th scope="row">{column}</th><td class="name mono">{cell === null ? <span class="muted">NULL</span> : <bdi>{cell}</bdi>}</td></tr>
                  ))}
                </tbody>
              </table>
            </div>
          ))}
          <p class="muted small">That you looked is in the audit.</p>
        </>
      )}
      <div class="row"><button type="button" onClick={onClose}>Close</button></div>
    </Dialog>
  );
}

/** Says what an action does to the data, and asks for it. */
function Ask({ one, wanted, onClose, onDone }: { one: Pipeline; wanted: Wanted; onClose: () => void; onDone: () => void }) {
  const [typed, setTyped] = useState("");
  const { value, problem } = useAsked(() => post<{ effect: string[]; rows: number; tables: Table[] }>(wanted.path, { dry_run: true }), [wanted.path]);
  const isSomething = value !== null && (value.rows > 0 || value.tables.length > 0);
  const mayGo = isSomething && (!wanted.isFinal || typed === one.id);
  const go = (event: Event) => {
    event.preventDefault();
    if (!mayGo) return;
    onClose();
    void act(`${wanted.verb} ${one.id}`, () => post<Operation>(wanted.path)).then(onDone);
  };
  return (
    <Dialog title={wanted.title} onClose={onClose}>
      <form onSubmit={go}>
        {!value && !problem && <p class="muted" aria-busy="true">Looking at what is in quarantine …</p>}
        {value?.effect.map((text) => <p key={text} data-testid="effect">{text}</p>)}
        <ProblemBox problem={problem} />
        {isSomething && <Copyable label="command" text={wanted.command} />}
        {isSomething && wanted.isFinal && (
          <TypedName name={one.id} typed={typed} onType={setTyped} />
        )}
        <div class="row">
          <button type="submit" class={wanted.isFinal ? "danger" : "primary"} disabled={!mayGo}>{wanted.button}</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

/** All pipelines that have something in quarantine. */
export function Quarantine() {
  const all = overview.value?.pipelines;
  if (!all) return <><h1 tabIndex={-1}>Quarantine</h1><p class="muted" aria-busy="true">Asking the server …</p></>;
  const those = all.filter((one) => tablesAside(one) > 0 || (one.rows_quarantined ?? 0) > 0);
  const unknown = all.filter((one) => one.rows_quarantined === null && one.state !== "draft");
  return (
    <>
      <h1 tabIndex={-1}>Quarantine</h1>
      {those.length === 0 && <p class="empty">{unknown.length === all.length && all.length > 0 ? "Of no pipeline it is known yet." : "Nothing is in quarantine."}</p>}
      {those.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="pipelines with something in quarantine">
          <table class="fold">
            <caption class="hidden">Pipelines with rows or tables in quarantine</caption>
            <thead><tr><th scope="col">Pipeline</th><th scope="col">State</th><th scope="col" class="n">Rows</th><th scope="col" class="n">Tables set aside</th></tr></thead>
            <tbody>
              {those.map((one) => (
                <tr key={one.id}>
                  <td><span class="row"><HealthMark health={one.health} /> <a class="name" href={`/p/${encodeURIComponent(one.id)}/quarantine`} data-row>{one.id}</a></span></td>
                  <td data-k="state"><State state={one.state} /></td>
                  <td data-k="rows" class="n live-value">{grouped(one.rows_quarantined ?? 0)}</td>
                  <td data-k="tables" class="n live-value">{grouped(tablesAside(one))}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {unknown.length > 0 && unknown.length < all.length && <p class="muted">Not known of {unknown.map((one) => one.id).join(", ")}.</p>}
    </>
  );
}
