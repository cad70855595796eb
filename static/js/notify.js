// A browser's notification when a job ends, for jobs whose page asked for it. Any open page of ours keeps watch.

import { complain } from "./complain.js";

const KEY = "notify-jobs";
const LOOK_EVERY = 5000;
const FINAL = ["SUCCEEDED", "FAILED", "ABORTED"];

export function startNotify() {
  if (!("Notification" in window) || !navigator.locks) return;
  const button = document.getElementById("notify");
  if (button) {
    button.inert = false;
    showPressed(button);
    button.addEventListener("click", () => toggle(button));
  }
  navigator.locks.request("notify-jobs", keepWatch); // one page at a time, however many are open
}

function watched() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}

function watch(ids) {
  try {
    localStorage.setItem(KEY, JSON.stringify(ids.slice(-50)));
  } catch {
    // No storage: nothing to keep watch by.
  }
}

function showPressed(button) {
  button.setAttribute("aria-pressed", String(watched().includes(button.dataset.job)));
}

async function toggle(button) {
  const { job } = button.dataset;
  const others = watched().filter((id) => id !== job);
  if (others.length < watched().length) watch(others);
  else if ((await Notification.requestPermission()) === "granted") watch([...others, job]);
  else complain("The browser does not let this site notify you. Allow it in the browser's settings for this site, and choose Notify me again.");
  showPressed(button);
}

async function keepWatch() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
    for (const id of watched()) await look(id);
  }
}

async function look(id) {
  try {
    const answer = await fetch(`/api/v1/jobs/${id}`);
    if (answer.status === 404) return watch(watched().filter((each) => each !== id));
    if (!answer.ok) return;
    const job = await answer.json();
    if (!FINAL.includes(job.status)) return;
    watch(watched().filter((each) => each !== id));
    const button = document.getElementById("notify");
    if (button) showPressed(button);
    const told = new Notification(`${job.name || job.docker_image}: ${job.status.toLowerCase()}`, { body: job.reason_text, tag: id });
    told.addEventListener("click", () => {
      focus();
      location.assign(`/jobs/${id}/`);
    });
  } catch {
    // Away: looked at again shortly.
  }
}
