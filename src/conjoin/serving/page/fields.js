/** The fields of the settings: which there are, and how their texts become JSON. */

/** What the API takes beside the settings that /info lists. */
const BESIDE = {
  seed: { range: "a whole number; results with one seed are the same each time", kind: "whole" },
  stop: { range: "texts, one per line; the target is cut before the first of them", kind: "lines" },
  target_prefix: { range: "how the target begins", kind: "text" },
  truncation: { range: "false refuses a source that is too long, instead of cutting it", kind: "switch" },
  truncate: { range: "tokens of the source that are read", kind: "whole", least: 1 },
  timeout: { range: "seconds until the request is given up", kind: "number", least: 0 },
};

/** Titles, and the fields under them; what /info lists beyond these comes under "More". */
const GROUPS = [
  ["Search", ["num_beams", "num_return_sequences", "length_penalty", "early_stopping"]],
  ["Sampling", ["do_sample", "temperature", "top_k", "top_p", "min_p", "seed"]],
  ["Length", ["max_new_tokens", "min_new_tokens", "stop"]],
  ["Repetition", ["repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"]],
  ["Text", ["target_prefix", "truncate", "truncation", "timeout"]],
];

/** Settings of generate that mean nothing over HTTP, or that the page has another way for. */
const OWN = new Set([
  "max_time", "stop_strings", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
  "output_hidden_states",
]);

/** Limits of the server that bound a setting. */
const LIMITS = {
  num_beams: "max_beams",
  num_return_sequences: "max_results",
  max_new_tokens: "max_new_tokens",
  min_new_tokens: "max_new_tokens",
  max_length: "max_new_tokens",
  timeout: "timeout_s",
};

/**
 * The fields by group.
 * @returns {[string, {name: string, kind: string, range: string, least, most, limit, options, fallback}[]][]}
 */
export function fieldGroups(info, model) {
  const listed = { ...info.settings, ...BESIDE };
  const named = new Set(GROUPS.flatMap(([, names]) => names));
  const more = Object.keys(listed).filter((name) => !named.has(name) && !OWN.has(name));
  return [...GROUPS, ["More", more]].map(([title, names]) => [
    title,
    names.filter((name) => name in listed).map((name) => fieldOf(name, listed[name], info, model)),
  ]);
}

function fieldOf(name, about, info, model) {
  const limit = info.limits[LIMITS[name]] ?? null;
  return {
    name,
    kind: about.kind ?? "other",
    range: about.range ?? "JSON",
    least: about.least ?? null,
    most: limit ?? about.most ?? null,
    limit,
    options: about.kind === "switch" ? [true, false] : (about.options ?? []),
    fallback: model?.generation?.[name] ?? about.default ?? null,
  };
}

/**
 * The value of a field's text, as JSON has it; undefined if it is empty.
 * Texts that are no value of their kind are passed on as they are: the server says what it expected.
 */
export function valueOf(field, text) {
  if (text.trim() === "") return undefined;
  if (field.kind === "text") return text;
  if (field.kind === "lines") return text.split("\n").filter((line) => line !== "");
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The text of a value, as a field shows it; the inverse of `valueOf`. */
export function textOf(field, value) {
  if (field.kind === "lines") return value.join("\n");
  return typeof value === "string" ? value : JSON.stringify(value);
}
