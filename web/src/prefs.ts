// What this browser was told: theme, and whether single keys act.

import { computed, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const stored = (name: string) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};
const store = (name: string, value: string | null) => {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // Without storage it counts for this page.
  }
};

const kept = stored("tidemark.theme");
export const theme = signal<Theme>(kept === "light" || kept === "dark" ? kept : "system");
const system = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(system.matches);
system.addEventListener("change", () => (systemIsDark.value = system.matches));
/** What is seen, whoever decided it. */
export const isDark = computed(() => theme.value === "dark" || (theme.value === "system" && systemIsDark.value));
export const keysOn = signal(stored("tidemark.keys") !== "off");

export function setTheme(value: Theme) {
  theme.value = value;
  store("tidemark.theme", value === "system" ? null : value);
  if (value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
}

export function setKeys(on: boolean) {
  keysOn.value = on;
  store("tidemark.keys", on ? null : "off");
}
