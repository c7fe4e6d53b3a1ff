// Connections that have a name: databases that pipelines use by it.

import { useState } from "preact/hooks";
import { ask, get, may, post } from "../api";
import { moment, seconds } from "../format";
import { Code, Dialog, ProblemBox, say } from "../ui";
import { Pipelines } from "./connections";

export interface Named {
  name: string;
  address: string | null;
  user: string | null;
  /** As they would be sent back: secrets are `***`. */
  keys: Keys | null;
  used_by: string[];
  problem: string | null;
  file: string | null;
  created_at: string | null;
  created_by: string | null;
  etag: string | null;
}

interface Tested {
  ok: boolean;
  about: { version: string; database: string; user: string; tls: boolean; standby: boolean; wal_level: string; replication: boolean } | null;
  seconds: number;
  code: string | null;
  detail: string | null;
  action: string | null;
}

type Keys = Record<string, string | number>;

const pathOf = (one: Named) => `/connections/${encodeURIComponent(one.name)}`;

export function ByName({ all, unread, reload }: { all: Named[]; unread: string | null; reload: () => void }) {
  const [tests, setTests] = useState<Record<string, Tested | "asked">>({});
  const [deleting, setDeleting] = useState<Named | null>(null);
  const [changing, setChanging] = useState<Named | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const test = async (one: Named) => {
    setTests((before) => ({ ...before, [one.name]: "asked" }));
    try {
      const tested = await post<Tested>(`${pathOf(one)}/test`);
      setTests((before) => ({ ...before, [one.name]: tested }));
      setProblem(null);
    } catch (wrong) {
      setTests(({ [one.name]: _, ...others }) => others);
      setProblem(wrong);
    }
  };
  const remove = async (one: Named) => {
    setDeleting(null);
    try {
      const now = await get<Named>(pathOf(one));
      await ask("DELETE", pathOf(one), undefined, { "if-match": now.etag ?? "" });
      say(`✓ the connection ${one.name} is deleted`, "ok");
      setProblem(null);
      reload();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  return (
    <section class="stack" aria-labelledby="by-name">
      <h2 id="by-name">By name</h2>
      <p class="muted">Pipelines of this server say <code>connection = "NAME"</code> in place of an address and a password, which then are said once.</p>
      <ProblemBox problem={problem} />
      {unread && <p class="error">✗ Those of a file are not known: {unread}</p>}
      {all.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="connections by name">
          <table class="fold">
            <caption class="hidden">Connections by name</caption>
            <thead><tr><th scope="col">Name</th><th scope="col">Address</th><th scope="col">Used by</th><th scope="col">Said by</th><th scope="col">Answer</th>{may("operator") && <th scope="col">Actions</th>}</tr></thead>
            <tbody>
              {all.map((one) => (
                <tr key={`${one.name} ${one.file}`}>
                  <td class="name mono"><bdi>{one.name}</bdi></td>
                  <td data-k="address" class="name">{one.problem ? <span class="error">{one.problem}</span> : <span class="mono">{one.user}@{one.address}</span>}</td>
                  <td data-k="used by"><Pipelines ids={one.used_by} /></td>
                  <td data-k="said by" class="name">{one.file ? <span class="mono small">{one.file}</span> : <span>{one.created_by} <span class="muted small">{one.created_at && moment(one.created_at)}</span></span>}</td>
                  <td data-k="answer" aria-live="polite"><Answer of={tests[one.name]} /></td>
                  {may("operator") && (
                    <td>
                      <span class="row">
                        <button type="button" class="small" disabled={tests[one.name] === "asked"} onClick={() => test(one)}>Test<span class="hidden"> {one.name}</span></button>
                        {may("admin") && one.keys && <button type="button" class="small" onClick={() => setChanging(one)}>Change<span class="hidden"> {one.name}</span> …</button>}
                        {may("admin") && one.file === null && <button type="button" class="small danger" disabled={one.used_by.length > 0} title={one.used_by.length > 0 ? "pipelines use it" : undefined} onClick={() => setDeleting(one)}>Delete<span class="hidden"> {one.name}</span> …</button>}
                      </span>
                    </td>
                  )}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {may("admin") && <ConnectionForm of={null} done={reload} />}
      {changing && (
        <Dialog title={`Change ${changing.name}`} onClose={() => setChanging(null)}>
          {changing.used_by.length > 0 && <p>Pipelines that run with it stop in order and go on with it as it is then: {changing.used_by.join(", ")}.</p>}
          <ConnectionForm of={changing} done={() => (setChanging(null), reload())} />
        </Dialog>
      )}
      {deleting && (
        <Dialog title="Delete a connection" onClose={() => setDeleting(null)}>
          <p>The connection <strong>{deleting.name}</strong> is forgotten, with its password. No pipeline uses it; nothing is done on the database.</p>
          <div class="row"><button type="button" class="danger" onClick={() => remove(deleting)}>Delete</button><button type="button" onClick={() => setDeleting(null)}>Cancel</button></div>
        </Dialog>
      )}
    </section>
  );
}

function Answer({ of }: { of: Tested | "asked" | undefined }) {
  if (of === undefined) return <span class="muted">not tested</span>;
  if (of === "asked") return <span class="muted">asking …</span>;
  if (of.about === null) return <span><span class="error">✗</span> <Code code={of.code ?? ""} /> {of.detail}<br /><span class="small">First: {of.action}</span></span>;
  const { version, database, user, tls, standby, wal_level, replication } = of.about;
  return (
    <span>
      <span class="ok">✓</span> PostgreSQL {version}, <bdi>{database}</bdi> as <bdi>{user}</bdi>, in {seconds(of.seconds)}
      <br /><span class="small muted">{tls ? "encrypted" : "not encrypted"} · wal_level {wal_level} · the role {replication ? "may" : "may not"} read the log{standby && " · a standby"}</span>
    </span>
  );
}

/** Where it is, said as a URL or in parts. */
const PARTS = ["host", "port", "database", "user"];

/** What a connection says: a new one, or one that is changed and keeps its name. */
function ConnectionForm({ of, done }: { of: Named | null; done: () => void }) {
  const before: Keys = of?.keys ?? { url: "" };
  const where = "url" in before ? ["url"] : PARTS;
  const [name, setName] = useState("");
  const [said, setSaid] = useState<Keys>(before);
  const [password, setPassword] = useState("");
  const [problem, setProblem] = useState<unknown>(null);
  const others = Object.entries(before).filter(([key]) => ![...where, "password"].includes(key));
  const send = async (event: Event) => {
    event.preventDefault();
    // What is left empty is not said; a password that nobody types stays what it was.
    const keys = Object.fromEntries(Object.entries(said).filter(([, value]) => value !== ""));
    if (password) keys.password = password;
    try {
      if (of === null) await post("/connections", { name, ...keys });
      else await ask("PUT", pathOf(of), { type: "application/json", text: JSON.stringify(keys) }, { "if-match": of.etag ?? "" });
      say(`✓ the connection ${of?.name ?? name} is ${of ? "changed" : "kept"}`, "ok");
      setName("");
      setSaid(before);
      setPassword("");
      setProblem(null);
      done();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  const text = (key: string, typed: string) => setSaid({ ...said, [key]: key === "port" && typed !== "" ? Number(typed) : typed });
  return (
    <>
      <form class="row" onSubmit={send}>
        {of === null && <label>Name<input name="connection" required pattern="[a-z0-9_\-]+" maxLength={40} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>}
        {where.map((key) => (
          <label key={key}>{key === "url" ? "URL" : key}<input name={key} required={key === "url"} size={key === "url" ? 40 : 16} inputMode={key === "port" ? "numeric" : "text"} pattern={key === "port" ? "[0-9]*" : undefined} autocomplete="off" placeholder={key === "url" ? "postgres://user@host:5432/database" : ""} value={said[key] ?? ""} onInput={(event) => text(key, event.currentTarget.value)} /></label>
        ))}
        <label>Password<input name="password" type="password" autocomplete="new-password" placeholder={before.password === undefined ? "" : before.password === "***" ? "unchanged" : String(before.password)} value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
        <button type="submit" class={of ? "primary" : ""} style={{ alignSelf: "end" }}>{of ? "Change it" : "Add a connection"}</button>
      </form>
      {others.length > 0 && <p class="muted small">As before: <code>{others.map(([key, value]) => `${key} = ${value}`).join(", ")}</code></p>}
      <ProblemBox problem={problem} />
    </>
  );
}
