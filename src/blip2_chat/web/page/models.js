// The choice of a model and its precision, in the settings dialog.

const $ = (id) => document.getElementById(id);
const SAVED = "blip2-chat model";

// What each precision gains and costs.
const PRECISIONS = {
  fp32: "The original weights: the reference. Needs the most memory and time.",
  fp16: "Half the memory of fp32, made for GPUs. Nearly always gives the same answers.",
  bf16: "Half the memory of fp32, made for GPUs. Nearly always gives the same answers.",
  int8: "A quarter of the memory of fp32, and faster on a CPU. Nearly always gives the same answers.",
  int4: "The smallest, and on a CPU the fastest per word. Answers differ occasionally.",
};

let models = [];
let current = null;
let onChange = () => {};

/** A model's name and precision, as shown to people. */
export const label = ({ blip2_chat: about }) => `${about.name} · ${about.precision}`;

/** The model with this name, if possible at this precision; undefined if there is none. */
function find(name, precision) {
  const named = models.filter((model) => model.blip2_chat.name === name);
  return named.find((model) => model.blip2_chat.precision === precision) || named[0];
}

function remembered() {
  try {
    const { name, precision } = JSON.parse(localStorage.getItem(SAVED)) || {};
    return find(name, precision);
  } catch {
    return undefined; // unreadable saved choice
  }
}

/** One radio button for each value, with a line of explanation. */
function draw(group, name, choices, chosen) {
  const rows = [...choices].map(([value, explanation]) => {
    const row = document.createElement("label");
    const input = document.createElement("input");
    const text = document.createElement("span");
    const title = document.createElement("b");
    const line = document.createElement("small");
    row.className = "radio";
    Object.assign(input, { type: "radio", name, value, checked: value === chosen });
    title.textContent = value;
    line.textContent = explanation;
    text.append(title, line);
    row.append(input, text);
    return row;
  });
  group.replaceChildren(...rows);
}

function drawPrecisions() {
  const { name, precision } = current.blip2_chat;
  const here = models.filter((model) => model.blip2_chat.name === name).map((model) => model.blip2_chat.precision);
  draw($("precisions"), "precision", here.map((each) => [each, PRECISIONS[each] || ""]), precision);
  $("one-precision").hidden = models.length === 1 || here.length > 1;
}

function use(model) {
  current = model;
  const about = model.blip2_chat;
  $("model").textContent = `${about.name.split("/").pop()} · ${about.precision}`;
  $("model").hidden = false;
  $("model").title = `${label(model)}: settings`;
  $("place").textContent = about.engine === "onnx" ? "Runs on the server's CPU, with ONNX Runtime." : `Runs on ${about.device}, with torch.`;
  onChange(model);
}

function choose(name, precision) {
  use(find(name, precision));
  localStorage.setItem(SAVED, JSON.stringify({ name, precision: current.blip2_chat.precision }));
}

/** Offers the server's models; `onChoice` is called with the current one, now and whenever another is chosen. */
export function start(found, onChoice) {
  models = found;
  onChange = onChoice;
  use(remembered() || models[0]);
  const names = new Map(models.map((model) => [model.blip2_chat.name, model.blip2_chat.description]));
  draw($("names"), "model-name", names, current.blip2_chat.name);
  drawPrecisions();
  $("several-models").hidden = models.length === 1;
  $("one-model").hidden = models.length > 1;
  $("names").addEventListener("change", (event) => {
    choose(event.target.value, current.blip2_chat.precision);
    drawPrecisions();
  });
  $("precisions").addEventListener("change", (event) => choose(current.blip2_chat.name, event.target.value));
}
