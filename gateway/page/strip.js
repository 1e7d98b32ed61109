/** Several photos: a row of thumbnails, each with its answer. */

import { byId, make } from "./dom.js";
import { errorTitle, summary } from "./words.js";

const strip = byId("strip");

/**
 * Show all photos; the strip is only there where there are several.
 *
 * @param {import("./photo.js").Photo[]} photos
 * @param {import("./photo.js").Photo} selected
 * @param {(photo: import("./photo.js").Photo) => void} onSelect
 */
export function showStrip(photos, selected, onSelect) {
  strip.hidden = photos.length < 2;
  while (strip.children.length > photos.length) strip.lastChild.remove();
  photos.forEach((photo, index) => {
    const item = strip.children[index] ?? strip.appendChild(newItem());
    fill(item.firstChild, photo, index + 1);
    item.firstChild.setAttribute("aria-current", String(photo === selected));
    item.firstChild.onclick = () => onSelect(photo);
  });
}

function newItem() {
  const image = make("img");
  image.alt = "";
  // A type that this browser can't show leaves the plain tile.
  image.addEventListener("error", () => (image.hidden = true));
  const tile = make("button.tile", make("span.thumb", image), make("span.mark"), make("span.text"));
  tile.type = "button";
  return make("li", tile);
}

function fill(tile, photo, number) {
  const image = tile.querySelector("img");
  if (image.src !== photo.url) {
    image.hidden = false;
    image.src = photo.url;
  }
  tile.dataset.tone = photo.answer?.verdict ?? photo.state;
  tile.querySelector(".text").textContent = caption(photo);
  tile.setAttribute("aria-label", `Photo ${number}, ${photo.name}: ${told(photo)}`);
}

function caption({ answer, error, state }) {
  if (answer?.verdict === "not_a_car") return "Not a car";
  if (answer) return `${answer.make} ${answer.model}${answer.verdict === "uncertain" ? "?" : ""}`;
  return state === "failed" ? errorTitle(error) : "…";
}

function told({ answer, error, state }) {
  if (answer) return summary(answer);
  return state === "failed" ? errorTitle(error) : "no answer yet";
}
