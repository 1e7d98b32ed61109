/** The ways a photo comes in: chosen, taken, dropped anywhere, pasted. */

import { announce, byId } from "./dom.js";

/** Let the user choose files. */
export function choose() {
  byId("files").click();
}

/** @param {(files: File[]) => void} onFiles */
export function listen(onFiles) {
  byId("choose").addEventListener("click", choose);
  byId("camera").addEventListener("click", () => byId("shot").click());
  for (const input of [byId("files"), byId("shot")]) {
    input.addEventListener("change", () => {
      take(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
  }

  function take(files) {
    if (files.length) onFiles([...files]);
  }

  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (!files.length) return; // text into a field
    event.preventDefault();
    take(files);
  });

  // Enter and leave come for each element on the way; the window is left with the last of them.
  let depth = 0;
  const highlight = () => document.body.classList.toggle("dragging", depth > 0);
  addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    highlight();
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    highlight();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    highlight();
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
    else announce("That was no file. Save the photo first, then drop it here.");
  });
}
