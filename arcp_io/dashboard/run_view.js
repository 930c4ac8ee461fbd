// One run: how it ended first, then what it may do and has done, its timeline and its events.

import { pause } from "./client.js";
import { element, setText, show } from "./elements.js";
import { EventsView } from "./events_view.js";
import { duration, isFinal, json, line, millis, moment, number, plain, spent, statusName, statusTold } from "./format.js";
import { Timeline } from "./timeline.js";

const EVERY = 1000; // Milliseconds between two looks at a job that is not over.
const SLOW = 10_000; // And at one whose agent runs on after the end.

const STOPS = { cancelled: "The cancel was asked", timed_out: "The time was over" };

export class RunView {
  // Take the client and the id of a job.
  constructor(client, jobId) {
    this._client = client;
    this._id = jobId;
    this._stop = new AbortController();
    this._asked = false;
    this._make();
    this._watch(this._stop.signal);
    this._tick = setInterval(() => this._job && this._clocks(), 1000);
  }

  stop() {
    this._stop.abort();
    clearInterval(this._tick);
    this._timeline?.stop();
    this._events?.stop();
  }

  _make() {
    this._badge = element("span", { class: "badge big" });
    this._title = element("h1", { id: "title" });
    this._cancel = element("button", { type: "button", class: "danger", hidden: true, onclick: () => this._ask() }, "Cancel run");
    this._truth = element("p", { class: "banner warn", role: "status", hidden: true });
    this._error = element("div", { class: "banner bad", role: "alert", hidden: true });
    this._trouble = element("p", { class: "banner bad", role: "alert", hidden: true });
    this._facts = element("dl", { class: "facts" });
    this._values = new Map();
    this._gauges = element("div", { class: "gauges" });
    this._input = element("div", {});
    this._inputBox = element("section", { class: "result", hidden: true }, element("h2", { id: "input" }, "Input"), this._input);
    this._result = element("pre", { class: "detail", tabindex: "0", "aria-labelledby": "result" });
    this._resultBox = element("section", { class: "result", hidden: true }, element("h2", { id: "result" }, "Result"), this._result);
    this._leaseText = element("pre", { class: "detail" });
    this._lease = element("details", { class: "lease", hidden: true }, element("summary", {}, "Lease"), this._leaseText);
    this.root = element("section", { class: "page run", "aria-labelledby": "title" },
      element("p", { class: "back" }, element("a", { href: "#/" }, "← Jobs")),
      element("div", { class: "top" }, this._badge, this._title, element("span", { class: "mono id" }, line(this._id, 128)), element("span", { class: "space" }), this._cancel),
      this._trouble, this._truth, this._error, this._facts, this._gauges, this._inputBox, this._resultBox, this._lease);
  }

  async _watch(signal) {
    try {
      for (;;) {
        const job = await this._client.describe(this._id, signal, { input: !this._job });
        if (signal.aborted) return;
        if (!this._job) this._given(job);
        this._look(job);
        if (this._timeline) await this._timeline.lookAtChildren(signal);
        if (job.end && !job.agent_runs) return;
        do await pause(job.end ? SLOW : EVERY, signal);
        while (document.hidden);
      }
    } catch (error) {
      if (signal.aborted) return;
      setText(this._trouble, error.code === "JOB_NOT_FOUND" ? "There is no such job, or it is forgotten, or your token may not see it." : line(error.message, 300));
      show(this._trouble, true);
    }
  }

  _look(job) {
    this._job = job;
    if (!this._events) {
      this._timeline = new Timeline(this._client, job);
      this._events = new EventsView(this._client, job, (end) => this._over(end));
      this.root.append(this._timeline.root, this._events.root);
    } else this._timeline.look(job);
    setText(this._title, line(job.agent, 120));
    setText(this._badge, statusTold(job));
    this._badge.dataset.status = job.stopped === false ? "unstopped" : job.status;
    show(this._cancel, !job.end);
    this._fact("Submitted", moment(job.created_at));
    this._clocks();
    this._fact("Attempt", number(job.attempt ?? 1));
    this._fact("Events", number(job.job_seq));
    if (job.parent_job_id) this._fact("Parent", element("a", { class: "mono", href: `#/job/${encodeURIComponent(job.parent_job_id)}` }, line(job.parent_job_id, 60)));
    if (job.trace_id) this._fact("Trace", line(job.trace_id, 64), "mono");
    this._gauge(job);
    setText(this._leaseText, json(job.lease ?? {}));
    show(this._lease, Object.keys(job.lease ?? {}).length > 0);
    this._ending(job);
  }

  // Tell how the job has ended, and of a cancel no more than is known.
  _ending(job) {
    const { end } = job;
    const lines = [];
    if (!end && job.ends_as) lines.push(`Decided: ${statusName(job.ends_as).toLowerCase()}. The agent has been told to stop, and has not stopped yet.`);
    else if (!end && this._asked) lines.push("Cancel asked. The run goes on until its end is shown here.");
    if (end && job.agent_runs) lines.push(`${STOPS[end.final_status] ?? "The run was ended"}, and the agent has not stopped: it goes on in the runtime, though it can no longer spend or report anything. Only agents with isolation="process" are killed.`);
    else if (job.stopped === false) lines.push("The agent had not stopped at the end of the run, and the runtime cannot tell whether it has since.");
    if (job.agent_stopped_at) this._fact("Agent stopped", `${duration(millis(job.agent_stopped_at) - millis(end.completed_at))} after the end`);
    setText(this._truth, lines.join(" "));
    show(this._truth, lines.length > 0);
    const bad = end && end.final_status !== "success";
    if (bad) {
      const details = end.details && Object.keys(end.details).length ? element("pre", {}, json(end.details, 2000)) : null;
      this._error.replaceChildren(element("strong", {}, line(end.code ?? statusName(end.final_status), 60)), element("p", {}, plain(end.message ?? "", 4000)), details ?? "");
    }
    show(this._error, Boolean(bad));
    if (end && (end.summary || end.result_size !== undefined)) this._fact("Result size", end.result_size === undefined ? "–" : `${number(end.result_size)} bytes`);
    if (end?.summary) this._fact("Summary", plain(end.summary, 1000));
  }

  // Take the terminal event, which has the value of the result.
  _over({ type, payload }) {
    if (type !== "job.result") return;
    const inline = Object.hasOwn(payload, "result");
    setText(this._result, inline ? json(payload.result) : `Streamed in chunks, ${number(payload.result_size)} bytes: see the events of kind result_chunk, or read it by arcp-io attach.`);
    show(this._resultBox, true);
  }

  // Show the input, which the first look has if the runtime has kept it.
  _given({ input, input_size: size }) {
    if (input !== undefined) this._input.replaceChildren(element("pre", { class: "detail", tabindex: "0", "aria-labelledby": "input" }, json(input)));
    else if (size !== undefined) this._input.replaceChildren(element("p", { class: "count" }, `${number(size)} bytes, too large to be shown here.`));
    else this._input.replaceChildren(element("p", { class: "count" }, "The runtime has not kept the input. A runtime with a journal keeps it for jobs that it may have to start again, until they end."));
    show(this._inputBox, true);
  }

  _gauge(job) {
    const rows = Object.entries(job.budget ?? {}).slice(0, 8).map(([currency, counter]) => {
      const { text, share, reserved } = spent(counter);
      return gauge(`Budget, ${line(currency, 12)}`, `${text}${reserved ? `, ${reserved} reserved` : ""}`, share, share >= 0.8);
    });
    const { progress } = job;
    if (progress) {
      const share = Number(progress.total) > 0 ? Number(progress.current) / Number(progress.total) : null;
      const text = `${number(progress.current)}${progress.total === undefined ? "" : ` of ${number(progress.total)}`} ${line(progress.units ?? "", 30)} ${line(progress.message ?? "", 120)}`;
      rows.push(gauge("Progress", text.trim(), share, false));
    }
    this._gauges.replaceChildren(...rows);
  }

  // Tell the times that go on by themselves.
  _clocks() {
    const { _job: job } = this;
    const began = millis(job.created_at);
    const over = job.end ? millis(job.end.completed_at) : Date.now();
    this._fact(job.end ? "Took" : "Running for", duration(over - began));
    if (job.end) this._values.get("Running for")?.remove();
    if (job.expires_at) {
      const left = millis(job.expires_at) - Date.now();
      this._fact("Lease", job.end ? `until ${moment(job.expires_at)}` : left > 0 ? `${duration(left)} left` : "expired");
    }
    if (job.max_runtime_sec) this._fact("Longest run", duration(job.max_runtime_sec * 1000));
  }

  _fact(name, value, kind = "") {
    let entry = this._values.get(name);
    if (!entry) {
      entry = element("div", {}, element("dt", {}, name), element("dd", { class: kind }));
      this._values.set(name, entry);
      this._facts.append(entry);
    }
    const held = entry.lastChild;
    if (typeof value === "string") setText(held, value);
    else if (held.textContent !== value.textContent) held.replaceChildren(value);
  }

  // Ask for the end of the run, after a second press.
  async _ask() {
    if (!this._sure) {
      this._sure = setTimeout(() => this._calm(), 5000);
      setText(this._cancel, "Press again to cancel");
      return;
    }
    this._calm();
    this._cancel.disabled = true;
    setText(this._cancel, "Cancel asked");
    this._asked = true;
    this._ending(this._job);
    try {
      await this._client.cancel(this._id);
    } catch (error) {
      this._asked = false;
      this._cancel.disabled = false;
      setText(this._cancel, "Cancel run");
      setText(this._trouble, `Not cancelled: ${line(error.message, 300)}`);
      show(this._trouble, true);
      this._ending(this._job);
    }
  }

  _calm() {
    clearTimeout(this._sure);
    this._sure = 0;
    if (!this._asked) setText(this._cancel, "Cancel run");
  }
}

function gauge(name, text, share, high) {
  const bar = element("progress", { max: "1", value: share === null || !Number.isFinite(share) ? null : String(Math.min(Math.max(share, 0), 1)), "aria-label": name, class: high ? "high" : "" });
  return element("div", { class: "gauge" }, element("span", { class: "label" }, name), bar, element("span", { class: "num" }, text));
}
