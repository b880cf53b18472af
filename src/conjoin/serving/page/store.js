/** Runs over files, kept in the browser (IndexedDB), so that they go on after a reload. */

const NAME = "conjoin";

/** All runs that are kept. Where the browser keeps nothing, a run lives as long as the page. */
export class Store {
  #database = open();

  /** @returns {Promise<boolean>} whether runs outlive the page */
  async isLasting() {
    return (await this.#database) !== null;
  }

  /** The runs, newest first: {key, name, model, total, created, text, column, hasHeader, body}. */
  async runs() {
    const database = await this.#database;
    if (!database) return [];
    const runs = await done(database.transaction("runs").objectStore("runs").getAll());
    return runs.sort((one, other) => other.created - one.created);
  }

  /** The number of rows of a run that are done. */
  async count(key) {
    const database = await this.#database;
    return database ? done(database.transaction("rows").objectStore("rows").count(rowsOf(key))) : 0;
  }

  /** Keep a run's record. */
  async save(run) {
    const database = await this.#database;
    if (database) await done(database.transaction("runs", "readwrite").objectStore("runs").put(run));
  }

  /** Forget a run and its results. */
  async remove(key) {
    const database = await this.#database;
    if (!database) return;
    const change = database.transaction(["runs", "rows"], "readwrite");
    change.objectStore("runs").delete(key);
    change.objectStore("rows").delete(rowsOf(key));
    await complete(change);
  }

  /** The results of a run by row. */
  async results(key) {
    const database = await this.#database;
    if (!database) return new Map();
    const rows = await done(database.transaction("rows").objectStore("rows").getAll(rowsOf(key)));
    return new Map(rows.map(({ row, result }) => [row, result]));
  }

  /** What a run needs of the store. */
  of(key) {
    return { put: (rows) => this.#put(key, rows), drop: (rows) => this.#drop(key, rows) };
  }

  async #put(key, rows) {
    const database = await this.#database;
    if (!database) return;
    const change = database.transaction("rows", "readwrite");
    for (const [row, result] of rows) change.objectStore("rows").put({ run: key, row, result });
    await complete(change);
  }

  async #drop(key, rows) {
    const database = await this.#database;
    if (!database) return;
    const change = database.transaction("rows", "readwrite");
    for (const row of rows) change.objectStore("rows").delete([key, row]);
    await complete(change);
  }
}

/**
 * A fingerprint of texts (cyrb53, 53 bits): tells files and settings apart, and works without HTTPS, where the browser's
 * own digests do not.
 */
export function fingerprint(...texts) {
  let [one, other] = [0xdeadbeef, 0x41c6ce57];
  for (const text of texts) {
    for (let place = 0; place <= text.length; place++) {
      const code = place < text.length ? text.charCodeAt(place) : 0x1ffff; // where one text ends
      one = Math.imul(one ^ code, 2654435761);
      other = Math.imul(other ^ code, 1597334677);
    }
  }
  one = Math.imul(one ^ (one >>> 16), 2246822507) ^ Math.imul(other ^ (other >>> 13), 3266489909);
  other = Math.imul(other ^ (other >>> 16), 2246822507) ^ Math.imul(one ^ (one >>> 13), 3266489909);
  return (4294967296 * (2097151 & other) + (one >>> 0)).toString(36);
}

function rowsOf(key) {
  return IDBKeyRange.bound([key], [key, []]);
}

function open() {
  return new Promise((resolve) => {
    try {
      const opening = indexedDB.open(NAME, 1);
      opening.onupgradeneeded = () => {
        opening.result.createObjectStore("runs", { keyPath: "key" });
        opening.result.createObjectStore("rows", { keyPath: ["run", "row"] });
      };
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function complete(change) {
  return new Promise((resolve, reject) => {
    change.oncomplete = () => resolve();
    change.onerror = change.onabort = () => reject(change.error);
  });
}
