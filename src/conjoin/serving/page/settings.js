/** The settings: a drawer of fields made from /info, kept in the address. */

import { find, make, option } from "./dom.js";
import { fieldGroups, textOf, valueOf } from "./fields.js";
import { onHash, readHash, writeHash } from "./hash.js";
import { presetOf, presets, withPreset } from "./presets.js";

/** Names in the address that are no settings. */
const BESIDE = ["model", "source", "target"];

export class Settings {
  #texts = new Map();
  #fields = new Map();
  #info = null;
  #changed;

  /** @param {() => void} changed called after every change */
  constructor(changed) {
    this.#changed = changed;
    this.#texts = readHash();
    onHash(() => this.#take(readHash()));
    find("open-settings").addEventListener("click", () => this.open(find("settings").hidden));
    find("close-settings").addEventListener("click", () => this.open(false));
    find("reset").addEventListener("click", () => this.#take(this.#kept()));
    find("preset").addEventListener("change", (event) => {
      if (event.target.value !== "custom") this.#take(withPreset(this.#texts, event.target.value, this.#info.limits));
    });
    find("fields").addEventListener("submit", (event) => event.preventDefault());
  }

  /** The settings by name, as JSON values. */
  get values() {
    const values = {};
    for (const [name, { field }] of this.#fields) {
      const value = valueOf(field, this.#texts.get(name) ?? "");
      if (value !== undefined) values[name] = value;
    }
    return values;
  }

  /** A name that is no setting: of the model or a language. */
  beside(name) {
    return this.#texts.get(name) ?? null;
  }

  /** Keep such a name in the address; null removes it. */
  setBeside(name, text) {
    if (text === null) this.#texts.delete(name);
    else this.#texts.set(name, text);
    writeHash(this.#texts);
  }

  /** Make the fields anew: for another server, or another model. */
  show(info, model) {
    this.#info = info;
    this.#fields.clear();
    find("fields").replaceChildren(
      ...fieldGroups(info, model).map(([title, fields], place) => this.#group(title, fields, place)),
    );
    this.#showPreset();
  }

  /** Set some settings, as JSON values. */
  set(values) {
    const texts = this.#kept();
    for (const [name, value] of Object.entries(values)) {
      const known = this.#fields.get(name);
      if (known) texts.set(name, textOf(known.field, value));
    }
    this.#take(texts);
  }

  /** Open the drawer, or close it. */
  open(isOpen) {
    find("settings").hidden = !isOpen;
    document.body.classList.toggle("with-settings", isOpen);
    find("open-settings").setAttribute("aria-expanded", `${isOpen}`);
    find(isOpen ? "close-settings" : "open-settings").focus();
  }

  /** Mark the field that the server refused; true if there is such a field. */
  refuse(name, message) {
    this.forgive();
    const known = this.#fields.get(name);
    if (!known) return false;
    known.input.setAttribute("aria-invalid", "true");
    known.error.textContent = message;
    return true;
  }

  /** Remove the mark. */
  forgive() {
    for (const { input, error } of this.#fields.values()) {
      input.removeAttribute("aria-invalid");
      error.textContent = "";
    }
  }

  #kept() {
    return new Map([...this.#texts].filter(([name]) => BESIDE.includes(name)));
  }

  #take(texts) {
    this.#texts = texts;
    for (const [name, { input }] of this.#fields) input.value = texts.get(name) ?? "";
    this.#update();
  }

  #update() {
    writeHash(this.#texts);
    this.forgive();
    this.#showPreset();
    this.#changed();
  }

  #set(name, text) {
    if (text.trim() === "") this.#texts.delete(name);
    else this.#texts.set(name, text);
    this.#update();
  }

  #showPreset() {
    if (!this.#info) return;
    const name = presetOf(this.#texts, this.#info.limits);
    const options = presets(this.#info.limits).map(([value, title]) => option(value, title, value === name));
    if (name === "custom") options.push(option("custom", "as set", true));
    find("preset").replaceChildren(...options);
  }

  #group(title, fields, place) {
    const rows = fields.map((field) => this.#row(field));
    if (title !== "More") return make("fieldset", {}, make("legend", {}, title), ...rows);
    return make("details", {}, make("summary", {}, `${title} (${fields.length})`), ...rows);
  }

  #row(field) {
    const id = `field-${field.name}`;
    const input = this.#input(field, id);
    const error = make("p", { class: "field-error", id: `${id}-error` });
    input.value = this.#texts.get(field.name) ?? "";
    input.addEventListener("change", () => this.#set(field.name, input.value));
    this.#fields.set(field.name, { field, input, error });
    const bound = field.limit === null ? "" : `; this server allows at most ${field.limit}`;
    return make(
      "div",
      { class: "field" },
      make("label", { for: id }, field.name),
      input,
      make("p", { class: "hint", id: `${id}-hint` }, field.range + bound),
      error,
    );
  }

  #input(field, id) {
    const described = { id, "aria-describedby": `${id}-hint ${id}-error` };
    const fallback = field.fallback === null ? "" : JSON.stringify(field.fallback);
    if (field.options.length) {
      const options = field.options.map((each) => option(textOf(field, each), textOf(field, each)));
      return make("select", described, option("", fallback ? `model's own: ${fallback}` : "model's own"), ...options);
    }
    if (field.kind === "lines") return make("textarea", { ...described, rows: 2 });
    const isNumber = field.kind === "whole" || field.kind === "number";
    return make("input", {
      ...described,
      type: isNumber ? "number" : "text",
      step: field.kind === "whole" ? "1" : "any",
      min: field.least,
      max: field.most,
      placeholder: fallback,
    });
  }
}
