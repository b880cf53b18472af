/** The view of files: choose one, run it, pause, go on, download. */

import { Bulk } from "./bulk.js";
import { announce, find, make, option, tell } from "./dom.js";
import { likelyColumn, showOptions, showPreview } from "./fileform.js";
import { fingerprint, Store } from "./store.js";
import { formatsOf, readTable, writeTable } from "./tables.js";

const SHOWN_FAILURES = 100;

export class Files {
  #parts;
  #store = new Store();
  #limits = null;
  #file = null; // {name, text, table, column, hasHeader}
  #bulk = null;
  #run = null; // the record that is kept of it

  /**
   * @param {{models, request: (text: string) => Object, adopt: (body: Object) => void, askForKey: (error) => void}} parts
   *   adopt: makes the settings of a body those of the page
   */
  constructor(parts) {
    this.#parts = parts;
    find("file").addEventListener("change", (event) => this.#choose(event.target.files[0]));
    find("file-start").addEventListener("click", () => this.#start());
    find("file-pause").addEventListener("click", () => this.#bulk?.pause());
    find("file-retry").addEventListener("click", () => this.#retry());
    find("file-download").addEventListener("click", () => this.#download());
    this.#takeDrops();
  }

  /** Take what /info tells, and list the runs that are kept. */
  show(info) {
    this.#limits = info.limits;
    this.#list();
    this.#store.isLasting().then((isLasting) => (find("not-kept").hidden = isLasting));
  }

  /** Let go of a run that had other settings; it stays in the list of what is kept. */
  settingsChanged() {
    if (!this.#run || this.#bulk.isRunning || this.#run.key === this.#key()) return;
    [this.#bulk, this.#run] = [null, null];
    this.#draw();
  }

  /** What tells runs apart: the file, its column, the settings and the model. */
  #key() {
    const { print, column, hasHeader } = this.#file;
    const { model } = this.#parts.models;
    return fingerprint(print, column, `${hasHeader}`, JSON.stringify(this.#body()), model.id, model.fingerprint ?? "");
  }

  #body() {
    const { inputs, ...body } = this.#parts.request("");
    return body;
  }

  #takeDrops() {
    const drop = find("drop");
    for (const name of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", name === "dragover");
        if (name === "drop") this.#choose(event.dataTransfer.files[0]);
      });
    }
  }

  async #choose(file) {
    if (!file || this.#bulk?.isRunning) return;
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      this.#open({ name: file.name, text, hasHeader: true });
      tell(find("file-problem"), "");
    } catch (error) {
      tell(find("file-problem"), error instanceof TypeError ? `${file.name} is not UTF-8; save it as UTF-8.` : error.message);
    }
  }

  #open({ name, text, hasHeader, column }) {
    const table = readTable(name, text, { hasHeader });
    this.#file = { name, text, print: fingerprint(text), table, hasHeader, column: column ?? likelyColumn(table) };
    [this.#bulk, this.#run] = [null, null];
    showOptions(this.#file, {
      onColumn: (chosen) => this.#open({ ...this.#file, column: chosen }),
      onHeader: (has) => this.#open({ ...this.#file, hasHeader: has, column: undefined }),
    });
    showPreview(table, this.#file.column);
    find("file-format").replaceChildren(...formatsOf(table).map((format) => option(format, `.${format}`)));
    find("file-run").hidden = false;
    this.#draw();
  }

  /** Run the file with the settings of this moment; what is done of it is not done again. */
  async #start() {
    const { name, text, column, hasHeader, table } = this.#file;
    const key = this.#key();
    if (this.#run?.key !== key) {
      const model = this.#parts.models.model.id;
      const about = { key, name, model, total: table.rows.length, created: Date.now() };
      const run = { ...about, text, column, hasHeader, body: this.#body() };
      await this.#store.save(run);
      await this.#take(run);
    }
    await this.#go();
  }

  async #take(run) {
    this.#run = run;
    const most = Math.min(this.#limits.max_inputs, this.#parts.models.model.max_rows ?? Infinity);
    this.#bulk = new Bulk({
      table: this.#file.table,
      column: run.column,
      body: run.body,
      most,
      store: this.#store.of(run.key),
      results: await this.#store.results(run.key),
      changed: () => this.#draw(),
    });
  }

  async #go() {
    tell(find("file-problem"), "");
    try {
      await this.#bulk.run();
      announce(this.#bulk.isDone ? `${this.#run.name} is done` : "Paused");
    } catch (error) {
      tell(find("file-problem"), error.message);
      if (error.status === 401) this.#parts.askForKey(error);
    }
    this.#list();
  }

  async #retry() {
    await this.#bulk.forgetFailures();
    await this.#go();
  }

  #draw() {
    const bulk = this.#bulk;
    const isRunning = bulk?.isRunning ?? false;
    const isBegun = Boolean(bulk?.results.size);
    const isOld = Boolean(this.#run) && this.#run.key !== this.#key();
    find("file-start").disabled = isRunning || (!isOld && (bulk?.isDone ?? !this.#file.table.rows.length));
    find("file-start").textContent = isRunning ? "Running" : isBegun && !bulk.isDone && !isOld ? "Resume" : "Run";
    find("file-pause").disabled = !isRunning;
    find("file").disabled = isRunning;
    for (const each of find("file-options").querySelectorAll("select, input")) each.disabled = isRunning;
    find("file-download").disabled = find("file-format").disabled = !isBegun;
    find("file-progress").value = bulk ? bulk.results.size / Math.max(1, bulk.total) : 0;
    find("file-state").textContent = bulk ? stateOf(bulk) : "";
    this.#drawFailures(bulk?.failures ?? [], isRunning);
  }

  #drawFailures(failures, isRunning) {
    find("file-retry").hidden = !failures.length || isRunning;
    const box = find("file-failures");
    box.hidden = !failures.length;
    box.querySelector("summary").textContent = `${failures.length} failed`;
    box.querySelector("ol").replaceChildren(
      ...failures.slice(0, SHOWN_FAILURES).map(([row, { error }]) => make("li", { value: row + 1 }, error)),
    );
  }

  #download() {
    const format = find("file-format").value;
    const text = writeTable(this.#file.table, this.#bulk.results, format);
    const address = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
    const stem = this.#file.name.replace(/\.[^.]*$/, "");
    make("a", { href: address, download: `${stem}.predictions.${format}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  async #list() {
    const runs = await this.#store.runs();
    const items = await Promise.all(runs.map(async (run) => this.#item(run, await this.#store.count(run.key))));
    find("stored").hidden = !items.length;
    find("stored").querySelector("ul").replaceChildren(...items);
  }

  #item(run, count) {
    return make(
      "li",
      {},
      make("span", {}, `${run.name}: ${count} of ${run.total} rows, by ${run.model}`),
      make("button", { type: "button", onclick: () => this.#reopen(run) }, count < run.total ? "Resume" : "Open"),
      make("button", { type: "button", class: "quiet", onclick: () => this.#remove(run) }, "Remove"),
    );
  }

  /** Go on with a run that is kept; its settings become those of the page. */
  async #reopen(run) {
    if (this.#bulk?.isRunning) return;
    this.#parts.adopt(run.body);
    this.#open(run);
    await this.#take(run);
    this.#draw();
    if (run.key === this.#key()) await this.#go();
    else tell(find("file-problem"), `${run.model} has changed since: download what there is, or Run to begin anew.`);
  }

  async #remove(run) {
    if (this.#run?.key === run.key && this.#bulk?.isRunning) return;
    if (!confirm(`Remove the results of ${run.name} from this browser?`)) return;
    await this.#store.remove(run.key);
    this.#list();
  }
}

function stateOf(bulk) {
  const rows = `${bulk.results.size} of ${bulk.total} rows`;
  if (bulk.waiting) return `${rows}. ${bulk.waiting} Trying again.`;
  if (!bulk.isRunning) return bulk.isDone ? `Done: ${rows}.` : `Paused: ${rows}.`;
  const { speed } = bulk;
  const left = speed ? Math.ceil((bulk.total - bulk.results.size) / speed) : null;
  return speed ? `${rows}, ${speed.toFixed(1)} a second, ${duration(left)} left.` : `${rows}.`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
