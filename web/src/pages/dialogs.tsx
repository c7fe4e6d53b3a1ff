// What asks before it changes something: with objects, rows, and who will notice.

import { useEffect, useState } from "preact/hooks";
import { ask, get, post, word } from "../api";
import { bytes, grouped } from "../format";
import { go } from "../router";
import type { Operation, Pipeline, Table } from "../shapes";
import { act, Copyable, Dialog, ProblemBox, TypedName, Unknown, useAsked } from "../ui";

interface Effect {
  strategy: string;
  tables: { source: string; target: string; rows_estimated: number | null; size_bytes: number; rows_loaded_before: number | null }[];
  readers: string;
  others: string;
}

/** Resync of one table, or of one that is chosen here. */
export function ResyncDialog({ one, table, onClose }: { one: Pipeline; table: string | null; onClose: () => void }) {
  const path = `/pipelines/${encodeURIComponent(one.id)}`;
  const [tables, setTables] = useState<string[]>(table === null ? [] : [table]);
  const [chosen, setChosen] = useState(table);
  const [strategy, setStrategy] = useState("swap");
  const [effect, setEffect] = useState<Effect | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [typed, setTyped] = useState("");

  useEffect(() => {
    if (table !== null) return;
    get<{ tables: Table[] }>(`${path}/tables?limit=500`).then((found) => {
      setTables(found.tables.map((one) => one.source).sort());
    }, setProblem);
  }, []);

  useEffect(() => {
    if (chosen === null) return;
    let isCurrent = true;
    setEffect(null);
    post<Effect>(`${path}/actions/resync`, { tables: [chosen], strategy, dry_run: true }).then(
      (found) => isCurrent && (setEffect(found), setProblem(null)),
      (wrong) => isCurrent && setProblem(wrong),
    );
    return () => {
      isCurrent = false;
    };
  }, [chosen, strategy]);

  const start = (event: Event) => {
    event.preventDefault();
    if (chosen === null || typed !== chosen) return;
    void act(`resync ${chosen}`, () => post<Operation>(`${path}/actions/resync`, { tables: [chosen], strategy }));
    onClose();
  };
  const target = effect?.tables[0];
  return (
    <Dialog title="Force resync" onClose={onClose}>
      <form onSubmit={start}>
        {table === null && (
          <label>Table
            <select value={chosen ?? ""} onChange={(event) => setChosen(event.currentTarget.value || null)}>
              <option value="">choose a table</option>
              {tables.map((name) => <option key={name} value={name}>{name}</option>)}
            </select>
          </label>
        )}
        {chosen !== null && (
          <>
            {effect && !target && <p class="error">The pipeline has no such table on the source now.</p>}
            {target && (
              <dl class="facts stacked">
                <div><dt>table</dt><dd class="name">{target.source} → {target.target}</dd></div>
                  <div><dt>rows on the source</dt><dd data-testid="rows">{target.rows_estimated === null ? <Unknown why="there are no statistics" /> : <>about {grouped(target.rows_estimated)}</>}</dd></div>
                  <div><dt>size</dt><dd>{bytes(target.size_bytes)}</dd></div>
                  <div><dt>loaded before</dt><dd>{target.rows_loaded_before === null ? <Unknown /> : `${grouped(target.rows_loaded_before)} rows`}</dd></div>
                <div><dt>readers of the target</dt><dd>{effect.readers}</dd></div>
                <div><dt>other tables</dt><dd>{effect.others}</dd></div>
              </dl>
            )}
            {!effect && !problem && <p class="muted" aria-busy="true">Looking at both sides …</p>}
            <fieldset>
              <legend>Strategy</legend>
              <label class="inline"><input type="radio" name="strategy" checked={strategy === "swap"} onChange={() => setStrategy("swap")} />swap: load beside the old table, then rename</label>
              <label class="inline"><input type="radio" name="strategy" checked={strategy === "truncate"} onChange={() => setStrategy("truncate")} />truncate: empty it first</label>
            </fieldset>
            <Copyable label="command" text={`tidemark resync ${one.id} --table ${word(chosen)}${strategy === "truncate" ? " --strategy truncate" : ""}`} />
            <TypedName name={chosen} typed={typed} onType={setTyped} />
          </>
        )}
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="primary" disabled={!target || typed !== chosen}>Resync</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

interface Repairing {
  tables: { source: string; target: string; different: number; is_counted: boolean }[];
  others: string;
}

/** What a comparison found to differ is copied anew. */
export function RepairDialog({ one, verification, onClose }: { one: Pipeline; verification: number; onClose: () => void }) {
  const route = `/pipelines/${encodeURIComponent(one.id)}/actions/repair`;
  const { value: effect, problem } = useAsked(() => post<Repairing>(route, { verification, dry_run: true }), [verification]);
  const repair = (event: Event) => {
    event.preventDefault();
    void act(`repair ${one.id}`, () => post<Operation>(route, { verification }));
    onClose();
  };
  return (
    <Dialog title="Repair what differs" onClose={onClose}>
      <form onSubmit={repair}>
        {!effect && !problem && <p class="muted" aria-busy="true">Looking at what was found …</p>}
        {effect && (
          <>
            <p>These rows become what they are on the source: those that differ or are missing are copied, those that the source does not have are deleted. A table without a key is copied as a whole. What was changed in the target by others is lost there.</p>
            <dl class="facts stacked">
              {effect.tables.map((table) => (
                <div key={table.source}><dt class="name">{table.source} → {table.target}</dt><dd>{table.is_counted ? "" : "at least "}{grouped(table.different)} {table.different === 1 ? "row" : "rows"}</dd></div>
              ))}
              <div><dt>other tables</dt><dd>{effect.others}</dd></div>
            </dl>
            {effect.tables.length === 0 && <p class="error">Rows of these tables are in quarantine: what waits behind them comes first.</p>}
          </>
        )}
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="primary" disabled={!effect || effect.tables.length === 0}>Repair</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

interface Reconciling {
  tables: string[];
  size_bytes: number;
  running: { host: string; pid: number } | null;
  slot: string | null;
  makes_slot: boolean;
  another_source: string | null;
}

/** A gap is bridged: the log begins anew, and what it hid is found by comparing. */
export function ReconcileDialog({ one, onClose }: { one: Pipeline; onClose: () => void }) {
  const route = `/pipelines/${encodeURIComponent(one.id)}/actions/reconcile`;
  const { value: effect, problem } = useAsked(() => post<Reconciling>(route, { dry_run: true }), [one.id]);
  const [typed, setTyped] = useState("");
  const start = (event: Event) => {
    event.preventDefault();
    if (!effect || typed !== one.id) return;
    void act(`reconcile ${one.id}`, () => post<Operation>(route, {}));
    onClose();
  };
  return (
    <Dialog title={`Reconcile ${one.id}`} onClose={onClose}>
      <form onSubmit={start}>
        {!effect && !problem && <p class="muted" aria-busy="true">Looking at both sides …</p>}
        {effect && (
          <>
            <p>Every row of both sides is compared, and only those that differ are copied. <strong>Rows that the source does not have are deleted in the target.</strong> Readers of the target see the old rows until then. Afterwards the stream goes on, with no gap.</p>
            {effect.another_source && <p class="error">The source is not the one that was copied: {effect.another_source}.</p>}
            <dl class="facts stacked">
              <div><dt>tables</dt><dd class="name">{effect.tables.length > 5 ? `${effect.tables.slice(0, 5).join(", ")} and ${effect.tables.length - 5} more` : effect.tables.join(", ")}</dd></div>
              <div><dt>is read on both sides</dt><dd>about {bytes(effect.size_bytes)}</dd></div>
              {effect.makes_slot && <div><dt>slot</dt><dd class="name">{effect.slot ? `${effect.slot} is dropped and made anew` : "made anew"}</dd></div>}
            </dl>
            <Copyable label="command" text={`tidemark reconcile ${one.id}`} />
            <TypedName name={one.id} typed={typed} onType={setTyped} />
          </>
        )}
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="danger" disabled={!effect || typed !== one.id}>Reconcile</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

export function DeleteDialog({ one, onClose }: { one: Pipeline; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [abandon, setAbandon] = useState(false);
  const remove = (event: Event) => {
    event.preventDefault();
    if (typed !== one.id) return;
    onClose();
    void act(`delete ${one.id}`, async () => {
      const response = await ask("DELETE", `/pipelines/${encodeURIComponent(one.id)}${abandon ? "?abandon=true" : ""}`, undefined, { "if-match": one.etag });
      return response.json() as Promise<Operation>;
    }).then((isGone) => isGone && go("/"));
  };
  return (
    <Dialog title={`Delete ${one.id}`} onClose={onClose}>
      <form onSubmit={remove}>
        <p>The pipeline stops. What it made for itself is removed: its slot and publication on the source, its position in the target. The tables and rows in the target stay.</p>
        <p>It cannot go on afterwards: a pipeline that is defined anew begins with a load.</p>
        <label class="inline"><input type="checkbox" checked={abandon} onChange={(event) => setAbandon(event.currentTarget.checked)} /> <span>Even where a side cannot be reached: what was made there stays, and a slot that nobody reads keeps its source's log</span></label>
        <TypedName name={one.id} typed={typed} onType={setTyped} />
        <div class="row">
          <button type="submit" class="danger" disabled={typed !== one.id}>Delete</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}
