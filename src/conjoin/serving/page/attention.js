/** Which cross-attention is shown: of all layers and heads, or of one, which asks the server again. */

import { post } from "./api.js";
import { readAnswer, tokensOf } from "./answer.js";
import { find, option } from "./dom.js";
import { AttentionMap } from "./map.js";

export class Attention {
  #map = new AttentionMap();
  #panel = find("attention");
  #stop = null;

  /** @param {() => void} changed called when another layer or head is chosen */
  constructor(changed) {
    find("layer").addEventListener("change", changed);
    find("head").addEventListener("change", changed);
    this.#panel.addEventListener("toggle", () => this.#map.draw());
  }

  /** The API's word for what is chosen. */
  get choice() {
    const [layer, head] = ["layer", "head"].map((id) => find(id).value);
    if (layer === "" && head === "") return true;
    const choice = {};
    if (layer !== "") choice.layer = Number(layer);
    if (head !== "") choice.head = Number(head);
    return choice;
  }

  /** Offer the layers and heads of a model. */
  offer(model) {
    fill(find("layer"), model?.layers ?? 0);
    fill(find("head"), model?.heads ?? 0);
  }

  /** Show what the tokens of a result read; null hides the map. */
  show(answer, result) {
    const tokens = answer ? tokensOf(answer, result) : [];
    this.#panel.hidden = !tokens.some((token) => token.attention?.length);
    if (this.#panel.hidden) return;
    this.#map.take(tokens, answer.source.texts);
    if (this.#panel.open) this.#map.draw();
  }

  /** Draw anew, in other colours. */
  draw() {
    if (this.#panel.open) this.#map.draw();
  }

  /**
   * Ask for the same results with another attention; they are the same, since the seed is.
   * @param {Object} body of the request that made `answer`
   */
  async replay(body, answer) {
    this.#stop?.abort();
    const stop = (this.#stop = new AbortController());
    const parameters = { ...body.parameters, attention: this.choice };
    delete parameters.guess;
    if (answer.seed !== null) parameters.seed = answer.seed;
    find("attention-state").textContent = "reading …";
    try {
      const known = answer.prefix.map((token) => ({ ...token, attention: undefined })); // of another layer or head
      return readAnswer(await post("generate", { ...body, parameters }, stop.signal), known);
    } finally {
      if (this.#stop === stop) find("attention-state").textContent = "";
    }
  }
}

function fill(select, count) {
  const numbers = Array.from({ length: count }, (_, number) => option(`${number}`, `${number + 1} of ${count}`));
  select.replaceChildren(option("", "mean of all"), ...numbers);
}
