/** The panel beside the photo: the answer, how it is going, or why there is none. */

import { button, byId, make } from "./dom.js";
import { copyButtons } from "./copy.js";
import { details, duration, errorTitle, percent, verdictOf } from "./words.js";

const panel = byId("answer");
let shown = null;

/**
 * Show where a photo stands.
 *
 * @param {import("./photo.js").Photo} photo
 * @param {{again: () => void, choose: () => void}} actions
 */
export function showAnswer(photo, actions) {
  const countdown = photo.state === "waiting" && panel.querySelector(".countdown");
  if (countdown && shown === photo) {
    countdown.textContent = tryingAgain(photo); // and the button beside it keeps its focus
    return;
  }
  const hadFocus = panel.contains(document.activeElement);
  shown = photo;
  panel.hidden = false;
  panel.dataset.tone = photo.answer?.verdict ?? photo.state;
  panel.setAttribute("aria-busy", String(photo.isBusy));
  if (photo.answer) panel.replaceChildren(...answered(photo));
  else if (photo.state === "failed") panel.replaceChildren(...failed(photo.error, actions));
  else if (photo.state === "waiting") panel.replaceChildren(...waiting(photo, actions));
  else panel.replaceChildren(...working(photo));
  if (hadFocus) panel.focus();
}

export function hideAnswer() {
  panel.hidden = true;
}

function answered(photo) {
  const { answer } = photo;
  const { verdict, say } = verdictOf(answer);
  const isCar = answer.verdict !== "not_a_car";
  return [
    make("p.verdict", make("span.mark"), verdict),
    ...(isCar ? carTitle(answer) : [make("h2.title", "No car here")]),
    say ? make("p.say", say) : null,
    isCar ? bars(answer) : null,
    answer.warnings.length
      ? make("ul.warnings", ...answer.warnings.map((warning) => make("li", warning)))
      : null,
    make("p.meta", metaLine(photo)),
    copyButtons(photo),
  ].filter(Boolean);
}

function carTitle(answer) {
  const title = make("h2.title");
  if (answer.verdict === "uncertain") title.append(make("span.perhaps", "Perhaps"), " ");
  title.append(make("span.make", answer.make), " ", make("span.model", answer.model));
  return [title, make("p.details", details(answer))];
}

function bars(answer) {
  const first = bar(make("span.name", `${answer.make}, any model`), answer.make_confidence);
  const rows = answer.predictions.map((car) => {
    const name = make("span.name", `${car.make} ${car.model} `, make("small", details(car)));
    return make("li", bar(name, car.confidence));
  });
  return make(
    "div.bars",
    make("h3", "The make"),
    first,
    make("h3", "The model"),
    make("ol", ...rows),
  );
}

function bar(name, share) {
  const track = make("span.track", make("span.fill"));
  track.style.setProperty("--share", share);
  return make("div.row", name, " ", make("span.percent", percent(share)), track);
}

function metaLine({ answer, elapsedMs }) {
  const stages = Object.entries(answer.timing_ms).map(
    ([stage, ms]) => `${stage} ${duration(ms)}`,
  );
  return [
    `Model ${answer.model_version}`,
    ...stages,
    `${duration(elapsedMs)} in all`,
  ].join(" · ");
}

function working(photo) {
  const sent = Math.round(photo.sent * 100);
  const what = {
    queued: "Waiting for its turn",
    sending: `Sending, ${sent}%`,
    looking: "Looking",
    locked: "Waiting for a key",
  }[photo.state];
  return [make("p.verdict", make("span.mark"), what), make("p.file", photo.name)];
}

function waiting(photo, { again }) {
  return [
    ...problem(photo.error),
    make("p.say.countdown", tryingAgain(photo)),
    make("div.buttons", button("primary", "Try now", again)),
  ];
}

function tryingAgain({ secondsLeft }) {
  return `Trying again in ${secondsLeft} ${secondsLeft === 1 ? "second" : "seconds"}.`;
}

function failed(error, { again, choose }) {
  const next =
    error.isPassing || error.status === 401
      ? button("primary", error.status === 401 ? "Enter a key" : "Try again", again)
      : button("primary", "Choose another photo", choose);
  return [
    ...problem(error),
    make("div.buttons", next),
    error.requestId ? make("p.meta", `Request ${error.requestId}`) : null,
  ].filter(Boolean);
}

function problem(error) {
  return [
    make("p.verdict", make("span.mark"), "No answer"),
    make("h2.title", errorTitle(error)),
    make("p.say", error.message),
  ];
}
