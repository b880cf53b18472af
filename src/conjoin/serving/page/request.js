/** The body of POST /generate, and what the page asks for beside what the user set. */

/** Likeliest tokens that are asked for at each place. */
const ALTERNATIVES = 8;

/**
 * What the user wants: this is what "as code" shows.
 * @param {{model: string|null, languages: [string, string]|null, settings: Object}} choice
 */
export function bodyOf(text, { model, languages, settings }) {
  const parameters = { ...settings };
  if (languages) [parameters.src_lang, parameters.tgt_lang] = languages;
  const body = { inputs: text };
  if (Object.keys(parameters).length) body.parameters = parameters;
  if (model !== null) body.model = model;
  return body;
}

/** The same, with what the page shows beside the text. */
export function withDetails(body, { prefix = null, attention = true } = {}) {
  const parameters = { ...body.parameters, details: true, top_n_tokens: ALTERNATIVES, attention, guess: true };
  if (prefix) parameters.target_prefix = prefix;
  return { ...body, parameters };
}
