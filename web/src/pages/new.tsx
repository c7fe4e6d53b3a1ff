// A new pipeline: from two connection strings or a file; checked while it is mended; then its plan; then started.

import { useEffect, useState } from "preact/hooks";
import { ask, caller, may, postToml, Problem } from "../api";
import { bytes, grouped, seconds } from "../format";
import { refresh } from "../live";
import { go, parameter, put } from "../router";
import type { Checked, Pipeline, Plan } from "../shapes";
import { Copyable, GlyphOf, ProblemBox, say, Unknown } from "../ui";

/** How long after an answer the checks are asked again, while something fails. */
const AGAIN_MS = 3_000;
/** A login is refused: whoever asks again and again is locked out. */
const REFUSED = ["TM1005", "TM2005"];

interface Fields {
  name: string;
  source: string;
  target: string;
  tables: string;
  mode: string;
}

const text = (value: string) => JSON.stringify(value);
/** Errors name the side themselves. */
const found = ({ side, found }: { side: string; found: string }) => (found.startsWith(`${side}: `) ? found : `${side}: ${found}`);
const URL_SHAPE = "postgres://user:password@host/database";

/** The pipeline file that fields stand for. */
export function toml(fields: Fields): string {
  const tables = fields.tables.split(/[\n,]/).map((one) => one.trim()).filter((one) => one !== "");
  return [
    "version = 1", "",
    "[pipeline]", `name = ${text(fields.name)}`, `mode = ${text(fields.mode)}`, "",
    "[source]", `url = ${text(fields.source)}`, "",
    "[target]", `url = ${text(fields.target)}`, "",
    "[tables]", `include = [${tables.map(text).join(", ")}]`, "",
  ].join("\n");
}

export function New() {
  // The server refuses others, checks as well: they connect to whatever is named in them.
  if (caller.value === null) return <><h1 tabIndex={-1}>New pipeline</h1><p class="muted" aria-busy="true">Asking the server …</p></>;
  if (!may("admin")) return <><h1 tabIndex={-1}>New pipeline</h1><p class="empty">An administrator defines pipelines; you are {caller.value.role}.</p></>;
  return <Begin />;
}

function Begin() {
  const isFile = parameter("from") === "file";
  const [fields, setFields] = useState<Fields>({ name: "", source: "", target: "", tables: "public.*", mode: "full_load_and_cdc" });
  const [file, setFile] = useState("");
  const [checking, setChecking] = useState<{ definition: string; count: number } | null>(null);
  const definition = isFile ? file : toml(fields);
  const set = (name: keyof Fields) => (event: Event) => setFields({ ...fields, [name]: (event.currentTarget as HTMLInputElement).value });
  return (
    <>
      <h1 tabIndex={-1}>New pipeline</h1>
      <p class="muted">Nothing is made on either database before <em>Start</em>.</p>
      <div class="counts" role="group" aria-label="begin from">
        <button type="button" aria-pressed={!isFile} onClick={() => put("from", null)}>Two connection strings</button>
        <button type="button" aria-pressed={isFile} onClick={() => { if (file === "" && fields.name) setFile(toml(fields)); put("from", "file"); }}>A pipeline file</button>
      </div>
      <form class="stack" onSubmit={(event) => { event.preventDefault(); setChecking({ definition, count: (checking?.count ?? 0) + 1 }); }}>
        {isFile ? (
          <label>Pipeline file (TOML)<textarea name="file" rows={18} spellcheck={false} required value={file} onInput={(event) => setFile(event.currentTarget.value)} /></label>
        ) : (
          <div class="two">
            <div class="stack">
              <label>Name<input name="name" required autocomplete="off" pattern="[a-z][a-z0-9_\-]*" title="small letters, digits, - and _" value={fields.name} onInput={set("name")} /></label>
              <label>Source<input name="source" required autocomplete="off" spellcheck={false} placeholder={URL_SHAPE} title={URL_SHAPE} value={fields.source} onInput={set("source")} /></label>
              <label>Target<input name="target" required autocomplete="off" spellcheck={false} placeholder={URL_SHAPE} title={URL_SHAPE} value={fields.target} onInput={set("target")} /></label>
            </div>
            <div class="stack">
              <label>Tables, as patterns<textarea name="tables" rows={3} spellcheck={false} required value={fields.tables} onInput={set("tables")} /></label>
              <label>Mode
                <select name="mode" value={fields.mode} onChange={set("mode")}>
                  <option value="full_load_and_cdc">full load, then every change</option>
                  <option value="full_load_only">full load only</option>
                  <option value="cdc_only">changes only</option>
                </select>
              </label>
            </div>
          </div>
        )}
        <div class="row"><button type="submit" class="primary">{checking === null ? "Check" : checking.definition === definition ? "Check again" : "Check what I changed"}</button></div>
      </form>
      {checking !== null && <Checks key={checking.count} definition={checking.definition} isChanged={checking.definition !== definition} />}
    </>
  );
}

function Checks({ definition, isChanged }: { definition: string; isChanged: boolean }) {
  const [checked, setChecked] = useState<Checked | null>(null);
  const [plan, setPlan] = useState<Plan | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [startProblem, setStartProblem] = useState<unknown>(null);
  const [isStarting, setStarting] = useState(false);
  const [isRefused, setRefused] = useState(false);
  const [at, setAt] = useState<number | null>(null);

  useEffect(() => {
    let isCurrent = true;
    let timer: number | undefined;
    const look = async () => {
      let isGood = false;
      let isNoLogin = false;
      try {
        const found = await postToml<Checked>("/checks", definition);
        if (!isCurrent) return;
        setChecked(found);
        setProblem(null);
        isGood = found.ok;
        isNoLogin = found.findings.some((one) => one.verdict === "failed" && REFUSED.includes(one.code));
      } catch (wrong) {
        if (!isCurrent) return;
        setProblem(wrong);
        setChecked(null);
        isNoLogin = wrong instanceof Problem && REFUSED.includes(wrong.code);
      }
      setRefused(isNoLogin);
      setAt(Date.now());
      if (isGood) {
        try {
          const found = await postToml<Plan>("/plans", definition);
          if (isCurrent) setPlan(found);
        } catch (wrong) {
          if (isCurrent) setProblem(wrong);
        }
      } else {
        setPlan(null);
        // Whoever mends it elsewhere sees it here by itself.
        if (!isNoLogin) timer = window.setTimeout(look, AGAIN_MS);
      }
    };
    void look();
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, []);

  const start = async () => {
    setStarting(true);
    setStartProblem(null);
    try {
      const response = await ask("POST", "/pipelines?start=true", { type: "application/toml", text: definition });
      const made = (await response.json()) as Pipeline;
      await refresh();
      say(`✓ ${made.id} starts`, "ok");
      go(`/p/${encodeURIComponent(made.id)}`);
    } catch (wrong) {
      setStartProblem(wrong);
      setStarting(false);
    }
  };
  const failing = checked?.findings.filter((one) => one.verdict === "failed" || one.verdict === "warning") ?? [];
  const rest = checked?.findings.filter((one) => !failing.includes(one)) ?? [];
  const sql = failing.flatMap((one) => one.fixes.filter((fix) => fix.kind !== "text").map((fix) => `-- ${one.side}: ${one.found}\n${fix.text}`)).join("\n\n");
  return (
    <>
      <section class="stack" aria-labelledby="checks">
        <h2 id="checks">Checks</h2>
        {!checked && !problem && <p class="muted" aria-busy="true">Looking at both databases …</p>}
        <ProblemBox problem={problem} />
        {at !== null && (problem !== null || checked?.ok === false) && <p class="muted small">{isRefused ? "Not checked again by itself: whoever is refused again and again may be locked out. Check again when it is mended." : "Checked again every few seconds: what you mend is seen here by itself."}</p>}
        {checked && (
          <>
            <p role="status">{checked.failed === 0 ? <strong class="ok">✓ nothing stands in the way</strong> : <strong class="error">✗ {checked.failed} {checked.failed === 1 ? "check fails" : "checks fail"}</strong>}{checked.warnings > 0 && <span class="warning"> · ! {checked.warnings} {checked.warnings === 1 ? "warning" : "warnings"}</span>}</p>
            <ul class="findings">
              {failing.map((one) => (
                <li key={one.code + one.found}>
                  <p><GlyphOf verdict={one.verdict} /> <a href={`/codes/${one.code}`}>{one.code}</a> {found(one)}</p>
                  <p class="muted">{one.why}</p>
                  {one.fixes.map((fix) => fix.kind === "text" ? <p key={fix.text}>{fix.text}</p> : <Copyable key={fix.text} text={fix.text} label={`SQL for ${one.code}`} />)}
                </li>
              ))}
            </ul>
            {sql !== "" && failing.length > 1 && <details><summary>All SQL in one</summary><Copyable text={sql} label="all SQL" /></details>}
            {rest.length > 0 && <details><summary>{rest.length} passed</summary><ul class="findings">{rest.map((one) => <li key={one.code + one.found}><p><GlyphOf verdict={one.verdict} /> {one.code} {found(one)}</p></li>)}</ul></details>}
          </>
        )}
      </section>
      {plan && (
        <section class="stack" aria-labelledby="plan">
          <h2 id="plan">Plan</h2>
          {plan.checkpoint && <p>The target has a checkpoint at <code>{plan.checkpoint}</code>: a start goes on there, and what is loaded stays.</p>}
          <div class="scroll" tabIndex={0} role="region" aria-label="planned tables">
            <table class="fold">
              <caption>{plan.tables.length} {plan.tables.length === 1 ? "table" : "tables"}, {bytes(plan.tables.reduce((sum, one) => sum + one.size_bytes, 0))}</caption>
              <thead><tr><th scope="col">Table → target</th><th scope="col" class="n">Rows</th><th scope="col" class="n">Size</th><th scope="col">Key</th><th scope="col">Notes</th></tr></thead>
              <tbody>
                {plan.tables.map((one) => (
                  <tr key={one.source}><td class="name"><bdi>{one.source}</bdi> <span class="muted">→ <bdi>{one.target}</bdi></span></td><td data-k="rows" class="n">{one.rows_estimated === null ? <Unknown why="no statistics" /> : `about ${grouped(one.rows_estimated)}`}</td><td data-k="size" class="n">{bytes(one.size_bytes)}</td><td data-k="key">{one.key.join(", ") || "none"}</td><td data-k="notes">{one.notes.join("; ")}</td></tr>
                ))}
              </tbody>
            </table>
          </div>
          <dl class="facts stacked">
            {plan.estimate && <div><dt>takes about</dt><dd>{seconds(plan.estimate.load_seconds_best)} to {seconds(plan.estimate.load_seconds_worst)}</dd></div>}
            <div><dt>makes</dt><dd>{plan.creates.source}</dd></div>
            <div><dt>and</dt><dd>{plan.creates.target}</dd></div>
            {plan.not_carried.length > 0 && <div><dt>not carried</dt><dd>{plan.not_carried.slice(0, 12).map((one) => `${one.kind} ${one.name}`).join(", ")}{plan.not_carried.length > 12 && ` and ${plan.not_carried.length - 12} more`}</dd></div>}
          </dl>
          <ProblemBox problem={startProblem} />
          {isChanged && <p class="warning">! What is planned here is from before your last change: check again.</p>}
          <div class="row">
            <button type="button" class="primary" disabled={isStarting || isChanged || !checked?.ok} onClick={start}>{checked && checked.warnings > 0 ? "Start in spite of the warnings" : "Start"}</button>
            <span class="muted small">or: save the definition as a file and <code>tidemark run FILE</code></span>
          </div>
          <details><summary>Pipeline file</summary><Copyable text={definition} label="pipeline file" /></details>
        </section>
      )}
    </>
  );
}
