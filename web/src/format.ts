// Numbers, sizes, times as words. What is not known has its own word.

import { zone } from "./prefs";

const NARROW = "\u202f";
/** Between a number and its unit: they stay on one line. */
const FIXED = "\u00a0";

export function grouped(n: number): string {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, NARROW);
}

export function bytes(n: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let value = Math.abs(n);
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = at === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${n < 0 ? "−" : ""}${value.toFixed(digits)}${FIXED}${units[at]}`;
}

export function short(n: number): string {
  if (n < 10_000) return grouped(n);
  return n < 1_000_000 ? `${Math.round(n / 1000)}k` : `${(n / 1_000_000).toFixed(1)}M`;
}

/** A length of time. */
export function seconds(n: number): string {
  const of = (n: number | string, unit: string) => `${n}${FIXED}${unit}`;
  if (n < 0.001) return of(0, "s");
  if (n < 1) return of(Math.ceil(n * 1000), "ms");
  if (n < 10) return of(n.toFixed(1), "s");
  if (n < 60) return of(Math.round(n), "s");
  if (n < 3600) return `${of(Math.floor(n / 60), "m")} ${of(Math.round(n % 60), "s")}`;
  if (n < 86_400) return `${of(Math.floor(n / 3600), "h")} ${of(Math.floor((n % 3600) / 60), "m")}`;
  return `${of(Math.floor(n / 86_400), "d")} ${of(Math.floor((n % 86_400) / 3600), "h")}`;
}

/** Whole seconds, for ages. */
export function age(from: number, now: number): string {
  return seconds(Math.max(0, Math.floor((now - from) / 1000)));
}

/** A part of a time as ISO 8601 has it, in the zone that is shown. */
function part(at: number | string, from: number, to: number): string {
  const time = new Date(at);
  const offset = zone.value === "UTC" ? 0 : time.getTimezoneOffset() * 60_000;
  return Number.isNaN(time.getTime()) ? "unknown" : new Date(time.getTime() - offset).toISOString().slice(from, to);
}

export const clock = (at: number | string) => part(at, 11, 19);

export const day = (at: number | string) => part(at, 0, 10);

/** The clock today, the day as well before. */
export function moment(at: string): string {
  return day(at) === day(Date.now()) ? clock(at) : `${day(at)} ${clock(at)}`;
}

export const words = (text: string) => text.replaceAll("_", " ");

export const GLYPH: Record<string, string> = {
  ok: "✓",
  notice: "·",
  warning: "!",
  error: "✗",
  unknown: "?",
  paused: "‖",
  busy: "◔",
};

/** A position in PostgreSQL's log as a number of bytes; exact below 2^53. */
export function lsn(text: string | null): number | null {
  const parts = text === null ? null : /^([0-9A-F]+)\/([0-9A-F]+)$/i.exec(text);
  return parts ? parseInt(parts[1]!, 16) * 2 ** 32 + parseInt(parts[2]!, 16) : null;
}
