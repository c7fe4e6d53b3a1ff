// What a code of the catalogue means.

import { get } from "../api";
import { ProblemBox, useAsked } from "../ui";

interface Entry {
  code: string;
  title: string;
  severity: string;
  cause: string;
  effect: string;
  first_action: string;
}

export function CodePage({ code }: { code: string }) {
  const { value, problem } = useAsked(() => get<Entry>(`/codes/${encodeURIComponent(code)}`), [code]);
  return (
    <>
      <h1 tabIndex={-1}>{code}{value && `: ${value.title}`}</h1>
      <ProblemBox problem={problem} />
      {value && (
        <dl class="stack">
          <div><dt class="muted">Why</dt><dd>{value.cause}</dd></div>
          <div><dt class="muted">For the data</dt><dd>{value.effect}</dd></div>
          <div><dt class="muted">First</dt><dd>{value.first_action}</dd></div>
        </dl>
      )}
      <p><a href="/">All pipelines</a></p>
    </>
  );
}
