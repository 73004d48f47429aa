// What differs between the kinds of project: which keys mean what, and when a judgment is complete.
//
// Each kind has
//   keys            key -> name of an act; every act is a button too
//   open(place)     a task came to the screen: { task, article, earlier, draft }; `earlier` is an outcome to start from
//   act(name)       returns the judgment { kind, outcome } if it is complete, and nothing if more is to come
//   back()          take back the last step within the task; false if there was none
// Outcomes speak of what is on the screen (first, second, places in the shown order): the server turns them.

import { byId } from "./html.js";

const SIDE_KEYS = { 1: "first", 2: "second", ArrowLeft: "first", ArrowRight: "second" };

/** What was typed beside the judgment. */
class Remark {
  open(earlier) {
    this.#put("reason", earlier?.reason);
    this.#put("comment", earlier?.comment);
    byId("remark").open = Boolean(earlier?.reason || earlier?.comment);
  }

  get fields() {
    const typed = {};
    for (const name of ["reason", "comment"]) {
      const text = byId(name)?.value.trim();
      if (text) typed[name] = text;
    }
    return typed;
  }

  #put(name, text) {
    const field = byId(name);
    if (field && field.value !== (text ?? "")) field.value = text ?? "";
  }
}

export class Compare {
  keys = {
    ...SIDE_KEYS,
    0: "tie",
    t: "tie",
    b: "both_bad",
    "shift+1": "strength-1",
    "shift+2": "strength-2",
    "shift+3": "strength-3",
  };
  #remark = new Remark();
  #strength = null;

  open({ earlier }) {
    this.#remark.open(earlier);
    this.#choose(earlier?.strength ?? null);
  }

  act(name) {
    const strength = /^strength-(\d)$/.exec(name)?.[1];
    if (strength) return this.#choose(this.#strength === +strength ? null : +strength);
    const outcome = { preferred: name, ...this.#remark.fields };
    // A tie has no strength: whoever chose one and then a tie means the tie.
    if (this.#strength && (name === "first" || name === "second")) outcome.strength = this.#strength;
    return { kind: "compared", outcome };
  }

  back() {
    return false;
  }

  #choose(strength) {
    this.#strength = strength;
    for (const number of [1, 2, 3]) {
      const button = document.querySelector(`[data-act="strength-${number}"]`);
      button.setAttribute("aria-pressed", String(number === strength));
    }
  }
}

export class Rate {
  keys = Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((grade) => [grade, `grade-${grade}`]));
  #remark = new Remark();

  open({ earlier }) {
    this.#remark.open(earlier);
  }

  act(name) {
    return { kind: "graded", outcome: { grade: +name.slice("grade-".length), ...this.#remark.fields } };
  }

  back() {
    return false;
  }
}

export class Rank {
  keys = {
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((number) => [number, `place-${number - 1}`])),
    t: "tie",
    Backspace: "again",
    Enter: "submit",
  };
  #steps = []; // { answer, place }, in the order of placing
  #count = 0;
  #tie = false;
  #article = null;

  constructor({ announce }) {
    this.announce = announce;
  }

  open({ task, article, earlier }) {
    this.#article = article;
    this.#count = task.answers.length;
    this.#tie = false;
    this.#steps = (earlier?.places ?? [])
      .map((place, answer) => ({ answer, place }))
      .sort((one, other) => one.place - other.place);
    this.#show();
  }

  act(name) {
    if (name === "submit") return this.#submit();
    if (name === "tie") this.#tie = this.#steps.length > 0 && !this.#tie;
    else if (name === "again") this.#steps = [];
    else this.#put(+name.slice("place-".length));
    this.#show();
  }

  back() {
    const had = this.#tie || this.#steps.length > 0;
    if (this.#tie) this.#tie = false;
    else this.#steps.pop();
    this.#show();
    return had;
  }

  #put(answer) {
    if (answer >= this.#count || this.#steps.some((step) => step.answer === answer)) return;
    const last = this.#steps.at(-1)?.place ?? 0;
    this.#steps.push({ answer, place: this.#tie ? last : last + 1 });
    this.#tie = false;
    this.announce(`Answer ${answer + 1}: place ${this.#steps.at(-1).place}`);
    // Where a clicked button keeps the focus, Enter would press that one again.
    if (this.#steps.length >= this.#count - 1) document.querySelector('[data-act="submit"]').focus();
  }

  #submit() {
    const missing = [...Array(this.#count).keys()].filter((answer) => !this.#steps.some((step) => step.answer === answer));
    if (missing.length > 1) return void this.announce(`${missing.length} answers have no place yet`);
    if (missing.length) this.#put(missing[0]); // what is left is the last
    const places = Array(this.#count);
    for (const { answer, place } of this.#steps) places[answer] = place;
    return { kind: "ranked", outcome: { places } };
  }

  #show() {
    const places = new Map(this.#steps.map(({ answer, place }) => [answer, place]));
    for (const [answer, button] of [...this.#article.querySelectorAll(".place")].entries()) {
      const place = places.get(answer);
      button.textContent = place ? `Place ${place}` : `Press ${answer + 1}`;
      button.setAttribute("aria-pressed", String(Boolean(place)));
      button.setAttribute("aria-label", `Answer ${answer + 1}: ${place ? `place ${place}` : "no place yet"}`);
    }
    document.querySelector('[data-act="tie"]').setAttribute("aria-pressed", String(this.#tie));
    const left = this.#count - this.#steps.length;
    byId("rank-hint").textContent =
      left > 1 ? `Choose the ${this.#steps.length ? "next best" : "best"} answer: ${left} left.` : "Save it with Enter.";
  }
}

/** A text field whose content outlives a reload. */
class Writing {
  constructor({ announce }) {
    this.announce = announce;
    this.field = byId("response");
    this.field.addEventListener("input", () => this.draft?.set(this.typed()));
  }

  said(kind, fields = {}) {
    const response = this.field.value;
    if (!response.trim()) {
      this.announce("Write something first");
      this.field.focus();
      return undefined;
    }
    return { kind, outcome: { ...fields, response } };
  }
}

export class Demonstrate extends Writing {
  keys = { e: "write" };

  open({ earlier, draft }) {
    this.draft = draft;
    this.field.value = draft.get()?.response ?? earlier?.response ?? "";
    // On a phone the keyboard would cover what is to be read.
    if (matchMedia("(pointer: fine)").matches) this.field.focus({ preventScroll: true });
  }

  typed() {
    return { response: this.field.value };
  }

  act(name) {
    if (name === "write") return void this.field.focus();
    return this.said("written");
  }

  back() {
    return false;
  }
}

export class Edit extends Writing {
  keys = SIDE_KEYS;
  #chosen = null;
  #texts = {};

  open({ task, article, earlier, draft }) {
    this.draft = draft;
    this.article = article;
    const [first, second] = task.answers.map((answer) => answer.text);
    this.#texts = { first, second };
    if (earlier) this.#texts[earlier.preferred] = earlier.response;
    Object.assign(this.#texts, draft.get()?.texts);
    this.#choose(draft.get()?.chosen ?? earlier?.preferred ?? null);
  }

  typed() {
    this.#texts[this.#chosen] = this.field.value;
    return { chosen: this.#chosen, texts: this.#texts };
  }

  act(name) {
    if (name === "submit") return this.#chosen ? this.said("edited", { preferred: this.#chosen }) : this.#ask();
    this.#choose(name);
    this.draft.set(this.typed());
    this.field.focus();
  }

  back() {
    const had = this.#chosen !== null;
    if (had) this.draft.set({ ...this.typed(), chosen: null });
    this.#choose(null);
    return had;
  }

  #ask() {
    this.announce("Choose the better answer first");
  }

  #choose(side) {
    this.#chosen = side;
    byId("composer").hidden = side === null;
    if (side) this.field.value = this.#texts[side];
    for (const [place, name] of ["first", "second"].entries()) {
      document.querySelector(`#choice [data-act="${name}"]`).setAttribute("aria-pressed", String(name === side));
      this.article.querySelectorAll(".answer")[place].classList.toggle("chosen", name === side);
    }
  }
}

export const KINDS = { compare: Compare, rate: Rate, rank: Rank, demonstrate: Demonstrate, edit: Edit };
