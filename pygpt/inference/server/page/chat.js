"use strict";
// What the model writes is set as text and never as HTML.

const $ = (id) => document.getElementById(id);
const messages = [];
let model = null;
let running = null; // the AbortController of the reply that is being written

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function addMessage(role, text) {
  const item = document.createElement("li");
  const who = document.createElement("span");
  const body = document.createElement("span");
  item.className = role;
  who.className = "who";
  who.textContent = role === "user" ? "You" : model;
  body.className = "text";
  body.textContent = text;
  item.append(who, body);
  $("messages").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

function addNote(item, text) {
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = ` [${text}]`;
  item.append(note);
}

function setRunning(controller) {
  running = controller;
  $("send").disabled = running !== null;
  $("stop").disabled = running === null;
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function requestBody() {
  const system = $("system").value.trim();
  const body = { model, stream: true, messages: [...messages] };
  if (system) body.messages.unshift({ role: "system", content: system });
  if ($("temperature").value) body.temperature = Number($("temperature").value);
  if ($("tokens").value) body.max_tokens = Number($("tokens").value);
  return JSON.stringify(body);
}

async function reply(item) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: requestBody(),
    signal: running.signal,
  });
  if (!response.ok) throw new Error(await failure(response));
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    item.querySelector(".text").textContent += choice.delta.content ?? "";
    if (choice.finish_reason === "length") addNote(item, "cut at the longest reply");
    $("messages").parentElement.scrollTop = $("messages").parentElement.scrollHeight;
  }
}

async function send() {
  const text = $("text").value.trim();
  if (!text || running) return;
  showError("");
  $("text").value = "";
  messages.push({ role: "user", content: text });
  const question = addMessage("user", text);
  const item = addMessage("assistant", "");
  item.setAttribute("aria-busy", "true"); // a screen reader waits for the whole reply
  const controller = new AbortController();
  setRunning(controller);
  let problem = "";
  try {
    await reply(item);
  } catch (error) {
    if (error.name === "AbortError") addNote(item, "stopped");
    else problem = error.message;
  }
  if (running !== controller) return; // a new dialogue has begun
  item.removeAttribute("aria-busy");
  setRunning(null);
  const written = item.querySelector(".text").textContent;
  if (written.trim()) {
    messages.push({ role: "assistant", content: written });
  } else {
    messages.pop();
    question.remove();
    item.remove();
    $("text").value = text;
    problem ||= "the model wrote nothing";
  }
  showError(problem);
  $("text").focus();
}

function stop() {
  if (running) running.abort();
}

function reset() {
  const controller = running;
  setRunning(null);
  controller?.abort();
  messages.length = 0;
  $("messages").replaceChildren();
  showError("");
  $("text").focus();
}

async function start() {
  try {
    const response = await fetch("/v1/models");
    if (!response.ok) throw new Error(await failure(response));
    model = (await response.json()).data[0].id;
    $("model").textContent = model;
  } catch (error) {
    showError(`can't reach the server: ${error.message}`);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
$("stop").addEventListener("click", stop);
$("reset").addEventListener("click", reset);
start();
