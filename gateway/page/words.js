/** What the page says about an answer or an error. */

/** A confidence as people say it: never 0% or 100% where it is not. */
export function percent(share) {
  if (share > 0 && share < 0.01) return "<1%";
  if (share < 1 && share > 0.99) return ">99%";
  return `${Math.round(share * 100)}%`;
}

/** A time in the unit that suits it. */
export function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Body and year; a few models have no body style. */
export function details({ body, year }) {
  return [body, year].filter(Boolean).join(" · ");
}

/**
 * An answer in words.
 *
 * @returns {{verdict: string, say: string}} a title and a sentence or two, perhaps empty
 */
export function verdictOf({ verdict, make, make_confidence, region }) {
  if (verdict === "identified") return { verdict: "Identified", say: "" };
  if (verdict === "not_a_car") {
    return {
      verdict: "Not a car",
      say:
        region.source === "box"
          ? "Nothing in your box looks like a car. Draw it closer around the car, or let it look by itself."
          : "Nothing in this photo looks like a car. If there is one, draw a box around it and ask again.",
    };
  }
  return {
    verdict: "Uncertain",
    say:
      "This is a car, but probably none of the models known here, or several are too close to call. " +
      (make_confidence >= 0.5
        ? `The make is the safer part: ${make}, ${percent(make_confidence)}.`
        : "The make is a guess, too."),
  };
}

/** An answer in one line. */
export function summary(answer) {
  if (answer.verdict === "not_a_car") return "Not a car";
  if (answer.verdict === "uncertain") return `Uncertain, perhaps ${answer.label}`;
  return `${answer.label}, ${percent(answer.confidence)} sure`;
}

/** What the outline on the photo means. */
export function regionCaption({ region: { source } }) {
  return {
    photo: "It read the whole photo.",
    found: "The outline is the part it read: that is where it found the car.",
    box: "It read your box.",
  }[source];
}

const TITLES = {
  image_unreadable: "This photo is damaged",
  unsupported_image_type: "Not a photo it can read",
  image_too_large: "This photo is too large",
  body_too_large: "This photo is too large",
  image_missing: "This file is empty",
  unauthorized: "An API key is needed",
  rate_limited: "Too many photos for now",
  server_busy: "Busy right now",
  model_unavailable: "The model is starting",
  not_ready: "The model is starting",
  timeout: "No answer in time",
  unreachable: "No connection",
};

/** A headline for an error; its message says the rest. */
export function errorTitle({ code }) {
  return TITLES[code] ?? "That did not work";
}
