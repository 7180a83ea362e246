// A reload loses nothing: the tab's pictures and turns in IndexedDB, under a name that ends with the tab.

const SESSION = "blip2-chat session";
const ALIVE = 20_000; // a tab says so often that it is there
const DEAD = 120_000; // and is forgotten after so long a silence

let session = sessionStorage.getItem(SESSION);
if (!session) rename();

function rename() {
  session = Math.random().toString(36).slice(2);
  sessionStorage.setItem(SESSION, session);
}

/** Whether no other tab goes by this one's name, which from then on is this tab's. */
function isOwn() {
  if (!navigator.locks) return true; // without https browsers do not tell
  return new Promise((resolve) => {
    navigator.locks.request(`blip2-chat ${session}`, { ifAvailable: true }, (lock) => {
      resolve(Boolean(lock));
      return lock && new Promise(() => {}); // held until the tab is gone
    });
  });
}

function database() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("blip2-chat", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("sessions");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function withStore(mode, use) {
  try {
    const db = await database();
    const result = await use(db.transaction("sessions", mode).objectStore("sessions"));
    db.close();
    return result;
  } catch {
    return undefined; // private windows and full disks: the page works, a reload begins anew
  }
}

/** What this tab had before it was reloaded; also clears away what closed tabs left. */
export async function load() {
  const content = await stored();
  // A duplicated tab begins with the other's name and all that it had. It goes on with a copy of its own.
  if (!(await isOwn())) {
    rename();
    await isOwn();
    if (content) await save(content);
  }
  return content;
}

function stored() {
  return withStore("readwrite", async (store) => {
    for (const key of await done(store.getAllKeys())) {
      const other = await done(store.get(key));
      if (key !== session && Date.now() - other.seen > DEAD) store.delete(key);
    }
    return (await done(store.get(session)))?.content;
  });
}

let kept = null;

export function save(content) {
  kept = content;
  return withStore("readwrite", (store) => done(store.put({ seen: Date.now(), content }, session)));
}

export function forget() {
  kept = null;
  return withStore("readwrite", (store) => done(store.clear()));
}

setInterval(() => kept && save(kept), ALIVE);
