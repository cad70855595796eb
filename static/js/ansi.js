// Terminal escape sequences to spans with classes. Text only ever becomes a text node.

const ESCAPE = /\x1b(?:\[([0-9;:]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]|[()*+][0-9A-Za-z])/g;
const FLAGS = { 1: "ansi-bold", 2: "ansi-dim", 3: "ansi-italic", 4: "ansi-underline", 7: "ansi-inverse", 8: "ansi-hidden", 9: "ansi-strike" };
const ENDS = { 21: ["ansi-bold"], 22: ["ansi-bold", "ansi-dim"], 23: ["ansi-italic"], 24: ["ansi-underline"], 27: ["ansi-inverse"], 28: ["ansi-hidden"], 29: ["ansi-strike"] };

export function plainStyle() {
  return { fg: null, bg: null, flags: new Set() };
}

// Puts `text` into `parent`. `style` is what earlier lines left switched on, and is changed to what this one leaves.
export function render(parent, text, style) {
  const line = lastOverwrite(text);
  if (!line.includes("\x1b")) return put(parent, line, style);
  let from = 0;
  for (const found of line.matchAll(ESCAPE)) {
    put(parent, line.slice(from, found.index), style);
    if (found[2] === "m") apply(style, found[1]);
    from = found.index + found[0].length;
  }
  put(parent, line.slice(from), style);
}

// A progress bar rewrites its line after each carriage return: what it wrote last is what a terminal shows.
function lastOverwrite(text) {
  if (!text.includes("\r")) return text;
  const parts = text.split("\r");
  while (parts.length > 1 && parts.at(-1) === "") parts.pop();
  return parts.at(-1);
}

function put(parent, text, style) {
  if (!text) return;
  const names = [...style.flags];
  if (style.fg !== null) names.push(`fg-${style.fg}`);
  if (style.bg !== null) names.push(`bg-${style.bg}`);
  if (!names.length) return parent.append(text);
  const span = document.createElement("span");
  span.className = names.join(" ");
  span.textContent = text;
  parent.append(span);
}

function apply(style, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) Object.assign(style, plainStyle());
    else if (FLAGS[code]) style.flags.add(FLAGS[code]);
    else if (ENDS[code]) ENDS[code].forEach((name) => style.flags.delete(name));
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 38) style.fg = extended(codes) ?? style.fg;
    else if (code === 48) style.bg = extended(codes) ?? style.bg;
    else if (code === 39) style.fg = null;
    else if (code === 49) style.bg = null;
  }
}

// 256 colours and true colour as the nearest of the sixteen: those have a shade for the light and the dark ground.
function extended(codes) {
  const kind = codes.shift();
  if (kind === 2) return nearest(...codes.splice(0, 3));
  if (kind !== 5) return null;
  const index = codes.shift();
  if (index < 16) return index;
  if (index >= 232) return nearest(...Array(3).fill((index - 232) * 10 + 8));
  const cube = index - 16;
  return nearest(...[Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map((level) => level && level * 40 + 55));
}

function nearest(red = 0, green = 0, blue = 0) {
  const most = Math.max(red, green, blue), least = Math.min(red, green, blue);
  if (most - least < 40) return most < 64 ? 0 : most < 140 ? 8 : most < 220 ? 7 : 15;
  const middle = (most + least) / 2;
  return (red > middle ? 1 : 0) + (green > middle ? 2 : 0) + (blue > middle ? 4 : 0) + (most > 200 ? 8 : 0);
}
