// The page: pictures, each with its conversation. `view.js` draws what is held here.

import * as api from "./api.js";
import { asFile, asText } from "./export.js";
import * as intake from "./intake.js";
import * as models from "./models.js";
import * as settings from "./settings.js";
import { shrunk } from "./shrink.js";
import * as store from "./store.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);

// A picture: { name, blob, url, turns, about, writing }; `writing` aborts the answer that is on its way.
// A turn: { question (null: the caption), by (the model's label), text, state: writing | done | stopped | failed,
// reason, error, dropped }.
let pictures = [];
let current = null;
let model = null; // the one that answers

const draw = () => view.draw(pictures, current, { open, copy });

/** Fulfilled once a reload would find everything as it is. */
function keep() {
  return store.save({
    current: pictures.indexOf(current),
    pictures: pictures.map(({ name, blob, turns, about }) => ({
      name,
      blob,
      about,
      // A reload ends what is being written; the question stays.
      turns: turns.map((turn) => (turn.state === "writing" ? { ...turn, state: "stopped" } : turn)),
    })),
  });
}

function open(picture) {
  current = picture;
  draw();
  keep();
}

let preparing = 0; // how many lots of pictures are being fetched or shrunk

/** `work`, while the page shows that pictures are on their way. */
async function prepared(work) {
  document.body.classList.toggle("preparing", ++preparing > 0);
  try {
    return await work();
  } finally {
    document.body.classList.toggle("preparing", --preparing > 0);
  }
}

/** The files as they will be sent, each shrunk if it is large; one at a time is unpacked. */
async function readied(given) {
  const files = [];
  for (const file of given) files.push(await shrunk(file));
  return files;
}

async function add(given) {
  const trouble = await prepared(() => ready); // a picture may come before the server has said what it is
  if (trouble) return view.alertUser(trouble);
  $("alert").hidden = true;
  const files = await prepared(() => readied(given));
  const limit = model.blip2_chat.max_picture_bytes;
  const fitting = files.filter((file) => file.size <= limit);
  for (const file of files) {
    if (file.size > limit) {
      view.alertUser(`${file.name} is larger than ${Math.floor(limit / 2 ** 20)} MiB; save a smaller copy and use that.`);
    }
  }
  const added = fitting.map((blob) => ({
    name: blob.name || "picture",
    blob,
    url: URL.createObjectURL(blob),
    turns: [],
    about: null,
    writing: null,
  }));
  if (!added.length) return;
  for (const picture of added) begin(picture, null);
  pictures.push(...added);
  open(added[0]);
  $("question").focus({ preventScroll: true }); // the picture is what to look at
  for (const picture of added) await write(picture);
}

/** Adds the picture behind an address, which the server fetches. */
async function addFrom(url) {
  try {
    await add([await prepared(() => api.fetched(url))]);
  } catch (error) {
    view.alertUser(error.message);
  }
}

function drop(picture) {
  picture.writing?.abort();
  const place = pictures.indexOf(picture);
  pictures = pictures.filter((one) => one !== picture);
  URL.revokeObjectURL(picture.url);
  if (current === picture) current = pictures[Math.min(place, pictures.length - 1)] || null;
  draw();
  return keep();
}

/** The answered questions, as many of the latest as the server takes beside this one: a model reads fewer. */
function recent(turns, question) {
  let { max_messages: places, max_text: room } = model.blip2_chat;
  const found = [];
  for (const turn of turns.filter((one) => one.question !== null && one.text && one.state !== "writing").reverse()) {
    places -= 2;
    room -= turn.question.length + turn.text.length;
    if (places < 1 || room < question.length) break;
    found.unshift(turn);
  }
  return found;
}

/** The answered questions, and the one that is asked, in OpenAI's words. */
async function messages(picture, question) {
  const image = { type: "image_url", image_url: { url: await api.dataUrl(picture.blob) } };
  const made = [];
  for (const turn of question === null ? [] : recent(picture.turns, question)) {
    made.push({ role: "user", content: turn.question }, { role: "assistant", content: turn.text });
  }
  made.push({ role: "user", content: question ?? "" });
  const first = made[0];
  first.content = [image, ...(first.content ? [{ type: "text", text: first.content }] : [])];
  return made;
}

/** Takes up a question, or the caption: nothing else is asked about the picture until `write` has answered it. */
function begin(picture, question) {
  picture.turns.push({ question, text: "", state: "writing", reason: null });
  picture.writing = new AbortController();
}

/** Answers what was begun. `another`: not the likeliest again. */
async function write(picture, { another = false } = {}) {
  const request = { model: model.id, ...settings.decoding(another) };
  const turn = picture.turns.at(-1);
  const { question } = turn;
  turn.by = models.label(model);
  draw();
  keep();
  let failure = null;
  try {
    request.messages = await messages(picture, question);
    turn.reason = await api.answer(request, {
      signal: picture.writing.signal,
      onAbout: (about) => {
        picture.about = about;
        turn.dropped = about.dropped_turns;
        draw();
      },
      onPiece: (piece) => {
        turn.text += piece;
        if (picture === current) view.grow(turn.text);
      },
    });
    turn.state = "done";
  } catch (error) {
    failure = error;
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    turn.error = error.message;
  }
  picture.writing = null;
  if (failure?.code === "invalid_image") {
    await drop(picture);
    // The server knows it as "picture".
    view.alertUser(`${picture.name} cannot be opened: ${failure.message.replace(/^picture(?= )/, "it")}`);
    return;
  }
  draw();
  keep();
  if (picture !== current) return;
  const kind = question === null ? "Caption" : "Answer";
  view.announce(turn.state === "stopped" ? "The answer was stopped." : `${kind}: ${turn.error || turn.text || "nothing"}`);
}

function ask() {
  const question = $("question").value.trim();
  if (!question || !current || current.writing) return;
  $("question").value = "";
  $("ask").scrollIntoView({ block: "nearest" }); // a low window scrolls: the answer comes above
  begin(current, question);
  write(current);
}

function undo() {
  const turn = current.turns.pop();
  // What is being typed is worth more than what was asked.
  if (!$("question").value.trim()) $("question").value = turn.question;
  $("question").focus();
  view.announce("The last question was taken back.");
  draw();
  keep();
}

function again() {
  const turn = current.turns.pop();
  begin(current, turn.question);
  write(current, { another: turn.state === "done" && turn.by === models.label(model) });
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https the clipboard's own interface is closed to pages; the old way is open.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  view.announce("Copied.");
}

/** `refused`: whether there was a key, and not the right one. */
function askForKey(refused) {
  const dialog = $("key");
  if (dialog.open) return Promise.resolve("");
  $("key-refused").hidden = !refused;
  dialog.showModal();
  return new Promise((resolve) => {
    let given = "";
    $("key-form").addEventListener("submit", () => (given = $("key-text").value.trim()), { once: true });
    dialog.addEventListener(
      "close",
      () => {
        $("key-text").value = "";
        resolve(given);
      },
      { once: true },
    );
  });
}

/** Takes the model whose answers come next. */
function use(chosen, others) {
  model = chosen;
  const about = model.blip2_chat;
  settings.limit(model);
  const photographs = others.some((other) => !other.blip2_chat.embedded);
  $("hint").textContent =
    "This is the small embedded model: it knows drawn scenes and has never seen a photograph. " +
    (photographs ? "Settings have another." : "Settings say how to start another.");
  $("hint").hidden = !about.embedded;
  view.drawSamples(about.samples, async (path, name) => {
    try {
      add([new File([await api.sample(path)], name, { type: "image/png" })]);
    } catch (error) {
      view.alertUser(error.message);
    }
  });
}

function keyboard() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ask();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) current?.writing?.abort();
  });
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    open(pictures[(pictures.indexOf(current) + step + pictures.length) % pictures.length]);
  });
}

/** Gives what went wrong, if anything did: without a model there is nothing to do. */
async function start() {
  settings.start();
  api.onKeyWanted(askForKey);
  intake.start(add);
  keyboard();
  $("stop").addEventListener("click", () => current.writing?.abort());
  $("undo").addEventListener("click", undo);
  $("again").addEventListener("click", again);
  $("copy-all").addEventListener("click", () => copy(asText(current)));
  $("download").addEventListener("click", () => asFile(current, model));
  $("remove").addEventListener("click", () => drop(current));
  $("alert-close").addEventListener("click", () => ($("alert").hidden = true));
  $("forget").addEventListener("click", async () => {
    while (pictures.length) drop(pictures[0]);
    await store.forget();
    $("settings").close();
  });
  try {
    const found = await api.models();
    models.start(found, (chosen) => use(chosen, found));
    if (found[0].blip2_chat.allow_urls) intake.startAddresses(addFrom);
  } catch (error) {
    const why = error.status === 401 ? "Without its API key the server answers nothing." : error.message;
    return `${why} Reload this page to try again.`;
  }
  const saved = await store.load();
  pictures = (saved?.pictures || []).map((one) => ({ ...one, url: URL.createObjectURL(one.blob), writing: null }));
  current = pictures[saved?.current] || pictures[0] || null;
  draw();
  document.body.dataset.ready = "true";
}

const ready = start();
ready.then((trouble) => trouble && view.alertUser(trouble));
