// What a schedule says, in words. Where the words would be longer than the five fields, or not as exact,
// there are none: the fields are shown as they are.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS = ["", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
/** More times of a day than this are no sentence. */
const TIMES_MAX = 6;

const pad = (n: number) => String(n).padStart(2, "0");
const and = (parts: (string | number)[]) => (parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`);

/** Numbers and ranges by their names; `null` where there is something else, like a step. */
function named(field: string, name: (part: string) => string | undefined): string[] | null {
  const parts = field.split(",").map((part) => part.split("-").map(name));
  const isKnown = parts.every((part) => part.length <= 2 && part.every((one) => one !== undefined));
  return isKnown ? parts.map((part) => part.join(" to ")) : null;
}

const number = (part: string) => (/^\d+$/.test(part) ? String(Number(part)) : undefined);
const among = (names: string[]) => (part: string) =>
  /^\d+$/.test(part) ? names[Number(part)] || undefined : part.length === 3 ? names.find((name) => name.toLowerCase().startsWith(part.toLowerCase())) : undefined;

function numbers(field: string): number[] | null {
  return /^\d+(,\d+)*$/.test(field) ? [...new Set(field.split(",").map(Number))].sort((a, b) => a - b) : null;
}

/** `every n`, where that is as far apart over the end of the hour or day. */
function evenly(field: string, of: number): number | null {
  const step = field === "*" ? 1 : Number(/^\*\/(\d+)$/.exec(field)?.[1] ?? 0);
  return step > 0 && step < of && of % step === 0 ? step : null;
}

function times(minute: string, hour: string): { text: string; isOften: boolean } | null {
  const [minutes, hours] = [numbers(minute), numbers(hour)];
  if (minutes && hours && minutes.length * hours.length <= TIMES_MAX) {
    return { text: `at ${and(hours.flatMap((h) => minutes.map((m) => `${pad(h)}:${pad(m)}`)))}`, isOften: false };
  }
  const everyHours = evenly(hour, 24);
  const everyMinutes = evenly(minute, 60);
  if (everyHours === 1 && everyMinutes !== null) return { text: everyMinutes === 1 ? "every minute" : `every ${everyMinutes} minutes`, isOften: true };
  if (!minutes) return null;
  const at = `at minute ${and(minutes)} of`;
  if (everyHours !== null) return { text: everyHours === 1 ? `${at} every hour` : `${at} every ${everyHours}th hour from midnight`.replace("2th", "2nd").replace("3th", "3rd"), isOften: true };
  const some = named(hour, number);
  return some && { text: `${at} the hours ${and(some)}`, isOften: true };
}

/** `null` where there are no words for it. */
export function inWords(text: string): string | null {
  const fields = text === "hourly" ? "0 * * * *" : text === "daily" ? "0 0 * * *" : text.trim();
  if (fields.startsWith("every")) return fields;
  const [minute, hour, day, month, weekday, more] = fields.split(/\s+/);
  if (minute === undefined || hour === undefined || day === undefined || month === undefined || weekday === undefined || more !== undefined) return null;
  const when = times(minute, hour);
  const days = day === "*" ? [] : named(day, number);
  const months = month === "*" ? [] : named(month, among(MONTHS));
  const weekdays = weekday === "*" ? [] : named(weekday, among(DAYS));
  if (!when || !days || !months || !weekdays) return null;
  const which = [];
  if (days.length > 0) which.push(`on day ${and(days)} of the month`);
  // A day that is either counts.
  if (weekdays.length > 0) which.push(days.length > 0 ? `and on ${and(weekdays)}` : and(weekdays));
  if (which.length === 0 && !when.isOften) which.push("every day");
  const all = [...(months.length > 0 ? [`in ${and(months)}`] : []), ...(which.length > 0 ? [which.join(" ")] : [])].join(", ");
  if (!when.isOften) return `${all} ${when.text}`;
  return all === "" ? when.text : `${when.text}, ${all}`;
}
