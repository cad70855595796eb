// One WebSocket a page. Its address stands in the page's [data-socket]; other modules join in with `onLive`.
import { painted } from "./painted.js";

const PING_EVERY = 15000, PONG_WITHIN = 10000;
const FIRST_WAIT = 300, LONGEST_WAIT = 8000;
const LOGIN_REQUIRED = 4401, NOT_FOUND = 4404;

const handlers = {};
const preparations = {};
const resumers = [];
let socket = null;
let path = "";
let failures = 0;
let waiting = null; // the timer of the next try
let pinging = null;
let overdue = null;

// `kind`: the message's one key. `resume`: what to add to the query, so that the server goes on where we were.
export function onLive(kind, handle, resume = null) {
  handlers[kind] = handle;
  if (resume) resumers.push(resume);
}

// Before a fresh element takes the place of the one with this id: `change(old, fresh)` gives what shall do so instead.
export function prepare(id, change) {
  preparations[id] = change;
}

export function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

export function startLive() {
  painted.then(follow);
  // htmx replaced a part of the page: another filter, another address.
  document.addEventListener("htmx:afterSettle", follow);
  document.addEventListener("visibilitychange", () => document.hidden || hurry());
  addEventListener("online", hurry);
}

function follow() {
  const wanted = document.querySelector("[data-socket]")?.dataset.socket ?? "";
  if (wanted === path) return;
  path = wanted;
  failures = 0;
  open();
}

function hurry() {
  if (path && waiting !== null) open();
}

function open() {
  clearTimeout(waiting);
  waiting = null;
  close();
  if (!path) return;
  const url = new URL(path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  for (const resume of resumers) for (const [name, value] of Object.entries(resume())) url.searchParams.set(name, value);
  const mine = (socket = new WebSocket(url));
  mine.addEventListener("open", () => {
    if (mine !== socket) return mine.close();
    failures = 0;
    connected();
    pinging = setInterval(ping, PING_EVERY);
  });
  mine.addEventListener("message", (event) => {
    if (mine === socket) follow(); // htmx may just have put in what another address is for
    if (mine === socket) receive(JSON.parse(event.data));
  });
  mine.addEventListener("close", (event) => mine === socket && lost(event.code));
}

function close() {
  clearInterval(pinging);
  clearTimeout(overdue);
  overdue = null;
  const old = socket;
  socket = null;
  if (old?.readyState === WebSocket.OPEN) old.close(); // One that still connects does so itself: before, it is an error.
}

function ping() {
  send({ ping: 1 });
  overdue ??= setTimeout(() => lost(0), PONG_WITHIN);
}

function lost(code) {
  close();
  if (code === LOGIN_REQUIRED) return banner("You are logged out.", "Log in again");
  if (code === NOT_FOUND) return banner("What this page shows no longer exists.");
  failures += 1;
  banner("Connection lost, reconnecting…");
  status(null);
  const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1));
  waiting = setTimeout(open, longest * (0.5 + Math.random() / 2)); // not all browsers at once
}

function receive(message) {
  if ("pong" in message) {
    clearTimeout(overdue);
    overdue = null;
  } else if ("html" in message) {
    show(message.html);
    send({ shown: true });
  } else if ("live" in message) {
    status(message.live);
  } else {
    for (const kind of Object.keys(message)) handlers[kind]?.(message[kind]);
  }
}

// Each top-level element replaces the one with its id, changing only what differs: focus, selection and scroll stay.
function show(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  for (const fresh of [...template.content.children]) {
    const old = document.getElementById(fresh.id);
    if (!old) continue;
    const wanted = preparations[fresh.id]?.(old, fresh) ?? fresh;
    Idiomorph.morph(old, wanted, { callbacks: { beforeNodeMorphed: unlessSameTime, beforeAttributeUpdated: unlessOpened } });
    const current = document.getElementById(fresh.id);
    htmx.process(current);
    showTimes(current);
    showTitle(current);
  }
}

function unlessSameTime(old, fresh) {
  return !(old.nodeName === "TIME" && fresh.nodeName === "TIME" && old.dateTime === fresh.dateTime && old.attributes.length > 1);
}

function unlessOpened(name, element) {
  return !(name === "open" && element.nodeName === "DETAILS");
}

function showTitle(element) {
  if (!element.dataset.title) return;
  document.title = element.dataset.title;
  const icon = document.querySelector("link[rel='icon']");
  const wanted = icon.href.replace(/[^/]*$/, `icon-${element.dataset.state.toLowerCase()}.svg`);
  if (icon.href !== wanted) icon.href = wanted;
}

function connected() {
  document.getElementById("connection").hidden = true;
}

function status(live) {
  const mark = document.getElementById("live-status");
  mark.textContent = "";
  if (live === null) return;
  document.querySelectorAll("[data-redis-away]").forEach((element) => (element.hidden = live));
  mark.dataset.live = live ? "yes" : "no";
  mark.textContent = live ? "Live" : "Delayed: Redis is away";
}

function banner(sentence, reload = "") {
  const place = document.getElementById("connection");
  place.replaceChildren(sentence);
  if (reload) {
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = reload;
    place.append(" ", link);
  }
  place.hidden = false;
}
