// The API of this server, from the document that the server itself gives: nobody else is asked.

import { get } from "../api";
import { parameter, put } from "../router";
import { ProblemBox, useAsked } from "../ui";

interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  enum?: unknown[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
}

interface Body {
  description?: string;
  content?: Record<string, { schema?: Schema }>;
}

interface Operation {
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: { name: string; in: string; required?: boolean; description?: string; schema?: Schema }[];
  requestBody?: Body;
  responses: Record<string, Body>;
}

interface Document {
  info: { title: string; version: string; description?: string };
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

const nameOf = (schema: Schema) => schema.$ref?.split("/").at(-1) ?? null;

/** A type in a line: names of bodies are links to them. */
function Type({ schema }: { schema: Schema | undefined }) {
  if (!schema) return <span class="muted">anything</span>;
  const name = nameOf(schema);
  if (name) return <a href={`#body-${name}`}>{name}</a>;
  if (schema.items) return <>list of <Type schema={schema.items} /></>;
  const several = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (several) return <>{several.map((one, at) => <span key={at}>{at > 0 && (schema.allOf ? " and " : " or ")}<Type schema={one} /></span>)}</>;
  if (schema.enum) return <>{schema.enum.map((value) => JSON.stringify(value)).join(", ")}</>;
  const types = [schema.type ?? "anything"].flat().join(" or ");
  return <>{types}{schema.format && <span class="muted"> ({schema.format})</span>}</>;
}

export function Reference() {
  const { value, problem, reload } = useAsked(() => get<Document>("/openapi.json"), []);
  const heading = <h1 tabIndex={-1}>API</h1>;
  if (!value) return <>{heading}{problem ? <><ProblemBox problem={problem} /><div class="row"><button type="button" onClick={reload}>Ask again</button></div></> : <p class="muted" aria-busy="true">Asking the server …</p>}</>;
  const wanted = (parameter("q") ?? "").toLowerCase();
  const all = Object.entries(value.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => ({ path, method: method.toUpperCase(), about })));
  const shown = all.filter(({ path, method, about }) => `${method} ${path} ${about.tags?.join(" ") ?? ""}`.toLowerCase().includes(wanted));
  const tags = [...new Set(shown.map(({ about }) => about.tags?.[0] ?? "other"))].sort();
  return (
    <>
      {heading}
      <div class="row spread">
        <p class="muted">{value.info.description} <a href="/api/v1/openapi.json" target="_blank">The document</a> (OpenAPI 3.1).</p>
        <label class="inline"><span class="muted">find</span><input id="find" type="search" placeholder="route" value={parameter("q") ?? ""} onInput={(event) => put("q", event.currentTarget.value)} /></label>
      </div>
      {shown.length === 0 && <p class="empty">No route is like that.</p>}
      {tags.map((tag) => (
        <section key={tag} class="stack" aria-labelledby={`tag-${tag}`}>
          <h2 id={`tag-${tag}`}>{tag}</h2>
          {shown.filter(({ about }) => (about.tags?.[0] ?? "other") === tag).map(({ path, method, about }) => <Route key={method + path} path={path} method={method} about={about} />)}
        </section>
      ))}
      <section class="stack" aria-labelledby="bodies">
        <h2 id="bodies">Bodies</h2>
        {Object.entries(value.components?.schemas ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, schema]) => <BodyOf key={name} name={name} schema={schema} />)}
      </section>
    </>
  );
}

function Route({ path, method, about }: { path: string; method: string; about: Operation }) {
  const told = about.summary ?? about.description;
  return (
    <details class="card">
      <summary><code><strong>{method}</strong> {path}</code>{told && <span class="muted"> {told}</span>}</summary>
      {about.parameters && about.parameters.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`parameters of ${method} ${path}`}>
          <table>
            <caption class="small">Parameters</caption>
            <thead><tr><th scope="col">Name</th><th scope="col">In</th><th scope="col">Type</th><th scope="col">About</th></tr></thead>
            <tbody>{about.parameters.map((one) => <tr key={one.in + one.name}><td class="mono">{one.name}{one.required && <span class="muted"> needed</span>}</td><td>{one.in}</td><td><Type schema={one.schema} /></td><td>{one.description}</td></tr>)}</tbody>
          </table>
        </div>
      )}
      {about.requestBody && <p>Body: <Contents body={about.requestBody} /></p>}
      <ul>{Object.entries(about.responses).map(([status, body]) => <li key={status}><code>{status}</code> <Contents body={body} /></li>)}</ul>
    </details>
  );
}

function Contents({ body }: { body: Body }) {
  const kinds = Object.entries(body.content ?? {});
  return <>{kinds.map(([kind, { schema }], at) => <span key={kind}>{at > 0 && " or "}<Type schema={schema} /> <span class="muted small">{kind}</span></span>)}{body.description && <span class="muted"> {body.description}</span>}</>;
}

function BodyOf({ name, schema }: { name: string; schema: Schema }) {
  const fields = Object.entries(schema.properties ?? {});
  return (
    <div class="card" id={`body-${name}`}>
      <h3>{name}</h3>
      {schema.description && <p class="muted">{schema.description}</p>}
      {fields.length === 0 ? <p><Type schema={schema} /></p> : (
        <div class="scroll" tabIndex={0} role="region" aria-label={`fields of ${name}`}>
          <table>
            <thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">About</th></tr></thead>
            <tbody>{fields.map(([field, of]) => <tr key={field}><td class="mono">{field}</td><td><Type schema={of} /></td><td>{of.description}</td></tr>)}</tbody>
          </table>
        </div>
      )}
    </div>
  );
}
