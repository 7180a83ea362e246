// The settings dialog: decoding settings, and how the page looks.

const $ = (id) => document.getElementById(id);
const SAVED = "blip2-chat settings";
const SLIDERS = ["beams", "temperature", "top-p", "longest"];

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

function choose(name, value) {
  const input = document.querySelector(`input[name="${name}"][value="${CSS.escape(value)}"]`);
  if (input) input.checked = true;
}

function show() {
  const mode = chosen("mode");
  for (const slider of document.querySelectorAll(".slider[data-mode]")) slider.hidden = slider.dataset.mode !== mode;
  for (const id of SLIDERS) document.querySelector(`output[for="${id}"]`).textContent = $(id).value;
  const theme = chosen("theme");
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function keep() {
  const values = Object.fromEntries(SLIDERS.map((id) => [id, $(id).value]));
  localStorage.setItem(SAVED, JSON.stringify({ mode: chosen("mode"), theme: chosen("theme"), ...values }));
  show();
}

export function start() {
  let saved = {};
  try {
    saved = JSON.parse(localStorage.getItem(SAVED)) || {};
  } catch {
    // Unreadable saved settings: use the defaults.
  }
  for (const id of SLIDERS) if (saved[id]) $(id).value = saved[id];
  if (saved.mode) choose("mode", saved.mode);
  if (saved.theme) choose("theme", saved.theme);
  $("settings").addEventListener("input", keep);
  for (const id of ["settings-open", "model"]) $(id).addEventListener("click", () => $("settings").showModal());
  show();
}

/** Limits the settings to what a model allows. */
export function limit({ blip2_chat: about }) {
  $("beams").max = Math.min(8, about.slots);
  // Each beam takes a slot, and beam search needs at least two.
  const search = document.querySelector('input[name="mode"][value="beams"]');
  search.disabled = about.slots < 2;
  if (search.disabled && search.checked) choose("mode", "greedy");
  $("longest").max = Math.min(100, about.max_tokens);
  show();
}

/** The settings of a request, under the API's names. `another`: sample, to get a different answer. */
export function decoding(another = false) {
  const longest = { max_tokens: Number($("longest").value) };
  const mode = chosen("mode");
  if (another || mode === "draw") {
    return { ...longest, temperature: Number($("temperature").value), top_p: Number($("top-p").value) };
  }
  return mode === "beams" ? { ...longest, num_beams: Number($("beams").value) } : { ...longest, temperature: 0 };
}
