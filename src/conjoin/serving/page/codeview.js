/** The dialog that shows a request as code. */

import { copy } from "./clipboard.js";
import { WAYS } from "./code.js";
import { find, focusOne, make, placeAfter, tell } from "./dom.js";

export class CodeView {
  #dialog = find("code");
  #tabs = [];
  #chosen = 0;
  #request = null;
  #place = null;

  constructor() {
    this.#tabs = WAYS.map(([name], place) => this.#tab(name, place));
    find("code-tabs").replaceChildren(...this.#tabs);
    find("code-tabs").addEventListener("keydown", (event) => {
      const next = placeAfter(event.key, this.#chosen, this.#tabs.length);
      if (next !== null) this.#choose(next, true);
    });
    find("close-code").addEventListener("click", () => this.#dialog.close());
    find("copy-code").addEventListener("click", (event) => copy(find("code-text").textContent, event.currentTarget));
  }

  /**
   * Open it.
   * @param {Object} request body of POST /generate
   * @param {{server: string, name: string, needsKey: boolean, length: number|null}} place
   */
  open(request, place) {
    [this.#request, this.#place] = [request, place];
    this.#choose(this.#chosen);
    this.#dialog.showModal();
  }

  #tab(name, place) {
    const attributes = { type: "button", role: "tab", "aria-controls": "code-text", id: `tab-${name}` };
    return make("button", { ...attributes, onclick: () => this.#choose(place) }, name);
  }

  #choose(place, withFocus = false) {
    this.#chosen = place;
    this.#tabs.forEach((tab, number) => {
      tab.setAttribute("aria-selected", `${number === place}`);
      tab.tabIndex = number === place ? 0 : -1;
    });
    if (withFocus) focusOne(this.#tabs, this.#tabs[place]);
    const [name, write] = WAYS[place];
    const { code, left } = write(this.#request, this.#place);
    find("code-text").textContent = code;
    find("code-text").setAttribute("aria-labelledby", `tab-${name}`);
    tell(find("code-note"), left.length ? `Not in this code, for ${name} has no word for it: ${left.join(", ")}.` : "");
  }
}
