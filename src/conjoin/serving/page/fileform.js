/** What is asked about a file before it runs: its column, its header; and its first rows. */

import { find, make, option } from "./dom.js";

const SHOWN_ROWS = 5;
const SHOWN_SIGNS = 120;
/** Columns that are likely to hold the source. */
const LIKELY = ["source", "text", "inputs", "document", "article", "sentence", "q"];

/** The column that is offered first. */
export function likelyColumn(table) {
  return LIKELY.find((name) => table.columns.includes(name)) ?? table.columns[0] ?? "";
}

/**
 * Show a file's name and its choices.
 * @param {{name, table, column, hasHeader}} file
 * @param {{onColumn: (column: string) => void, onHeader: (hasHeader: boolean) => void}} handlers
 */
export function showOptions({ name, table, column, hasHeader }, { onColumn, onHeader }) {
  const rows = table.rows.length;
  const parts = [make("p", {}, make("strong", {}, name), ` ${rows.toLocaleString("en")} ${rows === 1 ? "row" : "rows"}`)];
  if (table.kind !== "txt") {
    const options = table.columns.map((each) => option(each, each, each === column));
    const select = make("select", { onchange: (event) => onColumn(event.target.value) }, ...options);
    parts.push(make("label", { class: "inline" }, "Source column ", select));
  }
  if (table.kind === "csv") {
    const box = make("input", { type: "checkbox", onchange: (event) => onHeader(event.target.checked) });
    box.checked = hasHeader;
    parts.push(make("label", { class: "inline" }, box, " The first row has the columns' names"));
  }
  find("file-options").replaceChildren(...parts);
  find("file-options").hidden = false;
}

/** Show the first rows, the source's column marked. */
export function showPreview(table, column) {
  const head = table.columns.map((each) => make("th", { scope: "col", class: each === column ? "chosen" : "" }, each));
  const rows = table.rows.slice(0, SHOWN_ROWS).map((row) =>
    make("tr", {}, ...table.columns.map((each) => make("td", { dir: "auto", class: each === column ? "chosen" : "" }, shown(row[each])))),
  );
  find("preview").replaceChildren(
    make("table", {}, make("caption", { class: "sr" }, "First rows"), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
  );
  find("preview").hidden = !table.rows.length;
}

function shown(value) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.length > SHOWN_SIGNS ? `${text.slice(0, SHOWN_SIGNS)}…` : text;
}
