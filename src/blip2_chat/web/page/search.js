// Pictures of the server's index: a field for words, and a wall of the results.

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);
const THUMBNAIL = 320; // pixels, for a screen with two pixels per point
const TOP = 60;

let onChosen = () => {};
let running = null; // aborts the search, and the pictures that are still on their way
let urls = []; // of the pictures on the wall

/** Shows the field and the button. `choose` is called with the file of a picture that is clicked. */
export function start(count, choose) {
  onChosen = choose;
  const pictures = count === 1 ? "1 picture" : `${count.toLocaleString("en")} pictures`;
  $("find-title").textContent = `Search ${pictures}`;
  $("find-open").hidden = false;
  $("find-open").addEventListener("click", () => $("find").showModal());
  $("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("find-text").value.trim();
    if (text) search({ text });
  });
  $("find-close").addEventListener("click", () => $("find").close());
  $("find").addEventListener("close", () => running?.abort());
}

async function search(query) {
  running?.abort();
  const mine = (running = new AbortController());
  tell("Searching …");
  clear();
  try {
    const { data } = await api.search({ ...query, top: TOP }, mine.signal);
    tell(data.length ? "" : "The index has no pictures.");
    draw(data, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message);
  }
}

function tell(text) {
  $("find-status").textContent = text;
}

function clear() {
  $("wall").replaceChildren();
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
}

function draw(results, signal) {
  const tiles = results.map((result) => tile(result));
  $("wall").replaceChildren(...tiles.map((one) => one.item));
  fill(tiles, signal);
}

function tile(result) {
  const item = document.createElement("li");
  const open = document.createElement("button");
  const image = document.createElement("img");
  const like = document.createElement("button");
  const score = document.createElement("small");
  open.type = like.type = "button";
  open.className = "tile";
  open.title = result.name;
  open.setAttribute("aria-label", `Chat about ${result.name}`);
  image.alt = "";
  // The place is there before the picture is.
  image.width = result.width || 1;
  image.height = result.height || 1;
  open.append(image);
  open.addEventListener("click", () => choose(result));
  score.textContent = result.probability === null ? result.similarity.toFixed(2) : `${Math.round(100 * result.probability)} %`;
  score.title = result.probability === null ? "Similarity, from -1 to 1" : "Probability that the words describe it";
  like.className = "quiet more";
  like.textContent = "More like this";
  like.addEventListener("click", () => {
    $("find-text").value = "";
    search({ like: result.id });
  });
  const line = document.createElement("div");
  line.append(score, like);
  item.append(open, line);
  return { item, image, result };
}

/** Loads the pictures in their order, a few at a time. */
async function fill(tiles, signal) {
  const left = [...tiles];
  const worker = async () => {
    while (left.length && !signal.aborted) {
      const { item, image, result } = left.shift();
      try {
        const url = URL.createObjectURL(await api.indexed(result.id, THUMBNAIL, signal));
        urls.push(url);
        image.src = url;
      } catch (error) {
        if (error.name === "AbortError") return;
        item.classList.add("gone");
        item.querySelector("button").title = error.message;
      }
    }
  };
  await Promise.all([worker(), worker(), worker()]);
  if (!signal.aborted) $("wall").dataset.filled = String(tiles.length);
}

async function choose(result) {
  tell(`Opening ${result.name} …`);
  try {
    const picture = await api.indexed(result.id, undefined, undefined);
    tell("");
    $("find").close();
    onChosen(new File([picture], result.name, { type: picture.type }));
  } catch (error) {
    tell(error.message);
  }
}
