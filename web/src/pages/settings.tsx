// Tokens, the audit, this program, and how the pages look and listen.

import { useState } from "preact/hooks";
import { ask, caller, everyPage, get, may, post, signOut } from "../api";
import { moment } from "../format";
import { keysOn, setKeys, setTheme, theme } from "../prefs";
import type { Audit, Token } from "../shapes";
import { Copyable, Dialog, ProblemBox, say, useAsked } from "../ui";

const TABS = ["general", "tokens", "audit"] as const;

export function Settings({ tab }: { tab: string }) {
  const open = TABS.filter((one) => one === "general" || may("admin"));
  const shown = open.find((one) => one === tab) ?? "general";
  return (
    <>
      <h1 tabIndex={-1}>Settings</h1>
      <nav class="tabs" aria-label="settings">
        {open.map((one) => (
          <a key={one} href={one === "general" ? "/settings" : `/settings/${one}`} aria-current={shown === one ? "page" : undefined}>{one[0]!.toUpperCase() + one.slice(1)}</a>
        ))}
      </nav>
      {shown === "general" && <General />}
      {shown === "tokens" && <Tokens />}
      {shown === "audit" && <AuditLog />}
    </>
  );
}

function General() {
  const version = useAsked(() => get<{ version: string; api: string }>("/version"), []);
  const who = caller.value;
  return (
    <div class="two">
      <section class="stack" aria-labelledby="look">
        <h2 id="look">This browser</h2>
        <fieldset>
          <legend>Theme</legend>
          {(["system", "light", "dark"] as const).map((one) => <label class="inline" key={one}><input type="radio" name="theme" checked={theme.value === one} onChange={() => setTheme(one)} />{one}</label>)}
        </fieldset>
        <label class="inline"><input type="checkbox" checked={keysOn.value} onChange={(event) => setKeys(event.currentTarget.checked)} />keys of one letter (<kbd>?</kbd> lists them)</label>
      </section>
      <section class="stack" aria-labelledby="about">
        <h2 id="about">About</h2>
        <dl class="facts stacked">
          <div><dt>Tidemark</dt><dd>{version.value?.version ?? "…"}, API {version.value?.api ?? "…"}</dd></div>
          {who && <div><dt>you are</dt><dd>{who.name}, {who.role} of {who.tenant}</dd></div>}
        </dl>
        <p><a href="/api/docs">The API</a>, and <a href="/api/v1/openapi.json" download="tidemark-openapi.json">the same as OpenAPI 3.1</a></p>
        <p class="muted small">These pages use Preact, signals and uPlot (MIT) and ask nobody but this server.</p>
        {may("admin") && who?.tenant === "default" && <LogLevel />}
        {caller.value && caller.value.name !== "local" && <div class="row"><button type="button" onClick={() => signOut().catch((wrong) => say(`✗ ${wrong instanceof Error ? wrong.message : wrong}`, "error"))}>Sign out</button></div>}
      </section>
    </div>
  );
}

/** How loud the server's own log is. */
function LogLevel() {
  const asked = useAsked(() => get<{ level: string | null }>("/admin/log-level"), []);
  const set = async (level: string) => {
    try {
      await ask("PUT", "/admin/log-level", { type: "application/json", text: JSON.stringify({ level }) });
      say(`✓ the log is written from ${level} on`, "ok");
    } catch (wrong) {
      say(`✗ ${wrong instanceof Error ? wrong.message : wrong}`, "error");
    }
    asked.reload();
  };
  return (
    <div>
      <label>Log of the server
        <select aria-label="Log of the server" value={asked.value?.level ?? ""} disabled={!asked.value} onChange={(event) => void set(event.currentTarget.value)}>
          {!asked.value?.level && <option value="">{asked.value ? "as TIDEMARK_LOG says" : "…"}</option>}
          {["error", "warn", "info", "debug"].map((level) => <option key={level} value={level}>{level === "warn" ? "warnings and errors" : level === "error" ? "errors alone" : level === "info" ? "changes of state as well" : "everything, to look for a cause"}</option>)}
        </select>
      </label>
      <span class="muted small">Until the server ends.</span>
    </div>
  );
}

function Tokens() {
  const asked = useAsked(() => everyPage<{ tokens: Token[] }>("/tokens", "tokens"), []);
  const [made, setMade] = useState<{ token: string; name: string } | null>(null);
  const [name, setName] = useState("");
  const [role, setRole] = useState("viewer");
  const [revoking, setRevoking] = useState<Token | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const create = async (event: Event) => {
    event.preventDefault();
    try {
      setMade(await post<{ token: string; name: string }>("/tokens", { name, role }));
      setName("");
      setProblem(null);
      asked.reload();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  const revoke = async (one: Token) => {
    setRevoking(null);
    try {
      await ask("DELETE", `/tokens/${one.id}`);
      say(`✓ the token of ${one.name} counts no more`, "ok");
      asked.reload();
    } catch (wrong) {
      setProblem(wrong);
    }
  };
  const tokens = asked.value?.tokens ?? [];
  return (
    <>
      <form class="row" onSubmit={create}>
        <label>For whom<input name="name" required maxLength={100} autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label>Role<select name="role" value={role} onChange={(event) => setRole(event.currentTarget.value)}><option value="viewer">viewer: looks</option><option value="operator">operator: acts on pipelines</option><option value="admin">admin: everything</option></select></label>
        <button type="submit" class="primary" style={{ alignSelf: "end" }}>Give out a token</button>
      </form>
      <ProblemBox problem={problem ?? asked.problem} />
      {made && <section class="stack card" aria-labelledby="made"><h2 id="made">The token of {made.name}</h2><p>It is shown this once; the server keeps only its hash.</p><Copyable text={made.token} label="token" /></section>}
      {asked.value && tokens.length === 0 && <p class="empty">No token was given out. Without tokens whoever reaches this server may do everything, which is for one machine alone: <code>tidemark serve --auth token</code> asks for them.</p>}
      {tokens.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="tokens">
          <table class="fold">
            <caption class="hidden">Tokens</caption>
            <thead><tr><th scope="col">For</th><th scope="col">Role</th><th scope="col">Tenant</th><th scope="col">Made</th><th scope="col">Expires</th><th scope="col">State</th><th scope="col">Actions</th></tr></thead>
            <tbody>
              {tokens.map((one) => (
                <tr key={one.id}>
                  <td class="name">{one.name}</td><td data-k="role">{one.role}</td><td data-k="tenant">{one.tenant}</td><td data-k="made">{moment(one.created_at)} by {one.created_by}</td>
                  <td data-k="expires">{one.expires_at ? moment(one.expires_at) : "never"}</td>
                  <td data-k="state">{one.revoked_at ? <span class="muted">revoked {moment(one.revoked_at)}</span> : <span class="ok">✓ counts</span>}</td>
                  <td>{!one.revoked_at && <button type="button" class="small danger" onClick={() => setRevoking(one)} aria-label={`revoke the token of ${one.name}`}>Revoke …</button>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {revoking && (
        <Dialog title="Revoke a token" onClose={() => setRevoking(null)}>
          <p>Whoever uses the token of <strong>{revoking.name}</strong> is refused at once. This cannot be taken back.</p>
          <div class="row"><button type="button" class="danger" onClick={() => revoke(revoking)}>Revoke</button><button type="button" onClick={() => setRevoking(null)}>Cancel</button></div>
        </Dialog>
      )}
    </>
  );
}

function AuditLog() {
  const [entries, setEntries] = useState<Audit[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const load = async (from: string | null) => {
    const page = await get<{ entries: Audit[]; next_cursor: string | null }>(`/audit?limit=100${from ? `&cursor=${from}` : ""}`);
    setEntries((before) => (from ? [...before, ...page.entries] : page.entries));
    setCursor(page.next_cursor);
    return page;
  };
  const asked = useAsked(() => load(null), []);
  return (
    <>
      <ProblemBox problem={asked.problem} />
      {asked.value && entries.length === 0 && <p class="empty">Nobody changed anything yet.</p>}
      {entries.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="audit">
          <table class="fold">
            <caption class="hidden">Every change, newest first</caption>
            <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">From</th><th scope="col">What</th><th scope="col" class="n">Answer</th></tr></thead>
            <tbody>{entries.map((one) => <tr key={one.id}><td>{moment(one.at)}</td><td data-k="who">{one.who}</td><td data-k="from">{one.address}</td><td data-k="what" class="name"><code>{one.action} {one.object}</code></td><td data-k="answer" class="n">{one.detail}</td></tr>)}</tbody>
          </table>
        </div>
      )}
      {cursor && <button type="button" onClick={() => load(cursor)}>Older</button>}
    </>
  );
}
