/** Target tokens as buttons: coloured and underlined by their probability. */

import { find, focusOne, make, percent, placeAfter } from "./dom.js";

/** Levels of probability: at least, class, name. */
export const LEVELS = [
  [0.9, "sure", "90 % and more"],
  [0.6, "likely", "60 to 90 %"],
  [0.3, "open", "30 to 60 %"],
  [0.1, "unsure", "10 to 30 %"],
  [0, "doubtful", "below 10 %"],
];

/** The class of a token's probability; "" if it is not known. */
export function levelOf(token) {
  if (token.logprob === null) return "";
  const probability = Math.exp(token.logprob);
  return LEVELS.find(([least]) => probability >= least)[1];
}

/**
 * Fill an element with the tokens of a result.
 * @param {Object[]} tokens
 * @param {{onPick: (place: number, button: Element) => void, onLook: (token: Object|null) => void}} handlers
 *   onPick: a token was clicked; onLook: the pointer or the focus is on it, or left (null)
 */
export function showWords(element, tokens, { onPick, onLook }) {
  const buttons = [];
  let isFirst = true;
  tokens.forEach((token, place) => {
    const text = isFirst ? token.text.trimStart() : token.text;
    if (!text && !isLast(token, place, tokens)) return;
    isFirst = false;
    buttons.push(...wordParts(text, token, place, onPick, onLook));
  });
  element.replaceChildren(...buttons);
  moveByKeys(element);
}

function isLast(token, place, tokens) {
  return token.special && place === tokens.length - 1;
}

function wordParts(text, token, place, onPick, onLook) {
  const space = text.match(/^\s*/u)[0];
  const button = make(
    "button",
    {
      type: "button",
      class: `word ${levelOf(token)} ${token.isPrefix ? "kept" : ""} ${text ? "" : "end"}`,
      title: titleOf(token),
      "data-place": place,
      onclick: (event) => onPick(place, event.currentTarget),
      onmouseenter: () => onLook(token),
      onmouseleave: () => onLook(null),
      onfocus: () => onLook(token),
      onblur: () => onLook(null),
    },
    text ? text.slice(space.length) : "∎",
  );
  button.tabIndex = -1;
  button.setAttribute("aria-label", `${text.trim() || "end"}, ${titleOf(token)}`);
  return space ? [space, button] : [button];
}

function titleOf(token) {
  if (token.logprob === null) return token.isPrefix ? "as given" : "";
  return percent(Math.exp(token.logprob)) + (token.isPrefix ? ", kept" : "");
}

function moveByKeys(element) {
  const buttons = [...element.querySelectorAll("button")];
  if (buttons.length) buttons[0].tabIndex = 0;
  element.onkeydown = (event) => {
    const place = buttons.indexOf(document.activeElement);
    const next = place < 0 || event.altKey || event.ctrlKey ? null : placeAfter(event.key, place, buttons.length);
    if (next === null) return;
    event.preventDefault();
    focusOne(buttons, buttons[next]);
  };
}

/** Explain colours and underlines. */
export function showLegend() {
  find("legend").replaceChildren(
    ...LEVELS.map(([, name, text]) => make("span", {}, make("span", { class: `word ${name}` }, "word"), ` ${text}`)),
  );
}
