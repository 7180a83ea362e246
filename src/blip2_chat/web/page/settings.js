// The settings dialog: decoding settings, and how the page looks.

const $ = (id) => document.getElementById(id);
const SAVED = "blip2-chat settings";
// The mode in which a setting counts; the others count in all.
const MODES = { num_beams: "beams", temperature: "draw", top_p: "draw" };

let saved = {};

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

function choose(name, value) {
  const input = document.querySelector(`input[name="${name}"][value="${CSS.escape(value)}"]`);
  if (input) input.checked = true;
}

const inputs = () => document.querySelectorAll(".slider input");

/** A slider for one of the settings that the server describes. */
function slider({ name, title, help, minimum, maximum, step, value }) {
  const row = document.createElement("div");
  const label = document.createElement("label");
  const output = document.createElement("output");
  const input = document.createElement("input");
  const small = document.createElement("small");
  row.className = "slider";
  if (MODES[name]) row.dataset.mode = MODES[name];
  label.htmlFor = name;
  output.htmlFor = name;
  label.append(`${title} `, output);
  Object.assign(input, { id: name, type: "range", min: minimum, max: maximum, step });
  input.value = saved[name] ?? value;
  input.setAttribute("aria-describedby", `${name}-help`);
  small.id = `${name}-help`;
  small.textContent = help;
  row.append(label, input, small);
  return row;
}

function show() {
  const mode = chosen("mode");
  for (const slider of document.querySelectorAll(".slider[data-mode]")) slider.hidden = slider.dataset.mode !== mode;
  for (const input of inputs()) document.querySelector(`output[for="${input.id}"]`).textContent = input.value;
  const theme = chosen("theme");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function keep() {
  const values = Object.fromEntries([...inputs()].map((input) => [input.id, input.value]));
  saved = { mode: chosen("mode"), theme: chosen("theme"), ...values };
  localStorage.setItem(SAVED, JSON.stringify(saved));
  show();
}

export function start() {
  try {
    saved = JSON.parse(localStorage.getItem(SAVED)) || {};
  } catch {
    // Unreadable saved settings: use the defaults.
  }
  if (saved.mode) choose("mode", saved.mode);
  if (saved.theme) choose("theme", saved.theme);
  $("settings").addEventListener("input", keep);
  for (const id of ["settings-open", "model"]) $(id).addEventListener("click", () => $("settings").showModal());
  show();
}

/** Offers the settings that a model has, and keeps to what it allows. */
export function limit({ blip2_chat: about }) {
  $("sliders").replaceChildren(...about.settings.map(slider));
  // A server with one slot has no room for a search.
  const beams = about.settings.find(({ name }) => name === "num_beams");
  const search = document.querySelector('input[name="mode"][value="beams"]');
  search.disabled = beams.maximum < beams.minimum;
  if (search.disabled && search.checked) choose("mode", "greedy");
  show();
}

/** The settings of a request, under the API's names. `another`: sample, to get a different answer. */
export function decoding(another = false) {
  const mode = another ? "draw" : chosen("mode");
  const counting = [...inputs()].filter(({ id }) => (MODES[id] ?? mode) === mode);
  const values = Object.fromEntries(counting.map(({ id, value }) => [id, Number(value)]));
  return mode === "greedy" ? { ...values, temperature: 0 } : values;
}
