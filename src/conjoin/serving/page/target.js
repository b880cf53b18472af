/** The target pane: a text that grows, then its words, of the result that is chosen. */

import { find, make, SentenceReader } from "./dom.js";
import { tokensOf } from "./answer.js";
import { showLegend, showWords } from "./words.js";

export class Target {
  #box = find("target");
  #withWords = find("show-words");
  #reader = new SentenceReader();
  #handlers;
  #answer = null;
  #result = null;
  #streamed = "";

  /** @param {{onPick: (place: number, button: Element) => void, onLook: (token: Object|null) => void}} handlers */
  constructor(handlers) {
    this.#handlers = handlers;
    showLegend();
    this.#withWords.addEventListener("change", () => this.#draw());
  }

  /** True if words are wanted with their probabilities. */
  get wantsWords() {
    return this.#withWords.checked;
  }

  /** The text that is shown. */
  get text() {
    return this.#result ? this.#result.text : this.#streamed;
  }

  set language(code) {
    if (code) this.#box.lang = code;
    else this.#box.removeAttribute("lang");
  }

  /** The tokens that are shown, those of the prefix first. */
  get tokens() {
    return this.#result ? tokensOf(this.#answer, this.#result) : [];
  }

  /** Begin a text anew, with what is kept of the one before. */
  begin(kept) {
    this.#answer = this.#result = null;
    this.#reader = new SentenceReader();
    this.#box.setAttribute("aria-busy", "true");
    this.grow({ text: kept, guess: "" });
  }

  /** Show a text that grows: what is certain, and in grey what may still change. */
  grow({ text, guess }) {
    this.#streamed = text;
    this.#reader.read(text);
    this.#box.replaceChildren(make("span", { class: "certain" }, text), make("span", { class: "guess" }, guess));
    find("legend").hidden = true;
  }

  /** Nothing more will come; what is there stays. */
  stop() {
    this.#box.removeAttribute("aria-busy");
    this.#box.querySelector(".guess")?.remove();
  }

  /** Show a result of an answer. */
  show(answer, result, isNew = false) {
    [this.#answer, this.#result] = [answer, result];
    this.#box.removeAttribute("aria-busy");
    if (isNew) this.#reader.read(result.text, true);
    this.#draw();
  }

  /** Show nothing. */
  clear() {
    this.#answer = this.#result = null;
    this.#streamed = "";
    this.#box.replaceChildren();
    find("legend").hidden = true;
  }

  /** The button of the token at this place. */
  button(place) {
    return this.#box.querySelector(`[data-place="${place}"]`);
  }

  #draw() {
    if (!this.#result) return;
    const hasWords = this.wantsWords && this.tokens.some((token) => token.logprob !== null);
    find("legend").hidden = !hasWords;
    if (hasWords) showWords(this.#box, this.tokens, this.#handlers);
    else this.#box.replaceChildren(this.#result.text);
  }
}
