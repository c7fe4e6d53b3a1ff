// Rows of a table on both sides, side by side: the first ones, or the one with a key. Masked, and written down.

import { useEffect, useState } from "preact/hooks";
import { caller, get, may } from "../api";
import { bytes, clock, grouped, moment } from "../format";
import { parameter, put } from "../router";
import type { Pipeline, Table } from "../shapes";
import { Code, Copyable, ProblemBox, State, Unknown, useAsked } from "../ui";

interface Cell {
  kind: "null" | "text" | "cut" | "large" | "hidden";
  text: string | null;
  bytes: number | null;
}

interface Pair {
  key: string[];
  verdict: "same" | "changed" | "missing" | "extra" | "unpaired";
  is_settled: boolean;
  source: Cell[] | null;
  target: Cell[] | null;
  different: number[];
}

interface Rows {
  table: string;
  target: string;
  table_state: string | null;
  columns: { source: string; target: string; type: string; is_key: boolean; mask: string | null }[];
  is_filtered: boolean;
  rows: Pair[];
  is_whole: boolean;
  source_read_at: string;
  target_read_at: string;
  processed_lsn: string | null;
  /** Of a trace alone. */
  quarantine?: { number: number; op: string; changes: number; cause: { code: string } | null }[];
  compared?: { result: string; lsn: string; at: string } | null;
}

const pathOf = (id: string) => `/pipelines/${encodeURIComponent(id)}`;

export function Data({ one }: { one: Pipeline }) {
  if (caller.value === null) return <p class="muted" aria-busy="true">Asking the server …</p>;
  if (!may("operator")) return <p class="empty">Rows have values in them: they are shown to operators and administrators.</p>;
  return <Look one={one} />;
}

function Look({ one }: { one: Pipeline }) {
  const table = parameter("table");
  const key = parameter("key");
  const tables = useAsked(() => get<{ tables: Table[] }>(`${pathOf(one.id)}/tables?limit=500`), [one.id, one.state === "draft"]);
  const names = (tables.value?.tables ?? []).map((one) => one.source).sort();
  const chosen = table ?? names[0] ?? null;
  const route = chosen === null ? null : key === null
    ? `${pathOf(one.id)}/preview?table=${encodeURIComponent(chosen)}`
    : `${pathOf(one.id)}/trace?table=${encodeURIComponent(chosen)}&key=${encodeURIComponent(key)}`;
  const [found, setFound] = useState<Rows | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [isAsking, setAsking] = useState(false);
  const look = () => {
    if (route === null) return () => undefined;
    let isCurrent = true;
    setAsking(true);
    get<Rows>(route).then(
      (rows) => isCurrent && (setFound(rows), setProblem(null), setAsking(false)),
      (wrong) => isCurrent && (setProblem(wrong), setAsking(false)),
    );
    return () => {
      isCurrent = false;
    };
  };
  useEffect(look, [route]);
  const choose = (name: string) => {
    put("key", null);
    put("table", name);
  };
  const shown = found && found.table === chosen ? found : null;
  return (
    <>
      <div class="row spread">
        <label class="inline">Table
          <select value={chosen ?? ""} onChange={(event) => choose(event.currentTarget.value)}>
            {chosen === null && <option value="">none is known yet</option>}
            {[...new Set(chosen === null ? names : [chosen, ...names])].sort().map((name) => <option key={name} value={name}>{name}</option>)}
          </select>
        </label>
        <button type="button" disabled={route === null || isAsking} onClick={look}>Look again</button>
      </div>
      {shown && shown.columns.some((column) => column.is_key) && <Find key={`${shown.table} ${key}`} shown={shown} value={key} />}
      <ProblemBox problem={problem ?? tables.problem} />
      {isAsking && !shown && <p class="muted" aria-busy="true">Asking both sides …</p>}
      {chosen === null && tables.value && <p class="empty">No table is known yet: start the pipeline.</p>}
      {shown && problem === null && <Shown one={one} shown={shown} isTrace={key !== null} />}
      {route !== null && <Copyable label="command" text={`curl -H "Authorization: Bearer $TIDEMARK_TOKEN" '${location.origin}/api/v1${route.replaceAll("'", "%27")}'`} />}
    </>
  );
}

/** A row by its key, each column by itself. */
function Find({ shown, value }: { shown: Rows; value: string | null }) {
  const columns = shown.columns.filter((column) => column.is_key);
  const [parts, setParts] = useState<string[]>(() => {
    try {
      const known: unknown = JSON.parse(value ?? "");
      if (Array.isArray(known) && known.length === columns.length) return known.map(String);
    } catch {
      // One column's text, as somebody put it into the address.
    }
    return columns.map((_, at) => (at === 0 ? value ?? "" : ""));
  });
  const trace = (event: Event) => {
    event.preventDefault();
    put("key", JSON.stringify(parts));
  };
  return (
    <form class="row" onSubmit={trace} aria-label="trace a row">
      {columns.map((column, at) => (
        <label class="inline" key={column.source}><span class="mono">{column.source}</span>
          <input size={14} autocomplete="off" spellcheck={false} value={parts[at]} onInput={(event) => setParts(parts.map((part, other) => (other === at ? event.currentTarget.value : part)))} />
        </label>
      ))}
      <button type="submit" class="small">Trace this row</button>
      {value !== null && <button type="button" class="small" onClick={() => put("key", null)}>First rows</button>}
    </form>
  );
}

function Shown({ one, shown, isTrace }: { one: Pipeline; shown: Rows; isTrace: boolean }) {
  const masked = shown.columns.filter((column) => column.mask !== null);
  const renamed = shown.columns.filter((column) => column.source !== column.target);
  const differing = shown.rows.filter((row) => row.verdict !== "same" && row.verdict !== "unpaired");
  return (
    <section class="stack" aria-labelledby="rows">
      <h2 id="rows" class="name"><bdi>{shown.table}</bdi> → <bdi>{shown.target}</bdi> {shown.table_state && <State state={shown.table_state} />}</h2>
      <p class="muted small" data-testid="read">
        Source read at {clock(shown.source_read_at)}, target at {clock(shown.target_read_at)}; the target has everything up to {shown.processed_lsn ? <code>{shown.processed_lsn}</code> : <Unknown />}.
        {masked.length > 0 && <> Masked as in the pipeline: {masked.map((column) => `${column.source} (${column.mask})`).join(", ")}.</>}
        {renamed.length > 0 && <> Renamed: {renamed.map((column) => `${column.source} → ${column.target}`).join(", ")}.</>}
        {shown.is_filtered && " A filter leaves rows of the source out; they are not shown."} That you looked is in the audit.
      </p>
      {isTrace && (
        <dl class="facts">
          <div><dt>its table was compared</dt><dd>{shown.compared ? <><State state={shown.compared.result} /> at <code>{shown.compared.lsn}</code>, {moment(shown.compared.at)}</> : <span class="muted">not of late</span>}</dd></div>
          <div><dt>in quarantine</dt><dd>{shown.quarantine?.length ? shown.quarantine.map((kept) => <span key={kept.number}>{kept.op}{kept.cause && <> <Code code={kept.cause.code} /></>}, {grouped(kept.changes)} changes wait <a href={`/p/${encodeURIComponent(one.id)}/quarantine?table=${encodeURIComponent(shown.table)}`}>show</a> </span>) : <span class="muted">nothing of it</span>}</dd></div>
        </dl>
      )}
      {shown.rows.length === 0 ? <p class="empty">{isTrace ? "Neither side has a row of this key." : "Neither side has a row."}</p> : (
        <div class="scroll" tabIndex={0} role="region" aria-label="rows of both sides">
          <table class="rows">
            <caption>{isTrace ? "One row" : `The first ${grouped(shown.rows.length)} rows`}{differing.length > 0 && `, ${grouped(differing.length)} not the same on both sides`}</caption>
            <thead>
              <tr>
                <th scope="col">Verdict</th><th scope="col">Side</th>
                {shown.columns.map((column) => <th scope="col" key={column.source}><bdi>{column.source}</bdi>{column.is_key && " (key)"}{column.mask && ` (${column.mask})`}<br /><span class="small">{column.type}</span></th>)}
              </tr>
            </thead>
            {shown.rows.map((row, at) => <Lines key={`${row.key.join("\u0000")} ${at}`} row={row} columns={shown.columns.length} />)}
          </table>
        </div>
      )}
      {!shown.is_whole && <p class="small">More rows would be too much to show.</p>}
    </section>
  );
}

const WORDS = { same: "same", changed: "differs", missing: "not in the target", extra: "not on the source", unpaired: "no key" };

function Verdict({ row }: { row: Pair }) {
  const [tone, glyph] = row.verdict === "same" ? ["ok", "✓"] : row.verdict === "unpaired" ? ["notice", "·"] : row.is_settled ? ["error", "✗"] : ["unknown", "?"];
  return (
    <>
      <span class={`state ${tone}`}><span class="glyph" aria-hidden="true">{glyph}</span><span>{WORDS[row.verdict]}</span></span>
      {tone === "unknown" && <span class="small muted"><br />may be on its way</span>}
    </>
  );
}

function Lines({ row, columns }: { row: Pair; columns: number }) {
  const sides = row.verdict === "same" ? [["both", row.source] as const] : row.verdict === "unpaired"
    ? [row.source ? ["source", row.source] as const : ["target", row.target] as const]
    : [["source", row.source] as const, ["target", row.target] as const];
  return (
    <tbody>
      {sides.map(([side, cells], at) => (
        <tr key={side}>
          {at === 0 && <td rowSpan={sides.length}><Verdict row={row} /></td>}
          <th scope="row">{side}</th>
          {cells === null ? <td colSpan={columns} class="muted">there is no such row</td> : cells.map((cell, index) => (
            <td key={index} class={row.different.includes(index) ? "differs" : undefined}>{row.different.includes(index) && <span class="hidden">differs: </span>}<Value cell={cell} /></td>
          ))}
        </tr>
      ))}
    </tbody>
  );
}

function Value({ cell }: { cell: Cell }) {
  switch (cell.kind) {
    case "null":
      return <span class="muted">NULL</span>;
    case "hidden":
      return <span class="muted" title="it is not what the mask makes of the source's value">not shown</span>;
    case "large":
      return <span class="muted">{bytes(cell.bytes ?? 0)}, not shown</span>;
    default:
      return <bdi class="mono">{cell.text === "" ? <span class="muted">empty</span> : cell.text}{cell.kind === "cut" && <span class="muted"> …</span>}</bdi>;
  }
}
