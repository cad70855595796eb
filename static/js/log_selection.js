// Lines that are chosen by their numbers: a click, and shift with a click for a range. They stand in the page's address.
import { parse } from "./log_store.js";
import { plainText } from "./log_terminal.js";

const MOST_COPIED = 200000; // lines

// `{ from, to }`, numbers from 0, of an address' `#L120` or `#L120-L140`; null where it says none.
export function fromHash(hash) {
  const found = /^#L([1-9][0-9]{0,14})(?:-L?([1-9][0-9]{0,14}))?$/.exec(hash);
  if (!found) return null;
  const one = Number(found[1]) - 1, other = found[2] ? Number(found[2]) - 1 : one;
  return { from: Math.min(one, other), to: Math.max(one, other), anchor: one };
}

export function toHash({ from, to }) {
  return from === to ? `#L${from + 1}` : `#L${from + 1}-L${to + 1}`;
}

export class Selection {
  // `bar`: what is shown while lines are selected. `changed()` is called when they are others.
  constructor(bar, store, changed) {
    Object.assign(this, { bar, store, changed });
    this.words = bar.querySelector("[data-words]");
    this.range = fromHash(location.hash);
    bar.querySelector("[data-copy=lines]").addEventListener("click", () => this.copy());
    bar.querySelector("[data-copy=link]").addEventListener("click", () => this.copyLink());
    bar.querySelector("[data-clear]").addEventListener("click", () => this.set(null));
    this.describe();
  }

  has(line) {
    return this.range !== null && line >= this.range.from && line <= this.range.to;
  }

  choose(line, extend) {
    const anchor = extend && this.range ? this.range.anchor : line;
    this.set({ from: Math.min(anchor, line), to: Math.max(anchor, line), anchor });
  }

  chooseAll() {
    if (this.store.total) this.set({ from: this.store.dropped, to: this.store.total - 1, anchor: this.store.dropped }, false);
  }

  set(range, inAddress = true) {
    this.range = range;
    if (inAddress) history.replaceState(history.state, "", range ? toHash(range) : location.pathname + location.search);
    this.describe();
    this.changed();
  }

  describe() {
    this.bar.hidden = this.range === null;
    if (this.range) this.say(this.name());
  }

  name() {
    const { from, to } = this.range;
    if (from === to) return `Line ${number(from + 1)}`;
    return `Lines ${number(from + 1)}–${number(to + 1)}`;
  }

  say(words) {
    this.words.textContent = words;
  }

  async copy() {
    const { from, to } = this.range;
    if (to - from >= MOST_COPIED) return this.say(`More than ${number(MOST_COPIED)} lines: download the log instead.`);
    const range = this.range;
    this.say("Copying…");
    // The clipboard is asked for at once, with the text to come: later on, browsers refuse.
    const text = this.text(from, to);
    try {
      await write(text);
      if (this.range === range) this.say(`${this.name()} copied`);
    } catch (error) {
      this.say(`Not copied: ${error.message}`);
    }
  }

  async copyLink() {
    try {
      await write(Promise.resolve(location.href.replace(/#.*$/, "") + toHash(this.range)));
      this.say("Link copied");
    } catch (error) {
      this.say(`Not copied: ${error.message}`);
    }
  }

  // As it is shown, without times.
  async text(from, to) {
    const texts = [];
    for await (const lines of this.store.each(from, to)) for (const line of lines) texts.push(plainText(parse(line).text));
    return `${texts.join("\n")}\n`;
  }
}

async function write(text) {
  if (globalThis.ClipboardItem && navigator.clipboard?.write) {
    const blob = text.then((words) => new Blob([words], { type: "text/plain" }));
    return navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
  }
  // Pages that are not served over HTTPS have no clipboard but this one.
  const area = document.createElement("textarea");
  area.value = await text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("the browser does not allow it");
}

function number(value) {
  return value.toLocaleString("en");
}
