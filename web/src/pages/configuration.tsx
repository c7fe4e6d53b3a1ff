// The pipeline file: secrets as ***; what a file defines is changed in the file.

import { useState } from "preact/hooks";
import { ask, get, may, Problem } from "../api";
import type { Changes, Pipeline } from "../shapes";
import { Copyable, ProblemBox, say, useAsked } from "../ui";
import { refresh } from "../live";

export function Configuration({ one }: { one: Pipeline }) {
  const path = `/pipelines/${encodeURIComponent(one.id)}`;
  const asked = useAsked(async () => {
    const response = await ask("GET", `${path}/definition`);
    return { text: await response.text(), etag: response.headers.get("etag") ?? "" };
  }, [one.id, one.etag]);
  const changes = useAsked(async () => (one.file ? get<Changes>(`${path}/definition/changes`) : null), [one.id, one.etag, one.state]);
  const [draft, setDraft] = useState<{ text: string; etag: string } | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  if (!asked.value) return asked.problem ? <ProblemBox problem={asked.problem} /> : <p class="muted" aria-busy="true">Asking the server …</p>;
  const { text, etag } = asked.value;
  const mayEdit = may("admin") && !one.file;
  const save = async (event: Event) => {
    event.preventDefault();
    if (!draft) return;
    try {
      await ask("PUT", path, { type: "application/toml", text: draft.text }, { "if-match": draft.etag });
      setDraft(null);
      setProblem(null);
      say("✓ the definition was changed", "ok");
      void refresh();
    } catch (wrong) {
      setProblem(wrong instanceof Problem ? wrong : wrong);
    }
  };
  return (
    <>
      {one.file
        ? <p>This pipeline is defined by <code class="name">{one.file}</code> and is read-only here: the file wins. Change it there, and the server takes it in.</p>
        : <p class="muted">Defined through the API by {one.created_by}. Secrets are shown as <code>***</code>; where they stay so, they are kept as they are.</p>}
      {one.file && <ProblemBox problem={changes.problem} />}
      {changes.value?.running && <SinceStart changes={changes.value} again={changes.reload} />}
      {draft ? (
        <form class="stack" onSubmit={save}>
          <label>Definition<textarea rows={Math.min(40, draft.text.split("\n").length + 2)} spellcheck={false} value={draft.text} onInput={(event) => setDraft({ ...draft, text: event.currentTarget.value })} /></label>
          <ProblemBox problem={problem} />
          <p class="muted small">A pipeline that runs stops at a checkpoint and goes on with the new definition.</p>
          <div class="row">
            <button type="submit" class="primary" disabled={draft.text === text}>Save</button>
            <button type="button" onClick={() => { setDraft(null); setProblem(null); }}>Cancel</button>
          </div>
        </form>
      ) : (
        <>
          <Copyable label="definition" text={text} />
          {mayEdit && <div class="row"><button type="button" onClick={() => setDraft({ text, etag })}>Change …</button></div>}
        </>
      )}
    </>
  );
}

/** What the file says beside what runs. */
function SinceStart({ changes, again }: { changes: Changes; again: () => void }) {
  const kind = (line: string) => ({ "+": "ok", "-": "error", "@": "muted" })[line.charAt(0)] ?? "";
  return (
    <div class="stack">
      <div class="row">
        {changes.changed
          ? <p><span class="warning">!</span> The file says something else than what runs. It is taken in within seconds; where it is not, the events say why.</p>
          : <p class="muted">What runs is what the file says.</p>}
        <button type="button" class="small" onClick={again}>Compare again</button>
      </div>
      {changes.changed && <pre tabIndex={0} aria-label="what the file changes">{changes.diff.map((line) => <span class={kind(line)}>{`${line}\n`}</span>)}</pre>}
    </div>
  );
}
