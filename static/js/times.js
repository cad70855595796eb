// <time data-ago|data-since|data-clock>: the server writes the moment, the browser what it means here and now.

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export function startTimes() {
  showTimes(document);
  setInterval(() => document.hidden || showTimes(document), 1000);
  document.addEventListener("visibilitychange", () => document.hidden || showTimes(document));
  document.addEventListener("htmx:afterSettle", () => showTimes(document));
}

export function showTimes(root) {
  const now = Date.now();
  for (const element of root.querySelectorAll("time[datetime]")) {
    const text = words(element, now);
    if (text !== null && element.textContent !== text) element.textContent = text;
  }
}

function words(element, now) {
  const moment = new Date(element.dateTime);
  if (!element.title) element.title = `${exact.format(moment)} (${element.dateTime.slice(0, 19).replace("T", " ")} UTC)`;
  const seconds = Math.max(0, (now - moment) / 1000);
  if ("ago" in element.dataset) return ago(seconds, moment);
  if ("since" in element.dataset) return span(seconds);
  if ("clock" in element.dataset) return now - moment > DAY * 1000 ? `${day.format(moment)} ${clock.format(moment)}` : clock.format(moment);
  return null;
}

function ago(seconds, moment) {
  if (seconds < 5) return "just now";
  if (seconds < MINUTE) return `${Math.floor(seconds)} s ago`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ago`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
  return day.format(moment);
}

export function span(seconds) {
  if (seconds < MINUTE) return `${Math.floor(seconds)} s`;
  if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ${Math.floor(seconds % MINUTE)} s`;
  if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ${Math.floor((seconds % HOUR) / MINUTE)} min`;
  return `${Math.floor(seconds / DAY)} d ${Math.floor((seconds % DAY) / HOUR)} h`;
}
