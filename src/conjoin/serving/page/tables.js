/** Files of texts: read into rows, and written with their predictions. */

/**
 * @typedef {{kind: "txt"|"jsonl"|"csv", delimiter: string, columns: string[], rows: Object[],
 *   problems: Map<number, string>}} Table rows: column -> value; problems: rows that could not be read
 */

const ONLY = "text";
/** What is added to a row; the names are those of `conjoin generate`. */
const ADDED = ["prediction", "score", "source_was_cut", "error"];
const DELIMITERS = [",", "\t", ";", "|"];

/** Read a file; its name says what it is. @returns {Table} */
export function readTable(name, text, { hasHeader = true } = {}) {
  const plain = text.replace(/^\ufeff/, "");
  const ending = name.toLowerCase().split(".").at(-1);
  if (ending === "jsonl" || ending === "ndjson") return readLines(plain);
  if (ending === "csv" || ending === "tsv") return readCells(plain, ending === "tsv" ? "\t" : null, hasHeader);
  return {
    kind: "txt",
    delimiter: "",
    columns: [ONLY],
    rows: splitLines(plain).map((line) => ({ [ONLY]: line })),
    problems: new Map(),
  };
}

/** The source of a row: [text, null], or [null, what is wrong]. */
export function sourceOf(table, place, column) {
  if (table.problems.has(place)) return [null, table.problems.get(place)];
  const value = table.rows[place][column];
  if (typeof value !== "string") return [null, `${column} = ${JSON.stringify(value) ?? "nothing"}; expected a text.`];
  return [value, null];
}

/**
 * Write rows with their predictions.
 * @param {Map<number, {text?: string, score?: number|null, wasCut?: boolean, error?: string}>} results by row
 * @param {"txt"|"jsonl"|"csv"|"tsv"} format of txt: a line per row, empty where there is none
 */
export function writeTable(table, results, format) {
  const rows = table.rows.map((row, place) => withResult(row, results.get(place), freeNames(table)));
  if (format === "txt") return rows.map(([, , text]) => `${text.replace(/\s*\n\s*/g, " ")}\n`).join("");
  if (format === "jsonl") return rows.map(([row, added]) => `${JSON.stringify({ ...row, ...added })}\n`).join("");
  const names = freeNames(table);
  const columns = [...table.columns, ...ADDED.map((name) => names[name])];
  const lines = rows.map(([row, added]) => columns.map((column) => added[column] ?? row[column] ?? ""));
  const own = table.kind === "csv" && table.delimiter !== "\t" ? table.delimiter : ",";
  const delimiter = format === "tsv" ? "\t" : own;
  return [columns, ...lines].map((cells) => `${cells.map((cell) => quoted(cell, delimiter)).join(delimiter)}\r\n`).join("");
}

/** Formats that a table can be written in, its own first. */
export function formatsOf(table) {
  const own = table.kind === "csv" ? (table.delimiter === "\t" ? "tsv" : "csv") : table.kind;
  return [own, ...["txt", "jsonl", "csv", "tsv"].filter((format) => format !== own)];
}

function withResult(row, result, names) {
  const added = {};
  if (result?.error !== undefined) added[names.error] = result.error;
  else if (result) {
    added[names.prediction] = result.text;
    if (result.score !== null && result.score !== undefined) added[names.score] = result.score;
    if (result.wasCut) added[names.source_was_cut] = true;
  }
  return [row, added, result?.text ?? ""];
}

/** Names for what is added, that no column has yet. */
function freeNames(table) {
  const free = (name) => (table.columns.includes(name) ? free(`${name}_`) : name);
  return Object.fromEntries(ADDED.map((name) => [name, free(name)]));
}

function splitLines(text) {
  const lines = text.split(/\r\n|\n|\r/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

function readLines(text) {
  const [rows, problems, columns] = [[], new Map(), new Set()];
  splitLines(text).forEach((line, number) => {
    if (!line.trim()) return;
    const [row, problem] = readObject(line, number + 1);
    if (problem) problems.set(rows.length, problem);
    for (const name of Object.keys(row)) columns.add(name);
    rows.push(row);
  });
  return { kind: "jsonl", delimiter: "", columns: [...columns], rows, problems };
}

function readObject(line, number) {
  try {
    const value = JSON.parse(line);
    if (typeof value === "string") return [{ [ONLY]: value }, null];
    if (value && typeof value === "object" && !Array.isArray(value)) return [value, null];
    return [{}, `Line ${number} holds ${line.slice(0, 40)}; expected an object.`];
  } catch (error) {
    return [{}, `Line ${number} is no JSON: ${error.message}`];
  }
}

function readCells(text, delimiter, hasHeader) {
  const records = splitRecords(text, delimiter ?? likelyDelimiter(text));
  const used = delimiter ?? likelyDelimiter(text);
  const width = records.length ? records[0].length : 0;
  const columns = hasHeader
    ? uniqueNames(records.shift() ?? [])
    : Array.from({ length: width }, (_, place) => `column ${place + 1}`);
  const problems = new Map();
  const rows = records.map((cells, place) => {
    if (cells.length !== width) problems.set(place, `The row has ${cells.length} cells; expected ${width}.`);
    return Object.fromEntries(columns.map((column, number) => [column, cells[number] ?? ""]));
  });
  return { kind: "csv", delimiter: used, columns, rows, problems };
}

/** The delimiter that the first record has most of, outside quotes. */
function likelyDelimiter(text) {
  const counts = DELIMITERS.map((delimiter) => splitRecords(text, delimiter, 1)[0]?.length ?? 0);
  return DELIMITERS[counts.indexOf(Math.max(...counts))];
}

function uniqueNames(names) {
  const seen = new Set();
  return names.map((name, place) => {
    let unique = name.trim() || `column ${place + 1}`;
    while (seen.has(unique)) unique += "_";
    seen.add(unique);
    return unique;
  });
}

/** Records of delimited text (RFC 4180): quoted cells may hold delimiters, line ends and doubled quotes. */
export function splitRecords(text, delimiter, most = Infinity) {
  const records = [];
  let [cells, cell, isQuoted, place] = [[], "", false, 0];
  const endRecord = () => {
    cells.push(cell);
    if (cells.length > 1 || cells[0] !== "") records.push(cells); // empty lines are no records
    [cells, cell] = [[], ""];
  };
  for (; place < text.length && records.length < most; place++) {
    const sign = text[place];
    if (isQuoted) {
      if (sign !== '"') cell += sign;
      else if (text[place + 1] === '"') cell += text[++place];
      else isQuoted = false;
    } else if (sign === '"' && cell === "") isQuoted = true;
    else if (sign === delimiter) {
      cells.push(cell);
      cell = "";
    } else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[place + 1] === "\n") place++;
      endRecord();
    } else cell += sign;
  }
  if (records.length < most && (cell !== "" || cells.length)) endRecord();
  return records;
}

function quoted(value, delimiter) {
  const text = typeof value === "object" ? JSON.stringify(value) : `${value}`;
  return /["\r\n]/.test(text) || text.includes(delimiter) ? `"${text.replaceAll('"', '""')}"` : text;
}
