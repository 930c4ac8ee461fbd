// The connection to the runtime: one session over successive WebSockets.
//
//   closed --> connecting --> greeting --> open --+
//     ^            ^                              |
//     |            +----- waiting <---- lost -----+
//     +-- refused: a token is wanted
//
// A session outlives its connection: `session.resume` brings it back, and if it is gone `session.hello` makes
// another. A request stays until its answer comes, and is sent again over the next connection. That is safe:
// all requests of this page can be repeated, and a read names the position that it begins after.

const FEATURES = [
  "heartbeat", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions", "lease_expires_at",
  "cost.budget", "model.use", "x-vendor.arcp-io.job_seq", "x-vendor.arcp-io.reading",
];
const FIRST_DELAY = 250;
const LONGEST_DELAY = 15_000;
const OPENING = 10_000;
const MOST_REQUESTS = 200;

export const READING = "x-vendor.arcp-io.reading";

// An error that the runtime has answered with.
export class Refused extends Error {
  constructor(payload) {
    super(String(payload.message ?? payload.code));
    this.code = payload.code;
    this.retryable = payload.retryable === true;
    this.after = Number(payload.details?.retry_after_ms) || 1000;
  }
}

export class Connection extends EventTarget {
  // Take the URL of the WebSocket.
  constructor(url) {
    super();
    this.url = url;
    this.state = "closed";
    this.reason = "";
    this.retryAt = 0;
    this.welcome = null;
    this.drops = 0;
    this.resumes = 0;
    this._token = null;
    this._socket = null;
    this._requests = new Map();
    this._count = 0;
    this._attempts = 0;
    this._seq = 0;
    this._timer = 0;
    this._watch = 0;
    addEventListener("offline", () => this._cut("this device is offline"));
    addEventListener("online", () => this._hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this._hurry());
  }

  // Connect with a token, or anonymously without one.
  start(token) {
    this.stop();
    this._token = token;
    this._dial();
  }

  // Close, and forget the token and the session.
  stop() {
    this._token = this.welcome = null;
    this._seq = this._attempts = 0;
    for (const request of this._requests.values()) request.reject(new Error("the connection was closed"));
    this._requests.clear();
    this._leave();
    this._become("closed");
  }

  // Send a request, and return its answer. Aborting the signal forgets it. Rejects with Refused.
  request(type, payload, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this._requests.size >= MOST_REQUESTS) return reject(new Error("too many requests wait"));
      const id = `q${++this._count}`;
      const request = { id, type, payload, resolve, reject };
      this._requests.set(id, request);
      signal?.addEventListener("abort", () => this._requests.delete(id) && reject(signal.reason));
      if (this.state === "open") this._send(type, payload, id);
    });
  }

  _dial() {
    clearTimeout(this._timer);
    this._become("connecting");
    const socket = new WebSocket(this.url, ["arcp.v1"]);
    this._socket = socket;
    this._watch = setTimeout(() => this._cut("the runtime does not answer"), OPENING);
    const current = (call) => (event) => this._socket === socket && call(event);
    socket.onopen = current(() => this._greet());
    socket.onmessage = current((event) => this._receive(event.data));
    socket.onclose = current((event) => this._cut(event.reason || `the connection was closed (${event.code})`));
  }

  _greet() {
    this._become("greeting");
    const auth = this._token ? { scheme: "bearer", token: this._token } : { scheme: "anonymous" };
    if (this.welcome) {
      const payload = { session_id: this.welcome.session_id, resume_token: this.welcome.resume_token, last_event_seq: this._seq };
      this._send("session.resume", this._token ? { ...payload, auth } : payload, `q${++this._count}`);
    } else {
      const client = { name: "arcp-io dashboard", version: "1" };
      this._send("session.hello", { client, auth, capabilities: { encodings: ["json"], features: FEATURES } }, `q${++this._count}`);
    }
  }

  _receive(text) {
    this._heard();
    let envelope;
    try {
      envelope = JSON.parse(text);
    } catch {
      return this._cut("the runtime sent no JSON");
    }
    const payload = envelope.payload ?? {};
    if (Number.isSafeInteger(envelope.event_seq)) this._seq = Math.max(this._seq, envelope.event_seq);
    if (envelope.type === "session.ping") {
      this._send("session.pong", { ping_nonce: payload.nonce, received_at: new Date().toISOString() }, `q${++this._count}`);
    } else if (this.state === "greeting") {
      this._answered(envelope.type, payload);
    } else if (envelope.type === "session.closed" || envelope.type === "session.bye") {
      this._cut("the runtime has closed the session");
    } else {
      this._settle(envelope.type, payload);
    }
  }

  // Take the answer to a greeting.
  _answered(type, payload) {
    if (type === "session.welcome") {
      const resumed = this.welcome?.session_id === payload.session_id;
      if (resumed) this.resumes += 1;
      else this._seq = 0;
      this.welcome = payload;
      this._attempts = 0;
      this._become("open");
      for (const { id, type: asked, payload: body } of [...this._requests.values()]) this._send(asked, body, id);
    } else if (type === "session.error" && !payload.retryable && this.welcome) {
      this.welcome = null; // The session is gone, or its token changed: a new one tells which.
      this._cut(String(payload.message ?? ""), 0);
    } else if (type === "session.error" && !payload.retryable) {
      this._leave();
      this._become("refused", payload.code === "UNAUTHENTICATED" ? "" : String(payload.message ?? payload.code));
    } else if (type === "session.error") {
      this._cut(String(payload.message ?? payload.code));
    }
  }

  // Give an answer to its request.
  _settle(type, payload) {
    const id = payload.request_id;
    const request = this._requests.get(id);
    if (!request) return;
    this._requests.delete(id);
    if (type === "session.error" || type === "job.error") request.reject(new Refused(payload));
    else request.resolve(payload);
  }

  _send(type, payload, id) {
    const envelope = { arcp: "1.1", id, type, payload };
    if (this.welcome && this.state === "open") envelope.session_id = this.welcome.session_id;
    if (this._socket?.readyState === WebSocket.OPEN) this._socket.send(JSON.stringify(envelope));
  }

  // Expect a sign of life within two heartbeats.
  _heard() {
    clearTimeout(this._watch);
    const interval = this.welcome?.heartbeat_interval_sec;
    if (interval) this._watch = setTimeout(() => this._cut("the runtime has been silent"), (2 * interval + 5) * 1000);
  }

  // Give a connection up, and dial again after a delay that grows.
  _cut(reason, delay = null) {
    if (this.state === "closed" || this.state === "refused") return;
    if (this.state === "open") this.drops += 1;
    this._leave();
    const base = Math.min(FIRST_DELAY * 2 ** this._attempts++, LONGEST_DELAY);
    const wait = delay ?? base * (0.5 + Math.random() / 2);
    this.retryAt = Date.now() + wait;
    this._timer = setTimeout(() => this._dial(), wait);
    this._become("waiting", reason);
  }

  // Dial at once, if a connection is waited for.
  _hurry() {
    if (this.state === "waiting") this._dial();
  }

  _leave() {
    clearTimeout(this._timer);
    clearTimeout(this._watch);
    const socket = this._socket;
    this._socket = null;
    socket?.close();
  }

  _become(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.dispatchEvent(new Event("change"));
  }
}
