// The API of this server: requests by the session of the browser, and problem documents as errors.

import { signal } from "@preact/signals";
import type { Caller, Operation } from "./shapes";

/** A problem document (RFC 9457), or that there was no answer at all. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    detail: string,
    readonly effect: string,
    readonly fix: { kind: string; on: string; text: string }[],
    readonly faults: { pointer: string | null; code: string; detail: string }[],
  ) {
    super(detail);
  }
  /** The server did not answer. */
  get isSilence() {
    return this.status === 0;
  }
}

export const caller = signal<Caller | null>(null);
/** Whether a token is asked for and there is none that counts. */
export const needsToken = signal(false);

/** The browser keeps the token in a cookie that no script reads, this one either. */
export async function signIn(token: string) {
  await ask("POST", "/session", undefined, { authorization: `Bearer ${token}` });
}

export async function signOut() {
  await ask("DELETE", "/session");
  caller.value = null;
  needsToken.value = true;
}

/** Pages of other sites cannot send this one, so the cookie alone changes nothing. */
export function headers(more: Record<string, string> = {}): Record<string, string> {
  return { ...more, "x-tidemark": "page" };
}

/** The answer, whatever its kind. */
export async function ask(method: string, path: string, body?: { type: string; text: string }, more: Record<string, string> = {}): Promise<Response> {
  const sent: Record<string, string> = { ...more };
  if (body) sent["content-type"] = body.type;
  if (method === "POST") sent["idempotency-key"] = fresh();
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, { method, headers: headers(sent), body: body?.text ?? null, cache: "no-store" });
  } catch {
    throw new Problem(0, "", "no answer", `${location.origin} does not answer`, "", [], []);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) needsToken.value = true;
  throw new Problem(
    response.status,
    said.code ?? "",
    said.title ?? `answer ${response.status}`,
    said.detail ?? `the server answered ${response.status}`,
    said.effect ?? "",
    said.fix ?? [],
    said.errors ?? [],
  );
}

export async function get<T>(path: string): Promise<T> {
  return (await ask("GET", path)).json();
}

/** All pages of a list, which may be several under these names; what else is said as the last one says it. */
export async function everyPage<T extends object>(path: string, ...names: (keyof T)[]): Promise<T> {
  type Page = T & { next_cursor: string | null };
  let found = await get<Page>(`${path}?limit=500`);
  while (found.next_cursor) {
    const page = await get<Page>(`${path}?limit=500&cursor=${encodeURIComponent(found.next_cursor)}`);
    for (const name of names) page[name] = [...(found[name] as unknown[]), ...(page[name] as unknown[])] as Page[keyof T];
    found = page;
  }
  return found;
}

export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  return (await ask("POST", path, { type: "application/json", text: JSON.stringify(body) })).json();
}

export async function postToml<T>(path: string, text: string): Promise<T> {
  return (await ask("POST", path, { type: "application/toml", text })).json();
}

/** Follows a long action to its end. */
export async function followed(operation: Operation): Promise<Operation> {
  let now = operation;
  while (now.state === "running") {
    await new Promise((done) => setTimeout(done, 500));
    try {
      now = await get<Operation>(`/operations/${now.id}`);
    } catch (wrong) {
      // The action goes on without us.
      if (!(wrong instanceof Problem && wrong.isSilence)) throw wrong;
    }
  }
  return now;
}

export function may(role: "operator" | "admin"): boolean {
  const order = ["viewer", "operator", "admin"];
  return order.indexOf(caller.value?.role ?? "viewer") >= order.indexOf(role);
}

/** One word for a shell, whatever is in it. */
export function word(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function fresh(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
