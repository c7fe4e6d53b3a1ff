// The pages of a server: frame, navigation, keys, and what is said when the server is gone.

import { effect } from "@preact/signals";
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { caller, get, needsToken, Problem } from "./api";
import "./focus";
import { age, clock } from "./format";
import { heard, link, listen, messages, now, overview, retry } from "./live";
import { Alerts } from "./pages/alerts";
import { CodePage } from "./pages/code";
import { Connections } from "./pages/connections";
import { isDemo } from "./pages/demo";
import { New } from "./pages/new";
import { Overview } from "./pages/overview";
import { PipelinePage } from "./pages/pipeline";
import { Quarantine } from "./pages/quarantine";
import { Reference } from "./pages/reference";
import { Schedules } from "./pages/schedules";
import { Settings } from "./pages/settings";
import { SignIn } from "./pages/signin";
import { isDark, keysOn, setTheme } from "./prefs";
import { go, here } from "./router";
import type { Caller } from "./shapes";
import { Dialog, Toast } from "./ui";

function Page() {
  const parts = here.value.pathname.split("/").filter((part) => part !== "").map(decodeURIComponent);
  if (needsToken.value) return <SignIn />;
  switch (parts[0]) {
    case undefined:
      return <Overview />;
    case "p":
      return <PipelinePage key={parts[1]} id={parts[1] ?? ""} tab={parts[2] ?? "tables"} />;
    case "new":
      return <New />;
    case "api":
      return <Reference />;
    case "alerts":
      return <Alerts />;
    case "connections":
      return <Connections />;
    case "quarantine":
      return <Quarantine />;
    case "schedules":
      return <Schedules />;
    case "settings":
      return <Settings tab={parts[1] ?? "general"} />;
    case "codes":
      return <CodePage code={parts[1] ?? ""} />;
    default:
      return <><h1 tabIndex={-1}>Nothing is here</h1><p><a href="/">All pipelines</a></p></>;
  }
}

function LinkState() {
  switch (link.value) {
    case "live":
      return <span class="link-state ok" data-link="live">● live</span>;
    case "polling":
      return <span class="link-state warning" data-link="polling">◌ asked every 5 s</span>;
    case "gone":
      return <span class="link-state error" data-link="gone">✗ no answer</span>;
    default:
      return <span class="link-state muted" data-link="connecting">… connecting</span>;
  }
}

/** Said as long as it is so. The text that is read out has no running number in it. */
function Banner() {
  if (needsToken.value) return null;
  if (link.value === "polling") {
    return <div class="banner" role="status">! News do not come through, so the server is asked every 5 seconds.</div>;
  }
  if (link.value !== "gone") return null;
  return (
    <div class="banner bad">
      <span role="status"><strong class="error">✗ {location.origin} does not answer.</strong> {heard.value === null ? "" : `What you see is from ${clock(heard.value)}`}</span>
      {heard.value !== null && <span aria-hidden="true" data-age>{age(heard.value, now.value)} ago</span>}
      <button type="button" onClick={retry}>Try now</button>
    </div>
  );
}

function Keys({ onClose }: { onClose: () => void }) {
  const all = [["g then o", "overview"], ["g then n", "new pipeline"], ["g then q", "quarantine"], ["g then c", "schedules"], ["g then a", "alerts"], ["g then s", "settings"], ["/", "find"], ["j and k", "next and previous pipeline"], ["?", "this list"]];
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl class="facts stacked">{all.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
      <p class="muted small">They can be switched off under Settings.</p>
      <div class="row"><button type="button" onClick={onClose}>Close</button></div>
    </Dialog>
  );
}

function useKeys(list: () => void) {
  useEffect(() => {
    let isGoing = false;
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (!keysOn.value || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest("input, textarea, select, dialog, .chart")) return;
      if (isGoing) {
        isGoing = false;
        const to = { o: "/", n: "/new", q: "/quarantine", c: "/schedules", a: "/alerts", s: "/settings" }[event.key];
        if (to) go(to);
        return;
      }
      if (event.key === "g") isGoing = true;
      else if (event.key === "?") list();
      else if (event.key === "/") {
        const find = document.querySelector<HTMLInputElement>("#find");
        if (find) {
          event.preventDefault();
          find.focus();
        }
      } else if (event.key === "j" || event.key === "k") {
        const rows = [...document.querySelectorAll<HTMLElement>("[data-row]")];
        const at = rows.indexOf(document.activeElement as HTMLElement) + (event.key === "j" ? 1 : -1);
        rows[Math.min(rows.length - 1, Math.max(0, at))]?.focus();
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function App() {
  const [isListing, setListing] = useState(false);
  useKeys(() => setListing(true));
  const path = here.value.pathname;
  const current = (is: boolean) => (is ? "page" : undefined);
  return (
    <div class={link.value === "gone" ? "stale" : undefined}>
      <a class="skip" href="#main">Skip to the content</a>
      <header class="top">
        <a class="brand" href="/">
          <svg viewBox="0 0 16 16" aria-hidden="true"><rect width="16" height="16" rx="3" fill="var(--accent)" /><path d="M2 10c2-3 4-3 6 0s4 3 6 0M2 6c2-3 4-3 6 0s4 3 6 0" stroke="var(--on-accent)" stroke-width="1.6" fill="none" /></svg>
          Tidemark
        </a>
        <nav class="main" aria-label="pages">
          <a href="/" aria-current={current(path === "/" || path.startsWith("/p/"))}>Overview</a>
          <a href="/connections" aria-current={current(path === "/connections")}>Connections</a>
          <a href="/quarantine" aria-current={current(path === "/quarantine")}>Quarantine</a>
          <a href="/schedules" aria-current={current(path === "/schedules")}>Schedules</a>
          <a href="/alerts" aria-current={current(path === "/alerts")}>Alerts</a>
          <a href="/settings" aria-current={current(path.startsWith("/settings"))}>Settings</a>
        </nav>
        <span class="row">
          <LinkState />
          <button type="button" class="small" onClick={() => setTheme(isDark.value ? "light" : "dark")} aria-label={isDark.value ? "light theme" : "dark theme"}>◐</button>
          {caller.value && <span class="muted small">{caller.value.name}</span>}
        </span>
      </header>
      <Banner />
      <main id="main" tabIndex={-1}>
        <Page />
      </main>
      {isListing && <Keys onClose={() => setListing(false)} />}
      <Toast />
    </div>
  );
}

// A tab in the background warns by its title.
effect(() => {
  const counts = overview.value?.by_health;
  const parts = here.value.pathname.split("/");
  const name = parts[1] === "p" && parts[2] ? `${decodeURIComponent(parts[2])} · ` : "";
  let mark = "";
  if (link.value === "gone") mark = "✗ no answer · ";
  else if (counts?.error) mark = `✗ ${counts.error} · `;
  else if (counts?.unknown) mark = `? ${counts.unknown} · `;
  else if (counts?.warning) mark = `! ${counts.warning} · `;
  else if (counts) mark = "✓ ";
  document.title = `${mark}${name}Tidemark`;
});

// Tests count the messages of the stream by this.
effect(() => {
  document.documentElement.dataset.messages = String(messages.value);
});

async function begin() {
  try {
    caller.value = await get<Caller>("/whoami");
  } catch (wrong) {
    if (wrong instanceof Problem && wrong.isSilence) link.value = "gone";
  }
  void listen();
}

// The name and role are asked for again once the server is there.
effect(() => {
  if (link.value === "live" && caller.value === null) {
    void get<Caller>("/whoami").then((found) => (caller.value = found), () => undefined);
  }
  if (link.value === "live" && !isDemo.value) void get<{ demo: boolean }>("/version").then((found) => (isDemo.value = found.demo), () => undefined);
});

render(<App />, document.getElementById("app")!);
void begin();
