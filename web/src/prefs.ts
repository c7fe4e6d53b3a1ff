// What this browser was told: theme, and whether single keys act; and what this tab was: the zone of its times.

import { computed, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

export type Zone = "local" | "UTC";

const stored = (name: string, where = () => localStorage) => {
  try {
    return where().getItem(name);
  } catch {
    return null;
  }
};
const store = (name: string, value: string | null, where = () => localStorage) => {
  try {
    if (value === null) where().removeItem(name);
    else where().setItem(name, value);
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

/** Of this tab: beside one that shows the times of the wall there may be one that shows those of the logs. */
export const zone = signal<Zone>(stored("tidemark.zone", () => sessionStorage) === "UTC" ? "UTC" : "local");

export function setZone(value: Zone) {
  zone.value = value;
  store("tidemark.zone", value === "UTC" ? value : null, () => sessionStorage);
}

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
