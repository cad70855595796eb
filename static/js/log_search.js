// Searching the whole log: the server says which lines match, a slice after the other, and goes on as the log grows.
import { ask } from "./log_store.js";

const MOST_HITS = 200000;
const AGAIN = 500; // ms between two looks at what a growing log got
const RETRY = 2000;
const SPAN_LINES = 500;

export class LogSearch {
  // `address`: of the search; `spansAddress`: of where lines match. `changed({ begun })` is called when there are more
  // hits, `marked(lines)` when it is known where these lines match, `failed(sentence)` when the query is wrong.
  constructor(address, spansAddress, store, { changed, marked, failed }) {
    Object.assign(this, { address, spansAddress, store, changed, marked, failed });
    this.clear();
  }

  clear() {
    this.controller?.abort();
    clearTimeout(this.timer);
    this.controller = new AbortController();
    this.query = "";
    this.hits = []; // line numbers, in order
    this.scanned = 0;
    this.running = false;
    this.current = -1; // index of the hit that was gone to
    this.marks = new Map(); // line → where it matches
    this.asked = new Set();
  }

  get active() {
    return this.query !== "";
  }

  get full() {
    return this.hits.length >= MOST_HITS;
  }

  get done() {
    return this.full || this.scanned >= this.store.total;
  }

  get progress() {
    return this.store.total ? Math.min(1, this.scanned / this.store.total) : 1;
  }

  // `text` is searched for anew, from the log's first line on.
  start(text, { regex, matchCase }) {
    this.clear();
    if (text) {
      this.query = new URLSearchParams({ q: text, regex: regex ? "1" : "0", case: matchCase ? "1" : "0" }).toString();
      this.scanned = this.store.dropped;
      this.run();
    }
    this.changed({ begun: true });
  }

  // The log has grown, or was begun anew.
  grown() {
    if (!this.active || this.running) return;
    if (this.scanned > this.store.total) {
      this.hits = [];
      this.scanned = 0;
      this.current = -1;
    }
    if (!this.done) this.later(AGAIN);
  }

  later(wait) {
    this.running = true;
    this.timer = setTimeout(() => this.run(), wait);
  }

  async run() {
    this.running = true;
    const { signal } = this.controller;
    while (!this.done) {
      let found;
      try {
        found = await ask(`${this.address}?${this.query}&offset=${this.scanned}`, signal);
      } catch (error) {
        if (signal.aborted) return;
        this.failed(error.message);
        if (error.status < 500) break; // the query is wrong
        return this.later(RETRY);
      }
      if (signal.aborted) return;
      this.failed("");
      for (const hit of found.hits.slice(0, MOST_HITS - this.hits.length)) this.hits.push(hit);
      const stuck = found.next <= this.scanned;
      this.scanned = Math.max(found.next, this.scanned);
      this.changed({ begun: false });
      if (stuck) break;
    }
    this.running = false;
  }

  // --- hits --------------------------------------------------------------------------------------------------------

  // The index of the first hit at or after the line.
  indexFrom(line) {
    let low = 0, high = this.hits.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.hits[middle] < line) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  isHit(line) {
    return this.hits[this.indexFrom(line)] === line;
  }

  // Goes `step` hits on, around the end; from `line` where none was gone to. Returns its line, or null.
  move(step, line) {
    const count = this.hits.length;
    if (!count) return null;
    if (this.current < 0) this.current = step > 0 ? this.indexFrom(line) % count : (this.indexFrom(line + 1) - 1 + count) % count;
    else this.current = (this.current + step + count) % count;
    return this.hits[this.current];
  }

  get currentLine() {
    return this.hits[this.current] ?? null;
  }

  // --- where in the line -------------------------------------------------------------------------------------------

  // These lines are in view: ask where they match, as far as it is not known.
  async want(lines) {
    const missing = lines.filter((line) => !this.asked.has(line) && this.isHit(line));
    if (!missing.length) return;
    const first = missing[0], some = missing.filter((line) => line < first + SPAN_LINES);
    for (const line of some) this.asked.add(line);
    const { signal } = this.controller;
    try {
      const address = `${this.spansAddress}?${this.query}&offset=${first}&limit=${some.at(-1) - first + 1}`;
      for (const [line, spans] of Object.entries((await ask(address, signal)).spans)) this.marks.set(Number(line), spans);
    } catch {
      return; // the row is marked as a hit all the same
    }
    this.marked(new Set(some));
    await this.want(lines);
  }
}
