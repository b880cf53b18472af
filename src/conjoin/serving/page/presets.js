/** Ways of decoding by name, each a few settings. */

/** Settings that say how tokens are chosen: a preset sets or clears all of them. */
const WAYS = ["do_sample", "num_beams", "num_return_sequences"];

/** The presets that a server allows: [name, title, settings]. */
export function presets(limits) {
  const beams = Math.min(4, limits.max_beams);
  const results = Math.min(beams, limits.max_results);
  return [
    ["", "the model's own", {}],
    ["greedy", "greedy", { do_sample: "false", num_beams: "1" }],
    ["beams", `${beams} beams`, { do_sample: "false", num_beams: `${beams}`, num_return_sequences: `${results}` }],
    ["sampling", "sampling", { do_sample: "true", num_beams: "1" }],
  ].filter(([name]) => name !== "beams" || beams > 1);
}

/** The name of the preset that these texts are; "custom" if of none. */
export function presetOf(texts, limits) {
  const way = Object.fromEntries(WAYS.filter((name) => texts.has(name)).map((name) => [name, texts.get(name)]));
  const match = presets(limits).find(([, , settings]) => isSame(settings, way));
  return match ? match[0] : "custom";
}

/** These texts with a preset's in place of their way of decoding. */
export function withPreset(texts, name, limits) {
  const [, , settings] = presets(limits).find(([each]) => each === name);
  const kept = [...texts].filter(([each]) => !WAYS.includes(each));
  return new Map([...kept, ...Object.entries(settings)]);
}

function isSame(one, other) {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}
