// What pipelines are connected to, and the slots by which sources keep their log.

import { useState } from "preact/hooks";
import { everyPage, get, may } from "../api";
import { bytes, moment } from "../format";
import { link, now } from "../live";
import type { Slot } from "../shapes";
import { ByName, type Named } from "./named";
import { Copyable, HealthMark, ProblemBox, Unknown, useAsked } from "../ui";

interface Connections {
  connections: { address: string; source_of: string[]; target_of: string[] }[];
  named: Named[];
  /** Why those of a file are not known. */
  problem: string | null;
  not_known: string[];
}

type Measured = Slot & { pipeline_id: string };

interface SourceSlot extends Slot {
  pipeline_id: string | null;
  database: string;
  foreign: string | null;
  orphan: boolean | null;
  holder: { pid: number; application: string; host: string; since: string } | null;
  confirmed_lsn: string;
  restart_lsn: string;
  lost: string | null;
}

const WAL: Record<string, string> = { reserved: "ok", extended: "warning", unreserved: "error", lost: "error" };
const pathTo = (id: string) => `/p/${encodeURIComponent(id)}`;

export function Pipelines({ ids }: { ids: string[] }) {
  return ids.length === 0 ? <span class="muted">–</span> : <span>{ids.map((id, at) => <span key={id}>{at > 0 && ", "}<a class="name" href={pathTo(id)}>{id}</a></span>)}</span>;
}

function Log({ slot }: { slot: Slot }) {
  return <HealthMark health={WAL[slot.wal_status] ?? "unknown"} word={slot.wal_status} />;
}

/** How much may still be written before the source gives it up. */
function Left({ slot }: { slot: Slot }) {
  if (slot.wal_status === "lost") return <span class="error">none: it is lost</span>;
  const safe = slot.safe_bytes === null ? <span class="muted">no limit is set</span> : <span>{bytes(slot.safe_bytes)}</span>;
  return <span>{safe}{slot.predicted_loss_at && <span class="error"> · lost at about {moment(slot.predicted_loss_at)} at this rate</span>}</span>;
}

export function Connections() {
  const tick = link.value === "gone" ? 0 : Math.floor(now.value / 5_000);
  const asked = useAsked(() => Promise.all([everyPage<Connections>("/connections", "connections", "named"), get<{ slots: Measured[] }>("/slots")]), [tick]);
  const [looked, setLooked] = useState<string | null>(null);
  const heading = <h1 tabIndex={-1}>Connections</h1>;
  if (!asked.value) return <>{heading}{asked.problem ? <ProblemBox problem={asked.problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>}</>;
  const [{ connections, named, problem, not_known }, { slots }] = asked.value;
  const sources = connections.filter((one) => one.source_of.length > 0);
  return (
    <>
      {heading}
      {asked.problem ? <ProblemBox problem={asked.problem} /> : null}
      {connections.length === 0 && not_known.length === 0 && <p class="empty">No pipeline, so nothing is connected.</p>}
      {connections.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="connections">
          <table class="fold">
            <caption>Databases</caption>
            <thead><tr><th scope="col">Address</th><th scope="col">Source of</th><th scope="col">Target of</th></tr></thead>
            <tbody>
              {connections.map((one) => (
                <tr key={one.address}>
                  <td class="name mono">{one.address}</td>
                  <td data-k="source of"><Pipelines ids={one.source_of} /></td>
                  <td data-k="target of"><Pipelines ids={one.target_of} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {not_known.length > 0 && <p class="muted">Not known of {not_known.join(", ")}: not started since the server runs, or the definition cannot be read.</p>}
      {slots.length > 0 ? (
        <div class="scroll" tabIndex={0} role="region" aria-label="slots of pipelines">
          <table class="fold">
            <caption>Slots, as their pipelines measured them last</caption>
            <thead><tr><th scope="col">Slot</th><th scope="col">Pipeline</th><th scope="col">Read now</th><th scope="col">Log</th><th scope="col" class="n">Keeps</th><th scope="col">May still be written</th></tr></thead>
            <tbody>
              {slots.map((slot) => (
                <tr key={slot.pipeline_id}>
                  <td class="name mono">{slot.name}</td>
                  <td data-k="pipeline"><Pipelines ids={[slot.pipeline_id]} /></td>
                  <td data-k="read now">{slot.active ? "yes" : <span class="warning">no</span>}</td>
                  <td data-k="log"><Log slot={slot} /></td>
                  <td data-k="keeps" class="n live-value">{bytes(slot.retained_bytes)}{slot.max_retained_bytes !== null && <span class="muted"> of {bytes(slot.max_retained_bytes)}</span>}</td>
                  <td data-k="left" class="live-value"><Left slot={slot} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : connections.length > 0 && <p class="muted">No slot is measured now: pipelines measure theirs while they run.</p>}
      <ByName all={named} unread={problem} reload={asked.reload} />
      {may("operator") && sources.length > 0 && (
        <section class="stack" aria-labelledby="look">
          <h2 id="look">All slots of a source</h2>
          <p class="muted">A slot that nobody reads keeps log until the disk of the source is full. This asks the source itself, now.</p>
          <div class="row">{sources.map((one) => <button type="button" key={one.address} aria-pressed={looked === one.source_of[0]} onClick={() => setLooked(one.source_of[0]!)}>Look at {one.address}</button>)}</div>
          {looked !== null && <OfSource key={looked} id={looked} />}
        </section>
      )}
    </>
  );
}

function OfSource({ id }: { id: string }) {
  const { value, problem, reload } = useAsked(() => get<{ address: string; slots: SourceSlot[] }>(`/pipelines/${encodeURIComponent(id)}/slots`), [id]);
  if (!value) return problem ? <><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></> : <p class="muted" aria-busy="true">Asking the source …</p>;
  if (value.slots.length === 0) return <p class="empty">{value.address} has no slot.</p>;
  const orphans = value.slots.filter((slot) => slot.orphan && slot.holder === null);
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={`slots of ${value.address}`}>
        <table class="fold">
          <caption class="name">Slots of {value.address}, those that keep most first</caption>
          <thead><tr><th scope="col">Slot</th><th scope="col">Whose</th><th scope="col">Read by</th><th scope="col">Log</th><th scope="col" class="n">Keeps</th><th scope="col">May still be written</th><th scope="col">Keeps from</th></tr></thead>
          <tbody>
            {value.slots.map((slot) => (
              <tr key={slot.name}>
                <td class="name mono"><bdi>{slot.name}</bdi></td>
                <td data-k="whose"><Whose slot={slot} /></td>
                <td data-k="read by" class="name">{slot.holder ? <span><bdi>{slot.holder.application || "no name"}</bdi> <span class="muted">{slot.holder.host}, pid {slot.holder.pid}, since {moment(slot.holder.since)}</span></span> : <span class="warning">nobody</span>}</td>
                <td data-k="log"><span><Log slot={slot} />{slot.lost && <span class="small error"><br />{slot.lost}</span>}</span></td>
                <td data-k="keeps" class="n">{bytes(slot.retained_bytes)}</td>
                <td data-k="left"><Left slot={slot} /></td>
                <td data-k="from"><code>{slot.restart_lsn}</code></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <div class="row"><button type="button" onClick={reload}>Ask again</button></div>
      {orphans.length > 0 && (
        <div class="stack">
          <p><span class="warning">!</span> By its name Tidemark made it, no pipeline of this server has it, and nobody reads it now. Another server or a command line may still come back for it: ask first. What drops it on the source, with the log it keeps:</p>
          {orphans.map((slot) => <Copyable key={slot.name} label={`SQL that drops ${slot.name}`} text={`SELECT pg_drop_replication_slot('${slot.name}');`} />)}
        </div>
      )}
    </>
  );
}

function Whose({ slot }: { slot: SourceSlot }) {
  if (slot.pipeline_id !== null) return <Pipelines ids={[slot.pipeline_id]} />;
  if (slot.orphan) return <span class="warning">no pipeline of this server</span>;
  if (slot.orphan === null) return <Unknown why="not every pipeline's definition was read yet" />;
  return <span class="muted">another's{slot.foreign && `: ${slot.foreign}`}</span>;
}
