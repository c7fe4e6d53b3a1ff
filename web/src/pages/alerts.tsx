// What fires, the rules by which it does, who is told, and whether they were.

import { useState } from "preact/hooks";
import { ask, everyPage, get, may, post } from "../api";
import { bytes, grouped, moment, words } from "../format";
import { lastEvent, link, now, overview } from "../live";
import type { Alert, AlertRule, Delivery, Notifier } from "../shapes";
import { Code, Dialog, HealthMark, ProblemBox, State, say, useAsked } from "../ui";

interface All {
  alerts: Alert[];
  rules: AlertRule[];
  /** Pipelines of which no rule is known. */
  unknown: string[];
  notifiers: Notifier[];
  deliveries: Delivery[];
}

const SHOWN = 20;
const EDGE: Record<string, string> = { critical: "error", warning: "warning", notice: "notice" };
const OF: Record<string, string> = { alert: "an alert", alert_resolved: "the end of an alert", load_finished: "a load that is in", test: "a test" };

async function everything(): Promise<All> {
  const [active, rules, notifiers, deliveries] = await Promise.all([
    everyPage<{ alerts: Alert[] }>("/alerts/active", "alerts"),
    everyPage<{ rules: AlertRule[]; unknown: string[] }>("/alerts/rules", "rules"),
    get<{ notifiers: Notifier[] }>("/notifiers"),
    get<{ deliveries: Delivery[] }>(`/alerts/deliveries?limit=${SHOWN}`),
  ]);
  return { ...active, ...rules, ...notifiers, ...deliveries };
}

/** As a person writes it: whole hours, whole minutes beyond two, else seconds. */
function threshold(n: number): string {
  if (n >= 3_600 && n % 3_600 === 0) return `${grouped(n / 3_600)} h`;
  return n > 120 && n % 60 === 0 ? `${grouped(n / 60)} m` : `${grouped(n)} s`;
}

/** A rule as a sentence; as it stands in the file where there is none for it. */
function sentence(rule: string): string {
  const found = /^(\w+?)(?: (is|above|below) (\S+))?(?: for (\S+))?$/.exec(rule);
  const [, when = "", how, bound = "", lasting] = found ?? [];
  const above = how === "above" ? Number(bound) : null;
  const so = ((): string | null => {
    switch (when) {
      case "state":
        return how === "is" ? `it is ${bound.split(",").map(words).join(" or ")}` : null;
      case "lag_seconds":
        return above === null ? null : `the target is more than ${threshold(above)} behind`;
      case "lag_bytes":
        return above === null ? null : `the target is more than ${bytes(above)} behind`;
      case "lag_unknown":
        return "how far the target is behind is unknown";
      case "slot_time_left":
        return how === "below" ? `the log that it needs is kept for less than ${bound}` : null;
      case "table_quarantined":
        return "a table is in quarantine";
      case "rows_quarantined":
        return above ? `more than ${grouped(above)} rows are in quarantine` : "a row is in quarantine";
      case "load_finished":
        return "its load is in";
      case "load_failed":
        return "its load failed";
      case "verification_different":
        return "the last comparison of a table found a difference";
      case "verification_stale":
        return above === null ? null : `a table was not compared for ${threshold(above)}`;
      default:
        return null;
    }
  })();
  return so === null ? words(rule) : `when ${so}${lasting ? ` for ${lasting}` : ""}`;
}

function Pipeline({ id }: { id: string }) {
  return <a class="name" href={`/p/${encodeURIComponent(id)}`}>{id}</a>;
}

export function Alerts() {
  const tick = link.value === "gone" ? 0 : Math.floor(now.value / 5_000);
  const told = lastEvent.value?.kind.startsWith("alert") ? lastEvent.value.id : 0;
  const { value, problem, reload } = useAsked(everything, [tick, told, overview.value?.total]);
  const [testing, setTesting] = useState<Notifier | null>(null);
  const [tired, setTired] = useState<Alert | null>(null);
  const heading = <h1 tabIndex={-1}>Alerts</h1>;
  if (!value) return <>{heading}{problem ? <><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></> : <p class="muted" aria-busy="true">Asking the server …</p>}</>;
  return (
    <>
      {heading}
      {problem ? <ProblemBox problem={problem} /> : null}
      <Active all={value} snooze={setTired} wake={(alert) => wake(alert).then(reload)} />
      <Rules all={value} />
      <Notifiers notifiers={value.notifiers} test={setTesting} />
      <Deliveries deliveries={value.deliveries} />
      {tired && <Snooze alert={tired} onClose={() => setTired(null)} onDone={reload} />}
      {testing && <Test notifier={testing} onClose={() => setTesting(null)} onDone={reload} />}
    </>
  );
}

/** All are told again, if it still fires. */
async function wake(alert: Alert) {
  try {
    await ask("DELETE", `/alerts/${alert.id}/snooze`);
    say(`${alert.pipeline_id}: it is told of again`, "ok");
  } catch (wrong) {
    say(wrong instanceof Error ? wrong.message : String(wrong), "error");
  }
}

/** That nothing fires says that all is well only of what is known. */
function Active({ all, snooze, wake }: { all: All; snooze: (alert: Alert) => void; wake: (alert: Alert) => void }) {
  const blind = all.rules.filter((rule) => !rule.known).length;
  return (
    <section class="cards" aria-labelledby="active">
      <h2 id="active">{all.alerts.length === 0 ? "Nothing fires" : `Active: ${all.alerts.length}`}</h2>
      {all.alerts.length > 0 && (
        <ul class="cards">
          {all.alerts.map((alert) => (
            <li key={`${alert.pipeline_id} ${alert.rule}`}>
              <article class={`card ${EDGE[alert.severity] ?? "notice"}-edge`} aria-label={`${alert.pipeline_id}: ${alert.rule}`}>
                <div class="row spread">
                  <span class="row"><HealthMark health={EDGE[alert.severity] ?? "notice"} word={alert.severity} /> <h3><a href={`/p/${encodeURIComponent(alert.pipeline_id)}`} data-row>{alert.pipeline_id}</a></h3></span>
                  <span class="muted small">since {moment(alert.since)}{alert.fired_at && `, told ${moment(alert.fired_at)}`}</span>
                </div>
                <p>{alert.text}</p>
                {alert.over_since && <p class="muted">It is over since {moment(alert.over_since)}, and is resolved when it stays so.</p>}
                {alert.snoozed_until && <p class="muted">Snoozed by {alert.snoozed_by} until {moment(alert.snoozed_until)}: no message is sent that it fires.</p>}
                <div class="row spread">
                  <span class="muted small">Rule: {sentence(alert.rule)}</span>
                  {may("operator") && (
                    <span class="row">
                      {alert.snoozed_until && <button type="button" class="small" aria-label={`tell again of ${alert.pipeline_id}`} onClick={() => wake(alert)}>Tell again</button>}
                      <button type="button" class="small" aria-label={`snooze ${alert.pipeline_id}`} onClick={() => snooze(alert)}>Snooze …</button>
                    </span>
                  )}
                </div>
              </article>
            </li>
          ))}
        </ul>
      )}
      {blind > 0 && <p><span class="warning">?</span> {blind === 1 ? "One rule looks" : `${blind} rules look`} at what is not known now: nothing is begun by {blind === 1 ? "it" : "them"}, and nothing ends.</p>}
      {all.unknown.length > 0 && <p><span class="warning">?</span> The rules of {all.unknown.join(", ")} are not known: the definition could not be read since the server was started.</p>}
    </section>
  );
}

function Rules({ all }: { all: All }) {
  if (all.rules.length === 0) {
    return all.unknown.length > 0 ? null : (
      <div class="empty">
        <p>No pipeline has a rule, so nobody is told of anything.</p>
        <p class="muted">A rule is <code>[[alert]]</code> in the definition of a pipeline, with <code>when = "lag_seconds"</code>, <code>above = 60</code> and whom to <code>notify</code>.</p>
      </div>
    );
  }
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="rules">
      <table class="fold">
        <caption>Rules</caption>
        <thead><tr><th scope="col">Pipeline</th><th scope="col">Rule</th><th scope="col">Severity</th><th scope="col">State</th><th scope="col">Tells</th></tr></thead>
        <tbody>
          {all.rules.map((rule) => (
            <tr key={`${rule.pipeline_id} ${rule.rule}`} data-state={rule.state}>
              <td class="name"><Pipeline id={rule.pipeline_id} /></td>
              <td data-k="rule"><span>{sentence(rule.rule)}<span class="muted small"><br /><code>{rule.rule}</code> · resolved after {rule.resolve_after}</span></span></td>
              <td data-k="severity"><HealthMark health={EDGE[rule.severity] ?? "notice"} word={rule.severity} /></td>
              <td data-k="state"><span><State state={rule.state} />{!rule.known && <span class="muted small"><br />what it looks at is not known now</span>}</span></td>
              <td data-k="tells">
                <span>
                  {rule.notify.length === 0 && <span class="muted">nobody: events, metrics and log have it</span>}
                  {rule.notify.map((name, at) => <span key={name}>{at > 0 && <br />}{name}{rule.unknown_notifiers.includes(name) && <span class="error"> ✗ is not in the server's file, so it is not told</span>}</span>)}
                </span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Outcome({ of }: { of: Delivery }) {
  return <span><State state={of.state} />{(of.code || of.result) && <span class="small"><br />{of.code && <><Code code={of.code} /> </>}{of.result}</span>}{of.next_at && <span class="small muted"><br />tried again {moment(of.next_at)}</span>}</span>;
}

function Notifiers({ notifiers, test }: { notifiers: Notifier[]; test: (notifier: Notifier) => void }) {
  if (notifiers.length === 0) {
    return <p class="empty">Nobody can be told: the server's file has no <code>[[notifier]]</code>. What fires is in the events, the metrics and the log.</p>;
  }
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="notifiers">
      <table class="fold">
        <caption>Who can be told</caption>
        <thead><tr><th scope="col">Notifier</th><th scope="col">Kind</th><th scope="col">Goes to</th><th scope="col" class="n">Waiting</th><th scope="col">Last</th>{may("operator") && <th scope="col">Actions</th>}</tr></thead>
        <tbody>
          {notifiers.map((one) => (
            <tr key={one.name}>
              <td class="name">{one.name}</td>
              <td data-k="kind">{one.type}</td>
              <td data-k="goes to" class="name"><span><span class="mono">{one.host}</span>{!one.tls && <span class="warning small"><br />! without TLS</span>}</span></td>
              <td data-k="waiting" class="n live-value">{grouped(one.waiting)}</td>
              <td data-k="last">{one.last ? <span><Outcome of={one.last} /> <span class="muted small">{moment(one.last.ended_at ?? one.last.created_at)}</span></span> : <span class="muted">nothing was sent yet</span>}</td>
              {may("operator") && <td><button type="button" class="small" aria-label={`test ${one.name}`} onClick={() => test(one)}>Test …</button></td>}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Deliveries({ deliveries }: { deliveries: Delivery[] }) {
  if (deliveries.length === 0) return <p class="muted">No message was sent yet.</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="messages">
      <table class="fold">
        <caption>Last messages, newest first</caption>
        <thead><tr><th scope="col">When</th><th scope="col">To</th><th scope="col">About</th><th scope="col">What came of it</th><th scope="col" class="n">Tried</th></tr></thead>
        <tbody>
          {deliveries.map((one) => (
            <tr key={one.id} data-delivery={one.state}>
              <td>{moment(one.created_at)}</td>
              <td data-k="to" class="name">{one.notifier}</td>
              <td data-k="about"><span>{OF[one.kind] ?? words(one.kind)}{one.pipeline_id && <> of <Pipeline id={one.pipeline_id} /></>}</span></td>
              <td data-k="result"><Outcome of={one} /></td>
              <td data-k="tried" class="n">{grouped(one.attempts)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const LASTS: [number, string][] = [[3_600, "1 hour"], [4 * 3_600, "4 hours"], [86_400, "1 day"], [7 * 86_400, "7 days"]];

/** Nobody is sent a word of it for a while, and everybody can see who wanted that. */
function Snooze({ alert, onClose, onDone }: { alert: Alert; onClose: () => void; onDone: () => void }) {
  const [lasts, setLasts] = useState(3_600);
  const [problem, setProblem] = useState<unknown>(null);
  const snooze = async (event: Event) => {
    event.preventDefault();
    try {
      await post(`/alerts/${alert.id}/snooze`, { for_seconds: lasts });
      onDone();
      onClose();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  return (
    <Dialog title={`Snooze ${alert.pipeline_id}`} onClose={onClose}>
      <form onSubmit={snooze}>
        <p>No message is sent that it fires, {sentence(alert.rule)}. The alert stays here, with your name. Who was told of it is told when it is over; if it still fires when the time has passed, all are told again.</p>
        <label>For
          <select value={String(lasts)} onChange={(event) => setLasts(Number(event.currentTarget.value))}>
            {LASTS.map(([value, text]) => <option key={value} value={String(value)}>{text}</option>)}
          </select>
        </label>
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="primary">Snooze</button>
          <button type="button" onClick={onClose}>Close</button>
        </div>
      </form>
    </Dialog>
  );
}

/** Sends a real message, and says what the receiver answered. */
function Test({ notifier, onClose, onDone }: { notifier: Notifier; onClose: () => void; onDone: () => void }) {
  const [result, setResult] = useState<Delivery | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [isSent, setSent] = useState(false);
  const send = async (event: Event) => {
    event.preventDefault();
    if (isSent) return;
    setSent(true);
    setResult(null);
    setProblem(null);
    try {
      setResult(await post<Delivery>(`/notifiers/${encodeURIComponent(notifier.name)}/test`));
    } catch (wrong) {
      setProblem(wrong);
    }
    setSent(false);
    onDone();
  };
  return (
    <Dialog title={`Test ${notifier.name}`} onClose={onClose}>
      <form onSubmit={send}>
        <p>Sends one real message to <span class="mono">{notifier.host}</span>, now: whoever reads there sees that it is a test, and who asked for it. It is tried once, and no pipeline is touched.</p>
        <div role="status" data-testid="result">
          {isSent && <span class="muted">Waiting for the answer …</span>}
          {result && <Outcome of={result} />}
        </div>
        <ProblemBox problem={problem} />
        <div class="row">
          <button type="submit" class="primary" disabled={isSent}>{result ? "Send again" : "Send a test"}</button>
          <button type="button" onClick={onClose}>Close</button>
        </div>
      </form>
    </Dialog>
  );
}
