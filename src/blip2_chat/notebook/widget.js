// The browser side of ChatWidget (widget.py): shows its traits and sends messages. No libraries, no network.

// Notebook servers close the connection on messages of more than 10 MB, so pictures are sent in parts of 1 MB.
const PART = 1 << 20;
let views = 0;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function render({ model, el }) {
  const id = `blip2-chat-${++views}`;
  const send = (kind, more = {}) => model.send({ kind, ...more });

  // Files are sent one after another, because parts of two files would be mixed up.
  let given = Promise.resolve();
  function give(file) {
    error.textContent = "";
    given = given.then(() => upload(file)).catch(() => {
      // A folder, or a file that has been removed.
      error.textContent = `${file.name} cannot be read; choose an image file`;
    });
  }

  /** Whether text is dragged into one of the fields; the browser handles that. */
  const isText = (event) =>
    (event.target === question || event.target === url) &&
    !["Files", "text/uri-list"].some((type) => event.dataTransfer?.types.includes(type));

  async function upload(file) {
    const name = file.name || "pasted picture";
    const size = file.size;
    if (size > model.get("max_bytes") || size === 0) {
      model.send({ kind: "picture", name, size, at: 0 }, undefined, [new ArrayBuffer(0)]);
      return;
    }
    for (let at = 0; at < size; at += PART) {
      const part = await file.slice(at, at + PART).arrayBuffer();
      model.send({ kind: "picture", name, size, at }, undefined, [part]);
    }
  }

  // The picture.
  const file = element("input", {
    type: "file", accept: "image/*,.heic,.heif,.avif", hidden: true, tabindex: "-1", "aria-hidden": "true",
    onchange: () => { if (file.files[0]) give(file.files[0]); file.value = ""; },
  });
  const pick = element("button", {
    type: "button", class: "b2c-pick", "aria-describedby": `${id}-how`, onclick: () => file.click(),
  });
  const how = element("span", { id: `${id}-how`, class: "b2c-how", text: "or drop or paste one here" });
  const url = element("input", {
    id: `${id}-url`, type: "text", inputmode: "url", autocomplete: "off", spellcheck: "false",
    placeholder: "https://… or a path",
  });
  const address = element(
    "form",
    {
      class: "b2c-line",
      onsubmit: (event) => {
        event.preventDefault();
        if (url.value.trim()) send("url", { url: url.value.trim() });
        url.value = "";
      },
    },
    element("label", { for: url.id, text: "Address" }),
    url,
    element("button", { type: "submit", text: "Open" }),
  );
  const image = element("img", { alt: "", hidden: true });
  const caption = element("figcaption", { "aria-live": "polite" });
  const advice = element("ul", { class: "b2c-advice", "aria-label": "About this picture", hidden: true });
  const drop = element("div", { class: "b2c-drop" }, element("div", { class: "b2c-choose" }, pick, how), file);
  const left = element(
    "div", { class: "b2c-left" },
    element("figure", {}, image, caption), advice, drop, address,
  );

  // The conversation.
  const log = element("div", {
    class: "b2c-log", role: "log", "aria-label": "Conversation", "aria-live": "polite", tabindex: "0",
  });
  const question = element("input", { id: `${id}-question`, type: "text", autocomplete: "off", maxlength: "4000" });
  const ask = element("button", { type: "submit", class: "b2c-main", text: "Ask" });
  const form = element(
    "form",
    {
      class: "b2c-line",
      onsubmit: (event) => {
        event.preventDefault();
        const text = question.value.trim();
        // One question at a time, because a second one would wait invisibly.
        if (!text || model.get("busy")) return;
        send("ask", { question: text });
        question.value = "";
      },
    },
    element("label", { for: question.id, text: "Question" }),
    question,
    ask,
  );
  let saving = false; // whether this view, and not another one, asked to save
  const action = (kind, text, title) =>
    element("button", {
      type: "button", text, title,
      onclick: () => { saving = kind === "save"; send(kind); question.focus(); },
    });
  const stop = action("stop", "Stop", "Stop the answer (Escape)");
  const undo = action("undo", "Undo", "Undo the last question");
  const over = action("start_over", "Start over", "Remove all questions; the picture stays");
  const save = action("save", "Save", "Save the conversation as a file");
  const bar = element("div", { class: "b2c-actions", role: "group", "aria-label": "Conversation" }, stop, undo, over, save);
  const status = element("div", { class: "b2c-status", role: "status" });
  const error = element("div", { class: "b2c-error", role: "alert" });
  const right = element("div", { class: "b2c-right" }, log, form, bar);
  const label = element("div", { class: "b2c-label" });

  const root = element(
    "section",
    {
      class: "b2c", role: "region", "aria-label": "Chat about a picture",
      // Keep JupyterLab's keyboard shortcuts ("Enter", "d d") out of the widget.
      "data-lm-suppress-shortcuts": "true",
      onkeydown: (event) => {
        if (event.key === "Escape" && model.get("busy")) send("stop");
        event.stopPropagation();
      },
      onpaste: (event) => {
        const pasted = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
        if (pasted) { event.preventDefault(); event.stopPropagation(); give(pasted); }
      },
      ondragover: (event) => {
        event.stopPropagation();
        if (isText(event)) return;
        event.preventDefault();
        drop.classList.add("b2c-over");
      },
      ondragleave: () => drop.classList.remove("b2c-over"),
      ondrop: (event) => {
        event.stopPropagation();
        drop.classList.remove("b2c-over");
        if (isText(event)) return;
        event.preventDefault();
        const [dropped, ...others] = event.dataTransfer?.files ?? [];
        const link = event.dataTransfer?.getData("text/uri-list")?.split("\n")[0];
        if (others.length) error.textContent = "one picture at a time: drop a single file";
        else if (dropped) give(dropped);
        else if (link) send("url", { url: link.trim() });
      },
    },
    label, element("div", { class: "b2c-both" }, left, right), status, error,
  );
  el.append(root);

  function turn(each, growing = false) {
    const said = element("p", { class: "b2c-answer" }, element("span", { class: "b2c-who", text: "Answer: " }));
    said.append(each.answer || (growing ? "…" : "(nothing)"));
    if (each.note) said.append(" ", element("small", { text: `(${each.note})` }));
    return element(
      "div", { class: "b2c-turn" },
      element("p", { class: "b2c-question" }, element("span", { class: "b2c-who", text: "You: " }), each.question),
      said,
    );
  }

  const draw = {
    label: () => { label.textContent = model.get("label"); },
    picture: () => {
      const shown = model.get("picture");
      pick.textContent = shown.src ? "Choose another picture" : "Choose a picture";
      image.hidden = !shown.src;
      if (shown.src && image.src !== shown.src) image.src = shown.src;
      image.alt = shown.caption || shown.name || "";
      draw.partial();
    },
    advice: () => {
      const lines = model.get("advice");
      advice.hidden = !lines.length;
      advice.replaceChildren(...lines.map((line) => element("li", { text: line })));
    },
    turns: () => {
      log.replaceChildren(...model.get("turns").map((each) => turn(each)));
      draw.partial();
    },
    partial: () => {
      log.querySelector(".b2c-growing")?.remove();
      const asking = model.get("asking");
      if (asking) {
        const growing = turn({ question: asking, answer: model.get("partial") }, true);
        growing.classList.add("b2c-growing");
        log.append(growing);
        caption.textContent = model.get("picture").caption ?? "";
      } else {
        caption.textContent = model.get("picture").caption || model.get("partial");
      }
      // A screen reader should announce the whole answer, not every word.
      log.setAttribute("aria-busy", String(Boolean(asking)));
      log.scrollTop = log.scrollHeight;
    },
    busy: () => {
      const busy = model.get("busy");
      const amount = model.get("amount");
      status.replaceChildren();
      if (busy) {
        const progress = element("progress", { "aria-label": busy });
        if (amount >= 0) progress.value = amount;
        status.append(progress, " ", `${busy[0].toUpperCase()}${busy.slice(1)}…`);
      }
      const has = Boolean(model.get("picture").src);
      const said = model.get("turns").length > 0;
      stop.disabled = !busy;
      ask.disabled = !has || Boolean(busy);
      question.placeholder = has ? "what is on the left?" : "choose a picture first";
      undo.disabled = over.disabled = !said;
      save.disabled = !has;
    },
    error: () => {
      error.textContent = model.get("error");
      if (error.textContent) error.scrollIntoView({ block: "nearest" });  // it may be outside the window
    },
  };
  const listeners = [
    ["label", draw.label], ["picture", draw.picture], ["advice", draw.advice], ["turns", draw.turns],
    ["asking", draw.partial], ["partial", draw.partial], ["error", draw.error],
    ["busy", draw.busy], ["amount", draw.busy], ["picture", draw.busy], ["turns", draw.busy],
  ];
  for (const [trait, redraw] of listeners) model.on(`change:${trait}`, redraw);
  for (const redraw of [draw.label, draw.picture, draw.advice, draw.turns, draw.busy, draw.error]) redraw();

  const saved = (message) => {
    // Every view of a widget gets the message.
    if (message?.kind !== "saved" || !saving) return;
    saving = false;
    const blob = URL.createObjectURL(new Blob([message.text], { type: "application/json" }));
    const link = element("a", { href: blob, download: message.name });
    root.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(blob), 10_000);
    status.textContent = `Saved as ${message.name}.`;
  };
  model.on("msg:custom", saved);

  return () => {
    for (const [trait, redraw] of listeners) model.off(`change:${trait}`, redraw);
    model.off("msg:custom", saved);
  };
}

export default { render };
