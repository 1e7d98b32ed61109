/** A box around the car, drawn by hand or typed in pixels, to ask about that part only. */

import { byId } from "./dom.js";
import { photoSize, placeOver } from "./stage.js";

const EDGES = ["left", "top", "right", "bottom"];
// A smaller drag is a slip of the hand.
const SMALLEST = 8;

const frame = byId("frame");
const drawn = byId("drawn");
const form = byId("box-form");
const toggle = byId("draw-box");

/** @param {(box: string) => void} onBox gets "left,top,right,bottom" */
export function listenForBoxes(onBox) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const box = typed();
    onBox(EDGES.map((edge) => box[edge]).join(","));
  });
}

/** Offer to draw, where there is a photo to draw on. */
export function offerBox(isPossible, region) {
  toggle.hidden = !isPossible;
  toggle.onclick = () => (form.hidden ? openBox(region) : closeBox());
  if (!isPossible) closeBox();
}

/** Put the form away. */
export function closeBox() {
  if (form.contains(document.activeElement)) toggle.focus();
  setOpen(false);
}

function openBox(region) {
  const { width, height } = photoSize();
  setOpen(true);
  for (const edge of EDGES) {
    form.elements[edge].max = edge === "left" || edge === "right" ? width : height;
  }
  show(region ?? { left: 0, top: 0, right: width, bottom: height });
}

function setOpen(isOpen) {
  form.hidden = !isOpen;
  drawn.hidden = !isOpen;
  toggle.setAttribute("aria-expanded", String(isOpen));
  frame.classList.toggle("drawing", isOpen);
}

function typed() {
  return Object.fromEntries(EDGES.map((edge) => [edge, form.elements[edge].valueAsNumber]));
}

function show(box) {
  for (const edge of EDGES) form.elements[edge].value = box[edge];
  follow();
}

/** Draw what is typed, and say what is wrong with it. */
function follow() {
  const box = typed();
  form.elements.right.setCustomValidity(box.right > box.left ? "" : "Right must be more than left.");
  form.elements.bottom.setCustomValidity(
    box.bottom > box.top ? "" : "Bottom must be more than top.",
  );
  if (form.checkValidity()) placeOver(drawn, box);
}

form.addEventListener("input", follow);

/** Where the pointer is on the photo, in its pixels. */
function pointOf(event) {
  const { left, top, width, height } = frame.getBoundingClientRect();
  const size = photoSize();
  const clamp = (share) => Math.min(1, Math.max(0, share));
  return {
    x: Math.round(clamp((event.clientX - left) / width) * size.width),
    y: Math.round(clamp((event.clientY - top) / height) * size.height),
  };
}

frame.addEventListener("pointerdown", (down) => {
  if (form.hidden || !down.isPrimary) return;
  down.preventDefault();
  frame.setPointerCapture(down.pointerId);
  const start = pointOf(down);
  const onMove = (event) => {
    const { x, y } = pointOf(event);
    const box = {
      left: Math.min(start.x, x),
      top: Math.min(start.y, y),
      right: Math.max(start.x, x),
      bottom: Math.max(start.y, y),
    };
    if (box.right - box.left >= SMALLEST && box.bottom - box.top >= SMALLEST) show(box);
  };
  frame.addEventListener("pointermove", onMove);
  frame.addEventListener("lostpointercapture", () =>
    frame.removeEventListener("pointermove", onMove), { once: true });
});
