// Small parts that every page is made of.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { followed, Problem } from "./api";
import { GLYPH, words } from "./format";
import type { Operation } from "./shapes";

/** Health as glyph, word and colour. */
export function HealthMark({ health, word }: { health: string; word?: string }) {
  return (
    <span class={`state ${health}`}>
      <span class="glyph" aria-hidden="true">{GLYPH[health] ?? "·"}</span>
      {word !== undefined && <span>{word}</span>}
    </span>
  );
}

const TONE: Record<string, string> = {
  streaming: "ok", completed: "ok", done: "ok", identical: "ok", passed: "ok", succeeded: "ok", calm: "ok", delivered: "ok",
  loading: "busy", catching_up: "busy", checking: "busy", starting: "busy", resyncing: "busy", running: "busy", queued: "busy", waiting: "busy", testing: "busy",
  failed: "error", quarantined: "error", different: "error", error: "error", firing: "error",
  warning: "warning", warn: "warning", incomplete: "warning", not_compared: "warning", stopped: "warning", missed: "warning", pending: "warning",
  paused: "paused", unknown: "unknown",
};

/** States that claim that something goes on. */
const GOES_ON = ["streaming", "catching_up", "loading", "resyncing", "queued"];

/** A state as glyph, word and colour; one that is only remembered is not shown as if it went on. */
export function State({ state, isOld = false }: { state: string; isOld?: boolean }) {
  const isRemembered = isOld && GOES_ON.includes(state);
  const tone = isRemembered ? "unknown" : (TONE[state] ?? "notice");
  return (
    <span class={`state ${tone}`} title={isRemembered ? "as it was when the pipeline ran" : undefined}>
      <span class="glyph" aria-hidden="true">{GLYPH[tone] ?? "·"}</span>
      <span>{words(state)}</span>
    </span>
  );
}

/** What is not known, and why as far as that is known. */
export function Unknown({ why }: { why?: string | null }) {
  return (
    <span class="unknown-value" title={why ?? undefined}>unknown</span>
  );
}

export function Known<T>({ value, children, why }: { value: T | null | undefined; children: (value: T) => ComponentChildren; why?: string | null }) {
  return value === null || value === undefined ? <Unknown why={why ?? null} /> : <span class="live-value">{children(value)}</span>;
}

/** A code of the catalogue, with what it means. */
export function Code({ code }: { code: string }) {
  return <a href={`/codes/${encodeURIComponent(code)}`}>{code}</a>;
}

/** What went wrong, what it means, what to do. */
export function ProblemBox({ problem }: { problem: unknown }) {
  if (problem === null || problem === undefined) return null;
  const known = problem instanceof Problem ? problem : null;
  return (
    <div class="problem" role="alert">
      <p><strong class="error">✗ {known?.title ?? "something went wrong here"}</strong> {known?.code && <Code code={known.code} />}</p>
      <p>{problem instanceof Error ? problem.message : String(problem)}</p>
      {known && known.faults.length > 1 && (
        <ul>{known.faults.map((fault) => <li key={fault.pointer + fault.detail}>{fault.pointer && <code>{fault.pointer}</code>} {fault.detail}</li>)}</ul>
      )}
      {known?.effect && <p class="muted">{known.effect}</p>}
      {known?.fix.map((fix) => fix.text && <p key={fix.text}>First: {fix.text}</p>)}
    </div>
  );
}

/** Text that is copied by a click. */
export function Copyable({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } catch {
      say("the browser does not let this page copy: select the text instead");
    }
  };
  return (
    <div class="sql">
      <pre tabIndex={0} aria-label={label}>{text}</pre>
      <button type="button" class="small" onClick={copy} aria-label={`copy ${label}`}>{copied ? "✓ copied" : "copy"}</button>
    </div>
  );
}

/** A modal dialog: the browser keeps the focus in it and gives it back. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const own = dialog.current;
    const before = document.activeElement as HTMLElement | null;
    own?.showModal();
    return () => {
      own?.close();
      before?.focus?.();
    };
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onCancel={(event) => { event.preventDefault(); onClose(); }}>
      <div class="stack">
        <h2 id="dialog-title">{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

/** Progress that a screen reader can say. */
export function Bar({ ratio, text }: { ratio: number | null; text: string }) {
  const percent = ratio === null ? undefined : Math.round(Math.min(1, ratio) * 100);
  return (
    <span class={`bar${ratio === null ? " unmeasured" : ""}`} role="progressbar" aria-label="loaded" aria-valuemin={0} aria-valuemax={100}
      aria-valuenow={percent} aria-valuetext={text}>
      {percent !== undefined && <i style={{ width: `${percent}%` }} />}
    </span>
  );
}

/** The last minutes of a number. */
export function Spark({ values, label }: { values: (number | null)[]; label: string }) {
  const known = values.filter((value): value is number => value !== null);
  if (known.length < 2) return null;
  const most = Math.max(...known, 1);
  let path = "";
  let isOpen = false;
  values.forEach((value, at) => {
    if (value === null) {
      isOpen = false;
      return;
    }
    path += `${isOpen ? "L" : "M"}${((at / (values.length - 1)) * 78 + 1).toFixed(1)} ${(17 - (value / most) * 15).toFixed(1)}`;
    isOpen = true;
  });
  return <svg class="spark" viewBox="0 0 80 18" role="img" aria-label={label}><path d={path} /></svg>;
}

const said = signal<{ text: string; tone: string } | null>(null);
let lastSaid = 0;
let quiet: number | undefined;

/** Says something politely; at most once in five seconds to who reads by ear. */
export function say(text: string, tone = "") {
  clearTimeout(quiet);
  const wait = said.value === null ? 0 : Math.max(0, 1_000 - (Date.now() - lastSaid));
  quiet = window.setTimeout(() => {
    lastSaid = Date.now();
    said.value = { text, tone };
  }, wait);
}

export function Toast() {
  const shown = said.value;
  return (
    <div role="status" aria-live="polite">
      {shown && (
        <div class="toast">
          <span class={shown.tone}>{shown.text}</span>
          <button type="button" onClick={() => (said.value = null)} aria-label="dismiss the message">×</button>
        </div>
      )}
    </div>
  );
}

/** What was done and found what ought not to be: a comparison that ran well may say that rows differ. */
const VERDICTS: Record<string, [string, string]> = { different: ["✗", "error"], incomplete: ["!", "warning"] };

/** Begins an action and says what came of it. */
export async function act(label: string, begin: () => Promise<Operation>): Promise<boolean> {
  say(`${label} …`);
  try {
    const done = await followed(await begin());
    const isDone = done.state === "succeeded";
    const isGivenUp = done.state === "cancelled";
    const [glyph, tone] = isGivenUp ? ["·", ""] : isDone ? (VERDICTS[done.data?.result ?? ""] ?? ["✓", "ok"]) : ["✗", "error"];
    say(`${glyph} ${isGivenUp ? `${label}: ` : ""}${done.text ?? label}`, tone);
    return isDone;
  } catch (wrong) {
    const problem = wrong instanceof Problem ? wrong : null;
    say(`✗ ${label}: ${wrong instanceof Error ? wrong.message : wrong}${problem?.fix[0]?.text ? `. First: ${problem.fix[0].text}` : ""}`, "error");
    return false;
  }
}

/** A name to type before something is done that cannot be taken back. */
export function TypedName({ name, typed, onType }: { name: string; typed: string; onType: (typed: string) => void }) {
  return (
    <label><span>Type <span class="name mono">{name}</span> to go on</span>
      <input name="confirm" autocomplete="off" spellcheck={false} value={typed} onInput={(event) => onType(event.currentTarget.value)} />
    </label>
  );
}

/** Something that is asked for when shown, and again when `again` changes. */
export function useAsked<T>(ask: () => Promise<T>, again: unknown[]): { value: T | null; problem: unknown; reload: () => void } {
  const [value, setValue] = useState<T | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [count, setCount] = useState(0);
  useEffect(() => {
    let isCurrent = true;
    ask().then(
      (found) => {
        if (!isCurrent) return;
        setValue(found);
        setProblem(null);
      },
      (wrong) => isCurrent && setProblem(wrong),
    );
    return () => {
      isCurrent = false;
    };
  }, [...again, count]);
  return { value, problem, reload: () => setCount((count) => count + 1) };
}

const VERDICT: Record<string, string> = { passed: "ok", note: "notice", warning: "warning", failed: "error" };

/** The verdict of a check. */
export function GlyphOf({ verdict }: { verdict: string }) {
  return <span class={`state ${VERDICT[verdict] ?? "notice"}`}><span class="glyph" aria-hidden="true">{GLYPH[VERDICT[verdict] ?? "notice"]}</span><span class="hidden">{verdict}</span></span>;
}

/** Why something is so; a code that it begins with is a link. */
export function Reason({ text }: { text: string | null }) {
  const code = /^(TM\d{4}): ?/.exec(text ?? "");
  return text === null ? null : <span>{code && <><Code code={code[1]!} /> </>}{code ? text.slice(code[0].length) : text}</span>;
}
