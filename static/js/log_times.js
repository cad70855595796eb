// The time of a line in the way that was chosen.
const MODES = ["off", "local", "utc", "relative"];

export function nextMode(mode) {
  return MODES[(MODES.indexOf(mode) + 1) % MODES.length];
}

export function isMode(mode) {
  return MODES.includes(mode);
}

// `stamp`: RFC 3339, UTC, microseconds. `began`: that of the log's first line, or "" where it is not known.
export function timeText(stamp, mode, began) {
  if (mode === "off" || !stamp) return "";
  const moment = new Date(stamp);
  if (Number.isNaN(moment.getTime())) return stamp;
  if (mode === "utc") return stamp.slice(0, 23).replace("T", " ");
  if (mode === "local") return local(moment);
  return began ? relative(moment - new Date(began)) : "";
}

function local(moment) {
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
  return `${day} ${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}.${three(moment.getMilliseconds())}`;
}

function relative(milliseconds) {
  const sign = milliseconds < 0 ? "−" : "+", all = Math.abs(Math.round(milliseconds));
  const hours = Math.floor(all / 3600000), minutes = Math.floor(all / 60000) % 60, seconds = Math.floor(all / 1000) % 60;
  return `${sign}${hours ? `${hours}:${two(minutes)}` : minutes}:${two(seconds)}.${three(all % 1000)}`;
}

const two = (number) => String(number).padStart(2, "0");
const three = (number) => String(number).padStart(3, "0");
