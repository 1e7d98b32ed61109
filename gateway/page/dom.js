/** Small helpers around the DOM. */

/** The element with this id; a missing one is a bug in index.html. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element;
}

/**
 * Make an element.
 *
 * @param {string} tag with classes: "p.hint"
 * @param {...(Node|string|null)} children null is left out
 */
export function make(tag, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A button that does something. */
export function button(classes, text, onClick) {
  const element = make(`button.${classes}`, text);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}

const live = byId("live");

/** Tell a screen reader, once it has finished what it is saying. */
export function announce(text) {
  live.textContent = text;
}
