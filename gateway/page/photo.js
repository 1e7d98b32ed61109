/** One photo and all that happens to it: sent, answered, refused, tried again. */

import { ApiError, identify } from "./api.js";
import { askForKey, currentKey } from "./keys.js";

// As many at once keep the model busy; each of several photos is a request of its own.
const AT_ONCE = 3;
const TRIES = 5;
// Who is told to wait longer than this decides for themselves.
const LONGEST_WAIT_S = 90;

let free = AT_ONCE;
const queue = [];

async function inTurn(task) {
  if (free > 0) free -= 1;
  else await new Promise((go) => queue.push(go));
  try {
    await task();
  } finally {
    const next = queue.shift();
    if (next) next();
    else free += 1;
  }
}

/**
 * A photo and its state: queued → sending → looking → answered or failed; in between it may be
 * `waiting` (the server is busy) or `locked` (it asks for a key). Fires `change` at each step.
 */
export class Photo extends EventTarget {
  state = "queued";
  sent = 0;
  secondsLeft = 0;
  elapsedMs = 0;
  box = null;
  answer = null;
  error = null;
  #keyUsed = null;
  #askedAt = 0;
  #skipWait = null;
  #gone = new AbortController();

  /** @param {File} file */
  constructor(file) {
    super();
    this.file = file;
    this.name = file.name || "Photo";
    this.url = URL.createObjectURL(file);
  }

  get isBusy() {
    return this.state !== "answered" && this.state !== "failed";
  }

  /** Stop asking and free the memory that the preview takes; the photo is used up. */
  drop() {
    this.#gone.abort();
    URL.revokeObjectURL(this.url);
    this.#skipWait?.();
  }

  /**
   * Ask the server, in turn with other photos; while it waits to try again, try now.
   *
   * @param {string|null} box "left,top,right,bottom" in pixels of the upright photo
   */
  ask(box = this.box) {
    if (this.state === "waiting") return this.#skipWait();
    this.box = box;
    this.answer = null;
    this.error = null;
    this.#askedAt = performance.now();
    this.#become("queued");
    return inTurn(() => this.#untilAnswered());
  }

  async #untilAnswered() {
    for (let tries = 1; !this.#gone.signal.aborted; tries += 1) {
      try {
        return await this.#once();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        this.error = error;
        const goesOn =
          error.status === 401 ? await this.#unlock(error) : tries < TRIES && (await this.#pause(error));
        if (!goesOn) return this.#become("failed");
      }
    }
  }

  async #once() {
    const key = currentKey();
    this.#keyUsed = key;
    this.sent = 0;
    this.#become("sending");
    const start = performance.now();
    const onProgress = (share) => {
      this.sent = share;
      this.#become(share < 1 ? "sending" : "looking");
    };
    const signal = this.#gone.signal;
    const answer = await identify(this.file, { box: this.box, key, signal, onProgress });
    this.elapsedMs = performance.now() - start;
    this.answer = answer;
    this.error = null;
    this.#become("answered");
  }

  async #unlock(error) {
    this.#become("locked");
    return (await askForKey(error.message, this.#keyUsed, this.#askedAt)) !== null;
  }

  /** Wait as long as the server asked for; false where it asked for nothing of the kind. */
  async #pause(error) {
    const seconds = error.retryAfter;
    if (![429, 503].includes(error.status) || seconds === null || seconds > LONGEST_WAIT_S) {
      return false;
    }
    let skipped = false;
    for (let left = Math.max(1, seconds); left > 0 && !skipped && !this.#gone.signal.aborted; left -= 1) {
      this.secondsLeft = left;
      this.#become("waiting");
      skipped = await new Promise((resolve) => {
        const timer = setTimeout(() => resolve(false), 1000);
        this.#skipWait = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
    }
    this.#skipWait = null;
    return true;
  }

  #become(state) {
    this.state = state;
    if (!this.#gone.signal.aborted) this.dispatchEvent(new Event("change"));
  }
}
