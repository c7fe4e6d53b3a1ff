// The address is the state: pages, tabs and filters are in it, so that it can be sent to a colleague.

import { signal } from "@preact/signals";

export const here = signal(new URL(location.href));

addEventListener("popstate", () => (here.value = new URL(location.href)));

/** Goes there; `replace` leaves no step behind. */
export function go(path: string, replace = false) {
  const to = new URL(path, location.href);
  if (replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  const isOther = to.pathname !== here.value.pathname;
  here.value = to;
  if (isOther && !replace) {
    scrollTo(0, 0);
    // Who reads by ear is told where they are.
    queueMicrotask(() => requestAnimationFrame(() => document.querySelector<HTMLElement>("h1")?.focus()));
  }
}

/** Changes one parameter of the address. */
export function put(name: string, value: string | null) {
  const to = new URL(here.value);
  if (value === null || value === "") to.searchParams.delete(name);
  else to.searchParams.set(name, value);
  go(to.pathname + to.search, true);
}

export const parameter = (name: string) => here.value.searchParams.get(name);

/** Links of ours are followed without loading the page anew. */
addEventListener("click", (event) => {
  const link = (event.target as Element | null)?.closest?.("a");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || link.target || link.hasAttribute("download") || /^\/(api|problems|metrics)\b/.test(to.pathname)) return;
  if (to.hash && to.pathname === location.pathname) return;
  event.preventDefault();
  go(to.pathname + to.search);
});
