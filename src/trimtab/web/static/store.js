// What the browser keeps for us. A browser may refuse to keep anything (private windows, full disks): then the
// page works on, and what is unsent lives only as long as the page; `kept` says so.

export class Shelf {
  kept = true;

  constructor(prefix) {
    this.prefix = prefix;
  }

  get(name) {
    try {
      const text = localStorage.getItem(this.prefix + name);
      return text === null ? null : JSON.parse(text);
    } catch {
      return null;
    }
  }

  set(name, value) {
    try {
      localStorage.setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      this.kept = false;
    }
  }

  remove(name) {
    try {
      localStorage.removeItem(this.prefix + name);
    } catch {
      this.kept = false;
    }
  }

  /** Names on this shelf that begin so, in order. */
  names(beginning) {
    const start = this.prefix + beginning;
    try {
      return Object.keys(localStorage)
        .filter((name) => name.startsWith(start))
        .map((name) => name.slice(this.prefix.length))
        .sort();
    } catch {
      return [];
    }
  }
}
