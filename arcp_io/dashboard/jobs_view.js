// The list of jobs: filters, and a table of which only the rows in sight are in the page.

import { pause } from "./client.js";
import { element, setText, show } from "./elements.js";
import { age, duration, isFinal, line, millis, moment, number, spent, statusName, statusTold } from "./format.js";
import { JobList, MOST_JOBS } from "./job_list.js";
import { WindowList } from "./window_list.js";

const EVERY = 2000; // Milliseconds between two looks at the list.
const STATUSES = ["pending", "running", "success", "error", "cancelled", "timed_out"];
const COLUMNS = ["Status", "Agent", "Age", "Took", "Spent", "Attempt", "Job"];

export class JobsView {
  // Take the client and the filter of the last time.
  constructor(client, filter) {
    this._client = client;
    this._filter = filter;
    this._stop = new AbortController();
    this._count = element("p", { class: "count", role: "status" });
    this._trouble = element("p", { class: "banner bad", role: "alert", hidden: true });
    this._older = element("button", { type: "button", hidden: true, onclick: () => this._loadOlder() }, "Load older");
    this._empty = element("p", { class: "empty", hidden: true }, "No jobs.");
    this._rows = new WindowList({ label: "Jobs", height: 36, make: makeRow, fill: fillRow });
    this._table = element("div", { class: "table jobs", role: "table", "aria-label": "Jobs" },
      element("div", { class: "head", role: "row" }, ...COLUMNS.map((name) => element("span", { role: "columnheader", class: name.toLowerCase() }, name))),
      this._rows.root);
    this.root = element("section", { class: "page list", "aria-labelledby": "title" },
      element("div", { class: "top" }, element("h1", { id: "title" }, "Jobs"), this._filters()),
      this._trouble, this._table, this._empty, element("div", { class: "foot" }, this._count, this._older));
    this._begin();
  }

  stop() {
    this._stop.abort();
    this._rows.stop();
  }

  _filters() {
    const status = element("select", { "aria-label": "Status" }, element("option", { value: "" }, "Any status"),
      ...STATUSES.map((one) => element("option", { value: one }, statusName(one))));
    status.value = this._filter.status ?? "";
    const agent = element("input", { type: "search", placeholder: "Agent or agent@version", "aria-label": "Agent", maxlength: "200", spellcheck: "false" });
    agent.value = this._filter.agent ?? "";
    const changed = () => {
      this._filter.status = status.value;
      this._filter.agent = agent.value.trim();
      this._begin();
    };
    status.addEventListener("change", changed);
    agent.addEventListener("change", changed);
    return element("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); changed(); } }, status, agent);
  }

  _begin() {
    this._stop.abort();
    this._stop = new AbortController();
    const { status, agent } = this._filter;
    this._list = new JobList(this._client, { status: status ? [status] : [], agent });
    this._rows.set([]);
    this._rows.root.scrollTop = 0;
    setText(this._count, "Loading…");
    show(this._empty, false);
    this._watch(this._list, this._stop.signal);
  }

  async _watch(list, signal) {
    for (;;) {
      try {
        await list.refresh(signal);
        if (signal.aborted) return;
        show(this._trouble, false);
        this._draw();
        do await pause(EVERY, signal);
        while (document.hidden);
      } catch (error) {
        if (signal.aborted) return;
        setText(this._trouble, line(error.message, 300));
        show(this._trouble, true);
        await pause(EVERY, signal).catch(() => {});
        if (signal.aborted) return;
      }
    }
  }

  async _loadOlder() {
    this._older.disabled = true;
    try {
      await this._list.older(this._stop.signal);
      this._draw();
    } catch (error) {
      setText(this._trouble, line(error.message, 300));
      show(this._trouble, true);
    } finally {
      this._older.disabled = false;
    }
  }

  _draw() {
    const { jobs, more, full } = this._list;
    this._rows.set(jobs);
    this._table.setAttribute("aria-rowcount", more ? "-1" : String(jobs.length + 1));
    const bound = full ? ` The page keeps the newest ${number(MOST_JOBS)}: filter to see others.` : "";
    setText(this._count, `${number(jobs.length)} ${jobs.length === 1 ? "job" : "jobs"}${more ? ", older ones not loaded" : ""}.${bound}`);
    show(this._older, more);
    show(this._empty, !jobs.length);
    show(this._table, jobs.length > 0);
  }
}

function makeRow() {
  const cell = (name, ...children) => element("span", { role: "cell", class: name }, ...children);
  const badge = element("span", { class: "badge" });
  const link = element("a", {});
  const parts = { badge, link, age: cell("age num"), took: cell("took num"), spent: cell("spent num"), attempt: cell("attempt num"), id: cell("job mono") };
  parts.root = element("div", {}, cell("status", badge), cell("agent", link), parts.age, parts.took, parts.spent, parts.attempt, parts.id);
  return parts;
}

function fillRow(row, job) {
  const now = Date.now();
  const began = millis(job.created_at);
  setText(row.badge, job.ends_as && !isFinal(job.status) ? "Stopping" : job.stopped === false ? "Not stopped" : statusName(job.status));
  row.badge.dataset.status = job.stopped === false ? "unstopped" : isFinal(job.status) || STATUSES.includes(job.status) ? job.status : "pending";
  row.badge.title = job.stopped === false ? statusTold(job) : job.code ? line(job.code, 60) : "";
  setText(row.link, line(job.agent, 80));
  row.link.setAttribute("href", `#/job/${encodeURIComponent(job.job_id)}`);
  setText(row.age, age(now - began));
  row.age.title = moment(job.created_at);
  setText(row.took, isFinal(job.status) && job.completed_at ? duration(millis(job.completed_at) - began) : "–");
  const budget = Object.entries(job.budget ?? {}).slice(0, 2);
  setText(row.spent, budget.map(([currency, counter]) => `${spent(counter).text} ${line(currency, 8)}`).join(", ") || "–");
  setText(row.attempt, number(job.attempt));
  setText(row.id, line(job.job_id, 60));
  row.id.title = line(job.job_id, 128);
}
