// Both sides compared: when, at which position, what differs.

import { useState } from "preact/hooks";
import { get, may } from "../api";
import { grouped, moment, seconds, words } from "../format";
import type { Pipeline, Verification as Comparison } from "../shapes";
import { Copyable, ProblemBox, State, Unknown, useAsked } from "../ui";
import { RepairDialog } from "./dialogs";
import { begin } from "./pipeline";

export function Verification({ one }: { one: Pipeline }) {
  const { value, problem, reload } = useAsked(
    () => get<{ verifications: Comparison[] }>(`/pipelines/${encodeURIComponent(one.id)}/verifications?limit=50`),
    [one.id, one.verified?.at],
  );
  const run = (depth: string) => void begin(one.id, "verify", { depth }).then(reload);
  const last = value?.verifications[0];
  return (
    <>
      {may("operator") && (
        <div class="row">
          <button type="button" class="primary" disabled={one.state === "draft"} onClick={() => run("deep")}>Compare every row</button>
          <button type="button" disabled={one.state === "draft"} onClick={() => run("counts")}>Compare counts</button>
          <span class="muted small">Both sides are read at one position of the log, while writes go on.</span>
        </div>
      )}
      <ProblemBox problem={problem} />
      {value && !last && <p class="empty">Nothing was compared yet.</p>}
      {last && <Report one={one} report={last} />}
      {value && value.verifications.length > 1 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="earlier comparisons">
          <table class="fold">
            <caption>Earlier</caption>
            <thead><tr><th scope="col">When</th><th scope="col">Result</th><th scope="col">At</th><th scope="col">How</th><th scope="col" class="n">Rows</th><th scope="col" class="n">Took</th><th scope="col">Report</th></tr></thead>
            <tbody>
              {value.verifications.slice(1).map((old) => (
                <tr key={old.id}><td>{moment(old.at)}</td><td data-k="result"><State state={old.result} /></td><td data-k="at"><code>{old.lsn}</code></td><td data-k="how">{how(old.depth)}</td><td data-k="rows" class="n">{grouped(old.rows)}</td><td data-k="took" class="n">{seconds(old.seconds)}</td><td data-k="report"><a href={documentOf(one, old)} target="_blank">report<span class="hidden"> of {moment(old.at)}</span></a></td></tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

/** In one document, to be kept and sent. */
const documentOf = (one: Pipeline, report: Comparison) => `/api/v1/pipelines/${encodeURIComponent(one.id)}/verifications/${report.id}/report.html`;

const how = (depth: string) => (depth === "deep" ? "every row" : words(depth));

function Report({ one, report }: { one: Pipeline; report: Comparison }) {
  const [isRepairing, setRepairing] = useState(false);
  const differing = report.tables.filter((table) => table.result === "different");
  return (
    <section class="stack" aria-labelledby="report">
      <h2 id="report"><State state={report.result} /> at <code>{report.lsn}</code></h2>
      <p class="muted">{grouped(report.rows)} rows of {report.tables.length} tables, {how(report.depth)}, {moment(report.at)}, in {seconds(report.seconds)}. <a href={documentOf(one, report)} target="_blank">Report in one document</a></p>
      <div class="scroll" tabIndex={0} role="region" aria-label="the last comparison">
        <table class="fold">
          <caption class="hidden">The last comparison, table by table</caption>
          <thead><tr><th scope="col">Table → target</th><th scope="col">Result</th><th scope="col" class="n">Rows on the source</th><th scope="col" class="n">In the target</th><th scope="col" class="n">Differences</th></tr></thead>
          <tbody>
            {report.tables.map((table) => (
              <tr key={table.source}>
                <td class="name"><bdi>{table.source}</bdi>{table.target !== table.source && <span class="muted"> → <bdi>{table.target}</bdi></span>}{table.reason && <span class="small muted"> {table.reason}</span>}</td>
                <td data-k="result"><State state={table.result} /></td>
                <td data-k="source" class="n">{table.source_rows === null ? <Unknown /> : grouped(table.source_rows)}</td>
                <td data-k="target" class="n">{table.target_rows === null ? <Unknown /> : grouped(table.target_rows)}</td>
                <td data-k="different" class="n">{table.result === "not_compared" ? <Unknown /> : `${table.is_counted === false ? "at least " : ""}${grouped(table.different)}`}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {differing.length > 0 && (
        <div class="stack">
          {may("operator") && report.depth === "deep" && (
            <div class="row">
              <button type="button" class="primary" onClick={() => setRepairing(true)}>Repair what differs …</button>
              <span class="muted small">Only these rows are copied anew.</span>
            </div>
          )}
          <p>The rows themselves are shown by the command line, where nobody else reads along:</p>
          <Copyable label="command" text={`tidemark verify ${one.id} --differences 20`} />
        </div>
      )}
      {isRepairing && <RepairDialog one={one} verification={report.id} onClose={() => setRepairing(false)} />}
    </section>
  );
}
