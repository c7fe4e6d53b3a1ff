// A cutover: what it would do first, then step by step, and for how long writes stood still.

import { useEffect, useState } from "preact/hooks";
import { get, may, post, Problem } from "../api";
import { seconds } from "../format";
import type { Operation, Pipeline } from "../shapes";
import { Copyable, Dialog, ProblemBox, TypedName } from "../ui";

interface Report {
  result: "cut_over" | "rehearsed" | "given_up" | "under_way";
  reason: { code: string; message: string } | null;
  lsn: string | null;
  write_downtime_seconds: number | null;
  rows: number | null;
  reverse: string | null;
  steps: { name: string; done: boolean; text: string | null; seconds: number | null }[];
  undone: string[];
  left_behind: { kind: string; name: string; note: string | null; sql: string | null }[];
  asks?: string | null;
  comparing?: string | null;
}

type Told = Operation & { data: Report | null };

export function CutoverDialog({ one, onClose }: { one: Pipeline; onClose: () => void }) {
  const path = `/pipelines/${encodeURIComponent(one.id)}/actions/cutover`;
  const [fence, setFence] = useState(true);
  const [reverse, setReverse] = useState(false);
  const [rehearsed, setRehearsed] = useState<Report | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [typed, setTyped] = useState("");
  const [under, setUnder] = useState<Told | null>(null);

  useEffect(() => {
    let isCurrent = true;
    setRehearsed(null);
    post<Report>(path, { cutover: { fence, reverse }, dry_run: true }).then(
      (found) => isCurrent && (setRehearsed(found), setProblem(null)),
      (wrong) => isCurrent && setProblem(wrong),
    );
    return () => {
      isCurrent = false;
    };
  }, [fence, reverse]);

  const id = under?.id ?? null;
  const isOver = under !== null && under.state !== "running";
  useEffect(() => {
    if (id === null || isOver) return;
    const look = () => get<Told>(`/operations/${id}`).then(setUnder, (wrong) => {
      // It goes on without us.
      if (!(wrong instanceof Problem && wrong.isSilence)) setProblem(wrong);
    });
    const timer = setInterval(look, 500);
    return () => clearInterval(timer);
  }, [id, isOver]);

  const begin = (event: Event) => {
    event.preventDefault();
    if (typed !== one.id) return;
    setProblem(null);
    // Behind a fence the server stops the writers at the right moment. Without one it asks for that, and waits.
    post<Told>(path, { cutover: { fence, reverse }, ...(fence ? { confirm: one.id } : {}) }).then(setUnder, setProblem);
  };
  const tell = (what: string, body: unknown) => {
    setProblem(null);
    post<Told>(`/operations/${id}/${what}`, body).catch(setProblem);
  };
  const report = under ? under.data : rehearsed;
  return (
    <Dialog title={`Cut ${one.id} over`} onClose={onClose}>
      <form onSubmit={begin}>
        {!under && (
          <>
            <p>The target becomes the database that is written to, once it is proven that it has everything. Until then all can be taken back, and is, whatever ends it.</p>
            <fieldset>
              <legend>Writers</legend>
              <label class="inline"><input type="radio" name="writers" checked={fence} onChange={() => setFence(true)} />fence: the source refuses writes, and the sessions of its clients are ended</label>
              <label class="inline"><input type="radio" name="writers" checked={!fence} onChange={() => setFence(false)} />by hand: you are asked to stop them when it is the moment</label>
            </fieldset>
            {may("admin") && !one.file && (
              <label class="inline"><input type="checkbox" checked={reverse} onChange={(event) => setReverse(event.currentTarget.checked)} />make a pipeline that copies back what is written to the target from then on; it is begun by hand</label>
            )}
          </>
        )}
        {!report && !problem && <p class="muted" aria-busy="true">{under ? "It begins …" : "Looking at both sides …"}</p>}
        {report && <Steps report={report} />}
        {under && isOver && <End under={under} />}
        {report?.asks && !isOver && (
          <div class="problem">
            <p>{report.asks}</p>
            <button type="button" class="primary" onClick={() => tell("confirm", { confirm: one.id })}>They are stopped</button>
          </div>
        )}
        {report && report.left_behind.length > 0 && (
          <details>
            <summary>{report.left_behind.length} things stay behind on the source</summary>
            <ul>{report.left_behind.map((left) => <li key={`${left.kind} ${left.name}`}>{left.kind} <span class="name">{left.name}</span>{left.note && <>: {left.note}</>}</li>)}</ul>
            <Copyable label="statements" text={report.left_behind.flatMap((left) => (left.sql ? [`${left.sql};`] : [])).join("\n")} />
          </details>
        )}
        {!under && (
          <>
            <Copyable label="command" text={`tidemark cutover ${one.id}${fence ? " --fence" : ""}${reverse ? " --reverse" : ""}`} />
            <TypedName name={one.id} typed={typed} onType={setTyped} />
          </>
        )}
        <ProblemBox problem={problem} />
        <div class="row">
          {!under && <button type="submit" class="danger" disabled={rehearsed?.result !== "rehearsed" || typed !== one.id}>Cut over</button>}
          {under && !isOver && <button type="button" class="danger" onClick={() => tell("cancel", {})}>Give it up</button>}
          <button type="button" onClick={onClose}>{under ? "Close" : "Cancel"}</button>
        </div>
      </form>
    </Dialog>
  );
}

function Steps({ report }: { report: Report }) {
  const isUnderWay = report.result === "under_way";
  return (
    <ol class="steps" aria-label="steps">
      {report.steps.map((step) => (
        <li key={step.name}><span class={step.done ? "ok" : isUnderWay ? "muted" : "error"}>{step.done ? "✓" : isUnderWay ? "…" : "✗"}</span> {step.name}{step.text && <span class="muted"> {step.text}</span>}{!step.done && report.comparing && <span class="muted"> {report.comparing}</span>}{step.seconds !== null && report.result !== "rehearsed" && <span class="muted"> ({seconds(step.seconds)})</span>}</li>
      ))}
    </ol>
  );
}

function End({ under }: { under: Told }) {
  const report = under.data;
  if (under.state === "succeeded" && report) {
    return (
      <div role="status">
        <p><strong class="ok">✓ cut over.</strong> The target may be written to. Writes stood still for <strong data-testid="downtime">{seconds(report.write_downtime_seconds ?? 0)}</strong>.</p>
        {report.reverse && <p>What is written there is carried back by <a href={`/p/${encodeURIComponent(report.reverse)}`}>{report.reverse}</a>, once it is started.</p>}
        {report.lsn && <p class="small">Everything before <code>{report.lsn}</code> is there{report.rows !== null && <>; {report.rows} rows were compared, every value</>}.</p>}
      </div>
    );
  }
  return (
    <div class="problem" role="status">
      <p><strong class="error">✗ given up.</strong> {under.text}</p>
      {report && report.undone.length > 0 && <ul>{report.undone.map((said) => <li key={said}>{said}</li>)}</ul>}
    </div>
  );
}
