// Not a module and not deferred: what must be so before the first paint, and before anything else is loaded.
(() => {
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // No storage: the system's own preference counts.
  }
})();

// A script or style that did not arrive leaves a dead page. Chromium drops what it is loading when a network of its machine
// comes or goes, as with every container: such a page is loaded once more, before anybody can have typed into it.
addEventListener("error", ({ target }) => {
  if (!["SCRIPT", "LINK"].includes(target?.nodeName) || document.readyState === "complete") return;
  try {
    if (Date.now() - Number(sessionStorage.getItem("loaded-again")) < 10000) return;
    sessionStorage.setItem("loaded-again", String(Date.now()));
  } catch {
    return; // No storage: nothing would end it.
  }
  location.reload();
}, true);

// <time data-ago|data-since|data-clock>: the server writes the moment, the browser what it means here and now. Already while
// the page is being read, so that nobody sees a time change its words and its width.
(() => {
  const MINUTE = 60, HOUR = 3600, DAY = 86400;
  const formats = {}; // made when first asked for: making one takes as long as a whole page of times
  const day = (moment) => (formats.day ??= new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" })).format(moment);
  const clock = (moment) => (formats.clock ??= new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" })).format(moment);
  const exact = (moment) => (formats.exact ??= new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" })).format(moment);

  // Also called by live.js, for what has just come.
  window.showTimes = (root) => {
    const now = Date.now();
    for (const element of root.querySelectorAll("time[datetime]")) {
      const text = words(element, new Date(element.dateTime), now);
      if (text !== null && element.textContent !== text) element.textContent = text;
    }
  };

  function words(element, moment, now) {
    const seconds = Math.max(0, (now - moment) / 1000);
    if ("ago" in element.dataset) return ago(seconds, moment);
    if ("since" in element.dataset) return span(seconds);
    if ("clock" in element.dataset) return seconds > DAY ? `${day(moment)} ${clock(moment)}` : clock(moment);
    return null;
  }

  function ago(seconds, moment) {
    if (seconds < 5) return "just now";
    if (seconds < MINUTE) return `${Math.floor(seconds)} s ago`;
    if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ago`;
    if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ago`;
    return day(moment);
  }

  function span(seconds) {
    if (seconds < MINUTE) return `${Math.floor(seconds)} s`;
    if (seconds < HOUR) return `${Math.floor(seconds / MINUTE)} min ${Math.floor(seconds % MINUTE)} s`;
    if (seconds < DAY) return `${Math.floor(seconds / HOUR)} h ${Math.floor((seconds % HOUR) / MINUTE)} min`;
    return `${Math.floor(seconds / DAY)} d ${Math.floor((seconds % DAY) / HOUR)} h`;
  }

  const show = () => document.hidden || showTimes(document);
  const reading = new MutationObserver(() => showTimes(document));
  reading.observe(document, { subtree: true, childList: true });
  document.addEventListener("DOMContentLoaded", () => {
    reading.disconnect();
    setInterval(show, 1000);
  });
  document.addEventListener("visibilitychange", show);
  document.addEventListener("htmx:afterSettle", show);
  document.addEventListener("pointerover", ({ target }) => {
    const time = target.closest?.("time[datetime]");
    if (time) time.title = `${exact(new Date(time.dateTime))} (${time.dateTime.slice(0, 19).replace("T", " ")} UTC)`;
  });
})();
