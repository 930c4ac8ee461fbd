// The events of a job: a table that follows the newest, pauses, filters by kind, and pages back by position.

import { pause } from "./client.js";
import { element, setText, show } from "./elements.js";
import { EventStore, kept, MOST_EVENTS } from "./event_store.js";
import { line, number } from "./format.js";
import { WindowList } from "./window_list.js";

const PAGE = 1000;
const WAIT = 15_000;
const KINDS = ["log", "thought", "status", "progress", "tool_call", "tool_result", "metric", "delegate", "artifact_ref", "result_chunk"];

export class EventsView {
  // Take the client, the id of a job, and one look at it. `ended` is called with the payload of its end.
  constructor(client, job, ended) {
    this._client = client;
    this._job = job;
    this._ended = ended;
    this._following = true;
    this._stop = new AbortController();
    this._kind = element("select", { "aria-label": "Kind of event", onchange: () => this._begin() }, element("option", { value: "" }, "All kinds"),
      ...KINDS.map((kind) => element("option", { value: kind }, kind)));
    this._follow = element("button", { type: "button", onclick: () => this._toggle() });
    this._older = element("button", { type: "button", hidden: true, onclick: () => this._loadOlder() }, "Load older");
    this._note = element("p", { class: "count", role: "status" });
    this._cut = element("p", { class: "banner warn", role: "status", hidden: true });
    this._detail = element("pre", { class: "detail", tabindex: "0", "aria-label": "Chosen event", hidden: true });
    this._rows = new WindowList({ label: "Events", height: 28, make: makeRow, fill: (row, event) => this._fill(row, event), chosen: (event, index) => this._choose(event, index) });
    this._rows.root.addEventListener("wheel", () => this._left(), { passive: true });
    this._rows.root.addEventListener("pointerdown", () => this._left());
    this.root = element("section", { class: "events", "aria-labelledby": "events" },
      element("div", { class: "top" }, element("h2", { id: "events" }, "Events"), this._kind, this._follow, this._older, this._note),
      this._cut,
      element("div", { class: "table", role: "table", "aria-label": "Events", "aria-rowcount": "-1" }, this._rows.root), this._detail);
    this._say();
    this._begin();
  }

  stop() {
    this._stop.abort();
    this._rows.stop();
  }

  _begin() {
    this._stop.abort();
    this._stop = new AbortController();
    this._store = new EventStore();
    this._chosen = null;
    show(this._detail, false);
    this._rows.set([]);
    show(this._follow, true);
    const { job_seq: last, history_from_job_seq: first } = this._job;
    this._position = Math.max(last - PAGE, first - 1, 0);
    this._start = this._position;
    this._least = Math.max(first, 1);
    this._tell();
    this._read(this._stop.signal);
  }

  get _kinds() {
    return this._kind.value ? [this._kind.value] : null;
  }

  async _read(signal) {
    try {
      for (;;) {
        const page = await this._client.read(this._job.job_id, this._position, { limit: PAGE, wait: WAIT, kinds: this._kinds }, signal);
        if (signal.aborted) return;
        this._take(page);
        if (page.ended) {
          show(this._follow, false);
          return;
        }
        if (page.events.length < PAGE) await pause(100, signal); // A busy job comes in pages, not in single events.
      }
    } catch (error) {
      if (!signal.aborted) setText(this._note, line(error.message, 200));
    }
  }

  _take(page) {
    const from = page.history_from_job_seq;
    if (from && from > this._position + 1) {
      this._least = Math.max(this._least, from);
      this._gap = `Events ${number(this._position + 1)} to ${number(from - 1)} are gone: the runtime has shortened the history.`;
    }
    this._position = Math.max(this._position, page.job_seq);
    const dropped = this._store.append(page.events.map(kept));
    const end = page.events.find((event) => event.type !== "job.event");
    if (end) this._ended(end);
    this._rows.set(this._store.events);
    this._tell();
    if (this._following) this._rows.toEnd();
    else if (dropped) this._rows.shift(-dropped);
  }

  // Load what is before the first event, going back until there is something to show.
  async _loadOlder() {
    const signal = this._stop.signal;
    this._older.disabled = true;
    this._pauseHere();
    try {
      let found = [];
      let upTo = this._store.dropped && this._store.first ? this._store.first : this._start + 1;
      for (let reach = PAGE; !found.length && upTo > this._least; reach *= 4) {
        const from = Math.max(upTo - 1 - reach, this._least - 1);
        found = (await this._between(from, upTo, signal)).slice(-PAGE);
        upTo = from + 1;
      }
      this._store.dropped = 0;
      this._start = found.length ? found[0].seq - 1 : upTo - 1;
      const put = this._store.prepend(found);
      this._full = put < found.length || this._store.events.length >= MOST_EVENTS;
      this._rows.set(this._store.events);
      this._rows.shift(put);
      this._tell();
    } catch (error) {
      if (!signal.aborted) setText(this._note, line(error.message, 200));
    } finally {
      this._older.disabled = false;
    }
  }

  // Return the last events above a position and below another one.
  async _between(from, upTo, signal) {
    let found = [];
    for (let position = from; position < upTo - 1;) {
      const page = await this._client.read(this._job.job_id, position, { limit: PAGE, kinds: this._kinds }, signal);
      found = found.concat(page.events.filter((event) => event.payload.job_seq < upTo).map(kept)).slice(-PAGE);
      if (page.ended || page.job_seq <= position) break;
      position = page.job_seq;
    }
    return found;
  }

  _toggle() {
    this._following = !this._following;
    if (this._following) this._rows.toEnd();
    this._say();
  }

  _left() {
    requestAnimationFrame(() => this._rows.atEnd || this._pauseHere());
  }

  _pauseHere() {
    this._following = false;
    this._say();
  }

  _say() {
    setText(this._follow, this._following ? "Pause" : "Follow");
    this._follow.setAttribute("aria-pressed", String(this._following));
    this._follow.title = this._following ? "Stop scrolling to new events" : "Scroll to new events";
  }

  _tell() {
    const { events, dropped, first } = this._store;
    const beyond = first !== null && (dropped ? first : this._start + 1) > this._least;
    show(this._older, (beyond || (first === null && this._start >= this._least)) && !this._full);
    this._rows.root.style.height = `${Math.max(events.length, 2) * 28}px`;
    const range = events.length ? `positions ${number(events[0].seq)} to ${number(events.at(-1).seq)}` : "none yet";
    setText(this._note, `${number(events.length)} shown, ${range}${this._full ? "; older ones do not fit" : ""}`);
    const cut = this._gap ?? (this._least > 1 ? `History was cut: the first event that is left is number ${number(this._least)}.` : "");
    setText(this._cut, cut);
    show(this._cut, cut !== "");
  }

  _choose(event, index) {
    if (!event) return;
    if (index < this._store.events.length - 1) this._pauseHere();
    this._chosen = event.seq;
    setText(this._detail, event.text);
    show(this._detail, true);
    this._rows.set(this._store.events);
  }

  _fill(row, event) {
    setText(row.seq, number(event.seq));
    setText(row.time, event.time);
    setText(row.kind, line(event.kind, 40));
    setText(row.summary, event.summary);
    row.root.dataset.level = event.level;
    row.root.setAttribute("aria-selected", String(event.seq === this._chosen));
  }
}

function makeRow() {
  const cell = (name) => element("span", { role: "cell", class: name });
  const row = { seq: cell("seq num"), time: cell("time num"), kind: cell("kind"), summary: cell("summary") };
  row.root = element("div", {}, row.seq, row.time, row.kind, row.summary);
  return row;
}
