/** The source pane: a text field over a copy of its text, which carries the marks of attention and of the cut. */

import { find, make, percent, tell } from "./dom.js";

export class Source {
  #field = find("source");
  #mirror = find("mirror");
  #spans = [];

  /** @param {() => void} edited called when the text changes */
  constructor(edited) {
    this.#field.addEventListener("input", () => {
      this.#plain();
      edited();
    });
    this.#plain();
  }

  get text() {
    return this.#field.value;
  }

  set text(text) {
    this.#field.value = text;
    this.#plain();
  }

  /** Set the language, where it is known. */
  set language(code) {
    if (code) this.#field.lang = code;
    else this.#field.removeAttribute("lang");
  }

  focus() {
    this.#field.focus();
  }

  /**
   * Show where a text's tokens are, and where it was cut.
   * @param {{text: string, offsets: [number, number][], count: number, wasCut: boolean}} read
   */
  lay({ text, offsets, count, wasCut }) {
    if (text !== this.text) return; // edited since
    const places = inUtf16(text, offsets);
    const pieces = [];
    let end = 0;
    this.#spans = places.map(([from, to]) => {
      if (to <= from || from < end) return null; // special tokens, and parts of one character
      const span = make("span", { class: "read" }, text.slice(from, to));
      pieces.push(text.slice(end, from), span);
      end = to;
      return span;
    });
    const rest = text.slice(end);
    pieces.push(wasCut && places.length ? make("span", { class: "cut" }, rest) : rest, "\n");
    this.#mirror.replaceChildren(...pieces);
    tell(find("source-note"), wasCut ? `The source was cut after ${count} tokens: what is struck through was not read.` : "");
  }

  /** Mark tokens by their share of attention; nothing unmarks all. */
  mark(shares = []) {
    const most = strongest(shares.filter((_, place) => this.#spans[place]));
    this.#spans.forEach((span, place) => span?.style.setProperty("--share", shares.length ? shares[place] / most : 0));
  }

  #plain() {
    const text = this.text;
    this.#spans = [];
    this.#mirror.replaceChildren(`${text}\n`); // a last line that is empty has a height too
    tell(find("source-note"), "");
    const size = [...text].length;
    find("source-size").textContent = size ? `${size.toLocaleString("en")} characters` : "";
  }
}

/** The share that gets the full colour: the largest; more if all are alike, since then nothing stands out. */
export function strongest(shares) {
  return Math.max(...shares, 3 / Math.max(1, shares.length));
}

/** The tokens that were read most, in words: "berlin 43 %, in 12 %". */
export function mostRead(token, texts, count = 3) {
  return (token.attention ?? [])
    .map((share, place) => [share, (texts[place] ?? "").trim()])
    .sort(([one], [other]) => other - one)
    .slice(0, count)
    .map(([share, text]) => `${text} ${percent(share)}`)
    .join(", ");
}

/** Offsets in characters as offsets in a JavaScript string, where some characters count twice. */
function inUtf16(text, offsets) {
  if (text.length === [...text].length) return offsets;
  const starts = [0];
  for (const character of text) starts.push(starts.at(-1) + character.length);
  return offsets.map((pair) => pair.map((place) => starts[place] ?? text.length));
}
