/** One streamed request, from its start to its answer, its error or its stop. */

import { stream } from "./api.js";
import { readAnswer } from "./answer.js";

/**
 * Stream a request.
 * @param {Object} body of POST /generate_stream, with `guess`
 * @param {AbortSignal} signal stops it; the server frees its rows when the connection closes
 * @param {(progress: {text: string, guess: string, tokens: number, firstMs: number|null}) => void} onProgress
 * @param {Object[]} known tokens that the prefix may hold
 * @returns {Promise<{answer: Object, firstMs: number|null}>} throws ApiError, or AbortError if stopped
 */
export async function run(body, signal, onProgress, known) {
  const begun = performance.now();
  const progress = { text: "", guess: "", tokens: 0, firstMs: null };
  let answer = null;
  for await (const event of stream(body, signal)) {
    progress.firstMs ??= performance.now() - begun;
    if (event.generated_text !== null && event.generated_text !== undefined) {
      answer = readAnswer(event, known);
    } else if (event.token === null) {
      progress.text += event.text;
      progress.guess = event.guess;
    }
    progress.tokens = event.index;
    onProgress(progress);
  }
  if (!answer) throw new Error("The stream ended without an answer.");
  return { answer, firstMs: progress.firstMs };
}
