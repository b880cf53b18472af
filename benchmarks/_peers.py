"""The contenders that generate from one checkpoint: conjoin, transformers and CTranslate2, on the same weights and ids.

transformers makes a random model, conjoin loads and saves it, and from that folder transformers loads and CTranslate2
converts. Contenders are created on first use, and kept while their checkpoint is in use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _shapes as shapes
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from conjoin.torch import EncoderDecoderModel

Run = Callable[[], list[list[int]]]
"""Generates, and returns the new tokens of every source."""


class Absent(Exception):
    """A contender that cannot run here, and why."""


@dataclass(frozen=True, slots=True)
class Work:
    """Sources, all of one length, and the settings of generation."""

    ids: Tensor
    new_tokens: int
    beams: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of generate, for conjoin and for transformers."""
        fixed = {"max_new_tokens": self.new_tokens, "min_new_tokens": self.new_tokens, "max_length": None}
        return {"attention_mask": torch.ones_like(self.ids), "num_beams": self.beams, **fixed}


class Cast:
    """The contenders of one checkpoint.

    Args:
        shape: A name in _shapes.py.
        folder: An empty folder for checkpoints.
        threads: Number of threads of every contender.
    """

    def __init__(self, shape: str, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        shapes.save(shape, folder / "made", lively=True)
        EncoderDecoderModel.from_pretrained(folder / "made").save_pretrained(folder / "saved")
        self._made: dict[str, Any] = {}

    def run(self, name: str, work: Work) -> Run:
        """Return the function that generates with a contender, such as "conjoin fp32" or "ctranslate2 int8".

        Raises:
            Absent: this contender cannot run here.
        """
        model = self.model(name)
        if name.startswith("ctranslate2"):
            return _translate(model, work)
        return lambda: _generate(model, work)

    def model(self, name: str) -> Any:
        """Return the contender's model, which is created once."""
        if name not in self._made:
            library, kind = name.split()
            make = {"conjoin": self._conjoin, "transformers": self._transformers, "ctranslate2": self._ctranslate2}
            self._made[name] = make[library](kind)
        return self._made[name]

    def _conjoin(self, kind: str) -> EncoderDecoderModel:
        folder = self.folder / "saved"
        if kind == "bf16":
            return EncoderDecoderModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        model = EncoderDecoderModel.from_pretrained(folder).eval()
        return model if kind == "fp32" else _quantized(model, kind)

    def _transformers(self, kind: str) -> Any:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
        folder = self.folder / "saved"
        return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()

    def _ctranslate2(self, kind: str) -> Any:
        try:
            import ctranslate2
        except ImportError as error:
            raise Absent("ctranslate2 is not installed; pip install 'conjoin[bench]'") from error
        converted = self.folder / "ctranslate2"
        if not converted.exists():
            convert(self.folder / "saved", converted)
        compute = {"float32": "float32", "int8": "int8_float32"}[kind]
        return ctranslate2.Translator(
            str(converted), device="cpu", compute_type=compute, inter_threads=1, intra_threads=self.threads
        )


def _quantized(model: EncoderDecoderModel, kind: str) -> EncoderDecoderModel:
    quantize = getattr(model, "quantize", None)
    if quantize is None:
        raise Absent(f'this conjoin has no model.quantize("{kind}")')
    return quantize(kind) or model


@torch.inference_mode()
def _generate(model: Any, work: Work) -> list[list[int]]:
    return model.generate(work.ids, **work.settings)[:, 1:].tolist()  # without the start token


# CTranslate2 takes tokens as text: w0, w1, ... stand for the ids, also for the three that it needs by role.


def _word(index: int) -> str:
    return f"w{index}"


def _translate(translator: Any, work: Work) -> Run:
    sources = [[_word(index) for index in row] for row in work.ids.tolist()]

    def run() -> list[list[int]]:
        """Generate as transformers does: after the start token exactly `new_tokens` tokens, without an end token."""
        results = translator.translate_batch(
            sources,
            beam_size=work.beams,
            min_decoding_length=work.new_tokens,
            max_decoding_length=work.new_tokens,
            max_input_length=0,
        )
        return [[int(word[1:]) for word in result.hypotheses[0]] for result in results]

    return run


@dataclass(frozen=True, slots=True)
class _Words:
    """The part of a tokenizer that CTranslate2's converter needs."""

    count: int
    bos_token: str
    eos_token: str
    unk_token: str

    def get_vocab(self) -> dict[str, int]:
        return {_word(index): index for index in range(self.count)}

    def convert_ids_to_tokens(self, index: int) -> str:
        return _word(index)


def convert(folder: Path, converted: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        """The documented converter, on a checkpoint without tokenizer files."""

        def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
            model = super().load_model(model_class, model_name_or_path, **kwargs)
            model.config.normalize_before = False  # BART's value, which transformers 5 no longer writes
            self.config = model.config
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> _Words:
            ids = (self.config.bos_token_id, self.config.eos_token_id, 3)
            return _Words(self.config.vocab_size, *(_word(index) for index in ids))

    Converter(str(folder)).convert(str(converted))
