// The form that asks for a token.
//
// The token is kept in the session storage of this tab: a reload goes on without asking, other tabs and other
// sites do not see it, and it is gone when the tab is closed. It is never in a URL, where logs would keep it.

import { element } from "./elements.js";
import { line } from "./format.js";

const KEY = "arcp-io token";

// Return the token of this tab, or null.
export function storedToken() {
  return sessionStorage.getItem(KEY);
}

// Keep a token for this tab, or forget it.
export function storeToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export class TokenView {
  // Take why the last one was refused, and what is called with a token.
  constructor(reason, given) {
    const input = element("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
    this.root = element("form", { class: "page token", onsubmit: (event) => { event.preventDefault(); given(input.value.trim()); } },
      element("h1", {}, "Connect"),
      reason ? element("p", { class: "banner bad", role: "alert" }, line(reason, 300)) : null,
      element("label", { for: "token" }, "Token of the runtime"), input,
      element("button", { type: "submit", class: "primary" }, "Connect"),
      element("p", { class: "hint" }, "You see the jobs that this token may see. It is kept in this tab until you close it, and nowhere else."));
  }

  stop() {}
}
