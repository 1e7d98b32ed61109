/** The API key: asked for when the server wants one, kept for this tab only. */

import { byId } from "./dom.js";

const NAME = "api-key";
const NEVER_ASKED = "Whoever runs it decides who may use it, and can give you a key.";
const dialog = byId("key-dialog");
const form = dialog.querySelector("form");
const input = byId("key");
const note = byId("key-note");

let key = stored();
let asking = null;
let declinedAt = 0;
note.hidden = !key;

/** Null where the server has asked for none yet. */
export function currentKey() {
  return key;
}

/**
 * Ask for a key; several photos that need one at the same time share one dialog.
 *
 * @param {string} why what the server says of the key that it did not take
 * @param {string|null} refused the key that it did not take
 * @param {number} since when the photo was to be asked about, as of performance.now()
 * @returns {Promise<string|null>} null where none is given
 */
export function askForKey(why, refused, since) {
  if (asking) return asking;
  if (key && key !== refused) return Promise.resolve(key); // given for another photo meanwhile
  if (since < declinedAt) return Promise.resolve(null); // "Cancel" was meant for all of them
  keep(null);
  asking = openDialog(refused ? why : NEVER_ASKED).finally(() => (asking = null));
  return asking;
}

function openDialog(why) {
  byId("key-why").textContent = why;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const onClose = () => {
      const given = dialog.returnValue === "given" ? input.value : null;
      input.value = "";
      if (given) keep(given);
      else declinedAt = performance.now();
      resolve(given);
    };
    dialog.addEventListener("close", onClose, { once: true });
  });
}

function keep(value) {
  key = value;
  note.hidden = !key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // Storage is switched off in this browser: the key lasts until the page is left.
  }
}

function stored() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close("given");
});
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("forget-key").addEventListener("click", () => keep(null));
