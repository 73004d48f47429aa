// What was judged and is not saved yet. It goes to the server in the order of judging, one at a time, each with a
// key of its own: sent twice, it counts once. Every entry lies on the shelf under a name of its own, so that two
// tabs cannot overwrite each other's, and a closed tab, a crash or a restarted server lose nothing.

const FIRST_WAIT = 500; // milliseconds, doubled after every failure
const LONGEST_WAIT = 15000;
const UNDOABLE = 50; // votes that can still be taken back after a reload
const PATIENCE = 15000; // for one answer of the server
const WORTH_ANOTHER_TRY = new Set([408, 421, 425, 429]);

export class Queue {
  #entries = [];
  #refused = [];
  #ids = new Map(); // key of a vote -> number of the judgment
  #sending = null; // the entry that is on its way
  #wait = 0;
  #timer = null;
  #signedOut = false;
  #count = 0;

  /**
   * @param shelf a Shelf of this person and project
   * @param csrf the second secret of the session
   * @param onChange called whenever `state` may have changed
   * @param onDone called with an entry and the server's answer
   */
  constructor({ shelf, csrf, onChange, onDone }) {
    this.shelf = shelf;
    this.csrf = csrf;
    this.onChange = onChange;
    this.onDone = onDone;
    this.#entries = shelf.names("queue/").map((name) => shelf.get(name)).filter(Boolean);
    this.#refused = shelf.names("refused/").map((name) => shelf.get(name)).filter(Boolean);
    for (const [key, id] of shelf.get("ids") ?? []) this.#ids.set(key, id);
    addEventListener("online", () => this.retry());
  }

  get waiting() {
    return this.#entries.length;
  }

  get entries() {
    return [...this.#entries];
  }

  /** Keys of the votes that can be taken back, the oldest first. */
  get undoable() {
    const undone = new Set(this.#entries.map((entry) => entry.of));
    const waiting = this.#entries.filter((entry) => entry.act === "vote").map((entry) => entry.key);
    return [...this.#ids.keys(), ...waiting].filter((key) => !undone.has(key));
  }

  get refused() {
    return [...this.#refused];
  }

  get state() {
    if (this.#signedOut) return "signed-out";
    if (!this.waiting) return "saved";
    return this.#wait ? "offline" : "saving";
  }

  /** Keep a vote and send it: { key, item, round, ... } as the server takes it. */
  addVote(vote) {
    this.#add({ act: "vote", key: vote.key, body: vote });
  }

  /** Take a vote back: at once where it is still here, else by asking the server. True if it was still here. */
  addUndo(voteKey, client) {
    const place = this.#entries.findIndex((entry) => entry.key === voteKey);
    if (place >= 0 && this.#entries[place] !== this.#sending) {
      this.#drop(this.#entries[place]);
      this.onChange();
      return true;
    }
    const key = randomKey();
    this.#add({ act: "undo", key, of: voteKey, body: { key, client } });
    return false;
  }

  /** Send what waits now, not after the pause. */
  retry() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#signedOut = false;
    this.#send();
  }

  /** What the server refused: try it once more. */
  again(entry) {
    this.discard(entry);
    this.#add({ act: entry.act, key: entry.key, of: entry.of, body: entry.body });
  }

  discard(entry) {
    this.#refused = this.#refused.filter((other) => other !== entry);
    this.shelf.remove(`refused/${entry.name}`);
    this.onChange();
  }

  #add(entry) {
    // Names sort by time, then by number within this page.
    entry.name = `${String(Date.now()).padStart(15, "0")}-${String(this.#count++).padStart(6, "0")}-${entry.key}`;
    this.#entries.push(entry);
    this.shelf.set(`queue/${entry.name}`, entry);
    this.onChange();
    this.#send();
  }

  #drop(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
    this.shelf.remove(`queue/${entry.name}`);
  }

  async #send() {
    if (this.#sending || this.#timer || this.#signedOut) return;
    const entry = this.#entries[0];
    if (!entry) return;
    const address = this.#address(entry);
    if (!address) {
      this.#drop(entry); // the vote that it takes back was refused: there is nothing to take back
      this.onChange();
      return this.#send();
    }
    this.#sending = entry;
    const answer = await post(address, entry.body, this.csrf);
    this.#sending = null;
    this.#settle(entry, answer);
    this.onChange();
    this.#send();
  }

  #address(entry) {
    if (entry.act === "vote") return "/api/judgments";
    const id = this.#ids.get(entry.of);
    return id === undefined ? null : `/api/judgments/${id}/undo`;
  }

  #settle(entry, { status, body }) {
    if (status === 200) {
      this.#wait = 0;
      if (entry.act === "vote") this.#remember(entry.key, body.id);
      else this.#forget(entry.of);
      this.#drop(entry);
      this.onDone(entry, body);
    } else if (status === 401 || status === 403) {
      this.#signedOut = true;
    } else if (status === 0 || status >= 500 || WORTH_ANOTHER_TRY.has(status)) {
      this.#pause();
    } else {
      this.#wait = 0;
      this.#setAside(entry, body?.error);
    }
  }

  #pause() {
    this.#wait = Math.min(LONGEST_WAIT, this.#wait * 2 || FIRST_WAIT);
    const wait = this.#wait * (0.75 + Math.random() / 2); // so that many browsers do not come back as one
    this.#timer = setTimeout(() => this.retry(), wait);
  }

  #setAside(entry, error) {
    this.#drop(entry);
    const refused = { ...entry, reason: [error?.what, error?.found].filter(Boolean).join(": ") || "refused" };
    this.#refused.push(refused);
    this.shelf.set(`refused/${entry.name}`, refused);
  }

  #remember(key, id) {
    this.#ids.set(key, id);
    this.#keepIds();
  }

  #forget(key) {
    this.#ids.delete(key);
    this.#keepIds();
  }

  #keepIds() {
    this.shelf.set("ids", [...this.#ids].slice(-UNDOABLE));
  }
}

export const randomKey = () =>
  // randomUUID is for secure pages alone; a server on a local network may have no https.
  crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** The answer to a post; status 0 where none came. */
export async function post(address, body, csrf) {
  return ask(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    body: JSON.stringify(body),
  });
}

export async function ask(address, options = {}) {
  try {
    const response = await fetch(address, {
      ...options,
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(PATIENCE),
    });
    return { status: response.status, body: await response.json() };
  } catch {
    // No connection, no answer in time, or one that broke off: whatever it was, ask again.
    return { status: 0, body: null };
  }
}
