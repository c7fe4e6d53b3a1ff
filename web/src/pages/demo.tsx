// A demo's page has buttons that break things, and shows what was lost and doubled by it.

import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { ask, get, may, Problem } from "../api";
import { grouped, moment } from "../format";
import { link, now } from "../live";
import { ProblemBox, State, useAsked } from "../ui";

interface Proof {
  is_identical: boolean;
  lsn: string;
  changes: number;
  transactions: number;
  source_rows: number;
  target_rows: number;
  lost: number;
  doubled: number;
  different: number;
}

interface Told {
  breaks: { what: string; text: string }[];
  running: string | null;
  said: string[];
  last: { what: string; at: string; problem: string | null; proof: Proof | null } | null;
}

/** Whether a demo started this server. */
export const isDemo = signal(false);

export function BreakIt() {
  // While the server itself is what was killed, what was known stays.
  const { value } = useAsked(() => get<Told>("/demo"), [link.value, Math.floor(now.value / 1_000)]);
  const [problem, setProblem] = useState<unknown>(null);
  if (!value || value.breaks.length === 0) return null;
  const begin = async (what: string) => {
    try {
      await ask("POST", "/demo/breaks", { type: "application/json", text: JSON.stringify({ what }) });
      setProblem(null);
    } catch (wrong) {
      // It may be killed before it answers: what is under way is asked for anyhow.
      setProblem(wrong instanceof Problem && wrong.isSilence ? null : wrong);
    }
  };
  return (
    <section class="card" aria-labelledby="break-it">
      <h2 id="break-it">Break it</h2>
      <p class="muted">This is a demo: two databases of its own, and customers who write all the time. Break something; afterwards both sides are compared, row by row.</p>
      <ul class="stack">
        {value.breaks.map((one) => (
          <li key={one.what} class="row">
            {may("operator") && <button type="button" class="small" disabled={value.running !== null} aria-label={`break ${one.what}`} onClick={() => void begin(one.what)}>{one.what}</button>}
            <span class="small">{one.text}</span>
          </li>
        ))}
      </ul>
      <ProblemBox problem={problem} />
      {value.running !== null && (
        <div class="stack">
          <p role="status"><State state="running" /> {value.running}</p>
          <ul class="small mono">{value.said.map((line) => <li key={line}>{line}</li>)}</ul>
        </div>
      )}
      {value.running === null && value.last && <Came last={value.last} />}
    </section>
  );
}

function Came({ last }: { last: NonNullable<Told["last"]> }) {
  const { proof } = last;
  if (!proof) return <p role="status"><State state="failed" /> {last.what}, {moment(last.at)}: {last.problem}</p>;
  const good = (count: number) => <span class={count === 0 ? "ok" : "error"}>{grouped(count)}</span>;
  return (
    <article class="stack" aria-label={`after ${last.what}`}>
      <p role="status">After <strong>{last.what}</strong>: <State state={proof.is_identical ? "identical" : "different"} /> at <code>{proof.lsn}</code>, {moment(last.at)}</p>
      <dl class="readouts">
        <div><dt>rows written on the source meanwhile</dt><dd>{grouped(proof.changes)}</dd></div>
        <div><dt>rows on the source</dt><dd>{grouped(proof.source_rows)}</dd></div>
        <div><dt>rows in the target</dt><dd>{grouped(proof.target_rows)}</dd></div>
        <div><dt>lost</dt><dd>{good(proof.lost)}</dd></div>
        <div><dt>doubled</dt><dd>{good(proof.doubled)}</dd></div>
        <div><dt>different</dt><dd>{good(proof.different)}</dd></div>
      </dl>
    </article>
  );
}
