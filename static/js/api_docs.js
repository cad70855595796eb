// /api/v1/docs: a link to something folded opens it, and a form sends its request and shows the answer.
const MOST_SHOWN = 200_000; // characters of an answer
let running = null;

function open() {
  const item = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (item?.nodeName !== "DETAILS") return;
  item.open = true;
  item.scrollIntoView();
}
addEventListener("hashchange", open);
open();

document.addEventListener("submit", (event) => {
  if (!event.target.matches(".api-try")) return;
  event.preventDefault();
  send(event.target);
});

/** What the form asks for: `{url, options}` of fetch. */
function request(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const options = { method: form.dataset.method, headers: {} };
  for (const field of form.querySelectorAll("[data-place]")) {
    const { place } = field.dataset;
    const values = "several" in field.dataset ? field.value.split(",").map((value) => value.trim()) : [field.value];
    for (const value of values.filter((value) => value !== "")) {
      if (place === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(value));
      if (place === "query") query.append(field.name, value);
      if (place === "header") options.headers[field.name] = value;
      if (place === "body") options.body = value;
    }
  }
  if (options.body) options.headers["Content-Type"] = "application/json";
  return { url: new URL(query.size ? `${path}?${query}` : path, location.href).href, options };
}

function curl({ url, options }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl -X ${options.method} ${quoted(url)}`];
  for (const [name, value] of Object.entries(options.headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (options.body) parts.push(`-d ${quoted(options.body)}`);
  return parts.join(" \\\n  ");
}

async function send(form) {
  const outcome = form.querySelector(".api-outcome");
  const status = outcome.querySelector(".api-status");
  const [answer, line] = outcome.querySelectorAll("pre");
  const asked = request(form);
  running?.abort(); // an answer that is followed goes on for ever
  running = new AbortController();
  line.textContent = curl(asked);
  status.textContent = "Sent…";
  answer.textContent = "";
  outcome.hidden = false;
  try {
    const response = await fetch(asked.url, { ...asked.options, signal: running.signal });
    status.textContent = `Answered ${response.status}`;
    await show(response, answer);
  } catch (error) {
    if (error.name !== "AbortError") status.textContent = "The server did not answer; try again.";
  }
}

/** The answer as it comes; JSON in lines when it is whole. */
async function show(response, answer) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
    if (text.length <= MOST_SHOWN) answer.append(value);
  }
  if (response.headers.get("Content-Type")?.startsWith("application/json")) text = JSON.stringify(JSON.parse(text), null, 2);
  answer.textContent = text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}\n… ${text.length - MOST_SHOWN} more characters` : text;
}
