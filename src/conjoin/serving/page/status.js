/** The line under the target: speed, lengths, and why the text ended. */

import { find, make, tell } from "./dom.js";

/** Reasons of the API, in words. */
const ENDS = {
  eos_token: "the model ended it",
  stop_sequence: "a stop text was found",
  length: "cut: the longest length was reached",
};

/** Show a request that runs. */
export function showProgress({ firstMs, tokens }, begun) {
  const seconds = (performance.now() - begun) / 1000;
  show([
    ["State", firstMs === null ? "waiting" : "running"],
    ["First token", firstMs === null ? null : `${Math.round(firstMs)} ms`],
    ["Tokens", tokens ? `${tokens}, ${(tokens / seconds).toFixed(1)}/s` : null],
  ]);
}

/** Show how a request went; the seed only matters where tokens were drawn. */
export function showEnd(answer, result, firstMs, isDrawn) {
  const { queue, total } = answer.times;
  const seconds = total - queue;
  const speed = seconds > 0 ? `, ${(result.count / seconds).toFixed(1)}/s` : "";
  show([
    ["First token", firstMs === null ? null : `${Math.round(firstMs)} ms`],
    ["Waited", queue >= 0.05 ? `${queue.toFixed(1)} s` : null],
    ["Target", `${result.count} tokens${speed}`],
    ["Source", `${answer.source.count} tokens`],
    ["End", ENDS[result.finish] ?? result.finish, result.finish === "length"],
    ["Seed", isDrawn ? `${answer.seed}` : null],
  ]);
  showWarnings([...(answer.source.wasCut ? [cutText(answer)] : []), ...answer.warnings]);
}

/** Show that a request was stopped. */
export function showStopped() {
  show([["State", "stopped"]]);
}

/** Show nothing. */
export function clearStatus() {
  show([]);
  showWarnings([]);
}

function cutText(answer) {
  return `The source was cut: only its first ${answer.source.count} tokens were read.`;
}

function showWarnings(texts) {
  const list = find("warnings");
  list.hidden = !texts.length;
  list.replaceChildren(...texts.map((text) => make("li", {}, text)));
}

function show(rows) {
  find("status").replaceChildren(
    ...rows
      .filter(([, value]) => value !== null)
      .map(([name, value, isWarning]) =>
        make("div", { class: isWarning ? "warning" : "" }, make("dt", {}, name), make("dd", {}, value)),
      ),
  );
}

/** Show an error in the API's own words. */
export function showProblem(text) {
  tell(find("problem"), text);
}
