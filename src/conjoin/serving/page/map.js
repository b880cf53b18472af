/** Cross-attention as a map: a row per target token, a column per source token. */

import { find, percent } from "./dom.js";
import { strongest } from "./source.js";

const CELL = 20;
const MARGIN = 110;
const MOST_PIXELS = 8000;

export class AttentionMap {
  #canvas = find("map");
  #rows = [];
  #columns = [];
  #cell = CELL;

  constructor() {
    this.#canvas.addEventListener("mousemove", (event) => this.#read(event));
    this.#canvas.addEventListener("mouseleave", () => (find("map-read").textContent = ""));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Take what to show; `draw` shows it. */
  take(tokens, texts) {
    this.#rows = tokens.filter((token) => token.attention?.length);
    this.#columns = texts;
    this.#canvas.setAttribute("aria-label", this.#inWords());
  }

  /** Draw it in the present colours. */
  draw() {
    const [height, width] = [this.#rows.length, this.#columns.length];
    if (!height || !width || !this.#canvas.clientWidth) return;
    this.#cell = Math.max(3, Math.min(CELL, Math.floor(MOST_PIXELS / Math.max(height, width))));
    const context = this.#resize(MARGIN + width * this.#cell, MARGIN + height * this.#cell);
    context.fillStyle = getComputedStyle(document.body).color;
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    if (this.#cell >= 12) this.#labels(context);
    this.#cells(context);
  }

  #resize(width, height) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.#canvas.width = width * ratio;
    this.#canvas.height = height * ratio;
    this.#canvas.style.setProperty("width", `${width}px`);
    this.#canvas.style.setProperty("height", `${height}px`);
    const context = this.#canvas.getContext("2d");
    context.scale(ratio, ratio);
    return context;
  }

  #labels(context) {
    context.textBaseline = "middle";
    context.textAlign = "right";
    this.#rows.forEach((token, row) =>
      context.fillText(short(nameOf(token)), MARGIN - 6, MARGIN + (row + 0.5) * this.#cell),
    );
    context.textAlign = "left";
    this.#columns.forEach((text, column) => {
      context.save();
      context.translate(MARGIN + (column + 0.5) * this.#cell, MARGIN - 6);
      context.rotate(-Math.PI / 2);
      context.fillText(short(text.trim()), 0, 0);
      context.restore();
    });
  }

  #cells(context) {
    context.fillStyle = getComputedStyle(this.#canvas).color;
    this.#rows.forEach((token, row) => {
      const most = strongest(token.attention);
      token.attention.forEach((share, column) => {
        context.globalAlpha = share / most;
        context.fillRect(MARGIN + column * this.#cell, MARGIN + row * this.#cell, this.#cell - 1, this.#cell - 1);
      });
    });
    context.globalAlpha = 1;
  }

  #read(event) {
    const [column, row] = [event.offsetX, event.offsetY].map((place) => Math.floor((place - MARGIN) / this.#cell));
    const token = this.#rows[row];
    const share = token?.attention[column];
    find("map-read").textContent =
      share === undefined ? "" : `“${nameOf(token)}” read “${this.#columns[column].trim()}”: ${percent(share)}`;
  }

  #inWords() {
    const read = this.#rows.map((token) => {
      const place = token.attention.indexOf(Math.max(...token.attention));
      return `${nameOf(token)}: ${(this.#columns[place] ?? "").trim()}`;
    });
    return `What each target token read most. ${read.slice(0, 100).join("; ")}`;
  }
}

function nameOf(token) {
  return token.text.trim() || "end";
}

function short(text) {
  return text.length > 14 ? `${text.slice(0, 13)}…` : text;
}
