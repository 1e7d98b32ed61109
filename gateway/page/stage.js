/** The photo, with what was read of it and where the network looked. */

import { byId } from "./dom.js";
import { regionCaption } from "./words.js";

const frame = byId("frame");
const image = byId("photo");
const heat = byId("heat");
const finder = byId("finder");
const unseen = byId("unseen");
const progress = byId("progress");
const heatButton = byId("show-heat");
const caption = byId("caption");

let shown = null;
let heatWanted = false;

/**
 * Show a photo as far as it has come.
 *
 * @param {import("./photo.js").Photo} photo
 */
export function showPhoto(photo) {
  frame.hidden = false;
  if (shown !== photo) {
    shown = photo;
    finder.classList.remove("placed");
    image.src = photo.url;
    image.alt = `Your photo ${photo.name}`;
  }
  showProgress(photo);
  showRegion(photo);
  showHeat(photo);
}

export function hidePhoto() {
  shown = null;
  frame.hidden = true;
  progress.hidden = true;
}

/** Its size in pixels; null while it loads, and where this browser can't show it. */
export function photoSize() {
  if (!image.complete || !image.naturalWidth) return null;
  return { width: image.naturalWidth, height: image.naturalHeight };
}

/**
 * Put an element over a part of the photo.
 *
 * @param {HTMLElement} element a child of the frame
 * @param {{left: number, top: number, right: number, bottom: number}} box in pixels of the photo
 */
export function placeOver(element, { left, top, right, bottom }) {
  const { width, height } = photoSize();
  Object.assign(element.style, {
    left: `${(100 * left) / width}%`,
    top: `${(100 * top) / height}%`,
    width: `${(100 * (right - left)) / width}%`,
    height: `${(100 * (bottom - top)) / height}%`,
  });
}

function showProgress(photo) {
  progress.hidden = !photo.isBusy;
  const isSending = photo.state === "sending" && photo.sent < 1;
  progress.classList.toggle("endless", !isSending);
  progress.style.setProperty("--share", isSending ? photo.sent : 1);
  if (isSending) progress.setAttribute("aria-valuenow", Math.round(100 * photo.sent));
  else progress.removeAttribute("aria-valuenow");
}

function showRegion({ answer, isBusy, state }) {
  finder.hidden = state === "failed" || !photoSize();
  finder.classList.toggle("searching", isBusy);
  finder.classList.toggle("placed", Boolean(answer) && answer.region.source !== "photo");
  finder.classList.toggle("whole", answer?.region.source === "photo");
  if (answer && photoSize()) placeOver(finder, answer.region);
  else finder.removeAttribute("style");
}

function showHeat({ answer }) {
  const map = answer?.verdict === "not_a_car" ? null : answer?.heatmap;
  const isOn = heatWanted && Boolean(map) && photoSize() !== null;
  heatButton.hidden = !map || !photoSize();
  heatButton.setAttribute("aria-pressed", String(isOn));
  heat.hidden = !isOn;
  frame.classList.toggle("heated", isOn);
  if (isOn) heat.src = `data:image/png;base64,${map.png}`;
  if (!answer) caption.textContent = "";
  else if (isOn) caption.textContent = `From yellow to red: what spoke for ${answer.label}.`;
  else caption.textContent = regionCaption(answer);
}

heatButton.addEventListener("click", () => {
  heatWanted = !heatWanted;
  showHeat(shown);
});

function fit(ratio) {
  frame.style.setProperty("--ratio", ratio);
  frame.classList.toggle("tall", ratio < 1.15);
}

image.addEventListener("load", () => {
  frame.classList.remove("blind");
  unseen.hidden = true;
  fit(image.naturalWidth / image.naturalHeight);
  showPhoto(shown);
});

image.addEventListener("error", () => {
  frame.classList.add("blind");
  unseen.hidden = false;
  unseen.textContent = /\.hei[cf]$/i.test(shown.name)
    ? "Your browser can’t show HEIC photos. The server can read them, so the answer comes all the same."
    : "Your browser can’t show this file.";
  fit(1.5);
  showPhoto(shown);
});
