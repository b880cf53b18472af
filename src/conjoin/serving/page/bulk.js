/** Runs the rows of a file through the server, and keeps every result. */

import { ApiError, post } from "./api.js";
import { Chunks } from "./chunks.js";
import { sourceOf } from "./tables.js";

/** Requests under way at a time: while one answer travels, the server has the next rows. */
const AT_ONCE = 2;
/** Seconds between tries while the server does not answer. */
const RETRY_S = 3;
/** Statuses that pass: too busy, being loaded or restarted, a proxy without a server behind it. */
const PASSING = [0, 429, 502, 503];
/** Statuses of a chunk that was too much for one request. */
const TOO_MUCH = [413, 504];

export class Bulk {
  #table;
  #column;
  #body;
  #store;
  #changed;
  #stop = null;
  #begun = 0;
  #fresh = 0;
  #chunks = null;

  /**
   * @param {Object} job
   * @param {Object} job.table of tables.js
   * @param {string} job.column whose texts are the sources
   * @param {Object} job.body of POST /generate; `inputs` is replaced
   * @param {number} job.most rows in one request
   * @param {{put: (rows: [number, Object][]) => Promise}} job.store keeps results
   * @param {Map<number, Object>} job.results what is done already
   * @param {() => void} job.changed called after every step
   */
  constructor({ table, column, body, most, store, results, changed }) {
    [this.#table, this.#column, this.#body, this.#store] = [table, column, body, store];
    [this.most, this.results, this.#changed] = [most, results, changed];
    this.waiting = null;
  }

  get total() {
    return this.#table.rows.length;
  }

  get isRunning() {
    return this.#stop !== null;
  }

  get isDone() {
    return this.results.size === this.total;
  }

  /** Numbers of the rows that failed, with their errors. */
  get failures() {
    return [...this.results].filter(([, result]) => result.error !== undefined).sort(([one], [other]) => one - other);
  }

  /** Rows per second since the start; null before any was done. */
  get speed() {
    const seconds = (performance.now() - this.#begun) / 1000;
    return this.#fresh && seconds > 0 ? this.#fresh / seconds : null;
  }

  /** Do what is not done; returns when all is done or paused. */
  async run() {
    if (this.isRunning) return;
    const stop = (this.#stop = new AbortController());
    [this.#begun, this.#fresh] = [performance.now(), 0];
    const rows = Array.from({ length: this.total }, (_, row) => row).filter((row) => !this.results.has(row));
    this.#chunks = new Chunks(await this.#withSource(rows), this.most);
    this.#changed();
    try {
      await Promise.all(Array.from({ length: AT_ONCE }, () => this.#work(stop.signal)));
    } catch (error) {
      stop.abort();
      if (error.name !== "AbortError") throw error;
    } finally {
      if (this.#stop === stop) this.#stop = null;
      this.waiting = null;
      this.#changed();
    }
  }

  /** Stop; what is under way is given up, and done anew by the next run. */
  pause() {
    this.#stop?.abort();
  }

  /** Forget the failures, so that the next run tries them again. */
  async forgetFailures() {
    const rows = this.failures.map(([row]) => row);
    for (const row of rows) this.results.delete(row);
    await this.#store.drop(rows);
    this.#changed();
  }

  async #work(signal) {
    for (let rows = this.#chunks.take(); rows.length; rows = this.#chunks.take()) {
      const begun = performance.now();
      await this.#send(rows, signal);
      this.#chunks.took((performance.now() - begun) / 1000, rows.length);
    }
  }

  /** Send rows; a chunk that fails as a whole is divided, until the row that fails is alone. */
  async #send(rows, signal) {
    try {
      const answers = await this.#patiently(this.#request(rows), signal);
      await this.#keep(rows.map((row, place) => [row, resultOf(answers[place])]));
    } catch (error) {
      if (!(error instanceof ApiError) || isOfAll(error)) throw error;
      if (rows.length === 1) await this.#keep([[rows[0], { error: error.message }]]);
      else {
        const middle = rows.length >> 1;
        if (TOO_MUCH.includes(error.status)) this.#chunks.took(Infinity, rows.length);
        await this.#send(rows.slice(0, middle), signal);
        await this.#send(rows.slice(middle), signal);
      }
    }
  }

  #request(rows) {
    const parameters = { ...this.#body.parameters, priority: "bulk" };
    if (parameters.seed !== undefined) parameters.seed += rows[0]; // the server adds a source's place in the list
    const inputs = rows.map((row) => sourceOf(this.#table, row, this.#column)[0]);
    return { ...this.#body, inputs, parameters };
  }

  async #patiently(body, signal) {
    for (;;) {
      try {
        const answers = await post("generate", body, signal);
        if (this.waiting) {
          this.waiting = null;
          this.#changed();
        }
        return answers;
      } catch (error) {
        if (!(error instanceof ApiError) || !PASSING.includes(error.status)) throw error;
        this.waiting = error.message;
        this.#changed();
        await pause((error.retryAfter ?? RETRY_S) * 1000, signal);
      }
    }
  }

  /** The rows that have a source; of the others it is known what becomes of them. */
  async #withSource(rows) {
    const known = rows.map((row) => [row, withoutServer(...sourceOf(this.#table, row, this.#column))]);
    await this.#keep(known.filter(([, result]) => result));
    return rows.filter((row) => !this.results.has(row));
  }

  async #keep(rows) {
    if (!rows.length) return;
    await this.#store.put(rows);
    for (const [row, result] of rows) this.results.set(row, result);
    this.#fresh += rows.length;
    this.#changed();
  }
}

/** True if every row would fail like this: the key, the model or a setting is wrong. */
function isOfAll({ status, field }) {
  return status === 401 || status === 404 || (field !== null && field !== "inputs");
}

/** The result of a source that no server is asked for: an empty text, as `conjoin generate` has it, or an error. */
function withoutServer(source, problem) {
  if (problem) return { error: problem };
  return source.trim() ? null : { text: "" };
}

function resultOf(answer) {
  return { text: answer.generated_text, score: answer.score ?? null, wasCut: answer.source_was_cut ?? false };
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
