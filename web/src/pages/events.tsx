// What happened, newest first, day by day.

import { useEffect, useState } from "preact/hooks";
import { get } from "../api";
import { clock, day, words } from "../format";
import { lastEvent, link, resets } from "../live";
import { parameter, put } from "../router";
import type { Event, Pipeline } from "../shapes";
import { Code, HealthMark, ProblemBox } from "../ui";

const LEVELS: Record<string, string> = { info: "notice", warn: "warning", error: "error" };

/** The same in a row is one line with a count. */
function collapsed(events: Event[]): { event: Event; count: number; first: Event }[] {
  const lines: { event: Event; count: number; first: Event }[] = [];
  for (const event of events) {
    const last = lines.at(-1);
    if (last && last.event.text === event.text && last.event.table === event.table && last.event.by === event.by) {
      last.count += 1;
      last.first = event;
    } else lines.push({ event, count: 1, first: event });
  }
  return lines;
}

export function Events({ one }: { one: Pipeline }) {
  const [events, setEvents] = useState<Event[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const level = parameter("level");
  const table = (parameter("q") ?? "").toLowerCase();
  const load = async (from: string | null) => {
    const query = new URLSearchParams({ limit: "100" });
    if (level) query.set("level", level);
    if (from) query.set("cursor", from);
    try {
      const page = await get<{ events: Event[]; next_cursor: string | null }>(`/pipelines/${encodeURIComponent(one.id)}/events?${query}`);
      setEvents((before) => (from ? [...(before ?? []), ...page.events] : page.events));
      setCursor(page.next_cursor);
      setProblem(null);
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  useEffect(() => void load(null), [one.id, level, link.value === "live", resets.value]);
  const fresh = lastEvent.value;
  useEffect(() => {
    if (!fresh || fresh.pipeline !== one.id || (level && fresh.level !== level)) return;
    setEvents((before) => (before && !before.some((event) => event.id >= fresh.id) ? [fresh, ...before] : before));
  }, [fresh]);
  if (!events) return problem ? <ProblemBox problem={problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>;
  const lines = collapsed(events.filter((event) => `${event.table ?? ""} ${event.text} ${event.code ?? ""}`.toLowerCase().includes(table)));
  const days = [...new Set(lines.map((line) => day(line.event.at)))];
  return (
    <>
      <div class="row spread">
        <div class="counts" role="group" aria-label="filter by level">
          {[null, "error", "warn", "info"].map((name) => (
            <button type="button" class="small" key={name} aria-pressed={level === name} onClick={() => put("level", name)}>{name === null ? "all" : name === "warn" ? "warning" : name}</button>
          ))}
        </div>
        <label class="inline"><span class="muted">find</span><input id="find" type="search" placeholder="table, code or text" value={parameter("q") ?? ""} onInput={(event) => put("q", event.currentTarget.value)} /></label>
      </div>
      {days.map((name) => (
        <section key={name} class="stack" aria-label={name}>
          <h2>{name}</h2>
          <ol class="events" style={{ margin: 0, padding: 0, listStyle: "none" }}>
            {lines.filter((line) => day(line.event.at) === name).map(({ event, count, first }) => (
              <li key={event.id}>
                <span class="muted">{count > 1 ? `${clock(first.at)} – ` : ""}{clock(event.at)}{event.by && ` · ${event.by}`}</span>
                <span>{event.level === "info" ? <span class="muted">{words(event.kind)}</span> : <HealthMark health={LEVELS[event.level] ?? "notice"} word={event.level === "warn" ? "warning" : event.level} />}</span>
                <span>{event.table && <><bdi class="mono">{event.table}</bdi> </>}{event.code && <><Code code={event.code} /> </>}{event.text}{count > 1 && <strong> × {count}</strong>}</span>
              </li>
            ))}
          </ol>
        </section>
      ))}
      {lines.length === 0 && <p class="empty">Nothing like that happened.</p>}
      {cursor && <button type="button" onClick={() => load(cursor)}>Older</button>}
      <ProblemBox problem={problem} />
    </>
  );
}
