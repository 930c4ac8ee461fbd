// The events of one job that are in memory: a run of positions, bounded in number and in text.

import { clock, json, line } from "./format.js";

export const MOST_EVENTS = 5_000;
const MOST_TEXT = 8_000_000;

export class EventStore {
  constructor() {
    this.events = [];
    this.dropped = 0;
    this._text = 0;
  }

  // Return the position of the first event, or null.
  get first() {
    return this.events.length ? this.events[0].seq : null;
  }

  // Put newer events at the end; return how many old ones were dropped for them.
  append(events) {
    for (const event of events) {
      if (this.events.length && event.seq <= this.events.at(-1).seq) continue; // It is here already.
      this.events.push(event);
      this._text += event.text.length;
    }
    let out = Math.max(this.events.length - MOST_EVENTS, 0);
    for (let text = this._text, at = 0; text > MOST_TEXT && at < this.events.length - 1; at += 1) {
      text -= this.events[at].text.length;
      out = Math.max(out, at + 1);
    }
    for (const event of this.events.splice(0, out)) this._text -= event.text.length;
    this.dropped += out;
    return out;
  }

  // Put older events before the others, as far as there is room; return how many.
  prepend(events) {
    const room = Math.max(MOST_EVENTS - this.events.length, 0);
    const taken = room ? events.slice(-room) : [];
    this.events.unshift(...taken);
    for (const event of taken) this._text += event.text.length;
    return taken.length;
  }
}

// Return an event of the wire as the page keeps it.
export function kept({ type, payload }) {
  const end = type !== "job.event";
  const body = end ? payload : payload.body;
  return {
    seq: payload.job_seq,
    kind: end ? "end" : String(payload.kind),
    time: clock(end ? payload.completed_at : payload.ts),
    level: payload.kind === "log" ? String(body?.level) : end && type === "job.error" ? "error" : "",
    summary: line(summary(end ? "end" : payload.kind, body ?? {}), 240),
    text: json(body, 20_000),
  };
}

// Return an event in one line.
function summary(kind, body) {
  switch (kind) {
    case "log": return body.message;
    case "thought": return body.text;
    case "status": return body.message ? `${body.phase}: ${body.message}` : body.phase;
    case "progress": return `${body.current}${body.total === undefined ? "" : ` of ${body.total}`} ${body.units ?? ""} ${body.message ?? ""}`;
    case "tool_call": return `${body.tool} ${short(body.args)}`;
    case "tool_result": return body.error === undefined ? short(body.result) : `failed: ${short(body.error)}`;
    case "metric": return `${body.name} = ${body.value} ${body.unit ?? ""}`;
    case "artifact_ref": return body.uri;
    case "delegate": return `${body.agent} as ${body.child_job_id}`;
    case "result_chunk": return `chunk ${body.chunk_seq}, ${String(body.data ?? "").length} characters`;
    case "end": return body.code ? `${body.final_status}, ${body.code}: ${body.message}` : body.final_status;
    default: return short(body);
  }
}

function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return String(text ?? "").slice(0, 300);
}
