// The lines that this page has: those that the socket brought and those fetched by number. Old ones are let go, so that
// a log of any length costs the same memory. A line is `<time> <stdout|stderr> <text>`, its number counts from 0.

import { plainText } from "./log_terminal.js";

const STREAMS = ["stdout", "stderr"];
const BLOCK = 250; // lines are fetched in blocks that begin at a multiple of it
const AT_ONCE = 1000; // as jobs/log_views.py LINES_AT_ONCE
const MOST_LINES = 20000, MOST_CHARACTERS = 16e6;
const AROUND = 4000; // lines around those looked at, and at the end, that are kept
const CALM = 70; // ms: who drags past a place does not fetch it
const RETRY = 2000;

export class LineStore {
  // `changed()` is called when there is something new to show, `failed(sentence)` when lines could not be fetched, and
  // with "" when they could again.
  constructor(address, changed, failed) {
    Object.assign(this, { address, changed, failed });
    this.lines = new Map();
    this.characters = 0;
    this.total = 0;
    this.dropped = 0;
    this.complete = false;
    this.running = true;
    this.unfinished = []; // { stream, text }: printed behind the last line, while it runs; see `tails`
    this.gaps = []; // { first, count }: the line `first` says that these lines are missing
    this.coloured = false;
    this.centre = 0;
    this.fetching = null;
    this.timer = null;
  }

  get(line) {
    return this.lines.get(line);
  }

  // What is shown behind the last line: the beginnings of lines, such as progress bars.
  get tails() {
    return this.running ? this.unfinished : [];
  }

  // A page from the socket, or a fetched one, which may be older than what is known.
  take(page, live = false) {
    if (live && page.total < this.total) this.forget(); // Redis lost the log, and it is written anew
    if (!live && page.total > this.total) this.unfinished = []; // may have become one of the new lines
    if (live || page.total >= this.total) {
      this.total = page.total;
      this.dropped = page.dropped;
      this.complete = page.complete;
    }
    if (live) this.unfinished = STREAMS.flatMap((stream, index) => (page.tail?.[index] && plainText(page.tail[index]) ? [{ stream, text: page.tail[index] }] : []));
    page.lines.forEach((line, index) => this.put(page.first + index, line));
    if (page.cut > 1) this.addGap(page.first + page.lines.length - 1, page.cut);
    if (this.lines.size > MOST_LINES || this.characters > MOST_CHARACTERS) this.letGo();
  }

  put(number, line) {
    this.characters += line.length - (this.lines.get(number)?.length ?? 0);
    this.lines.set(number, line);
    this.coloured ||= line.includes("\x1b");
  }

  // Whether another line says that this one is missing.
  isGone(line) {
    return line < this.dropped || line >= this.total || this.gaps.some((gap) => line > gap.first && line < gap.first + gap.count);
  }

  addGap(first, count) {
    this.gaps = this.gaps.filter((gap) => gap.first + gap.count <= first || gap.first >= first + count);
    this.gaps.push({ first, count });
    this.gaps.sort((one, other) => one.first - other.first);
  }

  forget() {
    this.lines.clear();
    this.characters = 0;
    this.gaps = [];
  }

  letGo() {
    for (let around = AROUND; around > BLOCK; around /= 2) {
      for (const [number, line] of this.lines) {
        if (Math.abs(number - this.centre) <= around || number >= this.total - around) continue;
        this.lines.delete(number);
        this.characters -= line.length;
      }
      if (this.characters <= MOST_CHARACTERS) return;
    }
  }

  // These lines are looked at: fetch what is not there.
  want(numbers) {
    if (!numbers.length) return;
    this.centre = numbers[numbers.length >> 1];
    const missing = numbers.find((number) => !this.lines.has(number));
    if (missing === undefined) return;
    if (this.fetching && missing >= this.fetching.from && missing < this.fetching.to) return;
    const wait = this.fetching ? CALM : 0;
    this.fetching?.controller.abort();
    clearTimeout(this.timer);
    const alone = numbers.at(-1) - numbers[0] >= AT_ONCE; // a filtered log: what lies between is not wanted
    const from = alone ? missing : missing - (missing % BLOCK);
    const end = Math.max(...numbers.filter((number) => number < from + AT_ONCE)) + 1;
    const fetching = (this.fetching = { from, to: alone ? end : Math.max(from + BLOCK, end), controller: new AbortController() });
    this.timer = setTimeout(() => this.fetch(fetching, missing), wait);
  }

  async fetch(fetching, missing) {
    try {
      // What is there already before the first missing line need not come again.
      const from = this.lines.has(fetching.from) ? missing : fetching.from;
      const page = await this.read(from, fetching.to - from, fetching.controller.signal);
      if (this.fetching === fetching) this.fetching = null;
      this.failed("");
      this.take(page);
      if (this.lines.has(missing) || this.isGone(missing)) this.changed();
      else setTimeout(() => this.changed(), RETRY); // it is not there (any more, or yet)
    } catch (error) {
      if (fetching.controller.signal.aborted) return;
      this.failed(`Lines could not be loaded: ${error.message}`);
      setTimeout(() => {
        if (this.fetching !== fetching) return;
        this.fetching = null;
        this.changed();
      }, RETRY);
    }
  }

  async read(offset, limit, signal) {
    return ask(`${this.address}?offset=${offset}&limit=${limit}`, signal);
  }

  // The lines from..to, also those that are not kept here, as an async iterator of arrays.
  async *each(from, to) {
    while (from <= to) {
      const page = await this.read(from, Math.min(AT_ONCE, to - from + 1));
      if (!page.lines.length) return;
      yield page.lines;
      from = page.first + page.lines.length + Math.max(0, page.cut - 1);
    }
  }
}

// The answer to a GET, or an Error with the server's sentence.
export async function ask(address, signal) {
  const response = await fetch(address, { signal, headers: { accept: "application/json" } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.detail ?? `the server answered ${response.status}`), { status: response.status });
  return body;
}

export function parse(line) {
  const stampEnd = line.indexOf(" "), streamEnd = line.indexOf(" ", stampEnd + 1);
  return { stamp: line.slice(0, stampEnd), stream: line.slice(stampEnd + 1, streamEnd) === "stderr" ? "stderr" : "stdout", text: line.slice(streamEnd + 1) };
}
