// All pipelines, worst first; the numbers on top are filters.

import { bytes, grouped, moment, seconds, words } from "../format";
import { useEffect, useState } from "preact/hooks";
import { gapsOf, lagsOf, overview, now } from "../live";
import { get, may } from "../api";
import { parameter, put } from "../router";
import type { Health, Pipeline, Table } from "../shapes";
import { BreakIt, isDemo } from "./demo";
import { Code, HealthMark, Known, Reason, Spark, State, useAsked } from "../ui";

const RANK: Health[] = ["error", "unknown", "warning", "notice", "ok"];
const COUNT_WORD: Record<Health, string> = { error: "error", unknown: "unknown", warning: "warning", notice: "notice", ok: "ok" };

export function Overview() {
  const all = overview.value;
  const health = parameter("health");
  const tag = parameter("tag");
  const wanted = (parameter("q") ?? "").toLowerCase();
  if (!all) return <><h1 tabIndex={-1}>Overview</h1><p class="muted" aria-busy="true">Asking the server …</p></>;
  const tags = [...new Set(all.pipelines.flatMap((one) => one.tags ?? []))].sort();
  if (tag !== null && !tags.includes(tag)) tags.push(tag);
  const untold = tag === null ? [] : all.pipelines.filter((one) => one.tags === null);
  const shown = all.pipelines
    .filter((one) => (health === null || one.health === health) && (tag === null || one.tags?.includes(tag)) && `${one.id} ${one.source} ${one.target}`.toLowerCase().includes(wanted))
    .sort((a, b) => RANK.indexOf(a.health) - RANK.indexOf(b.health) || (a.id < b.id ? -1 : 1));
  const needy = shown.filter((one) => ["error", "unknown", "warning"].includes(one.health));
  const well = shown.filter((one) => !needy.includes(one));
  const worst = all.worst_lag;
  return (
    <>
      <div class="row spread">
        <h1 tabIndex={-1}>Overview</h1>
        {may("admin") && <a class="button primary" href="/new">+ New pipeline</a>}
      </div>
      {all.total === 0 ? <Empty /> : (
        <>
          <div class="row spread">
            <div class="counts" role="group" aria-label="filter by health">
              {RANK.filter((one) => one !== "notice" || all.by_health.notice).map((one) => (
                <button type="button" key={one} aria-pressed={health === one} onClick={() => put("health", health === one ? null : one)}>
                  <HealthMark health={one} /> <b>{all.by_health[one] ?? 0}</b> {COUNT_WORD[one]}
                </button>
              ))}
            </div>
            <label class="inline">
              <span class="muted">find</span>
              <input id="find" type="search" value={parameter("q") ?? ""} placeholder="pipeline or address" onInput={(event) => put("q", event.currentTarget.value)} />
            </label>
          </div>
          {tags.length > 0 && (
            <div class="counts" role="group" aria-label="filter by tag">
              {tags.map((one) => (
                <button type="button" class="small" key={one} aria-pressed={tag === one} onClick={() => put("tag", tag === one ? null : one)}>
                  <bdi>{one}</bdi> <b>{all.pipelines.filter((other) => other.tags?.includes(one)).length}</b>
                </button>
              ))}
            </div>
          )}
          {untold.length > 0 && <p class="muted">Whether {untold.map((one) => one.id).join(", ")} {untold.length === 1 ? "has" : "have"} this tag is not known: the definition could not be read yet.</p>}
          <dl class="facts">
            <div><dt>worst latency</dt><dd>{worst ? <><span class="live-value">{seconds(worst.latency_seconds)}</span> <a href={`/p/${worst.pipeline_id}`}>{worst.pipeline_id}</a></> : <span class="muted">none measured</span>}</dd></div>
            {all.lag_unknown > 0 && <div><dt>latency unknown</dt><dd>{all.lag_unknown}</dd></div>}
            {all.alerts_firing > 0 && <div><dt>alerts</dt><dd><a class="error" href="/alerts">{all.alerts_firing === 1 ? "1 fires" : `${all.alerts_firing} fire`}</a></dd></div>}
            {all.tables_quarantined > 0 && <div><dt>tables in quarantine</dt><dd class="error">{all.tables_quarantined}</dd></div>}
            {all.slots_at_risk.length > 0 && <div><dt>slots at risk</dt><dd class="error">{all.slots_at_risk.map((one) => one.slot.name).join(", ")}</dd></div>}
          </dl>
          {isDemo.value && <BreakIt />}
          {needy.length > 0 && <Needy all={needy} />}
          {well.length > 0 && <Well all={well} />}
          {shown.length === 0 && <p>No pipeline is like that. <button type="button" onClick={() => { put("health", null); put("tag", null); put("q", null); }}>Show all {all.total}</button></p>}
        </>
      )}
    </>
  );
}

function Empty() {
  return (
    <div class="empty">
      <p>No pipeline yet. A pipeline copies a database and keeps the copy current.</p>
      <div class="row">
        {may("admin") && <a class="button primary" href="/new">Start from two connection strings</a>}
        {may("admin") && <a class="button" href="/new?from=file">Paste a pipeline file</a>}
      </div>
      <p class="muted">Or put files into the directory that the server follows (<code>tidemark serve --pipelines DIR</code>), or try it with two databases of its own: <code>tidemark demo</code>.</p>
    </div>
  );
}

const hasSource = (one: Pipeline) => one.source !== null && one.target !== null;
const isAtWork = (one: Pipeline) => !["draft", "completed"].includes(one.state);

function Tags({ of }: { of: Pipeline }) {
  return <>{of.tags?.map((tag) => <bdi class="tag" key={tag}>{tag}</bdi>)}</>;
}

function Numbers({ one }: { one: Pipeline }) {
  return (
    <>
      <div><span class="k">latency</span> <Known value={one.latency_seconds}>{seconds}</Known></div>
      <div><span class="k">gap</span> <Known value={one.gap_bytes}>{bytes}</Known> <Spark values={gapsOf(one.id)} label="the gap in the last two minutes" /></div>
    </>
  );
}

function Card({ one }: { one: Pipeline }) {
  const last = lagsOf(one.id).at(-1);
  const aside = one.tables.find((count) => count.state === "quarantined")?.count ?? 0;
  const total = one.tables.reduce((sum, count) => sum + count.count, 0);
  return (
    <article class={`card ${one.health}-edge`} aria-label={one.id}>
      <div class="row spread">
        <div class="row">
          <HealthMark health={one.health} />
          <h3><a href={`/p/${one.id}`} data-row>{one.id}</a></h3>
          <State state={one.state} />
          <Tags of={one} />
          {one.trend === "falling_behind" && <span class="warning">falling behind</span>}
          {aside > 0 && <span class="error">{aside} of {total} tables in quarantine</span>}
        </div>
        <span class="muted small">since {moment(one.since)} by {one.by}</span>
      </div>
      {one.error ? <p><Code code={one.error.code} /> {one.error.message}</p> : one.reason && <p>{one.reason}</p>}
      {one.error?.action && <p>First: {one.error.action}</p>}
      {one.health === "unknown" && last?.unknown_reason && !one.error && <p>{last.source_lsn ? "How far it is behind" : "The source's side"} is not known now: <Code code={last.unknown_reason} />{last.last_known && <> · last known {moment(last.last_known.at)} at <code>{last.last_known.source_lsn}</code></>}</p>}
      {aside > 0 && <Aside id={one.id} count={aside} />}
      {one.verified?.result === "different" && <p>It differed from its source when it was compared last, {moment(one.verified.at)}. First: <a href={`/p/${one.id}/verification`}>see which rows</a></p>}
      <div class="facts">
        <Numbers one={one} />
        <div><a href={`/p/${one.id}`}>See and fix<span class="hidden"> {one.id}</span></a></div>
      </div>
    </article>
  );
}

/** Tables in quarantine, and why. */
function Aside({ id, count }: { id: string; count: number }) {
  const { value } = useAsked(() => get<{ tables: Table[] }>(`/pipelines/${encodeURIComponent(id)}/tables?state=quarantined&limit=3`), [id, count]);
  return (
    <ul>
      {value?.tables.slice(0, 3).map((table) => <li key={table.source}><bdi class="mono">{table.source}</bdi> <Reason text={table.reason} />{table.parked > 0 && <span class="muted"> · {grouped(table.parked)} {table.parked === 1 ? "change waits" : "changes wait"}</span>}</li>)}
      {count > 3 && <li class="muted">and {count - 3} more</li>}
    </ul>
  );
}

/** A list that is long comes in parts, the first at once, so that the page can be used before all of it is there. */
function useGradually<T>(all: T[]): T[] {
  const [count, setCount] = useState(AT_ONCE);
  const isPart = count < all.length;
  useEffect(() => {
    if (!isPart) return;
    const timer = setTimeout(() => setCount(count + AT_ONCE));
    return () => clearTimeout(timer);
  }, [count, isPart]);
  return isPart ? all.slice(0, count) : all;
}

const AT_ONCE = 50;

function Needy({ all }: { all: Pipeline[] }) {
  const shown = useGradually(all);
  return (
    <section class="cards" aria-labelledby="needy">
      <h2 id="needy">Needs you</h2>
      <ul class="cards">{shown.map((one) => <li key={one.id}><Card one={one} /></li>)}</ul>
    </section>
  );
}

function Well({ all }: { all: Pipeline[] }) {
  const shown = useGradually(all);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-labelledby="well">
      <table class="fold">
        <caption id="well">Healthy</caption>
        <thead>
          <tr><th scope="col">Pipeline</th><th scope="col">Route</th><th scope="col">State</th><th scope="col" class="n">Latency</th><th scope="col" class="n">Gap</th><th scope="col">Last minutes</th><th scope="col">Verified</th></tr>
        </thead>
        <tbody>
          {shown.map((one) => <Line key={one.id} one={one} />)}
        </tbody>
      </table>
    </div>
  );
}

function Line({ one }: { one: Pipeline }) {
  return (
    <tr>
      <td><span class="row"><HealthMark health={one.health} /> <a class="name" href={`/p/${one.id}`} data-row>{one.id}</a> <Tags of={one} /></span></td>
      <td data-k="route" class="name muted small">{hasSource(one) ? `${one.source} → ${one.target}` : words(one.mode)}</td>
      <td data-k="state"><State state={one.state} /></td>
      <td data-k="latency" class="n">{isAtWork(one) ? <Known value={one.latency_seconds}>{seconds}</Known> : "–"}</td>
      <td data-k="gap" class="n">{isAtWork(one) ? <Known value={one.gap_bytes}>{bytes}</Known> : "–"}</td>
      <td data-k="minutes"><Spark values={gapsOf(one.id)} label="the gap in the last two minutes" /></td>
      <td data-k="verified">{one.verified ? <><State state={one.verified.result} /> <span class="muted small">{seconds(Math.max(0, Math.floor((now.value - Date.parse(one.verified.at)) / 1000)))} ago</span></> : <span class="muted">not in this run</span>}</td>
    </tr>
  );
}
