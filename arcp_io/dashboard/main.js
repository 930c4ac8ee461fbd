// The page: it connects, shows the state of the connection, and the view that the fragment of the URL names.

import { Client } from "./client.js";
import { Connection, READING } from "./connection.js";
import { setText, show } from "./elements.js";
import { line } from "./format.js";
import { JobsView } from "./jobs_view.js";
import { RunView } from "./run_view.js";
import { storedToken, storeToken, TokenView } from "./token_view.js";

const url = new URL(document.querySelector("meta[name=arcp-path]").content, location.href);
url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
url.hash = url.search = "";

const main = document.getElementById("main");
const connection = new Connection(url.href);
const client = new Client(connection);
const filter = {};
let view = null;
let shown = "";

// Show a view in place of the last one.
function put(name, make) {
  if (name === shown) return;
  view?.stop();
  view = make();
  shown = name;
  main.replaceChildren(view.root);
}

// Show what the fragment names, once there is a session.
function route() {
  if (!connection.welcome) return;
  const [, jobId] = location.hash.match(/^#\/job\/([^/]+)$/u) ?? [];
  if (jobId) put(`job ${jobId}`, () => new RunView(client, decode(jobId)));
  else put("jobs", () => new JobsView(client, filter));
  document.title = jobId ? `${line(decode(jobId), 40)} · arcp-io` : "Jobs · arcp-io";
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Tell the state of the connection.
function tell() {
  const { state, reason, welcome, resumes } = connection;
  const pill = document.getElementById("connection");
  const old = welcome ? " Shown is the state of before." : "";
  const lacks = state === "open" && !welcome.capabilities.features.includes(READING);
  const texts = {
    closed: "Not connected", connecting: "Connecting…", greeting: "Connecting…", refused: "Not connected",
    open: lacks ? "Connected; this runtime cannot be read" : resumes ? `Connected, resumed ${resumes} ${resumes === 1 ? "time" : "times"}` : "Connected",
    waiting: `Disconnected, trying again: ${line(reason, 100)}.${old}`,
  };
  setText(pill, texts[state]);
  pill.dataset.state = state;
  if (welcome) setText(document.getElementById("runtime"), `${line(welcome.runtime?.name, 60)} ${line(welcome.runtime?.version, 20)}`);
  show(document.getElementById("forget"), storedToken() !== null);
}

function changed() {
  if (connection.state === "open") route();
  else if (connection.state === "refused") {
    const had = storedToken() !== null;
    storeToken(null);
    put(`token ${Date.now()}`, () => new TokenView(connection.reason || (had ? "The runtime does not know this token." : ""), (token) => {
      storeToken(token);
      connection.start(token);
    }));
    document.getElementById("token").focus();
  }
  tell();
}

connection.addEventListener("change", changed);
addEventListener("hashchange", () => {
  route();
  if (connection.welcome) main.focus({ preventScroll: true });
});
document.getElementById("forget").addEventListener("click", () => {
  storeToken(null);
  setText(document.getElementById("runtime"), "");
  connection.start(null);
});
connection.start(storedToken());
