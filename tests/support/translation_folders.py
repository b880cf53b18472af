"""Checkpoints of translation with raw tokenizer files, and what transformers writes with them."""

from pathlib import Path
from typing import Any

import oracle
import oracle_tokenizers
from tokenizer_samples import SENTENCES, pieces_folder, raw_folder

TEXTS = [SENTENCES[0], "the fox", SENTENCES[2]]
HOW = {"num_beams": 1, "max_new_tokens": 12}
# key of the model, folder of the tokenizer, codes of French and German
KINDS = {
    "marian": ("marian", "marian-codes", ("fra", "deu")),
    "nllb": ("m2m_100", "nllb", ("fra_Latn", "deu_Latn")),
    "m2m_100": ("m2m_100", "m2m100", ("fr", "de")),
    "pegasus": ("pegasus", "pegasus", None),
}


def folders(kind: str, folder: Path) -> tuple[Any, Any]:
    """Write a checkpoint; transformers' tokenizer and model."""
    key, files, _ = KINDS[kind]
    (raw_folder if files in ("nllb", "pegasus") else pieces_folder)(files, folder)
    tokenizer = oracle_tokenizers.load(folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None}
    start = tokenizer.eos_token_id if key == "m2m_100" else tokenizer.pad_token_id
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128}
    more = {"decoder_vocab_size": len(tokenizer)} if key == "marian" else {}
    return tokenizer, oracle.save_whole(key, folder, **ids, **sizes, **more, decoder_start_token_id=start)


def expected(kind: str, tokenizer: Any, model: Any, text: str) -> list[int]:
    """What transformers writes in German."""
    codes = KINDS[kind][2]
    settings: dict[str, Any] = {}
    if kind == "marian":
        text = f">>deu<< {text}"
    elif codes is not None:
        tokenizer.src_lang = codes[0]
        code = tokenizer.convert_tokens_to_ids(codes[1] if kind == "nllb" else f"__{codes[1]}__")
        settings["forced_bos_token_id"] = code
    batch = tokenizer([text], return_tensors="pt")
    return oracle.greedy(model, batch["input_ids"], batch["attention_mask"], 12, **settings)[0].tolist()
