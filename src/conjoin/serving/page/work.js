/** The view of one text: runs requests, shows their answers, goes on from another token. */

import { Alternatives } from "./alternatives.js";
import { Attention } from "./attention.js";
import { announce, find } from "./dom.js";
import { NBest } from "./nbest.js";
import { run } from "./run.js";
import { withDetails } from "./request.js";
import { mostRead, Source } from "./source.js";
import { clearStatus, showEnd, showProblem, showProgress, showStopped } from "./status.js";
import { Target } from "./target.js";

export class Work {
  #parts;
  #source = new Source(() => this.#forget());
  #alternatives = new Alternatives(() => this.#source.mark());
  #attention = new Attention(() => this.#replay());
  #nbest = new NBest((place) => this.#choose(place));
  #target = new Target({
    onPick: (place, button) => this.#pick(place, button),
    onLook: (token) => this.#alternatives.isOpen || this.#source.mark(token?.attention),
  });
  #stop = null;
  #shown = null; // {answer, body, text, firstMs, chosen}
  #before = []; // what was shown before the text went on from another token

  /** @param {{settings, models, request: (text: string) => Object, askForKey: (error) => void}} parts */
  constructor(parts) {
    this.#parts = parts;
    find("run").addEventListener("click", () => this.start());
    find("stop").addEventListener("click", () => this.stop());
    find("clear").addEventListener("click", () => this.#clear());
    find("back").addEventListener("click", () => this.#back());
  }

  get source() {
    return this.#source.text;
  }

  get target() {
    return this.#target.text;
  }

  /** Take another model, or other languages. */
  show(models) {
    const [source, target] = models.languages ?? [null, null];
    this.#source.language = source;
    this.#target.language = target;
    this.#attention.offer(models.model);
  }

  /** Exchange source and target, and their languages. */
  swap() {
    const text = this.#target.text;
    this.#parts.models.swap();
    this.#clear();
    this.#source.text = text;
  }

  /** Draw anew, in other colours. */
  redraw() {
    this.#attention.draw();
  }

  /** Generate a target for the text. */
  start() {
    this.#before = [];
    this.#run(this.#parts.request(this.#source.text), null, []);
  }

  /** Close what is open, or stop what runs. */
  stop() {
    if (this.#alternatives.isOpen) this.#alternatives.close();
    else this.#stop?.abort();
  }

  async #run(body, prefix, known) {
    this.#stop?.abort();
    const stop = (this.#stop = new AbortController());
    const text = body.inputs;
    const details = { prefix, attention: this.#attention.choice };
    const whole = this.#target.wantsWords ? withDetails(body, details) : withDetails(body, { ...details, attention: false });
    this.#begin(known.length ? known.map((token) => token.text).join("") : (body.parameters?.target_prefix ?? ""));
    const kept = this.#target.text;
    const begun = performance.now();
    try {
      const { answer, firstMs } = await run(whole, stop.signal, (progress) => {
        this.#target.grow({ ...progress, text: kept + progress.text });
        showProgress(progress, begun);
      }, known);
      this.#shown = { answer, body: whole, text, firstMs, chosen: 0 };
      this.#draw(true);
    } catch (error) {
      if (this.#stop === stop) this.#failed(error);
    } finally {
      if (this.#stop === stop) this.#end();
    }
  }

  #begin(kept) {
    this.#shown = null;
    this.#source.mark();
    this.#parts.settings.forgive();
    this.#alternatives.close();
    this.#nbest.show([]);
    this.#attention.show(null);
    showProblem(null);
    clearStatus();
    showProgress({ firstMs: null, tokens: 0 }, performance.now());
    this.#target.begin(kept.trimStart());
    find("stop").disabled = false;
    find("run").setAttribute("aria-busy", "true");
  }

  #end() {
    this.#stop = null;
    find("stop").disabled = true;
    find("run").removeAttribute("aria-busy");
    find("back").hidden = !this.#before.length;
  }

  #failed(error) {
    this.#target.stop();
    if (error.name === "AbortError") {
      showStopped();
      announce("Stopped");
      return;
    }
    clearStatus();
    showProblem(error.message);
    if (error.status === 401) this.#parts.askForKey(error);
    else if (error.field) this.#parts.settings.refuse(error.field, error.message);
  }

  #draw(isNew = false) {
    const { answer, body, text, firstMs, chosen } = this.#shown;
    const result = answer.results[chosen];
    this.#source.lay({ text, ...answer.source });
    this.#target.show(answer, result, isNew);
    this.#attention.show(answer, result);
    const { model } = this.#parts.models;
    showEnd(answer, result, firstMs, body.parameters.do_sample ?? model.generation?.do_sample ?? false);
    if (isNew) this.#nbest.show(answer.results);
  }

  #choose(place) {
    this.#shown.chosen = place;
    this.#draw();
  }

  #pick(place, button) {
    const tokens = this.#target.tokens;
    const kept = tokens.slice(0, place);
    this.#source.mark(tokens[place].attention);
    this.#alternatives.open(button, tokens[place], {
      read: mostRead(tokens[place], this.#shown.answer.source.texts),
      onChoose: (alternative) => this.#goOn(kept, tokens[place], alternative),
    });
  }

  /** Generate anew behind the tokens that are kept and the chosen one. */
  #goOn(kept, replaced, chosen) {
    const { text } = this.#shown;
    this.#before.push(this.#shown);
    const token = { ...chosen, text: asWritten(chosen.text, replaced), top: replaced.top, attention: replaced.attention };
    const known = [...kept, token];
    this.#run(this.#parts.request(text), known.map(({ id }) => id), known);
  }

  #back() {
    this.#stop?.abort();
    this.#shown = this.#before.pop();
    showProblem(null);
    this.#draw(true);
    find("back").hidden = !this.#before.length;
    this.#target.button(0)?.focus();
  }

  async #replay() {
    const shown = this.#shown;
    if (!shown) return;
    try {
      const answer = await this.#attention.replay(shown.body, shown.answer);
      if (this.#shown !== shown) return;
      shown.answer = answer;
      this.#draw();
    } catch (error) {
      if (error.name !== "AbortError") showProblem(error.message);
    }
  }

  #forget() {
    this.#source.mark();
  }

  #clear() {
    this.#stop?.abort();
    this.#source.text = "";
    this.#target.clear();
    this.#shown = null;
    this.#before = [];
    this.#nbest.show([]);
    this.#attention.show(null);
    find("back").hidden = true;
    showProblem(null);
    clearStatus();
    this.#source.focus();
  }
}

/** The text of an alternative in the place of a token; vocabularies write the space before a word, or its absence. */
function asWritten(text, replaced) {
  if (text.startsWith("##")) return text.slice(2);
  const spaces = [replaced.text, ...replaced.top.map((each) => each.text)].map((each) => /^\s/u.test(each));
  return spaces[0] && !spaces.slice(1).some(Boolean) ? ` ${text}` : text;
}
