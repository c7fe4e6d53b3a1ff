// The last log lines of a pipeline, newest first, as they come.

import { useEffect, useState } from "preact/hooks";
import { get } from "../api";
import { moment } from "../format";
import { now } from "../live";
import { parameter, put } from "../router";
import type { Pipeline } from "../shapes";
import { Code, HealthMark, ProblemBox } from "../ui";

interface Line {
  id: number;
  at: string;
  level: "info" | "warn" | "error";
  text: string;
  count: number;
  fields: Record<string, unknown>;
}

const LEVELS = { info: "notice", warn: "warning", error: "error" };
const EVERY_MS = 2_000;

export function Logs({ one }: { one: Pipeline }) {
  const [lines, setLines] = useState<Line[] | null>(null);
  const [cursor, setCursor] = useState<number | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [follows, setFollows] = useState(true);
  const level = parameter("level");
  const load = async (from: number | null) => {
    const query = new URLSearchParams({ limit: "100" });
    if (level) query.set("level", level);
    if (from !== null) query.set("cursor", String(from));
    try {
      const page = await get<{ lines: Line[]; next_cursor: number | null }>(`/pipelines/${encodeURIComponent(one.id)}/logs?${query}`);
      setLines((before) => (from !== null ? [...(before ?? []), ...page.lines] : page.lines));
      setCursor(page.next_cursor);
      setProblem(null);
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  useEffect(() => void load(null), [one.id, level, follows ? Math.floor(now.value / EVERY_MS) : 0]);
  if (!lines) return problem ? <ProblemBox problem={problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>;
  return (
    <>
      <div class="row spread">
        <div class="counts" role="group" aria-label="filter by level">
          {[null, "warn", "error"].map((name) => (
            <button type="button" class="small" key={name} aria-pressed={level === name} onClick={() => put("level", name)}>{name === null ? "all" : name === "warn" ? "warnings and errors" : "errors"}</button>
          ))}
        </div>
        <label class="inline"><input type="checkbox" checked={follows} onChange={(event) => setFollows(event.currentTarget.checked)} />follow</label>
      </div>
      <ol class="events" style={{ margin: 0, padding: 0, listStyle: "none" }} aria-label="log lines">
        {lines.map((line) => (
          <li key={line.id}>
            <span class="muted">{moment(line.at)}</span>
            <span>{line.level === "info" ? <span class="muted">info</span> : <HealthMark health={LEVELS[line.level]} word={line.level === "warn" ? "warning" : line.level} />}</span>
            <span>{typeof line.fields.code === "string" && <><Code code={line.fields.code} /> </>}{line.text}{line.count > 1 && <strong> × {line.count}</strong>} <More fields={line.fields} text={line.text} /></span>
          </li>
        ))}
      </ol>
      {lines.length === 0 && <p class="empty">No such line was written since the server began. What matters for longer is under <a href={`/p/${encodeURIComponent(one.id)}/events`}>Events</a>.</p>}
      {cursor !== null && <button type="button" onClick={() => (setFollows(false), void load(cursor))}>Older</button>}
      <ProblemBox problem={problem} />
    </>
  );
}

/** What the line itself does not say. */
function More({ fields, text }: { fields: Record<string, unknown>; text: string }) {
  const said = Object.entries(fields).filter(([name, value]) => name !== "code" && !text.includes(String(value)));
  return <span class="small muted mono">{said.map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ")}</span>;
}
