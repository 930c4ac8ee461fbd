// The jobs that the page knows, newest first, and how it keeps them fresh.
//
// Only the newest page is asked for again and again. Jobs that have left it are looked at one by one while
// they or their agents run, some at a time. Older pages are loaded when they are wanted, up to a bound.

import { isFinal } from "./format.js";

const PAGE = 100;
const OLDER_PAGE = 1000;
export const MOST_JOBS = 10_000;
const LOOKS = 16; // Jobs that are looked at in one turn.

export class JobList {
  // Take the client and the filter: {status, agent}.
  constructor(client, filter) {
    this.jobs = [];
    this.more = false;
    this.full = false;
    this._client = client;
    this._filter = filter;
    this._cursor = null;
    this._known = new Map();
    this._loaded = false;
    this._next = 0;
  }

  // Ask for the newest page, and for the state of unfinished jobs beyond it.
  async refresh(signal) {
    const page = await this._client.list({ ...this._filter, limit: PAGE }, signal);
    const seen = new Set(page.jobs.map((job) => job.job_id));
    this._take(page.jobs);
    if (!this._loaded) {
      this._loaded = true;
      this._cursor = page.next_cursor ?? null;
    }
    const open = this.jobs.filter((job) => (!isFinal(job.status) || job.agent_runs) && !seen.has(job.job_id));
    const turn = open.length ? Array.from({ length: Math.min(LOOKS, open.length) }, (_, at) => open[(this._next + at) % open.length]) : [];
    this._next = open.length ? (this._next + turn.length) % open.length : 0;
    await Promise.all(turn.map((job) => this._look(job, signal)));
    this._arrange();
  }

  // Load the next older page.
  async older(signal) {
    if (!this._cursor || this.full) return;
    const page = await this._client.list({ ...this._filter, limit: OLDER_PAGE, cursor: this._cursor }, signal);
    this._take(page.jobs);
    this._cursor = page.next_cursor ?? null;
    this._arrange();
  }

  async _look(job, signal) {
    try {
      const now = await this._client.describe(job.job_id, signal);
      if (this._filter.status?.length && !this._filter.status.includes(now.status)) this._known.delete(job.job_id);
      else this._take([{ ...now, completed_at: now.end?.completed_at, code: now.end?.code }]);
    } catch (error) {
      if (signal?.aborted) throw error;
      if (error.code === "JOB_NOT_FOUND") this._known.delete(job.job_id);
    }
  }

  // Keep of each job only what a row shows.
  _take(entries) {
    for (const entry of entries) {
      this._known.set(entry.job_id, {
        job_id: entry.job_id, agent: entry.agent, status: entry.status, created_at: entry.created_at ?? entry.submitted_at,
        completed_at: entry.completed_at, attempt: entry.attempt ?? 1, agent_runs: entry.agent_runs, stopped: entry.stopped, ends_as: entry.ends_as,
        budget: entry.budget, code: entry.code, parent: entry.parent_job_id,
      });
    }
  }

  _arrange() {
    const jobs = [...this._known.values()];
    jobs.sort((a, b) => (a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : a.job_id < b.job_id ? 1 : -1));
    for (const job of jobs.splice(MOST_JOBS)) this._known.delete(job.job_id);
    this.jobs = jobs;
    this.full = jobs.length >= MOST_JOBS;
    this.more = this._cursor !== null && !this.full;
  }
}
