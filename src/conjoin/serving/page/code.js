/** A request as code that others can run. */

/** The ways: name, and a function of (body, place) that returns the code and the parameters that it cannot send. */
export const WAYS = [
  ["curl", curl],
  ["InferenceClient", inferenceClient],
  ["openai", openai],
  ["conjoin", conjoin],
];

/** Names that OpenAI's clients have for settings of generate; those of the second table go into extra_body. */
const OPENAI = { max_new_tokens: "max_tokens", num_return_sequences: "n", seed: "seed", stop: "stop" };
const OPENAI_EXTRA = {
  num_beams: "best_of",
  min_new_tokens: "min_tokens",
  length_penalty: "length_penalty",
  repetition_penalty: "repetition_penalty",
  no_repeat_ngram_size: "no_repeat_ngram_size",
  early_stopping: "early_stopping",
  top_k: "top_k",
  min_p: "min_p",
  timeout: "timeout",
};
/** Parameters of a request that are no settings of generate. */
const BESIDE = ["seed", "stop", "target_prefix", "truncation", "truncate", "timeout", "src_lang", "tgt_lang"];

function curl(body, { server, needsKey }) {
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $CONJOIN_KEY"` : "";
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return { code: `curl ${server}generate -H 'Content-Type: application/json'${key} \\\n  -d '${data}'`, left: [] };
}

function inferenceClient(body, { server, needsKey }) {
  const { src_lang, tgt_lang, ...rest } = body.parameters ?? {};
  const [settings, left] = divided(rest, (name) => !BESIDE.includes(name));
  const call = src_lang ? "translation" : "summarization";
  const url = server.replace(/\/$/, "") + (body.model ? `/models/${body.model}` : "");
  const words = [python(body.inputs)];
  if (src_lang) words.push(`src_lang=${python(src_lang)}`, `tgt_lang=${python(tgt_lang)}`);
  if (Object.keys(settings).length) words.push(`generate_parameters=${python(settings)}`);
  return {
    code: lines(
      needsKey ? "import os\n" : null,
      "from huggingface_hub import InferenceClient\n",
      `client = InferenceClient(${python(url)}${needsKey ? ', token=os.environ["CONJOIN_KEY"]' : ""})`,
      `answer = client.${call}(\n    ${words.join(",\n    ")},\n)`,
      `print(answer.${call === "translation" ? "translation_text" : "summary_text"})`,
    ),
    left,
  };
}

function openai(body, { server, needsKey, name }) {
  const { do_sample, temperature, top_p, ...rest } = body.parameters ?? {};
  const [known, left] = divided(rest, (each) => each in OPENAI || each in OPENAI_EXTRA);
  const words = { model: body.model ?? name, prompt: body.inputs };
  const extra = {};
  for (const [each, value] of Object.entries(known)) {
    if (each in OPENAI) words[OPENAI[each]] = value;
    else extra[OPENAI_EXTRA[each]] = value;
  }
  if (do_sample === false) words.temperature = 0;
  if (do_sample === true) words.temperature = temperature ?? 1;
  if (do_sample === true && top_p !== undefined) words.top_p = top_p;
  if (do_sample === true || extra.best_of === 1) delete extra.best_of;
  if (Object.keys(extra).length) words.extra_body = extra;
  const given = Object.entries(words).map(([each, value]) => `    ${each}=${python(value)},`);
  return {
    code: lines(
      needsKey ? "import os\n" : null,
      "from openai import OpenAI\n",
      `client = OpenAI(base_url=${python(`${server}v1`)}, api_key=${needsKey ? 'os.environ["CONJOIN_KEY"]' : '"none"'})`,
      `answer = client.completions.create(\n${given.join("\n")}\n)`,
      "for choice in answer.choices:\n    print(choice.text)",
    ),
    left,
  };
}

function conjoin(body, { name, length }) {
  const [settings, left] = divided(body.parameters ?? {}, (each) => !BESIDE.includes(each));
  if (!("max_new_tokens" in settings || "max_length" in settings) && length) settings.max_new_tokens = length;
  const given = Object.entries(settings).map(([each, value]) => `, ${each}=${python(value)}`);
  return {
    code: lines(
      "from conjoin import EncoderDecoderModel\n",
      `model = EncoderDecoderModel.from_pretrained(${python(`path/to/${name}`)}).eval()`,
      `source = model.tokenizer(${python(body.inputs)}, truncation=True, return_tensors="pt")`,
      `ids = model.generate(source.input_ids${given.join("")})`,
      "print(model.tokenizer.batch_decode(ids, skip_special_tokens=True))",
    ),
    left,
  };
}

function lines(...parts) {
  return parts.filter((part) => part !== null).join("\n");
}

/** The parameters that a test holds for, and the names of the others. */
function divided(parameters, holds) {
  const entries = Object.entries(parameters);
  return [
    Object.fromEntries(entries.filter(([name]) => holds(name))),
    entries.map(([name]) => name).filter((name) => !holds(name)),
  ];
}

/** A value as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // strings and numbers look alike in both, but for half of a surrogate pair
}
