/** The models of the server, and the languages that they translate. */

import { find, option, tell } from "./dom.js";

export class Models {
  #info = null;
  #chosen = null;
  #onChange;

  /** @param {() => void} onChange called when another model or pair of languages is chosen */
  constructor(onChange) {
    this.#onChange = onChange;
    find("model").addEventListener("change", (event) => this.#choose(event.target.value));
    find("source-language").addEventListener("change", () => this.#translate(0));
    find("target-language").addEventListener("change", () => this.#translate(1));
  }

  /** What /info tells of the chosen model. */
  get model() {
    return this.#info?.models.find((model) => model.id === this.#chosen) ?? null;
  }

  /** The model's name for a request; null where there is only one. */
  get name() {
    return this.#info?.models.length > 1 ? this.#chosen : null;
  }

  /** Source and target language; null where the server was told none. */
  get languages() {
    if (!this.#pairs.length) return null;
    return [find("source-language").value, find("target-language").value];
  }

  /** True if the other direction is served too. */
  get canSwap() {
    const [source, target] = this.languages ?? [];
    return this.#pairs.some(([from, to]) => from === target && to === source);
  }

  get #pairs() {
    return this.#info?.translate ?? [];
  }

  /** Show the server's models; the names are those of the address, if there are such. */
  show(info, { model, source, target }) {
    this.#info = info;
    this.#chosen = info.models.some(({ id }) => id === model) ? model : info.models[0].id;
    const isChoice = info.models.length > 1 && !this.#pairs.length;
    find("model-label").hidden = find("model").hidden = !isChoice;
    find("model").replaceChildren(...info.models.map(({ id }) => option(id, id, id === this.#chosen)));
    find("languages").hidden = !this.#pairs.length;
    if (this.#pairs.length) this.#offer(source, target);
    this.#about();
  }

  /** Exchange the languages. */
  swap() {
    const [source, target] = this.languages;
    this.#offer(target, source);
    this.#about();
    this.#onChange();
  }

  #choose(id) {
    this.#chosen = id;
    this.#about();
    this.#onChange();
  }

  #translate(side) {
    const wanted = this.languages;
    const pairs = this.#pairs;
    const pair = pairs.find(([from, to]) => from === wanted[0] && to === wanted[1])
      ?? pairs.find((each) => each[side] === wanted[side]);
    this.#offer(pair[0], pair[1]);
    this.#about();
    this.#onChange();
  }

  #offer(source, target) {
    const pairs = this.#pairs;
    const pair = pairs.find(([from, to]) => from === source && to === target) ?? pairs[0];
    fill(find("source-language"), pairs.map(([from]) => from), pair[0]);
    fill(find("target-language"), pairs.map(([, to]) => to), pair[1]);
    this.#chosen = pair[2];
    find("swap").disabled = !this.canSwap;
  }

  #about() {
    const model = this.model;
    const size = model.parameters ? `${COMPACT.format(model.parameters)} parameters` : "";
    const halves = model.encoder ? `${model.encoder} → ${model.decoder}` : "";
    find("about").textContent = [model.id, halves, size, model.dtype].filter(Boolean).join(" · ");
    tell(find("server-state"), STATES[model.state]?.(model) ?? "");
  }
}

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** What to say of a model that is not ready. */
const STATES = {
  loading: () => "The model is being loaded.",
  failed: (model) => `The model could not be loaded: ${model.error}`,
};

function fill(select, codes, chosen) {
  const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
  const unique = [...new Set(codes)];
  select.replaceChildren(...unique.map((code) => option(code, nameOf(names, code), code === chosen)));
}

function nameOf(names, code) {
  try {
    return names.of(code.replace("_", "-"));
  } catch {
    return code; // a code of the tokenizer's own
  }
}
