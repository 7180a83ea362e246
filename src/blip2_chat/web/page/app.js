// The state of the page: pictures, each with its conversation. `view.js` draws it.

import * as api from "./api.js";
import { asFile, asText } from "./export.js";
import * as intake from "./intake.js";
import * as models from "./models.js";
import * as search from "./search.js";
import * as settings from "./settings.js";
import { shrunk } from "./shrink.js";
import * as store from "./store.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);

// A picture: { name, blob, url, turns, about, suggestions, writing }; `writing` aborts the answer in progress.
// A turn: { question (null: the caption), by (the model's label), text, state: writing | done | stopped | failed,
// reason, error, dropped }.
let pictures = [];
let current = null;
let model = null; // the chosen model

const draw = () => view.draw(pictures, current, { open, copy, where, ask: put });

/** Saves everything; the promise is fulfilled once a reload would restore it. */
function keep() {
  return store.save({
    current: pictures.indexOf(current),
    pictures: pictures.map(({ name, blob, turns, about, suggestions }) => ({
      name,
      blob,
      about,
      suggestions,
      // A reload ends an answer in progress; the question stays.
      turns: turns.map((turn) => (turn.state === "writing" ? { ...turn, state: "stopped" } : turn)),
    })),
  });
}

function open(picture) {
  current = picture;
  draw();
  keep();
}

let preparing = 0; // number of groups of pictures that are being fetched or reduced

/** Runs `work` while the page shows that pictures are being prepared. */
async function prepared(work) {
  document.body.classList.toggle("preparing", ++preparing > 0);
  try {
    return await work();
  } finally {
    document.body.classList.toggle("preparing", --preparing > 0);
  }
}

/** The files to upload, large ones reduced; one is decoded at a time, to save memory. */
async function readied(given) {
  const files = [];
  for (const file of given) files.push(await shrunk(file));
  return files;
}

/** Adds pictures; `suggestions` are questions to try about them. */
async function add(given, suggestions = []) {
  const trouble = await prepared(() => ready); // a picture may be dropped before the models are known
  if (trouble) return view.alertUser(trouble);
  $("alert").hidden = true;
  const files = await prepared(() => readied(given));
  const limit = model.blip2_chat.max_picture_bytes;
  const fitting = files.filter((file) => file.size <= limit);
  for (const file of files) {
    if (file.size > limit) {
      view.alertUser(`${file.name} is larger than ${Math.floor(limit / 2 ** 20)} MiB. Save a smaller copy and add that.`);
    }
  }
  const added = fitting.map((blob) => ({
    name: blob.name || "picture",
    blob,
    url: URL.createObjectURL(blob),
    turns: [],
    about: null,
    suggestions,
    writing: null,
  }));
  if (!added.length) return;
  for (const picture of added) begin(picture, null);
  pictures.push(...added);
  open(added[0]);
  $("question").focus({ preventScroll: true }); // keep the picture in view
  for (const picture of added) await write(picture);
}

/** Adds the picture at a URL, which the server fetches. */
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
  pictures = pictures.filter((each) => each !== picture);
  URL.revokeObjectURL(picture.url);
  if (current === picture) current = pictures[Math.min(place, pictures.length - 1)] || null;
  draw();
  return keep();
}

/** The latest answered questions, as many as fit into the server's limits together with this one. */
function recent(turns, question) {
  let { max_messages: places, max_text: room } = model.blip2_chat;
  const found = [];
  for (const turn of turns.filter((turn) => turn.question !== null && turn.text && turn.state !== "writing").reverse()) {
    places -= 2;
    room -= turn.question.length + turn.text.length;
    if (places < 1 || room < question.length) break;
    found.unshift(turn);
  }
  return found;
}

/** The answered questions and the new one, as messages of OpenAI's API. */
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

/** Starts a turn with a question, or the caption; the picture takes no other question until `write` has answered. */
function begin(picture, question) {
  picture.turns.push({ question, text: "", state: "writing", reason: null });
  picture.writing = new AbortController();
}

/** Generates the answer of the last turn. `another`: sample, to get a different answer. */
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
    // The server calls it "picture".
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
  put(question);
}

/** Asks a question about the current picture. */
function put(question) {
  $("ask").scrollIntoView({ block: "nearest" }); // in a low window, scroll to the answer
  begin(current, question);
  write(current);
}

function undo() {
  const turn = current.turns.pop();
  // Do not overwrite what the user is typing.
  if (!$("question").value.trim()) $("question").value = turn.question;
  $("question").focus();
  view.announce("The last question was removed.");
  draw();
  keep();
}

function again() {
  const turn = current.turns.pop();
  begin(current, turn.question);
  write(current, { another: turn.state === "done" && turn.by === models.label(model) });
}

/** Shows which parts of the picture an answer depends on, or the plain picture again. */
async function where(turn) {
  const picture = current;
  picture.shown = picture.shown === turn ? null : turn;
  if (!picture.shown || turn.attribution) return draw();
  draw();
  try {
    const before = picture.turns.slice(0, picture.turns.indexOf(turn));
    const request = { model: model.id, explain: turn.text, messages: await messages({ ...picture, turns: before }, turn.question) };
    turn.attribution = await api.explained(request);
    if (picture === current) view.announce("The picture shows in red what the answer depends on.");
  } catch (error) {
    picture.shown = null;
    view.alertUser(error.message);
  }
  draw();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, pages may not use the clipboard API, but the old command works.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  view.announce("Copied.");
}

/** Asks for the API key. `refused`: whether the server has refused one. */
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

/** Uses this model for the next answers. */
function use(chosen, others) {
  model = chosen;
  const about = model.blip2_chat;
  settings.limit(model);
  const photographs = others.some((other) => !other.blip2_chat.embedded);
  $("hint").textContent =
    "This is the small embedded model: it knows drawn scenes and has never seen a photograph. " +
    (photographs ? "Choose another in Settings." : "Settings explain how to serve another.");
  $("hint").hidden = !about.embedded;
  view.drawSamples(about.samples, async (path, name, questions) => {
    try {
      add([new File([await api.sample(path)], name, { type: "image/png" })], questions);
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

/** Starts the page. Resolves to an error message if there is no model to use. */
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
    const count = found[0].blip2_chat.indexed_pictures;
    if (count !== null) search.start(count, (file) => add([file]));
    if (found[0].blip2_chat.allow_urls) intake.startAddresses(addFrom);
  } catch (error) {
    const why = error.status === 401 ? "The server answers only with its API key." : error.message;
    return `${why} Reload this page to try again.`;
  }
  const saved = await store.load();
  pictures = (saved?.pictures || []).map((picture) => ({ ...picture, url: URL.createObjectURL(picture.blob), writing: null }));
  current = pictures[saved?.current] || pictures[0] || null;
  draw();
  document.body.dataset.ready = "true";
}

const ready = start();
ready.then((trouble) => trouble && view.alertUser(trouble));
