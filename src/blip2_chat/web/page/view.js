// The picture that is shown, its tabs, and its conversation, drawn from what `app.js` holds.

import { address } from "./api.js";

const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Everything anew. `open` is called with the picture whose tab is chosen, `copy` with an answer's text, `where`
    with a turn whose answer is to be explained, `ask` with a suggested question. */
export function draw(pictures, current, { open, copy, where, ask }) {
  const none = !current;
  document.body.classList.toggle("empty", none);
  $("welcome").hidden = !none;
  $("stage").hidden = none;
  $("talk").hidden = none;
  drawTabs(pictures, current, open);
  if (none) return;
  if ($("picture").getAttribute("src") !== current.url) $("picture").src = current.url;
  drawWhere(current);
  $("picture").alt = current.turns.find((turn) => turn.question === null)?.text || current.name;
  $("picture-name").textContent = current.name;
  $("advice").replaceChildren(
    ...(current.about?.advice || []).map((one) => {
      const item = element("li");
      item.append(icon("warning"), element("span", "", one.message));
      return item;
    }),
  );
  drawTurns(current, copy, where);
  drawSuggestions(current, ask);
  drawButtons(current);
}

/** The suggested questions that have not been asked yet. */
function drawSuggestions(current, ask) {
  const asked = new Set(current.turns.map((turn) => turn.question));
  const left = (current.suggestions || []).filter((question) => !asked.has(question));
  $("suggestions").hidden = left.length === 0;
  $("suggestions").replaceChildren(
    ...left.map((question) => {
      const button = element("button", "suggestion", question);
      button.type = "button";
      button.disabled = Boolean(current.writing);
      button.addEventListener("click", () => ask(question));
      return button;
    }),
  );
}

/** What the chosen answer depends on, over the picture. */
function drawWhere({ shown }) {
  const layer = $("where");
  layer.hidden = !shown?.attribution;
  if (!layer.hidden) {
    layer.src = shown.attribution;
    layer.alt = `In red: what the answer “${shown.text}” depends on`;
  }
  $("picture").classList.toggle("faded", !layer.hidden);
}

const tabOf = new WeakMap(); // by picture: made once, since a click ends only on the element on which it began

function makeTab(picture, open) {
  const tab = element("button");
  const image = element("img");
  image.src = picture.url;
  image.alt = "";
  tab.type = "button";
  tab.title = picture.name;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", "talk");
  tab.addEventListener("click", () => open(picture));
  tab.append(image);
  tabOf.set(picture, tab);
  return tab;
}

function drawTabs(pictures, current, open) {
  const tabs = $("tabs");
  const focused = tabs.contains(document.activeElement);
  const drawn = pictures.map((picture, place) => {
    const tab = tabOf.get(picture) || makeTab(picture, open);
    tab.className = picture.writing ? "busy" : "";
    tab.setAttribute("aria-label", `Picture ${place + 1} of ${pictures.length}: ${picture.name}`);
    tab.setAttribute("aria-selected", String(picture === current));
    tab.tabIndex = picture === current ? 0 : -1;
    return tab;
  });
  const before = [...tabs.children];
  if (before.length !== drawn.length || before.some((tab, place) => tab !== drawn[place])) tabs.replaceChildren(...drawn);
  if (focused) tabs.querySelector('[aria-selected="true"]')?.focus();
}

const isAtEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 60;

/** Shows a growing answer. Nothing else is redrawn, because a click during a redraw would be lost. */
export function grow(text) {
  const log = $("turns");
  const atEnd = isAtEnd(log);
  log.querySelector(".growing").lastChild.replaceWith(text);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function drawTurns(current, copy, where) {
  const log = $("turns");
  const atEnd = isAtEnd(log);
  const rows = [];
  for (const [place, turn] of current.turns.entries()) {
    const before = current.turns[place - 1]?.by ?? turn.by;
    if (turn.by !== before) rows.push(element("p", "note", `Answers from here on: ${turn.by}`));
    if (turn.question !== null) {
      const row = element("div", "row asked-row");
      const said = element("div", "said asked");
      said.append(element("span", "unseen", "You: "), turn.question);
      row.append(said);
      rows.push(row);
    }
    if (turn.dropped) rows.push(element("p", "note", "The oldest turns no longer fit the model's context and were left out."));
    rows.push(answerRow(turn, copy, where, current.shown === turn));
    if (turn.state === "stopped") rows.push(element("p", "note", "Stopped."));
    if (turn.reason === "length") rows.push(element("p", "note", "Stopped at the maximum length (see Settings)."));
  }
  log.replaceChildren(...rows);
  if (atEnd || current.turns.at(-1)?.state === "writing") log.scrollTop = log.scrollHeight;
}

function answerRow(turn, copy, where, isShown) {
  const row = element("div", "row");
  const kind = turn.question === null ? "said answer caption" : "said answer";
  const state = { failed: " wrong", writing: " growing" }[turn.state] || "";
  const said = element("div", kind + state);
  said.append(element("span", "unseen", turn.question === null ? "Caption: " : "Answer: "));
  if (turn.state === "failed") said.append(turn.error);
  else if (turn.state === "writing" && !turn.text) said.append(element("span", "waiting"));
  else said.append(turn.text || "(nothing)");
  row.append(said);
  if (turn.text && turn.state !== "writing") {
    const button = element("button", "icon");
    button.type = "button";
    button.title = "Copy this answer";
    button.setAttribute("aria-label", `Copy the answer: ${turn.text}`);
    button.append(icon("copy"));
    button.addEventListener("click", () => copy(turn.text));
    row.append(button, whereButton(turn, where, isShown));
  }
  return row;
}

function whereButton(turn, where, isShown) {
  const button = element("button", "icon");
  button.type = "button";
  button.title = "Show what this answer depends on in the picture";
  button.setAttribute("aria-label", `Show in the picture what the answer depends on: ${turn.text}`);
  button.setAttribute("aria-pressed", String(isShown));
  if (isShown && !turn.attribution) button.setAttribute("aria-busy", "true");
  button.append(icon("where"));
  button.addEventListener("click", () => where(turn));
  return button;
}

function drawButtons(current) {
  const writing = Boolean(current.writing);
  const last = current.turns.at(-1);
  const [shown, gone] = writing ? [$("stop"), $("send")] : [$("send"), $("stop")];
  const focused = document.activeElement === gone;
  shown.hidden = false;
  gone.hidden = true;
  if (focused) shown.focus(); // otherwise no element would have the focus
  $("undo").disabled = writing || !last || last.question === null;
  $("again").disabled = writing || !last;
  $("copy-all").disabled = writing || !last;
  // Without an answer from the server, the file would lack the digest of the picture.
  $("download").disabled = writing || !last || !current.about;
}

/** Announces a text to screen readers. */
export function announce(text) {
  $("status").textContent = text;
}

/** Shows an error below those that have not been dismissed yet. */
export function alertUser(text) {
  const shown = $("alert").hidden ? [] : [...$("alert-text").children];
  $("alert-text").replaceChildren(...shown.filter((line) => line.textContent !== text), element("p", "", text));
  $("alert").hidden = false;
  $("alert").scrollIntoView({ block: "nearest" }); // it may be outside a low window
}

export function drawSamples(samples, use) {
  $("samples").hidden = samples.length === 0;
  $("sample-list").replaceChildren(
    ...samples.map(({ path, name, questions }) => {
      const button = element("button");
      const image = element("img");
      image.src = address(path);
      image.alt = `Sample: ${name}`;
      button.type = "button";
      button.append(image);
      button.addEventListener("click", () => use(path, name, questions));
      return button;
    }),
  );
}
