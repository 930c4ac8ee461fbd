// A list of which only the rows in sight are in the page, however long it is. All rows have one height.

import { element } from "./elements.js";

const BEYOND = 6; // Rows above and below those in sight.

export class WindowList {
  // Take the height of a row in pixels, a function that fills a row, and one that is called for a chosen one.
  constructor({ label, height, fill, make, chosen = null, role = "row" }) {
    this.items = [];
    this._height = height;
    this._fill = fill;
    this._make = make;
    this._chosen = chosen;
    this._role = role;
    this._rows = [];
    this._frame = 0;
    this._space = element("div", { class: "space-y", role: "presentation" });
    this.root = element("div", { class: "window", tabindex: "0", "aria-label": label, role: "rowgroup" }, this._space);
    this.root.addEventListener("scroll", () => this._soon(), { passive: true });
    this.root.addEventListener("keydown", (event) => this._key(event));
    this._sizes = new ResizeObserver(() => this._soon());
    this._sizes.observe(this.root);
  }

  // Show other items, from the top of the list on.
  set(items) {
    this.items = items;
    this._soon();
  }

  // Scroll to the last row.
  toEnd() {
    this._space.style.height = `${this.items.length * this._height}px`;
    this.root.scrollTop = this.root.scrollHeight;
  }

  // Whether the last row is in sight.
  get atEnd() {
    return this.root.scrollTop + this.root.clientHeight >= this.root.scrollHeight - this._height;
  }

  // Keep the rows in sight where they are, after some were put before or taken from the top.
  shift(rows) {
    this._space.style.height = `${this.items.length * this._height}px`;
    this.root.scrollTop = Math.max(this.root.scrollTop + rows * this._height, 0);
  }

  stop() {
    this._sizes.disconnect();
    cancelAnimationFrame(this._frame);
  }

  _soon() {
    this._frame ||= requestAnimationFrame(() => {
      this._frame = 0;
      this._draw();
    });
  }

  _draw() {
    const { items, root } = this;
    this._space.style.height = `${items.length * this._height}px`;
    const first = Math.max(Math.floor(root.scrollTop / this._height) - BEYOND, 0);
    const last = Math.min(Math.ceil((root.scrollTop + root.clientHeight) / this._height) + BEYOND, items.length);
    const count = Math.max(last - first, 0);
    while (this._rows.length < count) this._rows.push(this._row());
    while (this._rows.length > count) this._rows.pop().root.remove();
    for (let at = 0; at < count; at += 1) {
      const row = this._rows[at];
      row.index = first + at;
      row.root.style.transform = `translateY(${row.index * this._height}px)`;
      row.root.setAttribute("aria-rowindex", String(row.index + 2));
      this._fill(row, items[row.index], row.index);
    }
  }

  _row() {
    const row = this._make();
    row.root.setAttribute("role", this._role);
    row.root.style.height = `${this._height}px`;
    row.root.classList.add("row");
    if (this._chosen) row.root.addEventListener("click", () => this._chosen(this.items[row.index], row.index));
    this._space.append(row.root);
    return row;
  }

  _key(event) {
    const page = Math.max(Math.floor(this.root.clientHeight / this._height) - 1, 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.items.length, End: this.items.length };
    const step = steps[event.key];
    if (step === undefined || !this.items.length) return;
    event.preventDefault();
    this._go(Math.min(Math.max(this._current() + step, 0), this.items.length - 1));
  }

  // Return the index of the row with the focus, or of the chosen one.
  _current() {
    const focused = this._rows.find((row) => row.root.contains(document.activeElement));
    return focused ? focused.index : (this.chosenIndex ?? -1);
  }

  _go(index) {
    const top = index * this._height;
    const { root } = this;
    if (top < root.scrollTop) root.scrollTop = top;
    else if (top + this._height > root.scrollTop + root.clientHeight) root.scrollTop = top + this._height - root.clientHeight;
    this._draw();
    const row = this._rows.find((one) => one.index === index);
    if (this._chosen) {
      this.chosenIndex = index;
      this._chosen(this.items[index], index);
    } else row?.root.querySelector("a")?.focus({ preventScroll: true });
  }
}
