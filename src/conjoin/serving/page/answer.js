/** Answers of the server, in the form that the page shows. */

/**
 * @typedef {{id: number, text: string, logprob: number|null, special: boolean, attention: number[]|undefined,
 *   top: {id: number, text: string, logprob: number, special: boolean}[]}} Token
 * @typedef {{text: string, finish: string, score: number|null, count: number, tokens: Token[]}} Result
 * @typedef {{results: Result[], prefix: Token[], source: Object, seed: number|null, warnings: string[],
 *   times: Object}} Answer
 */

/**
 * Read the answer of POST /generate, or the last event of a stream.
 * @param {Token[]} known tokens that may stand in the prefix, with their probabilities
 * @returns {Answer}
 */
export function readAnswer(data, known = []) {
  const details = data.details ?? {};
  const sequences = data.sequences ?? [{ ...details, score: data.score, generated_text: data.generated_text }];
  return {
    results: sequences.map(readResult),
    prefix: (details.prefill ?? []).map((token, place) => knownToken(token, known[place])),
    source: {
      texts: details.source_tokens ?? [],
      offsets: details.source_offsets ?? [],
      count: details.input_length ?? 0,
      wasCut: details.source_was_cut ?? data.source_was_cut ?? false,
    },
    seed: details.seed ?? null,
    warnings: data.warnings ?? [],
    times: { queue: details.queue_s ?? 0, first: details.first_token_s ?? 0, total: details.total_s ?? 0 },
  };
}

function readResult(sequence) {
  const tops = sequence.top_tokens ?? [];
  return {
    text: sequence.generated_text ?? "",
    finish: sequence.finish_reason ?? "",
    score: sequence.score ?? null,
    count: sequence.generated_tokens ?? 0,
    tokens: (sequence.tokens ?? []).map((token, place) => ({ ...token, top: tops[place] ?? [] })),
  };
}

function knownToken(token, before) {
  if (before && before.id === token.id) return { ...before, text: token.text, isPrefix: true };
  return { ...token, logprob: null, special: token.text === "", top: [], isPrefix: true };
}

/** All tokens of a result, those of its prefix first. */
export function tokensOf(answer, result) {
  return [...answer.prefix, ...result.tokens];
}

/** Geometric mean of the tokens' probabilities: a measure that long results do not lose by. */
export function meanProbability(result) {
  const logprobs = result.tokens.map((token) => token.logprob).filter((logprob) => logprob !== null);
  if (!logprobs.length) return null;
  return Math.exp(logprobs.reduce((sum, logprob) => sum + logprob, 0) / logprobs.length);
}
