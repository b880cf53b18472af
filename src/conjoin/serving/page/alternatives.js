/** What else the model might have said at a place: a list beside the clicked word. */

import { find, focusOne, make, percent, placeAfter } from "./dom.js";

export class Alternatives {
  #box = find("alternatives");
  #word = null;
  #onClose;

  /** @param {() => void} onClose */
  constructor(onClose) {
    this.#onClose = onClose;
    document.addEventListener("pointerdown", (event) => {
      if (this.isOpen && !this.#box.contains(event.target)) this.close();
    });
    window.addEventListener("resize", () => this.close());
    this.#box.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !this.#box.contains(event.relatedTarget)) this.close();
    });
  }

  get isOpen() {
    return !this.#box.hidden;
  }

  /**
   * Open the list beside a word.
   * @param {Element} word
   * @param {Object} token
   * @param {{read: string, onChoose: (alternative: Object) => void}} options read: what the token read, in words
   */
  open(word, token, { read, onChoose }) {
    this.#word = word;
    const options = token.top.map((each) => this.#option(each, each.id === token.id, onChoose));
    const list = make("div", { role: "listbox", "aria-label": "Choose a token; the text goes on from there" }, ...options);
    this.#box.replaceChildren(
      ...(read ? [make("p", { class: "note" }, `Read: ${read}`)] : []),
      options.length ? list : make("p", { class: "note" }, "No alternatives are known here."),
    );
    list.addEventListener("keydown", (event) => this.#key(event, options));
    this.#place(word);
    focusOne(options, options.find((each) => each.getAttribute("aria-selected") === "true") ?? options[0]);
  }

  /** Close it, and give the focus back to the word. */
  close() {
    if (!this.isOpen) return;
    const hadFocus = this.#box.contains(document.activeElement);
    this.#box.hidden = true;
    this.#onClose();
    if (hadFocus) this.#word?.focus();
  }

  #option(each, isChosen, onChoose) {
    const probability = Math.exp(each.logprob);
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", probability);
    const choose = () => {
      this.close();
      if (!isChosen) onChoose(each);
    };
    return make(
      "div",
      {
        role: "option",
        tabindex: "-1",
        "aria-selected": `${isChosen}`,
        "aria-disabled": `${each.special}`,
        onclick: each.special ? () => {} : choose,
        onkeydown: (event) => {
          if ((event.key === "Enter" || event.key === " ") && !each.special) {
            event.preventDefault();
            choose();
          }
        },
      },
      make("span", { class: "text" }, each.text.trim() ? each.text.replace(/^##/, "…") : JSON.stringify(each.text)),
      bar,
      make("span", { class: "share" }, percent(probability)),
    );
  }

  #key(event, options) {
    const next = placeAfter(event.key, options.indexOf(document.activeElement), options.length);
    if (next === null) return;
    event.preventDefault();
    focusOne(options, options[next]);
  }

  #place(word) {
    this.#box.hidden = false;
    const { left, top, bottom } = word.getBoundingClientRect();
    const { width, height } = this.#box.getBoundingClientRect();
    const x = Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8));
    const y = bottom + height + 8 > window.innerHeight && top > height ? top - height - 4 : bottom + 4;
    this.#box.style.setProperty("left", `${x + window.scrollX}px`);
    this.#box.style.setProperty("top", `${y + window.scrollY}px`);
  }
}
