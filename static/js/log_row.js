// One line of the log as an element. Text only ever becomes a text node.
import { parse } from "./log_store.js";
import { PLAIN, play } from "./log_terminal.js";
import { timeText } from "./log_times.js";

const LOOK_BACK = 50; // lines before the first one in view that may have left a colour switched on

// `state`: { store, search, selection, times, began }. `before`: what the row above left. See LogView's `draw`.
export function drawRow(line, before, state) {
  const { store, search, selection } = state;
  if (line >= store.total) return drawTail(store.tails[line - store.total], line, before, state);
  const element = document.createElement("div");
  element.className = "line";
  element.dataset.line = line;
  element.toggleAttribute("data-selected", selection.has(line));
  if (search.active && search.isHit(line)) element.dataset.hit = search.currentLine === line ? "current" : "";
  const number = document.createElement("a");
  number.className = "number";
  number.href = `#L${line + 1}`;
  number.tabIndex = -1; // there are as many as lines; n, N and the address lead to them by keyboard
  number.textContent = line + 1;
  const stored = store.get(line);
  const words = document.createElement("span");
  if (stored === undefined) {
    element.dataset.pending = "";
    element.append(number, words);
    return { element, ready: false, end: undefined };
  }
  const { stamp, stream, text } = parse(stored);
  element.dataset.stream = stream;
  element.append(number);
  if (state.times !== "off") {
    const time = document.createElement("time");
    time.dateTime = stamp;
    time.title = stamp;
    time.textContent = timeText(stamp, state.times, state.began);
    element.append(time);
  }
  const styles = before ?? stylesBefore(line, store);
  const { pieces, end } = play(text, styles[stream]);
  fill(words, pieces, search.marks.get(line) ?? []);
  element.append(words);
  return { element, ready: true, end: end === styles[stream] ? styles : { ...styles, [stream]: end } };
}

// The beginning of a line that goes on being printed; it has no number and no time yet.
function drawTail(tail, line, before, { store }) {
  const element = document.createElement("div");
  element.className = "line";
  element.dataset.unfinished = "";
  element.dataset.stream = tail.stream;
  const number = document.createElement("span");
  number.className = "number";
  const words = document.createElement("span");
  const styles = before ?? stylesBefore(line, store);
  fill(words, play(tail.text, styles[tail.stream]).pieces, []);
  element.append(number, words);
  return { element, ready: true, unfinished: true, end: styles };
}

// What the lines before this one leave switched on, a stream each.
function stylesBefore(line, store) {
  const styles = { stdout: PLAIN, stderr: PLAIN };
  if (!store.coloured) return styles;
  let from = line;
  while (from > 0 && line - from < LOOK_BACK && store.get(from - 1) !== undefined) from -= 1;
  for (; from < line; from += 1) {
    const { stream, text } = parse(store.get(from));
    if (text.includes("\x1b")) styles[stream] = play(text, styles[stream]).end;
  }
  return styles;
}

// `spans`: [from, to] of what to mark, in order.
function fill(parent, pieces, spans) {
  let at = 0, next = 0;
  for (const { text, names } of pieces) {
    const target = names ? parent.appendChild(document.createElement("span")) : parent;
    if (names) target.className = names;
    let done = 0;
    while (next < spans.length && spans[next][0] < at + text.length) {
      const from = Math.max(0, spans[next][0] - at), to = Math.min(text.length, spans[next][1] - at);
      target.append(text.slice(done, from));
      const mark = target.appendChild(document.createElement("mark"));
      mark.textContent = text.slice(from, to);
      done = to;
      if (spans[next][1] > at + text.length) break; // goes on in the next piece
      next += 1;
    }
    target.append(text.slice(done));
    at += text.length;
  }
}
