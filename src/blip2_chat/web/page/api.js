// Requests to the server: its models, and streamed answers.

const KEY = "blip2-chat key";

export class ServerError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
  }
}

let askForKey = async () => "";

/** `ask` is called when the server requires a key, with whether it refused one; returns a key, or "" for none. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** A path on the server, relative to this page, because a proxy may have put both under a prefix. */
export const address = (path) => `.${path}`;

async function send(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(options.headers || {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(address(path), { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, { message: "The server does not respond. Is it still running?" });
    }
    if (response.status !== 401) return response;
    const given = await askForKey(Boolean(key));
    if (!given) throw await asError(response);
    sessionStorage.setItem(KEY, given);
  }
}

async function asError(response) {
  let error = { message: `The server answered ${response.status}.` };
  try {
    error = (await response.json()).error || error;
  } catch {
    // Not an error of this server, but for example a proxy's page.
  }
  return new ServerError(response.status, error);
}

/** The models that the server has loaded, its default first. */
export async function models() {
  const response = await send("/v1/models");
  if (!response.ok) throw await asError(response);
  return (await response.json()).data;
}

/** The bytes of a sample picture. */
export async function sample(path) {
  const response = await send(path);
  if (!response.ok) throw await asError(response);
  return response.blob();
}

/** The file name in a URL. */
function nameIn(url) {
  const name = new URL(url).pathname.split("/").pop() || "picture";
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // a literal "%"
  }
}

/** The picture at a URL, fetched by the server, because the page may load nothing from other sites. */
export async function fetched(url) {
  const response = await send("/v1/picture", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ url }),
  });
  if (!response.ok) throw await asError(response);
  return new File([await response.blob()], nameIn(url));
}

async function posted(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw await asError(response);
  return response;
}

/** The pictures of the server's index that fit best, best first. */
export const search = async (query, signal) => (await posted("/v1/search", query, signal)).json();

/** A picture of the index, at most `size` pixels wide and high. */
export const indexed = async (id, size, signal) => (await posted("/v1/search/picture", { id, size }, signal)).blob();

/**
 * Streams an answer. Calls `onAbout` with the server's information about the picture and `onPiece` with each piece
 * of text; returns the finish reason. Aborting `signal` frees the server's slot immediately.
 */
export async function answer(request, { signal, onAbout, onPiece }) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  if (!response.ok) throw await asError(response);
  let reason = null;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return reason;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(500, chunk.error);
    if (chunk.blip2_chat) onAbout(chunk.blip2_chat);
    const choice = chunk.choices[0];
    if (choice?.delta.content) onPiece(choice.delta.content);
    reason = choice?.finish_reason || reason;
  }
  throw new ServerError(0, { message: "The answer is incomplete: the connection to the server was lost." });
}

/** Which parts of the picture an answer depends on: a picture to lie over it, as a data: URL. */
export async function explained(request) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
  });
  if (!response.ok) throw await asError(response);
  return (await response.json()).blip2_chat.attribution;
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return; // the connection was lost before [DONE]
    }
    if (read.done) return;
    text += read.value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new ServerError(0, { message: "The file cannot be read." }));
    reader.readAsDataURL(blob);
  });
}
