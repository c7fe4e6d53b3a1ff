// When pipelines are loaded anew by themselves, what became of it, and what a person may say to that.

import { useState } from "preact/hooks";
import { get, may, post } from "../api";
import { inWords } from "../cron";
import { moment, seconds } from "../format";
import { lastEvent, link, now, overview, pipelineOf } from "../live";
import { parameter, put } from "../router";
import type { Pipeline, Schedule, ScheduleRun } from "../shapes";
import { Dialog, ProblemBox, say, State, Unknown, useAsked } from "../ui";

type Action = "run" | "skip" | "pause" | "resume";

const RUNS = 20;
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const pathOf = (id: string) => `/pipelines/${encodeURIComponent(id)}/schedule`;

/** As the clock of its zone shows it; the offset tells the two of a night in autumn apart. */
function onTheWall(local: string): string {
  const [date = "", time = ""] = local.split("T");
  const offset = /[+-]\d\d:\d\d$/.exec(time)?.[0];
  const clock = time.slice(0, time.startsWith(":00", 5) ? 5 : 8);
  return `${WEEKDAYS[new Date(`${date}T00:00:00Z`).getUTCDay()]} ${date} ${clock} ${offset === undefined || offset === "+00:00" ? "UTC" : offset}`;
}

/** A time that has passed, by the same clock; of a zone that the browser does not know, in UTC. */
function inZone(at: string, zone: string | null): string {
  try {
    const format = new Intl.DateTimeFormat("en-GB", { timeZone: zone ?? "UTC", hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "longOffset" });
    const part = Object.fromEntries(format.formatToParts(new Date(at)).map((one) => [one.type, one.value]));
    return onTheWall(`${part.year}-${part.month}-${part.day}T${part.hour}:${part.minute}:${part.second}${part.timeZoneName?.slice(3) || "+00:00"}`);
  } catch {
    return onTheWall(at.replace(/(\.\d+)?Z$/, "+00:00"));
  }
}

function In({ at }: { at: string }) {
  const left = (Date.parse(at) - now.value) / 1000;
  return <span class="muted live-value">{left < 1 ? "now" : `in ${seconds(Math.floor(left))}`}</span>;
}

/** What is due is left out as long as a person keeps the pipeline from running. */
const isKept = (one: Pipeline | null) => one !== null && ["draft", "paused", "stopped"].includes(one.desired_state);

export function Schedules() {
  const tick = link.value === "gone" ? 0 : Math.floor(now.value / 5_000);
  const told = lastEvent.value?.kind.startsWith("schedule") ? lastEvent.value.id : 0;
  const { value, problem, reload } = useAsked(() => get<{ schedules: Schedule[]; unknown: string[] }>("/schedules"), [tick, told, overview.value?.total]);
  const [wanted, setWanted] = useState<{ action: Action; of: Schedule } | null>(null);
  const heading = <h1 tabIndex={-1}>Schedules</h1>;
  if (!value) return <>{heading}{problem ? <><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></> : <p class="muted" aria-busy="true">Asking the server …</p>}</>;
  const asked = parameter("pipeline");
  const shown = value.schedules.find((one) => one.pipeline_id === asked) ?? value.schedules[0];
  const want = (action: Action, of: Schedule) => setWanted({ action, of });
  return (
    <>
      {heading}
      {problem ? <ProblemBox problem={problem} /> : null}
      {value.schedules.length === 0 && value.unknown.length === 0 && (
        <div class="empty">
          <p>No pipeline has a schedule.</p>
          <p class="muted">One that has <code>[schedule]</code> with <code>full_load = "daily"</code> in its definition is loaded anew by itself, beside what is there: readers never see fewer rows.</p>
        </div>
      )}
      {value.schedules.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="schedules">
          <table class="fold">
            <caption class="hidden">Schedules, by pipeline</caption>
            <thead><tr><th scope="col">Pipeline</th><th scope="col">Loaded anew</th><th scope="col">Next</th><th scope="col">Last</th><th scope="col">Actions</th></tr></thead>
            <tbody>{value.schedules.map((one) => <Line key={one.pipeline_id} one={one} isShown={one === shown} want={want} />)}</tbody>
          </table>
        </div>
      )}
      {value.unknown.length > 0 && <p><span class="warning">?</span> Not known of {value.unknown.join(", ")}: the definition could not be read since the server was started. What is due of such a pipeline does not begin.</p>}
      {shown && <Detail key={shown.pipeline_id} one={shown} again={`${tick} ${told} ${shown.last?.due_at} ${shown.last?.state}`} />}
      {wanted && <Ask {...wanted} onClose={() => setWanted(null)} onDone={reload} />}
    </>
  );
}

function Line({ one, isShown, want }: { one: Schedule; isShown: boolean; want: (action: Action, of: Schedule) => void }) {
  const id = one.pipeline_id;
  const words = inWords(one.full_load);
  const next = one.next.find((time) => time.skipped_by === null);
  const pipeline = pipelineOf(id);
  const button = (action: Action, text: string) => <button type="button" class="small" aria-label={`${text.replace(" …", "").toLowerCase()}: ${id}`} onClick={() => want(action, one)}>{text}</button>;
  return (
    <tr>
      <td class="name"><a href={`/p/${encodeURIComponent(id)}`} data-row>{id}</a></td>
      <td data-k="loaded anew"><span>{words ?? <code>{one.full_load}</code>}<span class="muted small"><br />{words !== null && words !== one.full_load && <><code>{one.full_load}</code> · </>}{one.timezone ?? "always as far apart"}</span></span></td>
      <td data-k="next">
        <span>
          {one.paused ? <><State state="paused" /> <span class="muted">by {one.paused.by} since {moment(one.paused.since)}</span></>
            : next ? <>{onTheWall(next.local)}<br /><In at={next.at} /></> : <span class="warning">! the next {one.next.length} are left out</span>}
          {isKept(pipeline) && <span class="warning"><br />! the pipeline {pipeline?.desired_state === "draft" ? "was never started" : `is ${pipeline?.desired_state}`}: what is due is left out</span>}
        </span>
      </td>
      <td data-k="last">
        <span>
          {one.open.map((run) => <span key={run.due_at}><State state={run.state} /><span class="muted small"><br />due {inZone(run.due_at, one.timezone)}</span><br /></span>)}
          {one.last === null ? <span class="muted">none yet</span> : one.open.every((run) => run.due_at !== one.last?.due_at) && <><State state={one.last.state} /><span class="muted small"><br />due {inZone(one.last.due_at, one.timezone)}</span></>}
          {one.missed_run?.reason && <span class="small"><br /><span class="warning">!</span> no load came of it: {one.missed_run.reason}</span>}
        </span>
      </td>
      <td>
        <span class="row buttons">
          {may("operator") && button("run", "Run now …")}
          {may("operator") && button("skip", "Skip next …")}
          {may("operator") && (one.paused ? button("resume", "Resume …") : button("pause", "Pause …"))}
          <button type="button" class="small" aria-pressed={isShown} aria-label={`times and runs of ${id}`} onClick={() => put("pipeline", id)}>Runs</button>
        </span>
      </td>
    </tr>
  );
}

function Detail({ one, again }: { one: Schedule; again: string }) {
  const { value, problem, reload } = useAsked(() => get<{ runs: ScheduleRun[] }>(`${pathOf(one.pipeline_id)}/runs?limit=${RUNS}`), [again]);
  return (
    <section class="stack" aria-labelledby="detail">
      <h2 id="detail" class="name">{one.pipeline_id}</h2>
      <p class="muted small">
        {one.timezone === null ? "Times are in UTC." : `Times are those of ${one.timezone}.`}
        {one.overlap === "queue" ? " What is due while another load goes on waits for its end." : " What is due while another load goes on is left out."}
        {one.missed === "run_once" ? " Times that pass while no server is there bring one load, late, for all of them." : " Times that pass while no server is there are left out."}
      </p>
      <div class="two">
        <div class="scroll" tabIndex={0} role="region" aria-label={`next times of ${one.pipeline_id}`}>
          <table>
            <caption>Next</caption>
            <thead><tr><th scope="col">Due</th><th scope="col">In</th><th scope="col">What comes of it</th></tr></thead>
            <tbody>
              {one.next.map((time) => (
                <tr key={time.at}>
                  <td>{onTheWall(time.local)}</td>
                  <td><In at={time.at} /></td>
                  <td>{time.skipped_by !== null ? <span class="warning">left out by {time.skipped_by}</span> : one.paused ? <span class="muted">nothing, while it is paused</span> : "a load"}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
        <Runs one={one} runs={value?.runs ?? null} problem={problem} reload={reload} />
      </div>
    </section>
  );
}

function Runs({ one, runs, problem, reload }: { one: Schedule; runs: ScheduleRun[] | null; problem: unknown; reload: () => void }) {
  if (runs === null) return problem ? <div class="stack"><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></div> : <p class="muted" aria-busy="true">Asking for its runs …</p>;
  if (runs.length === 0) return <p class="empty">No run yet: nothing was due since the schedule is known.</p>;
  return (
    <div class="stack">
      {problem ? <ProblemBox problem={problem} /> : null}
      <div class="scroll" tabIndex={0} role="region" aria-label={`runs of ${one.pipeline_id}`}>
        <table>
          <caption>Last runs, newest first</caption>
          <thead><tr><th scope="col">Due</th><th scope="col">Result</th><th scope="col" class="n">Took</th><th scope="col">By</th></tr></thead>
          <tbody>{runs.map((run) => <Run key={run.due_at} run={run} zone={one.timezone} />)}</tbody>
        </table>
      </div>
    </div>
  );
}

function Run({ run, zone }: { run: ScheduleRun; zone: string | null }) {
  const took = run.began_at && run.ended_at ? (Date.parse(run.ended_at) - Date.parse(run.began_at)) / 1000 : null;
  return (
    <tr data-run={run.state}>
      <td>{inZone(run.due_at, zone)}</td>
      <td><State state={run.state} />{run.reason && <span class="small muted"><br />{run.reason}</span>}</td>
      <td class="n">{took !== null ? seconds(took) : run.began_at && !run.ended_at ? <span class="live-value">{seconds(Math.max(0, Math.floor((now.value - Date.parse(run.began_at)) / 1000)))} …</span> : "–"}</td>
      <td>{run.by}</td>
    </tr>
  );
}

const TITLE: Record<Action, string> = { run: "Load anew now", skip: "Leave the next load out", pause: "Pause the schedule", resume: "Resume the schedule" };
const BUTTON: Record<Action, string> = { run: "Run now", skip: "Skip it", pause: "Pause", resume: "Resume" };
const DONE: Record<Action, string> = { run: "a load begins", skip: "the next load is left out", pause: "no load begins by itself", resume: "what is due begins again" };

/** What an action does to the data. */
function effects(action: Action, of: Schedule, one: Pipeline | null): string[] {
  const streams = one && one.mode !== "full_load_only";
  const tables = one?.tables.reduce((sum, count) => sum + count.count, 0) ?? 0;
  const all = tables === 0 ? "all tables" : tables === 1 ? "its one table" : `all ${tables} tables`;
  const stays = `What is in the target is not touched${streams === true ? ", and the stream is not either" : streams === false ? ": it stays as old as its last load" : ""}.`;
  const [next, after] = of.next.filter((time) => time.skipped_by === null);
  switch (action) {
    case "run":
      return [
        `Reads ${all} of ${of.pipeline_id} from the source anew, and puts the rows beside those that are in the target. ${streams === false ? "They take the place of the old ones when all are in." : "Each table takes the place of the old one when it is in, and what streams goes on."}`,
        "Readers see the old rows until then: never an empty table, never fewer rows.",
        "The source is read once as a whole, and the target has room for both copies meanwhile.",
        ...(of.paused ? ["That the schedule is paused keeps nothing from it: it is asked for by you."] : []),
      ];
    case "skip":
      return [
        ...(next ? [`The load that is due ${onTheWall(next.local)} does not begin. ${stays}`] : ["All times that are shown are left out already: the first one after them is left out too."]),
        ...(after ? [`The one after it, ${onTheWall(after.local)}, begins as ever.`] : []),
        "This is not taken back; Run now begins a load at any time.",
      ];
    case "pause":
      return [`No load of ${of.pipeline_id} begins by itself until somebody resumes the schedule. One that goes on now goes on to its end.`, stays];
    case "resume":
      return [`What is due from now on begins again${next ? `, first ${onTheWall(next.local)}` : ""}. Times that passed meanwhile are not made up for.`];
  }
}

function Ask({ action, of, onClose, onDone }: { action: Action; of: Schedule; onClose: () => void; onDone: () => void }) {
  const [problem, setProblem] = useState<unknown>(null);
  const [isSent, setSent] = useState(false);
  const go = async (event: Event) => {
    event.preventDefault();
    if (isSent) return;
    setSent(true);
    try {
      await post<Schedule>(`${pathOf(of.pipeline_id)}/actions/${action}`);
      onClose();
      say(`✓ ${of.pipeline_id}: ${DONE[action]}`, "ok");
      onDone();
    } catch (wrong) {
      setProblem(wrong);
      setSent(false);
    }
  };
  const one = pipelineOf(of.pipeline_id);
  return (
    <Dialog title={`${TITLE[action]}: ${of.pipeline_id}`} onClose={onClose}>
      <form onSubmit={go}>
        {one === null && <p>How the pipeline stands is <Unknown why="the server does not tell of it now" />.</p>}
        {effects(action, of, one).map((text) => <p key={text} data-testid="effect">{text}</p>)}
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="primary" disabled={isSent}>{BUTTON[action]}</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}
