// Time on task: from the moment a task is on the screen; it stands still while the page is hidden.

export class Stopwatch {
  #passed = 0;
  #since = null;

  constructor() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.#go()));
  }

  start() {
    this.#passed = 0;
    this.#since = null;
    if (!document.hidden) this.#go();
  }

  get seconds() {
    const running = this.#since === null ? 0 : performance.now() - this.#since;
    return Math.round(this.#passed + running) / 1000;
  }

  #go() {
    this.#since ??= performance.now();
  }

  #pause() {
    if (this.#since !== null) this.#passed += performance.now() - this.#since;
    this.#since = null;
  }
}
