// Values as text for people. Every text of a peer passes through `plain`.

// Control characters and those that change the direction of text: they could make text look like another.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;

// Return text without characters that hide or reorder it, cut to a length.
export function plain(value, most = 200) {
  const text = String(value ?? "");
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.toWellFormed().replace(HIDDEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Return text as `plain` does, in one line.
export function line(value, most = 200) {
  return plain(String(value ?? "").slice(0, most + 1).replace(/\s+/gu, " "), most);
}

// Return any value of JSON as indented text.
export function json(value, most = 20_000) {
  return plain(typeof value === "string" ? value : JSON.stringify(value, null, 2), most);
}

// Return the milliseconds of a time of the wire, or null.
export function millis(time) {
  const found = Date.parse(time ?? "");
  return Number.isNaN(found) ? null : found;
}

// Return a duration in milliseconds as text, in the two greatest units.
export function duration(ms) {
  if (ms === null || !Number.isFinite(ms)) return "–";
  const seconds = Math.max(ms, 0) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// Return an age in its largest unit, which fits a narrow column.
export function age(ms) {
  return duration(Math.max(Math.round(ms / 1000), 1) * 1000).replace(".0", "").split(" ", 2).join(" ");
}

// Return the time of a day, with milliseconds.
export function clock(time) {
  const at = millis(time);
  if (at === null) return line(time, 30);
  const date = new Date(at);
  const part = (value, digits = 2) => String(value).padStart(digits, "0");
  const day = `${part(date.getHours())}:${part(date.getMinutes())}:${part(date.getSeconds())}`;
  return `${day}.${part(date.getMilliseconds(), 3)}`;
}

// Return a date and time.
export function moment(time) {
  const at = millis(time);
  return at === null ? line(time, 40) : new Date(at).toLocaleString();
}

// Return a number with separators; other text stays as it is.
export function number(value) {
  return typeof value === "number" && Number.isFinite(value) && Math.abs(value) < 1e15
    ? value.toLocaleString("en", { maximumFractionDigits: 6 })
    : line(value, 24);
}

// Return the part of a budget that is spent: its text, and the share from 0 to 1.
export function spent(counter) {
  const initial = Number(counter.initial);
  const left = Number(counter.remaining);
  const reserved = Number(counter.reserved ?? 0);
  const used = initial - left;
  const known = Number.isFinite(used) && initial > 0;
  return {
    text: known ? `${number(round(used))} of ${number(initial)}` : `${line(counter.remaining, 24)} left of ${line(counter.initial, 24)}`,
    share: known ? Math.min(Math.max(used / initial, 0), 1) : 0,
    reserved: reserved > 0 ? number(reserved) : "",
  };
}

function round(value) {
  return Math.round(value * 1e6) / 1e6;
}

const NAMES = {
  pending: "Pending", running: "Running", success: "Succeeded", error: "Failed", cancelled: "Cancelled",
  timed_out: "Timed out",
};

// Return the name of a status.
export function statusName(status) {
  return Object.hasOwn(NAMES, status) ? NAMES[status] : line(status, 20);
}

// Return the status of a job as text. A cancel counts as done once the agent is known to have stopped.
export function statusTold(job) {
  if (job.stopped !== false) return statusName(job.status);
  return job.status === "cancelled" ? "Cancel asked, not stopped" : `${statusName(job.status)}, not stopped`;
}

// Return whether a status is one that a job ends with.
export function isFinal(status) {
  return status !== "pending" && status !== "running";
}
