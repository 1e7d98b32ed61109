/** The page: photos in, answers out. Each other module does one part of it. */

import { hideAnswer, showAnswer } from "./answer.js";
import { closeBox, listenForBoxes, offerBox } from "./box.js";
import { announce, byId } from "./dom.js";
import { choose, listen } from "./intake.js";
import { Photo } from "./photo.js";
import { hidePhoto, photoSize, showPhoto } from "./stage.js";
import { showStrip } from "./strip.js";
import { errorTitle, summary } from "./words.js";

let photos = [];
let selected = null;

function add(files) {
  const added = files.map((file) => new Photo(file));
  photos = [...photos, ...added];
  select(added[0]);
  for (const photo of added) {
    photo.addEventListener("change", () => onChange(photo));
    photo.ask();
  }
}

function select(photo) {
  selected = photo;
  closeBox();
  render();
}

function restart() {
  for (const photo of photos) photo.drop();
  photos = [];
  selected = null;
  closeBox();
  render();
  byId("choose").focus(); // the button that was pressed is gone
}

let lastSaid = "";

function onChange(photo) {
  const said = news(photo);
  if (said && said !== lastSaid) announce(said);
  lastSaid = said || lastSaid;
  render();
}

/** What a screen reader should hear, without every step and second. */
function news({ name, state, answer, error, secondsLeft }) {
  if (state === "sending") return `${name}: sent to the server`;
  if (answer) return `${name}: ${summary(answer)}. ${answer.warnings.join(" ")}`;
  if (state === "failed") return `${name}: ${errorTitle(error)}. ${error.message}`;
  if (state === "waiting" && secondsLeft === error.retryAfter) {
    return `${name}: ${errorTitle(error)}. Trying again in ${secondsLeft} seconds.`;
  }
  return "";
}

function render() {
  document.body.dataset.view = selected ? "answer" : "landing";
  byId("restart").hidden = !selected;
  byId("tools").hidden = !selected?.answer;
  showStrip(photos, selected, select);
  if (!selected) {
    hidePhoto();
    hideAnswer();
    return;
  }
  showPhoto(selected);
  showAnswer(selected, { again: () => selected.ask(), choose });
  offerBox(Boolean(selected.answer && photoSize()), selected.answer?.region);
  byId("whole").hidden = !selected.answer || !selected.box;
}

function askAgain(box) {
  closeBox();
  selected.ask(box);
  byId("answer").focus(); // the button that was pressed is gone
}

byId("restart").addEventListener("click", restart);
byId("whole").addEventListener("click", () => askAgain(null));
byId("photo").addEventListener("load", () => selected && render());
byId("photo").addEventListener("error", () => selected && render());
listenForBoxes(askAgain);
listen(add);
