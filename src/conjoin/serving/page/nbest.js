/** The results of a request, best first: a listbox. */

import { find, make, percent, placeAfter } from "./dom.js";
import { meanProbability } from "./answer.js";
import { differences } from "./diff.js";

export class NBest {
  #list = find("nbest");
  #options = [];
  #chosen = 0;
  #onChoose;

  /** @param {(place: number) => void} onChoose */
  constructor(onChoose) {
    this.#onChoose = onChoose;
    this.#list.addEventListener("keydown", (event) => {
      const next = placeAfter(event.key, this.#chosen, this.#options.length);
      if (next === null) return;
      event.preventDefault();
      this.#choose(next);
    });
  }

  /** Show results; one alone needs no list. */
  show(results) {
    find("results").hidden = results.length < 2;
    this.#options = results.map((result, place) => this.#option(result, place, results[0]));
    this.#list.replaceChildren(...this.#options);
    this.#mark(0);
  }

  #choose(place) {
    this.#mark(place);
    this.#options[place].scrollIntoView({ block: "nearest" });
    this.#onChoose(place);
  }

  #mark(place) {
    this.#chosen = place;
    this.#options.forEach((each, number) => each.setAttribute("aria-selected", `${number === place}`));
    if (this.#options.length) this.#list.setAttribute("aria-activedescendant", this.#options[place].id);
  }

  #option(result, place, first) {
    const pieces = place ? differences(first.text, result.text) : [[result.text, false]];
    const mean = meanProbability(result);
    const numbers = [
      result.score === null ? null : make("span", { title: "log-probability over length, by which beams are ranked" },
        `score ${result.score.toFixed(3)}`),
      mean === null ? null : make("span", { title: "geometric mean of the tokens' probabilities" },
        `${percent(mean)} per token`),
      make("span", {}, `${result.count} tokens`),
    ];
    return make(
      "div",
      { role: "option", id: `result-${place}`, "aria-selected": "false", onclick: () => this.#choose(place) },
      make("p", { dir: "auto" }, ...pieces.map(([text, isNew]) => (isNew ? make("mark", {}, text) : text))),
      make("p", { class: "numbers" }, ...numbers),
    );
  }
}
