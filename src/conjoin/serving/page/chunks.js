/** Which rows of a file are sent together: neighbours, as many as take a few seconds. */

const BEGIN = 4;
const MOST = 64;
/** Seconds that a chunk should take: long enough to be worth a request, short enough for the server's time-out. */
const [SHORT, LONG] = [3, 12];

/** Hands out chunks of neighbouring rows, each row once; adapts their size to the time that they take. */
export class Chunks {
  #rows;
  #next = 0;
  #size = BEGIN;
  #most;

  /**
   * @param {number[]} rows numbers of the rows to do, ascending
   * @param {number} most rows that the server takes in one request
   */
  constructor(rows, most) {
    this.#rows = rows;
    this.#most = Math.max(1, Math.min(MOST, most));
  }

  /** The next chunk, of rows that follow one another; empty at the end. */
  take() {
    const chunk = [];
    while (chunk.length < Math.min(this.#size, this.#most) && this.#next < this.#rows.length) {
      const row = this.#rows[this.#next];
      if (chunk.length && row !== chunk.at(-1) + 1) break;
      chunk.push(row);
      this.#next++;
    }
    return chunk;
  }

  /** Learn how long a chunk took. */
  took(seconds, count) {
    if (seconds > LONG) this.#size = Math.max(1, Math.floor(count / 2));
    else if (seconds < SHORT && count >= this.#size) this.#size = Math.min(this.#most, this.#size * 2);
  }
}
