// The timeline of a job: a bar for each tool call and each child, as in a tracing tool.

import { pause } from "./client.js";
import { element, setText, show } from "./elements.js";
import { duration, isFinal, line, millis, number } from "./format.js";
import { WindowList } from "./window_list.js";

const KINDS = ["tool_call", "tool_result", "delegate"];
const PAGE = 1000;
const WAIT = 15_000;
const BACK = 50_000; // Positions before the last that are read.
const MOST_SPANS = 2_000;
const MOST_CHILDREN = 20; // Children that are looked at.

export class Timeline {
  // Take the client and one look at a job.
  constructor(client, job) {
    this._client = client;
    this._stop = new AbortController();
    this._spans = [];
    this._open = new Map();
    this._left = 0;
    this._scale = element("span", { class: "scale num" });
    this._note = element("p", { class: "count", hidden: true });
    this._rows = new WindowList({ label: "Tool calls and children", height: 26, make: makeRow, fill: (row, span) => this._fill(row, span) });
    this.root = element("section", { class: "timeline", "aria-labelledby": "timeline", hidden: true },
      element("div", { class: "top" }, element("h2", { id: "timeline" }, "Timeline"), this._scale, this._note),
      element("div", { class: "table", role: "table", "aria-label": "Tool calls and children" }, this._rows.root));
    this.look(job);
    this._read(job, this._stop.signal);
  }

  stop() {
    this._stop.abort();
    this._rows.stop();
  }

  // Take another look at the job.
  look(job) {
    this._job = job;
    this._began = millis(job.created_at);
    this._end = job.end ? millis(job.end.completed_at) : null;
    this._draw();
  }

  // Look at the children that are not over.
  async lookAtChildren(signal) {
    const open = this._spans.filter((span) => span.child && span.end === null).slice(-MOST_CHILDREN);
    await Promise.all(open.map(async (span) => {
      try {
        const child = await this._client.describe(span.child, signal);
        span.status = child.status;
        span.end = child.end ? millis(child.end.completed_at) : null;
        span.failed = isFinal(child.status) && child.status !== "success";
      } catch {
        span.end ??= signal.aborted ? null : this._end;
      }
    }));
    this._draw();
  }

  async _read(job, signal) {
    let position = Math.max(job.job_seq - BACK, job.history_from_job_seq - 1, 0);
    this._from = position;
    try {
      for (;;) {
        const page = await this._client.read(job.job_id, position, { limit: PAGE, wait: WAIT, kinds: KINDS }, signal);
        if (signal.aborted) return;
        for (const event of page.events) this._take(event);
        position = Math.max(position, page.job_seq);
        this._draw();
        if (page.ended) return;
        if (page.events.length < PAGE) await pause(100, signal);
      }
    } catch (error) {
      if (!signal.aborted) setText(this._note, line(error.message, 200));
    }
  }

  _take({ type, payload }) {
    if (type !== "job.event") {
      this._end = millis(payload.completed_at);
      return;
    }
    const { kind, body, ts } = payload;
    const at = millis(ts);
    if (kind === "tool_call") this._add({ name: line(body.tool, 80), start: at, end: null, failed: false, call: body.call_id });
    else if (kind === "delegate") this._add({ name: line(body.agent, 80), start: at, end: null, failed: false, child: String(body.child_job_id) });
    else {
      const span = this._open.get(body.call_id);
      if (!span) return;
      this._open.delete(body.call_id);
      span.end = at;
      span.failed = body.error !== undefined;
    }
  }

  _add(span) {
    this._spans.push(span);
    if (span.call !== undefined) this._open.set(span.call, span);
    if (this._spans.length > MOST_SPANS) {
      const gone = this._spans.shift();
      if (this._open.get(gone.call) === gone) this._open.delete(gone.call);
      this._left += 1;
    }
  }

  _draw() {
    show(this.root, this._spans.length > 0);
    const [first, last] = this._range();
    setText(this._scale, duration(last - first));
    const left = this._left ? `${number(this._left)} earlier ones are left out` : this._from > 0 ? "earlier ones are left out" : "";
    setText(this._note, left);
    show(this._note, left !== "");
    const follow = this._end === null && this._rows.atEnd;
    this._rows.root.style.height = `${Math.min(this._spans.length, 10) * 26}px`;
    this._rows.set(this._spans);
    if (follow) this._rows.toEnd();
  }

  // Return the times of both ends: the whole job, or what is left of it.
  _range() {
    const first = this._left || this._from ? (this._spans[0]?.start ?? this._began) : this._began;
    return [first, Math.max(this._end ?? Date.now(), first + 1)];
  }

  _fill(row, span) {
    const [first, last] = this._range();
    const over = span.end ?? this._end;
    const end = over ?? last;
    const share = (at) => Math.min(Math.max((at - first) / (last - first), 0), 1) * 100;
    setText(row.name, span.name);
    row.name.title = span.name;
    if (span.child) row.name.setAttribute("href", `#/job/${encodeURIComponent(span.child)}`);
    else row.name.removeAttribute("href");
    row.bar.style.left = `${share(span.start)}%`;
    row.bar.style.width = `${Math.max(share(end) - share(span.start), 0.3)}%`;
    row.bar.dataset.state = span.failed ? "failed" : span.end === null ? (this._end === null ? "open" : "cut") : span.child ? "child" : "done";
    const took = duration(end - span.start);
    setText(row.took, took);
    setText(row.state, span.failed ? "failed" : span.end === null ? (this._end === null ? "running" : "no answer") : "");
  }
}

function makeRow() {
  const row = { name: element("a", {}), bar: element("span", { class: "span" }), took: element("span", { class: "took num", role: "cell" }), state: element("span", { class: "state", role: "cell" }) };
  row.root = element("div", {}, element("span", { class: "name", role: "cell" }, row.name), element("span", { class: "track", role: "presentation" }, row.bar), row.took, row.state);
  return row;
}
