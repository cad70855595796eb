// What a terminal shows of one line: colours as classes, what was overwritten gone. jobs/log_terminal.py does the same
// for search. Text only ever becomes a text node.

const CONTROL = /\r|\x08|\x1b(?:\[([0-9;:<=>?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[()*+][0-9A-Za-z]|[ -/]*[0-~])/g;
const FLAGS = { 1: "ansi-bold", 2: "ansi-dim", 3: "ansi-italic", 4: "ansi-underline", 7: "ansi-inverse", 8: "ansi-hidden", 9: "ansi-strike" };
const ENDS = { 21: ["ansi-bold"], 22: ["ansi-bold", "ansi-dim"], 23: ["ansi-italic"], 24: ["ansi-underline"], 27: ["ansi-inverse"], 28: ["ansi-hidden"], 29: ["ansi-strike"] };
const MOVES = "CDGHJK`";
const WIDEST = 10000; // as jobs/log_terminal.py

export const PLAIN = Object.freeze({ fg: null, bg: null, flags: Object.freeze([]) });

// The line's text in pieces `{ text, names }`, names being classes. `style` is what earlier lines left switched on; `end`
// is what this one leaves.
export function play(text, style = PLAIN) {
  if (!/[\x1b\r\x08]/.test(text)) return { pieces: text ? [{ text, names: classes(style) }] : [], end: style };
  const found = [...text.matchAll(CONTROL)];
  const overwrites = /\r*$/.exec(text).index;
  const moves = found.some((control) => (control[0] === "\r" && control.index < overwrites) || control[0] === "\x08" || (control[2] && MOVES.includes(control[2])));
  return moves ? onScreen(text, found, style) : straight(text, found, style);
}

export function plainText(text) {
  return play(text).pieces.map((piece) => piece.text).join("");
}

function straight(text, found, style) {
  const pieces = [];
  let from = 0;
  const put = (to) => to > from && pieces.push({ text: text.slice(from, to), names: classes(style) });
  for (const control of found) {
    put(control.index);
    from = control.index + control[0].length;
    if (control[2] === "m") style = styled(style, control[1]);
  }
  put(text.length);
  return { pieces, end: style };
}

function onScreen(text, found, style) {
  const cells = [], looks = [];
  let column = 0, from = 0, names = classes(style);
  const put = (to) => {
    if (to === from) return;
    while (cells.length < column) looks[cells.push(" ") - 1] = "";
    for (const character of text.slice(from, to)) {
      cells[column] = character;
      looks[column++] = names;
    }
  };
  for (const control of found) {
    put(control.index);
    from = control.index + control[0].length;
    const kind = control[2];
    if (control[0] === "\r") column = 0;
    else if (control[0] === "\x08") column = Math.max(0, column - 1);
    else if (kind === "m") names = classes((style = styled(style, control[1])));
    else if (kind && MOVES.includes(kind)) column = move(cells, looks, column, kind, control[1]);
  }
  put(text.length);
  const pieces = [];
  cells.forEach((character, index) => {
    if (index && looks[index] === looks[index - 1]) pieces.at(-1).text += character;
    else pieces.push({ text: character, names: looks[index] });
  });
  return { pieces, end: style };
}

function move(cells, looks, column, kind, parameters) {
  const first = parameters.split(";")[0];
  const number = /^[0-9]+$/.test(first) ? Math.min(Number(first), WIDEST) : null;
  if (kind === "J" || kind === "K") {
    if (number === 1) {
      for (let index = 0; index <= column && index < cells.length; index += 1) [cells[index], looks[index]] = [" ", ""];
    } else cells.length = looks.length = number ? 0 : Math.min(column, cells.length);
    return column;
  }
  if (kind === "H") return 0;
  if (kind === "G" || kind === "`") return (number || 1) - 1;
  return kind === "C" ? Math.min(WIDEST, column + (number || 1)) : Math.max(0, column - (number || 1));
}

function classes(style) {
  const names = [...style.flags];
  if (style.fg !== null) names.push(`fg-${style.fg}`);
  if (style.bg !== null) names.push(`bg-${style.bg}`);
  return names.join(" ");
}

function styled(before, parameters) {
  let style = { ...before, flags: [...before.flags] };
  const codes = parameters.split(/[;:]/).map(Number);
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) style = { fg: null, bg: null, flags: [] };
    else if (FLAGS[code]) style.flags = [...new Set([...style.flags, FLAGS[code]])];
    else if (ENDS[code]) style.flags = style.flags.filter((name) => !ENDS[code].includes(name));
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 38) style.fg = extended(codes) ?? style.fg;
    else if (code === 48) style.bg = extended(codes) ?? style.bg;
    else if (code === 39) style.fg = null;
    else if (code === 49) style.bg = null;
  }
  return style;
}

// 256 colours and true colour as the nearest of the sixteen: those have a shade for the light and the dark ground.
function extended(codes) {
  const kind = codes.shift();
  if (kind === 2) return nearest(...codes.splice(0, 3));
  if (kind !== 5) return null;
  const index = codes.shift() ?? 0;
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
