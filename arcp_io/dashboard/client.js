// What this page asks of a runtime: jobs, one look at a job, its events above a position, and a cancel.

import { Refused } from "./connection.js";

const PREFIX = "x-vendor.arcp-io.job.";

export class Client {
  // Take the connection.
  constructor(connection) {
    this.connection = connection;
  }

  // Return a page of jobs, newest first: {jobs, next_cursor}.
  list({ status, agent, limit, cursor }, signal) {
    const filter = {};
    if (status?.length) filter.status = status;
    if (agent) filter.agent = agent;
    const payload = { limit };
    if (Object.keys(filter).length) payload.filter = filter;
    if (cursor) payload.cursor = cursor;
    return this.connection.request("session.list_jobs", payload, signal);
  }

  // Return one look at a job, with its input if that is asked for and the runtime has kept it.
  async describe(jobId, signal, { input = false } = {}) {
    const payload = input ? { job_id: jobId, input } : { job_id: jobId };
    const answer = await this.connection.request(`${PREFIX}describe`, payload, signal);
    return answer.job;
  }

  // Return the events of a job above a position: {events, job_seq, ended, history_from_job_seq}.
  async read(jobId, from, { limit, wait = 0, kinds = null }, signal) {
    const payload = { job_id: jobId, from_job_seq: from, limit };
    if (wait) payload.wait_ms = wait;
    if (kinds) payload.kinds = kinds;
    for (;;) {
      try {
        return await this.connection.request(`${PREFIX}read`, payload, signal);
      } catch (error) {
        if (!(error instanceof Refused && error.retryable)) throw error;
        await pause(error.after, signal);
      }
    }
  }

  // Ask for the end of a job. The answer says that it was asked, not that the agent has stopped.
  cancel(jobId) {
    return this.connection.request("job.cancel", { job_id: jobId, reason: "cancelled from the dashboard" });
  }
}

// Wait for some milliseconds, or for the abort of a signal.
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
