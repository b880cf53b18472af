"""Calls of pipelines, for transformers 4, which recorded its results, and for conjoin, which is held to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

TEXTS = ["the cat sat on the mat .", "a dog ran", "the old bird sees a river and a tree"]
LONG = "the cat sat on the mat and the dog ran away . " * 5
TWO = {"num_return_sequences": 2, "num_beams": 3}
SHORT = {"max_new_tokens": 12}
ROMANIAN = {"src_lang": "en_XX", "tgt_lang": "ro_RO"}


class Texts(Dataset[str]):
    """A torch Dataset of texts, as transformers' KeyDataset is one."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]


INPUTS: dict[str, Callable[[], Any]] = {
    "text": lambda: TEXTS[0],
    "empty text": lambda: "",
    "long text": lambda: LONG,
    "list": lambda: list(TEXTS),
    "list of one": lambda: TEXTS[:1],
    "empty list": lambda: [],
    "generator": lambda: (text for text in TEXTS),
    "data set": lambda: Texts(TEXTS),
    "number": lambda: 4,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One call.

    Args:
        model: A function of `pipeline_models`.
        made, called: Keyword arguments of the constructor and of the call.
        differs: Why conjoin's result is another one; "" if it is the same.
    """

    model: str
    task: str
    inputs: str
    made: dict[str, Any] = field(default_factory=dict[str, Any])
    called: dict[str, Any] = field(default_factory=dict[str, Any])
    differs: str = ""

    @property
    def name(self) -> str:
        """A name for reports, and the key of the record."""
        made, called = (
            ", ".join(f"{key}={value!r}" for key, value in each.items()) for each in (self.made, self.called)
        )
        return f"pipeline({self.task!r}, {self.model}, {made})({self.inputs}, {called})".replace(", )", ")")


CASES = [
    *(Case("t5", "text2text-generation", kind, {}, SHORT) for kind in INPUTS if kind not in ("number", "long text")),
    *(
        Case("t5", "summarization", kind, {}, {**SHORT, **TWO})
        for kind in ("text", "list", "list of one", "empty list", "generator", "data set")
    ),
    *(Case("t5", task, "list", {}, SHORT) for task in ("summarization", "translation", "translation_en_to_ro")),
    *(Case("t5", task, "list", {}, SHORT) for task in ("translation_en_to_de", "translation_xx_to_yy")),
    *(
        Case("t5", "translation_en_to_de", kind, {"max_new_tokens": 9}, {"return_tensors": True})
        for kind in ("text", "list", "generator")
    ),
    Case("t5", "translation_en_to_de", "list", {}, {**SHORT, **TWO, "return_tensors": True}, "ends as pads"),
    Case("t5", "translation_en_to_de", "list", {**SHORT, "batch_size": 3}),
    Case("t5", "translation_en_to_de", "data set", {**SHORT, "batch_size": 2}, TWO),
    Case("t5", "summarization", "list", {"clean_up_tokenization_spaces": True}, SHORT),
    Case("t5", "summarization", "list", {"num_beams": 1, **SHORT}, {"no_repeat_ngram_size": 2}, "task before caller"),
    Case("t5", "summarization", "list", SHORT, {"num_beams": 1, "no_repeat_ngram_size": 2, "min_length": 6}),
    Case("t5", "summarization", "list", SHORT, {"return_text": True, "return_tensors": True}, "only ids"),
    Case("t5", "summarization", "text", {}, {"max_length": 7}, "max_length has no effect"),
    Case("t5", "translation_en_to_ro", "list", differs="max_length of the task has no effect"),
    Case("t5", "summarization", "long text", SHORT, {"truncation": True}),
    Case("t5", "summarization", "long text", SHORT),
    Case("t5", "summarization", "number", differs="TypeError"),
    Case("bart", "summarization", "list", {}, SHORT),
    Case("bart", "summarization", "list", {}, {**SHORT, "num_beams": 1}),
    Case("bart", "summarization", "long text", SHORT, {"truncation": True}),
    Case("bart", "summarization", "text", differs="IndexError: 256 tokens of 40 positions"),
    Case("bart_beams", "summarization", "text", SHORT, differs="4 beams before the model's 2"),
    Case("bart_length", "summarization", "text"),
    Case("mbart50", "translation", "list", SHORT, ROMANIAN),
    Case("mbart50", "translation", "list", {**SHORT, **ROMANIAN}),
    Case("mbart50", "translation", "list", ROMANIAN, {**SHORT, **TWO, "return_tensors": True}),
]
