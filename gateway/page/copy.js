/** The same answer for a terminal: as JSON, and the call that gave it. */

import { contentType, identifyUrl } from "./api.js";
import { announce, button, make } from "./dom.js";
import { currentKey } from "./keys.js";

const SHOWN_MS = 1600;

/** @param {import("./photo.js").Photo} photo */
export function copyButtons(photo) {
  return make(
    "div.copies",
    copyButton("Copy JSON", () => answerJson(photo.answer)),
    copyButton("Copy curl", () => curlCommand(photo)),
  );
}

/** Without the heatmap: it is a picture, and a hundred times as long as the rest. */
function answerJson({ heatmap: _, ...answer }) {
  return JSON.stringify(answer, null, 2);
}

/** Never with the key itself: commands end up in histories and chats. */
function curlCommand({ file, box }) {
  return [
    `curl '${identifyUrl({ box })}'`,
    ...(currentKey() ? ['-H "Authorization: Bearer $CARID_API_KEY"'] : []),
    `-H 'Content-Type: ${contentType(file)}'`,
    `--data-binary @'${file.name.replaceAll("'", "'\\''")}'`,
  ].join(" \\\n  ");
}

function copyButton(label, text) {
  const element = button("link", label, async () => {
    const done = await copy(text());
    element.textContent = done ? "Copied" : "Your browser does not allow it";
    announce(element.textContent);
    setTimeout(() => (element.textContent = label), SHOWN_MS);
  });
  return element;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text);
  }
}

/** On plain http, but for localhost, browsers hide `navigator.clipboard`. */
function copyTheOldWay(text) {
  const focused = document.activeElement;
  const area = make("textarea.visually-hidden");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
