// One pipeline: how it stands, what can be done with it, and its tabs.

import { useEffect, useState } from "preact/hooks";
import { get, may, post } from "../api";
import { bytes, moment, seconds, words } from "../format";
import { askLag, lagsOf, link, now, operations, overview, pipelineOf } from "../live";
import type { Operation, Pipeline } from "../shapes";
import { act, Code, HealthMark, Known, Reason, say, State, useAsked } from "../ui";
import { Analytics } from "./analytics";
import { Configuration } from "./configuration";
import { BreakIt, isDemo } from "./demo";
import { Data } from "./data";
import { CutoverDialog } from "./cutover";
import { DeleteDialog, ReconcileDialog, ResyncDialog } from "./dialogs";
import { Events } from "./events";
import { Logs } from "./logs";
import { QuarantineTab } from "./quarantine";
import { Tables } from "./tables";
import { Verification } from "./verification";

const TABS = ["tables", "analytics", "events", "logs", "data", "verification", "quarantine", "configuration"] as const;

export function PipelinePage({ id, tab }: { id: string; tab: string }) {
  const one = pipelineOf(id);
  const isPolling = link.value === "polling";
  useEffect(() => void askLag(id), [id, isPolling ? Math.floor(now.value / 5_000) : link.value]);
  if (!one) {
    if (!overview.value) return <><h1 tabIndex={-1}>{id}</h1><p class="muted" aria-busy="true">Asking the server …</p></>;
    return <><h1 tabIndex={-1}>{id}</h1><p>There is no pipeline of this name. <a href="/">All pipelines</a></p></>;
  }
  const shown = (TABS as readonly string[]).includes(tab) ? tab : "tables";
  const path = `/p/${encodeURIComponent(id)}`;
  const aside = (one.rows_quarantined ?? 0) + (one.tables.find((count) => count.state === "quarantined")?.count ?? 0);
  return (
    <>
      <Head one={one} />
      <nav class="tabs" aria-label={`views of ${id}`}>
        {TABS.map((name) => (
          <a key={name} href={name === "tables" ? path : `${path}/${name}`} aria-current={shown === name ? "page" : undefined}>{name[0]!.toUpperCase() + name.slice(1)}{name === "quarantine" && aside > 0 && <span class="error">&nbsp;{aside}</span>}</a>
        ))}
      </nav>
      {isDemo.value && shown === "tables" && <BreakIt />}
      {shown === "tables" && <Tables one={one} />}
      {shown === "analytics" && <Analytics one={one} />}
      {shown === "events" && <Events one={one} />}
      {shown === "logs" && <Logs one={one} />}
      {shown === "data" && <Data one={one} />}
      {shown === "verification" && <Verification one={one} />}
      {shown === "quarantine" && <QuarantineTab one={one} />}
      {shown === "configuration" && <Configuration one={one} />}
    </>
  );
}

/** Asks for an action of a whole pipeline. */
export function begin(id: string, action: string, body: unknown = {}) {
  return act(`${action} ${id}`, () => post<Operation>(`/pipelines/${encodeURIComponent(id)}/actions/${action}`, body));
}

function Head({ one }: { one: Pipeline }) {
  const [open, setOpen] = useState<"resync" | "reconcile" | "cutover" | "delete" | null>(null);
  const lag = lagsOf(one.id).at(-1) ?? null;
  const stages = lag?.latency_by_stage_seconds ?? null;
  const isAtWork = !["draft", "stopped", "completed", "failed"].includes(one.state);
  // The log that would bring what is missing is not there any more.
  const isGap = /\btidemark reconcile\b/.test(one.error?.action ?? "") || lag?.slot?.wal_status === "lost";
  // One button, so that who pressed it has the focus on what undoes it.
  const main = one.desired_state === "paused" ? "resume" : isAtWork ? "pause" : "start";
  return (
    <div class="head">
      <div class="row spread">
        <div class="row">
          <h1 tabIndex={-1}>{one.id}</h1>
          {one.health !== "ok" && <HealthMark health={one.health} word={one.health} />}
          <State state={one.state} />
          {one.trend !== "unknown" && one.state === "streaming" && <span class={one.trend === "falling_behind" ? "warning" : "muted"}>{words(one.trend)}</span>}
        </div>
        {may("operator") && (
          <div class="row">
            <button type="button" class={main === "pause" ? undefined : "primary"} onClick={() => begin(one.id, main)}>{main === "start" && one.state !== "draft" ? "Start again" : `${main[0]!.toUpperCase()}${main.slice(1)}`}</button>
            <button type="button" onClick={() => begin(one.id, "verify", { depth: "deep" })} disabled={one.state === "draft"}>Verify</button>
            <button type="button" disabled={!isAtWork} onClick={() => setOpen("resync")}>Force resync …</button>
            <button type="button" disabled={one.state !== "streaming"} onClick={() => setOpen("cutover")}>Cut over …</button>
            {one.desired_state !== "draft" && one.desired_state !== "stopped" && <button type="button" onClick={() => begin(one.id, "stop")}>Stop</button>}
            {may("admin") && !one.file && <button type="button" class="danger" onClick={() => setOpen("delete")}>Delete …</button>}
          </div>
        )}
      </div>
      <p class="muted small name">{one.source ?? "source not known yet"} → {one.target ?? "target not known yet"} · {words(one.mode)} · <a href={`/api/v1/pipelines/${encodeURIComponent(one.id)}/report.html`} target="_blank">report of the last day</a></p>
      <dl class="facts">
        <div><dt>since</dt><dd>{moment(one.since)} by {one.by}</dd></div>
        {one.reason && <div><dt>reason</dt><dd>{one.reason}</dd></div>}
        {isAtWork && <div><dt>latency</dt><dd><Known value={one.latency_seconds} why={lag?.unknown_reason ?? null}>{seconds}</Known></dd></div>}
        {isAtWork && <div><dt>gap</dt><dd><Known value={one.gap_bytes} why={lag?.unknown_reason ?? null}>{bytes}</Known></dd></div>}
        {isAtWork && stages && <div><dt>by stage</dt><dd>read {seconds(stages.read)} ▸ queue {seconds(stages.queue)} ▸ apply {seconds(stages.apply)}</dd></div>}
        <div><dt>verified</dt><dd>{one.verified ? <><State state={one.verified.result} /> at <code>{one.verified.lsn}</code>, {seconds(Math.max(0, Math.floor((now.value - Date.parse(one.verified.at)) / 1000)))} ago</> : one.unverified ? <span class="warning">not after its load</span> : <span class="muted">not since its load</span>}</dd></div>
        {one.full_load_lsn && <div><dt>first loaded at</dt><dd><code>{one.full_load_lsn}</code></dd></div>}
      </dl>
      {one.unverified && <p class="small"><span class="warning">!</span> The copy is not compared after its load, though it is to be; that is tried again. <Reason text={one.unverified} /></p>}
      <Running id={one.id} />
      {(one.error || isGap) && (
        <div class="problem">
          {one.error && <p><strong class="error">✗</strong> <Code code={one.error.code} /> {one.error.message}</p>}
          {one.error?.action && <p>First: {one.error.action}</p>}
          {!one.error && <p><strong class="error">✗</strong> The source has removed log that was not copied yet: changes are missing in the target.</p>}
          {isGap && may("operator") && <p><button type="button" class="primary" onClick={() => setOpen("reconcile")}>Reconcile …</button> <span class="muted small">Both sides are compared, and only what differs is copied.</span></p>}
        </div>
      )}
      {isAtWork && lag?.unknown_reason && (
        <p class="small">{lag.source_lsn ? "How far it is behind" : "The source's side"} is not known now (<Code code={lag.unknown_reason} />){lag.last_known && <>; last known {moment(lag.last_known.at)} at <code>{lag.last_known.source_lsn}</code></>}.</p>
      )}
      {open === "resync" && <ResyncDialog one={one} table={null} onClose={() => setOpen(null)} />}
      {open === "reconcile" && <ReconcileDialog one={one} onClose={() => setOpen(null)} />}
      {open === "cutover" && <CutoverDialog one={one} onClose={() => setOpen(null)} />}
      {open === "delete" && <DeleteDialog one={one} onClose={() => setOpen(null)} />}
    </div>
  );
}

/** Actions that are not over yet. */
function Running({ id }: { id: string }) {
  const { value } = useAsked(
    () => get<{ operations: Operation[] }>(`/pipelines/${encodeURIComponent(id)}/operations`),
    [id, operations.value, link.value === "polling" ? Math.floor(now.value / 5_000) : 0],
  );
  const running = (value?.operations ?? []).filter((operation) => operation.state === "running");
  // What only looks can be given up, and what takes back what it has done.
  const canEnd = (operation: Operation) => operation.kind === "verify" || operation.kind === "cutover";
  const cancel = (operation: Operation) =>
    post(`/operations/${operation.id}/cancel`).catch((wrong) => say(`✗ cancel ${operation.kind}: ${wrong instanceof Error ? wrong.message : wrong}`, "error"));
  if (running.length === 0) return null;
  return (
    <ul class="row" aria-label="actions under way">
      {running.map((operation) => (
        <li class="row" key={operation.id}>
          <span><State state="running" /> {operation.kind} <span class="muted">since {moment(operation.created_at)} by {operation.by}</span></span>
          {may("operator") && canEnd(operation) && <button type="button" class="small" onClick={() => cancel(operation)} aria-label={`cancel ${operation.kind}`}>Cancel</button>}
        </li>
      ))}
    </ul>
  );
}
