// A scrolling list of any number of rows, of which only those in view are in the page.
//
// Browsers cannot make an element of more than some 17 or 33 million pixels. A list that is higher is scrolled in pages:
// within one, scrolling is exact; from one to the next, the list is shifted under the scroll bar (`offset`). Wrapped rows
// are as high as they turn out to be when they come into the page. In both cases wheel and keys are answered here, because
// a browser's own smooth scrolling would undo what is shifted meanwhile.
import { Heights, LineMap } from "./log_rows.js";

const MOST_PIXELS = [33e6, 15e6];
const PAGES = 100;
const BESIDE = 12; // rows above and below those in view
const PASSES = 4;
const GLIDE = 0.35; // of the way that is left, a frame
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

export class LogView {
  // `draw(line, before)`: `{ element, ready, end }` for a row; `before`: what the row above it left, its `end`. `shown(lines)`
  // is told which lines are in the page, `scrolled({ up, atEnd })` when a person has scrolled.
  constructor(scroller, { draw, shown, scrolled }) {
    Object.assign(this, { scroller, draw, shown, scrolled });
    this.space = scroller.querySelector("[data-space]");
    this.box = scroller.querySelector("[data-rows]");
    this.map = new LineMap([]);
    this.heights = new Heights();
    this.rows = new Map(); // row → { line, element, ready, end }
    this.offset = 0;
    this.lastTop = 0;
    this.wrap = false;
    this.pinned = true; // to the end
    this.waiting = false;
    this.rest = 0; // pixels still to glide
    this.widest = 0;
    this.space.style.height = `${MOST_PIXELS[0]}px`;
    this.most = MOST_PIXELS.find((pixels) => this.space.offsetHeight >= pixels) ?? MOST_PIXELS[1];
    scroller.addEventListener("scroll", () => this.onScroll());
    scroller.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    scroller.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.resized()).observe(scroller);
    this.measure();
  }

  // --- what is shown -----------------------------------------------------------------------------------------------

  // Other rows: what is at the top stays there, or the end where the view is pinned to it.
  show(map, same = true) {
    const top = this.topLine();
    this.map = map;
    if (!same) {
      this.clear();
      this.heights.reset();
      if (!this.pinned) this.moveTo(this.heights.top(map.rowOf(top.line)) + top.beyond);
    }
    this.update();
  }

  // Draws again the rows of which `stale(row)` says so.
  redraw(stale = () => true) {
    for (const [index, row] of this.rows) if (stale(row)) this.remove(index);
    this.update();
  }

  setWrap(wrap) {
    const top = this.topLine();
    this.wrap = wrap;
    this.heights.reset();
    this.clear();
    if (!this.pinned) this.moveTo(this.heights.top(this.map.rowOf(top.line)));
    this.update();
  }

  pin(pinned) {
    this.pinned = pinned;
    if (!pinned) return;
    this.rest = 0;
    this.update();
  }

  showLine(line, where = 0.4) {
    this.pinned = false;
    this.rest = 0;
    const row = this.map.rowOf(line);
    this.sizeSpace();
    this.moveTo(this.heights.top(row) - (this.height - this.heights.unit) * where);
    this.update();
    if (this.wrap) this.moveTo(this.heights.top(row) - (this.height - this.heights.unit) * where); // now that heights are known
    this.update();
  }

  // What `topLine` gave, at the top again.
  showTop({ line, beyond }) {
    this.pinned = false;
    this.rest = 0;
    this.sizeSpace();
    this.moveTo(this.heights.top(this.map.rowOf(line)) + (this.map.has(line) ? beyond : 0));
    this.update();
  }

  isInView(line) {
    const top = this.heights.top(this.map.rowOf(line));
    return this.map.has(line) && top >= this.y && top + this.heights.unit <= this.y + this.height;
  }

  // The line at the top, and how many of its pixels are beyond it.
  topLine() {
    const row = this.heights.rowAt(this.y, this.map.rows);
    return { line: this.map.lineAt(row), beyond: this.y - this.heights.top(row) };
  }

  // --- where it is scrolled to -------------------------------------------------------------------------------------

  get y() {
    return this.lastTop + this.offset;
  }

  get whole() {
    return this.heights.top(this.map.rows);
  }

  get atEnd() {
    return this.y + this.height >= this.whole - 2;
  }

  moveTo(y) {
    const target = Math.max(0, Math.min(y, this.whole - this.height));
    this.offset = this.offsetOf(Math.floor(target / this.pageHeight));
    this.scroller.scrollTop = target - this.offset;
    this.lastTop = this.scroller.scrollTop;
  }

  get pageHeight() {
    return this.spaceHeight / PAGES;
  }

  offsetOf(page) {
    const surplus = this.whole - this.spaceHeight;
    if (surplus <= 0) return 0;
    const last = Math.floor(this.whole / this.pageHeight) - 1;
    return Math.round((Math.max(0, Math.min(page, last)) * surplus) / last);
  }

  onScroll() {
    const top = this.scroller.scrollTop, before = this.lastTop;
    if (top === before) return; // our own doing
    this.lastTop = top;
    const range = this.spaceHeight - this.height;
    if (this.offset || this.whole > this.spaceHeight) {
      if (Math.abs(top - before) < this.height && top > 0 && top < range) this.moveTo(top + this.offset);
      else this.offset = this.offsetOf(Math.floor(((top / range) * (this.whole - this.height)) / this.pageHeight));
    }
    this.moved(top < before);
  }

  get shifts() {
    return this.wrap || this.whole > this.most;
  }

  onWheel(event) {
    if (!this.shifts || event.ctrlKey || event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    event.preventDefault();
    this.moveBy(event.deltaY * [1, this.heights.unit, this.height][event.deltaMode]);
  }

  onKey(event) {
    if (!this.shifts || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = this.height - this.heights.unit;
    const by = { ArrowDown: 2 * this.heights.unit, ArrowUp: -2 * this.heights.unit, PageDown: page, PageUp: -page, " ": event.shiftKey ? -page : page }[event.key];
    if (by === undefined || event.target !== this.scroller) return;
    event.preventDefault();
    this.moveBy(by);
  }

  moveBy(pixels) {
    const gliding = this.rest !== 0;
    this.rest = (this.rest * pixels > 0 ? this.rest : 0) + pixels;
    if (!gliding) this.glide();
  }

  glide() {
    if (!this.rest) return;
    const step = stillness.matches || Math.abs(this.rest) < 4 ? this.rest : Math.trunc(this.rest * GLIDE);
    this.rest -= step;
    this.moveTo(this.y + step);
    this.moved(step < 0);
    if (this.rest) requestAnimationFrame(() => this.glide());
  }

  moved(up) {
    this.scrolled({ up, atEnd: this.atEnd });
    if (!this.waiting) {
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        this.update();
      });
    }
  }

  resized() {
    const { unit } = this.heights, width = this.width;
    this.measure();
    if (unit !== this.heights.unit || (this.wrap && width !== this.width)) this.setWrap(this.wrap);
    else this.update();
  }

  measure() {
    this.height = this.scroller.clientHeight;
    this.width = this.scroller.clientWidth;
    this.heights.unit = Number.parseFloat(getComputedStyle(this.scroller).lineHeight) || 19;
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  update() {
    this.sizeSpace();
    for (let pass = 0; pass < PASSES; pass += 1) {
      if (this.pinned && !this.atEnd) this.moveTo(this.whole);
      else if (this.y > this.whole - this.height) this.moveTo(this.whole);
      this.place();
      if (!this.wrap) break;
      const row = this.heights.rowAt(this.y, this.map.rows), beyond = this.y - this.heights.top(row);
      if (!this.measureRows()) break;
      this.sizeSpace();
      if (!this.pinned) this.moveTo(this.heights.top(row) + beyond); // what is at the top stays there
    }
    this.shown([...this.rows.values()].map((row) => row.line).sort((one, other) => one - other));
  }

  sizeSpace() {
    this.spaceHeight = Math.max(1, Math.min(this.whole, this.most));
    const height = `${this.spaceHeight}px`;
    if (this.space.style.height === height) return;
    this.space.style.height = height;
    this.height = this.scroller.clientHeight; // which grows with few rows
  }

  place() {
    const first = Math.max(0, this.heights.rowAt(this.y, this.map.rows) - BESIDE);
    const last = Math.min(this.map.rows - 1, this.heights.rowAt(this.y + this.height, this.map.rows) + BESIDE);
    for (const index of this.rows.keys()) if (index < first || index > last) this.remove(index);
    let after = null;
    for (let index = first; index <= last; index += 1) {
      const line = this.map.lineAt(index);
      let row = this.rows.get(index);
      if (row && row.line !== line) {
        this.remove(index);
        row = null;
      }
      if (!row) {
        row = { line, ...this.draw(line, this.map.opens(index) ? null : this.rows.get(index - 1)?.end) };
        row.element.toggleAttribute("data-opens", this.map.opens(index));
        this.rows.set(index, row);
        if (after) after.after(row.element);
        else this.box.prepend(row.element);
      }
      after = row.element;
    }
    this.box.style.transform = `translateY(${this.heights.top(first) - this.offset}px)`;
    const width = this.wrap ? 0 : Math.max(this.widest, this.box.offsetWidth);
    if (width !== this.widest) this.box.style.minWidth = width ? `max(100%, ${width}px)` : ""; // or the bar below jumps about
    this.widest = width;
  }

  measureRows() {
    let news = false;
    for (const [index, row] of this.rows) {
      if (row.ready) news = this.heights.set(index, Math.max(1, Math.round(row.element.offsetHeight / this.heights.unit))) || news;
    }
    return news;
  }

  remove(index) {
    this.rows.get(index)?.element.remove();
    this.rows.delete(index);
  }

  // Removes a row whose place another one takes.
  forget(index) {
    this.remove(index);
    this.heights.set(index, 1);
  }

  clear() {
    for (const index of [...this.rows.keys()]) this.remove(index);
    this.widest = 0;
    this.box.style.minWidth = "";
  }
}
