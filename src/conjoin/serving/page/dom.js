/** Elements by id, new elements, and what is told to screen readers. Texts are only ever set as text. */

/** The element of this id. */
export function find(id) {
  return document.getElementById(id);
}

/**
 * A new element.
 * @param {string} tag
 * @param {Object} attributes `class`, `on...` for listeners, `data-...`, `aria-...`; booleans and `value` are properties.
 * @param {...(Node|string|null)} children null is left out.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean" || name === "value") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An <option>. */
export function option(value, text, isSelected = false) {
  return make("option", { value, selected: isSelected }, text);
}

/** Show a text in an element that is hidden while it has none. */
export function tell(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** Have a text read aloud once the screen reader is free. */
export function announce(text) {
  const live = find("live");
  live.append(make("p", {}, text));
  while (live.childElementCount > 20) live.firstElementChild.remove();
}

/** Announces a growing text sentence by sentence. */
export class SentenceReader {
  #told = 0;

  /** Take the text so far; whole sentences are announced, the rest once `isWhole`. */
  read(text, isWhole = false) {
    const end = isWhole ? text.length : lastSentenceEnd(text);
    if (end <= this.#told) return;
    announce(text.slice(this.#told, end).trim());
    this.#told = end;
  }
}

function lastSentenceEnd(text) {
  let end = 0;
  for (const match of text.matchAll(/[.!?…]["'”’)\]]*\s+|[。！？]|\n+/gu)) end = match.index + match[0].length;
  return end;
}

/** Move the focus in a list of elements of which one is in the tab order. */
export function focusOne(elements, chosen) {
  for (const element of elements) element.tabIndex = element === chosen ? 0 : -1;
  chosen?.focus();
}

/** The place that an arrow key leads to, or null: ArrowLeft and ArrowUp go back, Home and End to the ends. */
export function placeAfter(key, place, count) {
  const goal = { ArrowLeft: place - 1, ArrowUp: place - 1, ArrowRight: place + 1, ArrowDown: place + 1 }[key];
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  return goal === undefined ? null : Math.max(0, Math.min(count - 1, goal));
}

/** 0.123 as "12 %", 0.004 as "0.4 %". */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "below 0.1 %";
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} %`;
}
