// The judging page. A key or a button makes a judgment; the next task, which is in the page already, is shown at
// once, and the judgment goes to the server in the background (queue.js). What differs between the kinds of
// project is in kinds.js, what a task looks like in tasks.js.

import { showDialog, askReason } from "./dialogs.js";
import { byId, putCleanHtml } from "./html.js";
import { isTyping, keyName, takesEnter } from "./keys.js";
import { KINDS } from "./kinds.js";
import { Queue, ask, post, randomKey } from "./queue.js";
import { Stopwatch } from "./stopwatch.js";
import { Shelf } from "./store.js";
import { buildTask, taskId } from "./tasks.js";

const REFILL_BELOW = 4;
const BUILT = 3; // tasks in the page: the one that is seen and two more
const MOST_CLAIMED = 20; // the server's limit
const RENEW = 4 * 60 * 1000; // a lease is for ten minutes
const ASK_AGAIN = 3000;
const LOOK_AGAIN = 60 * 1000;
const CLIENT = "trimtab page";

const main = byId("main");
const { project, kind: kindName, csrf, person, change } = main.dataset;
// Tasks that are claimed before they are needed, and that last while there is no connection. What takes minutes is
// not kept from the others.
const AHEAD = ["compare", "rate"].includes(kindName) ? 8 : 5;
const shelf = new Shelf(`trimtab/${main.dataset.shelf}/${person}/`);
const announce = (words) => (byId("said").textContent = words);
const kind = new KINDS[kindName]({ announce });
const stopwatch = new Stopwatch();

let entries = []; // { task, earlier, article }: the first is on the screen, the others wait
let shown = null; // the entry on the screen
const past = []; // { key, entry, counted }: what can be taken back, the newest last
const judged = new Set(); // ids of tasks that were judged here: the server may not know yet
let judgedCount = Number(main.dataset.judged);
let left = Number(main.dataset.left); // about: gold items and repeats are not in it
let claiming = false;
let connected = true;
let signedOut = false;
let finished = false; // nothing more to claim
let guidelines = null;

const queue = new Queue({ shelf, csrf, onChange: showState, onDone: answered });

// ---------------------------------------------------------------- what is on the screen

/** Show the first task. Nothing here waits for anything: this is what a key press costs. */
function paint() {
  const entry = entries[0] ?? null;
  if (entry === shown) return;
  const focused = document.activeElement;
  // From a field too: it may be about to be hidden, and would swallow the next key.
  const moves = focused === document.body || main.contains(focused) || isTyping(focused);
  if (shown?.article) shown.article.hidden = true;
  shown = entry;
  byId("nothing").hidden = entry !== null;
  byId("controls").hidden = entry === null;
  if (entry) {
    build(entry).hidden = false;
    scrollTo(0, 0);
    if (moves) entry.article.focus({ preventScroll: true });
    kind.open({ ...entry, draft: draftOf(entry.task) });
    stopwatch.start();
  }
  showProgress();
  setTimeout(prepare);
}

function build(entry) {
  if (!entry.article) {
    entry.article = buildTask(entry.task);
    byId("stage").append(entry.article);
  }
  return entry.article;
}

/** After the paint: what was judged leaves the page, what comes next enters it, hidden. */
function prepare() {
  for (const article of byId("stage").querySelectorAll("article")) {
    if (!entries.some((entry) => entry.article === article)) article.remove();
  }
  entries.slice(0, BUILT).forEach(build);
  showNothing();
  showGuidelinesNews();
  if (entries.length < REFILL_BELOW) claim();
}

function showProgress() {
  byId("progress").textContent = change ? "" : `${judgedCount} judged, ${Math.max(0, left)} left`;
}

function showNothing() {
  if (shown) return;
  const words = !connected
    ? ["No connection", "The next tasks come as soon as the server answers."]
    : queue.waiting
      ? ["Saving the last ones ...", ""]
      : finished
        ? ["All done for now", "You have judged everything here that is for you. Thank you."]
        : ["Looking for work ...", ""];
  const heading = byId("nothing-heading");
  if (heading.textContent !== words[0]) announce(words.filter(Boolean).join(": "));
  [heading.textContent, byId("nothing-words").textContent] = words;
}

const STATES = {
  saved: () => "Saved",
  saving: (waiting) => `Saving (${waiting})`,
  offline: (waiting) => (waiting ? `Offline (${waiting} waiting)` : "Offline"),
  "signed-out": (waiting) => `Signed out (${waiting} waiting)`,
};

function showState() {
  const state = signedOut ? "signed-out" : queue.state === "saved" && !connected ? "offline" : queue.state;
  const pill = byId("saving");
  const words = STATES[state](queue.waiting) + (shelf.kept ? "" : ", not kept on this device");
  if (pill.dataset.state !== state && state !== "saving") announce(words);
  pill.dataset.state = state;
  pill.textContent = words;
  byId("signed-out").hidden = state !== "signed-out";
  showRefused();
  showNothing();
}

function showRefused() {
  const section = byId("refused");
  const refused = queue.refused;
  section.hidden = !refused.length;
  section.querySelector("ul").replaceChildren(
    ...refused.map((entry) => {
      const line = document.createElement("li");
      line.append(`${entry.reason}. `);
      line.append(button("Try again", () => queue.again(entry)), " ", button("Discard", () => queue.discard(entry)));
      return line;
    }),
  );
}

function button(words, act) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = words;
  element.addEventListener("click", act);
  return element;
}

// ---------------------------------------------------------------- judging and taking back

function judge({ kind: said, outcome }) {
  const entry = entries.shift();
  const { task } = entry;
  const seconds = stopwatch.seconds;
  const counted = said !== "skipped" && said !== "flagged";
  const vote = {
    item: task.item,
    round: task.round,
    kind: said,
    outcome,
    seconds,
    guidelines: task.guidelines_version,
    key: randomKey(),
    client: CLIENT,
    ...(change && { supersedes: Number(change) }),
  };
  judged.add(taskId(task));
  past.push({ key: vote.key, counted, entry: { task, earlier: outcome, article: null } });
  judgedCount += counted ? 1 : 0;
  left -= 1;
  paint();
  queue.addVote(vote);
  draftOf(task).remove();
}

async function setAside(said, dialog) {
  const entry = entries[0];
  const reason = await askReason(byId(dialog));
  if (reason !== null && entry === entries[0]) judge({ kind: said, outcome: { reason } });
}

function undo() {
  if (entries[0] && kind.back()) return;
  const last = change ? undefined : past.pop();
  if (!last) return announce("There is nothing to take back");
  const unsent = queue.addUndo(last.key, CLIENT);
  judgedCount -= last.counted ? 1 : 0;
  left += 1;
  if (last.entry) {
    comeBack(last.entry);
  } else if (unsent) {
    judged.clear(); // of before the reload: which task it was, the server says
    claim();
  }
  announce("Taken back");
}

function comeBack(entry) {
  judged.delete(taskId(entry.task));
  finished = false;
  entries.unshift(entry);
  paint();
}

/** The server has taken something. */
function answered({ act }, body) {
  connected = true;
  if (act === "undo" && !entries.some((entry) => taskId(entry.task) === taskId(body.task))) {
    const again = past.some(({ entry }) => entry && taskId(entry.task) === taskId(body.task));
    if (!again) comeBack({ task: body.task, earlier: null, article: null });
  }
  if (queue.waiting || entries.length) return;
  if (change) location.assign(`/mine/${project}`);
  else setTimeout(claim); // what was saved may make room for more
}

function draftOf(task) {
  const name = `draft/${change}/${taskId(task)}`;
  return {
    get: () => shelf.get(name),
    set: (value) => shelf.set(name, value),
    remove: () => shelf.remove(name),
  };
}

// ---------------------------------------------------------------- tasks from the server

/** Hold enough tasks; those that are held are given again, and held for longer. */
async function claim() {
  if (claiming || change) return;
  claiming = true;
  const count = Math.min(MOST_CLAIMED, Math.max(AHEAD, entries.length) + queue.waiting);
  const { status, body } = await post(`/api/projects/${project}/claim`, { count }, csrf);
  claiming = false;
  connected = status !== 0 && status < 500;
  signedOut = status === 401 || status === 403;
  if (status === 200) merge(body);
  else if (!connected) setTimeout(claim, ASK_AGAIN);
  else if (!signedOut) announce(body?.error?.what ?? "The server refuses to give tasks");
  showState();
}

function merge({ tasks }) {
  const given = new Map(tasks.map((task) => [taskId(task), task]));
  const held = entries.filter(
    ({ task }, place) => place === 0 || given.has(taskId(task)) || Date.parse(task.lease_until) > Date.now(),
  );
  const ids = new Set(held.map(({ task }) => taskId(task)));
  const more = tasks.filter((task) => !ids.has(taskId(task)) && !judged.has(taskId(task)));
  for (const entry of held) entry.task.lease_until = given.get(taskId(entry.task))?.lease_until ?? entry.task.lease_until;
  entries = [...held, ...more.map((task) => ({ task, earlier: null, article: null }))];
  finished = !entries.length && !queue.waiting;
  if (finished) left = 0;
  paint();
  showProgress();
}

/** One judgment of one's own, to say something else. */
async function startChange() {
  const { status, body } = await ask(`/api/projects/${project}/judgments/${change}`);
  if (status !== 200) return announce(body?.error?.what ?? "The server does not answer");
  byId("changing").hidden = false;
  byId("changing-from").textContent = describe(body.outcome);
  entries = [{ task: body.task, earlier: body.outcome, article: null }];
  paint();
}

function describe({ kind: said, preferred, strength, places, grade, reason }) {
  const more = [preferred?.replace("_", " "), strength && `strength ${strength}`, places?.join(", "), grade, reason];
  return [said, ...more.filter(Boolean)].join(", ");
}

// ---------------------------------------------------------------- guidelines

async function loadGuidelines() {
  const { status, body } = await ask(`/api/projects/${project}/guidelines`);
  if (status !== 200) return;
  guidelines = body;
  putCleanHtml(byId("guidelines-text"), body.version ? body.html : "<p>This project has none.</p>");
}

async function showGuidelines() {
  if (!guidelines || guidelines.version !== (shown?.task.guidelines_version ?? guidelines.version)) await loadGuidelines();
  if (!guidelines) return announce("The guidelines cannot be loaded now");
  shelf.set("guidelines-read", guidelines.version);
  showGuidelinesNews();
  showDialog(byId("guidelines-dialog"));
}

function showGuidelinesNews() {
  const version = shown?.task.guidelines_version ?? 0;
  const read = shelf.get("guidelines-read") ?? 0;
  const news = byId("guidelines-news");
  news.hidden = version <= read;
  const words = read ? `The guidelines have changed: this is version ${version}.` : "This project has guidelines.";
  if (!news.hidden) news.querySelector("span").textContent = words;
}

// ---------------------------------------------------------------- keys and buttons

const ACTS = {
  undo,
  skip: () => setAside("skipped", "skip-dialog"),
  flag: () => setAside("flagged", "flag-dialog"),
  guidelines: showGuidelines,
  help: () => showDialog(byId("help-dialog")),
  raw: () => toggleView("raw"),
  differences: () => toggleView("differences"),
  look: () => claim(),
};
const KEYS = { u: "undo", s: "skip", f: "flag", g: "guidelines", r: "raw", d: "differences", "?": "help" };
const WITHOUT_TASK = new Set(["undo", "guidelines", "help", "look"]);

function act(name) {
  if (!shown && !WITHOUT_TASK.has(name)) return;
  if (ACTS[name]) return ACTS[name]();
  const judgment = kind.act(name);
  if (judgment) judge(judgment);
}

function toggleView(view) {
  const stage = byId("stage");
  stage.dataset.view = stage.dataset.view === view ? "rendered" : view;
  for (const name of ["raw", "differences"]) {
    document.querySelector(`#controls [data-act="${name}"]`)?.setAttribute("aria-pressed", String(stage.dataset.view === name));
  }
  announce(`${stage.dataset.view} text`);
}

function pressed(event) {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) return pressedInField(event);
  const name = keyName(event);
  const wanted = name && (kind.keys[name] ?? KEYS[name]);
  if (!wanted || !byId("single-keys").checked) return;
  if (name === "Enter" && takesEnter(event.target)) return;
  if (wanted === "differences" && !document.querySelector('[data-act="differences"]')) return;
  event.preventDefault();
  act(wanted);
}

function pressedInField(event) {
  if (event.isComposing || event.keyCode === 229 || event.repeat) return;
  if (event.key === "Escape") event.target.blur();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "response") {
    event.preventDefault();
    act("submit");
  }
}

// ---------------------------------------------------------------- start

function start() {
  // Judged before a reload and not saved yet: not to be judged again.
  for (const { act: what, body } of queue.entries) if (what === "vote") judged.add(taskId(body));
  past.push(...queue.undoable.map((key) => ({ key, entry: null, counted: true })));
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", ({ target }) => {
    const name = target.closest("[data-act]")?.dataset.act;
    if (name) act(name);
  });
  addEventListener("beforeunload", (event) => {
    if (queue.waiting && queue.state !== "signed-out") event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !change) claim();
  });
  setInterval(() => document.hidden || claim(), RENEW);
  setInterval(() => finished && claim(), LOOK_AGAIN);
  const single = byId("single-keys");
  single.checked = shelf.get("single-keys") ?? true;
  single.addEventListener("change", () => shelf.set("single-keys", single.checked));
  loadGuidelines();
  showState();
  queue.retry();
  if (change) startChange();
  else claim();
}

start();
