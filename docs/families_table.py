"""Write the generated parts of docs/families.md: what `conjoin families` prints, and what part of the hub that is."""

from collections.abc import Mapping
from pathlib import Path

from conjoin.cli.families import COLUMNS, rows
from conjoin.families import MODULES

PAGE = Path(__file__).with_name("families.md")
BEGIN, END = "<!-- written by `make fix` -->\n", "<!-- end of the table -->\n"
SHARES, END_OF_SHARES = "<!-- shares, written by `make fix` -->\n", "<!-- end of the shares -->\n"
TEXT_TO_TEXT = {
    "marian": 8.61,
    "m2m_100": 2.55,
    "mbart": 0.70,
    "pegasus": 0.44,
    "encoder-decoder": 0.18,
    "fsmt": 0.14,
    "umt5": 0.12,
    "plbart": 0.12,
    "blenderbot": 0.12,
    "blenderbot-small": 0.11,
    "prophetnet": 0.11,
    "longt5": 0.05,
    "t5gemma": 0.04,
    "t5gemma2": 0.04,
    "led": 0.03,
    "switch_transformers": 0.014,
    "bigbird_pegasus": 0.009,
    "pegasus_x": 0.003,
}
"""Architecture -> millions of downloads in a month, of models with 500 or more."""
CAUSAL = {
    "lfm2": 1.54,
    "smollm3": 1.1,
    "cohere2": 1.09,
    "xlnet": 0.80,
    "openai-gpt": 0.71,
    "glm4": 0.58,
    "falcon_h1": 0.55,
    "starcoder2": 0.50,
    "biogpt": 0.45,
    "xglm": 0.22,
    "exaone4": 0.16,
    "ernie4_5": 0.08,
    "ministral": 0.002,
}
"""The same, of causal language models of all sizes."""
CAUSAL_MODELS = {
    "phi3": 85,
    "bloom": 65,
    "qwen3_5": 65,
    "gptj": 59,
    "gpt_neo": 52,
    "gemma": 45,
    "olmo3": 39,
    "falcon": 39,
    "phi": 30,
    "codegen": 30,
    "granitemoehybrid": 30,
    "gpt_bigcode": 26,
    "olmo2": 22,
    "granite": 22,
    "xglm": 18,
    "stablelm": 16,
    "apertus": 15,
    "cohere": 14,
    "smollm3": 8,
}
"""Architecture -> causal language models with 500 downloads or more in a month."""
ENCODERS_2023 = {
    "bert": 107.84,
    "roberta": 47.53,
    "distilbert": 32.29,
    "xlm-roberta": 21.79,
    "deberta-v2": 13.19,
    "mpnet": 9.56,
    "deberta": 8.07,
    "albert": 7.29,
    "camembert": 5.12,
    "electra": 4.98,
    "longformer": 2.99,
    "convbert": 1.82,
    "fnet": 1.55,
}
"""Architecture -> millions of downloads in 30 days of 2023, where they are 1.3 or more."""
CAUSAL_2023 = {"llama": 33.62, "gpt2": 32.12, "bloom": 3.00, "opt": 2.87, "gpt_neox": 2.30, "falcon": 1.33}
"""The same, of causal language models."""
TEXT_TO_TEXT_2023 = {"t5": 23.12, "bart": 9.18, "marian": 4.33}
"""The same, of text-to-text models."""


def table() -> str:
    """Return the table in Markdown, with model types and hub ids as code."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_marked, rows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shares() -> str:
    """Return which of the architectures that were counted conjoin opens, and their part of the downloads or models."""
    hugging_face = (
        ("text encoders", ENCODERS_2023, "million downloads"),
        ("causal", CAUSAL_2023, "million downloads"),
        ("text-to-text", TEXT_TO_TEXT_2023, "million downloads"),
    )
    scans = (
        ("text-to-text, other than BART, T5 and mT5", TEXT_TO_TEXT, "million downloads"),
        ("causal, of the architectures whose downloads are given", CAUSAL, "million downloads"),
        ("causal, of the architectures whose models are counted", CAUSAL_MODELS, "models"),
    )
    sources = (("Hugging Face's count, week 41 of 2023", hugging_face), ("TransformerLens's scans, 2026", scans))
    return "\n".join(
        f"{source}:\n\n" + "".join(f"- {name}: {_share(numbers, unit)}\n" for name, numbers, unit in lines)
        for source, lines in sources
    )


def _share(numbers: Mapping[str, float], unit: str) -> str:
    opened = [name for name in numbers if name in (*MODULES, "encoder-decoder")]
    part, whole = sum(numbers[name] for name in opened), sum(numbers.values())
    lacking = ", ".join(f"`{name}`" for name in numbers if name not in opened)
    found = f"{len(opened)} of {len(numbers)} architectures, {part:.4g} of {whole:.4g} {unit} ({part / whole:.0%})"
    return f"{found}; not {lacking}" if lacking else found


def written() -> str:
    """Return the page with the generated parts in their places."""
    page = PAGE.read_text()
    for begin, end, text in ((BEGIN, END, table()), (SHARES, END_OF_SHARES, shares())):
        before, rest = page.split(begin)
        page = before + begin + text + end + rest.split(end)[1]
    return page


def _marked(row: tuple[str, ...]) -> tuple[str, ...]:
    name, *ways, known = row
    return f"`{name}`", *ways, ", ".join(f"`{hub_id}`" for hub_id in known.split(", ") if hub_id)


if __name__ == "__main__":
    PAGE.write_text(written())
