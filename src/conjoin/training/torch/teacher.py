"""The teacher of a distillation: a frozen pair that reads the same sources, in tokens of its own if need be."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin.errors import ConfigError, quoted
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.arrays import WEIGHTS
from conjoin.training.data.batching import Batch
from conjoin.training.data.datasets import Making, room_of, to_examples
from conjoin.training.data.examples import Examples
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.collate import Collator

_TRIAL = "A trial of 2 words."
_HINT = "the teacher's texts teach any vocabulary: conjoin generate TEACHER, then --pseudo-labels (docs/better.md)."


class PairTeacher:
    """A joined model as a teacher (`objectives.Teacher`): in evaluation mode, without gradients, never saved.

    Args:
        model: The teacher; it is frozen.
        examples: The pairs of the run, with sources in the teacher's tokens.
        source_pad: The id that pads its sources.
    """

    def __init__(self, model: EncoderDecoderModel, examples: Examples, source_pad: int) -> None:
        self._model = model.eval().requires_grad_(False)
        self._collator = Collator(model, examples, source_pad)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments of the teacher's forward for one batch, on the CPU."""
        tensors = self._collator(batch)
        return {name: tensor for name, tensor in tensors.items() if name not in (WEIGHTS, "labels")}

    @torch.no_grad()
    def logits(self, inputs: dict[str, Tensor]) -> Float[Tensor, "B T V"]:
        """Return its logits, computed in its own dtype."""
        arguments: dict[str, Any] = {**inputs, "use_cache": False}
        with torch.autocast(self._model.device.type, enabled=False):
            return self._model(**arguments).logits


def load_teacher(
    arguments: TrainingArguments, student: EncoderDecoderModel, tokenizer: Any, examples: Examples
) -> PairTeacher:
    """Load the teacher that the arguments name, onto the student's device and in the number format of the run.

    Args:
        tokenizer: The student's; None if its pairs came as ids.

    Raises:
        ConfigError: its target vocabulary is another one, targets are longer than it can write, or the sources cannot
            be encoded for it.
    """
    assert arguments.teacher is not None
    dtype = "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32"
    teacher = EncoderDecoderModel.from_pretrained(arguments.teacher, dtype=dtype, device=student.device)
    own: Any = _tokenizer_of(teacher)
    _require_same_targets(arguments.teacher, teacher, own, student, tokenizer, examples)
    return PairTeacher(teacher, _examples_for(teacher, own, tokenizer, examples, arguments), _source_pad(teacher, own))


def _tokenizer_of(model: EncoderDecoderModel) -> Tokenizer | TokenizerPair | None:
    try:
        return model.tokenizer
    except (ConfigError, ValueError):  # there is none, as of models that train on ids
        return None


def _require_same_targets(
    name: str, teacher: EncoderDecoderModel, own: Any, student: EncoderDecoderModel, tokenizer: Any, examples: Examples
) -> None:
    """Check that both models give probabilities to the same tokens, at the same positions."""
    sizes = teacher.decoder.spec.vocab_size, student.decoder.spec.vocab_size
    if own is None or tokenizer is None:
        if sizes[0] != sizes[1]:
            raise ConfigError(f"teacher = {name}: it writes {sizes[0]:,} tokens, the model {sizes[1]:,}.", hint=_HINT)
    else:
        theirs, ours = (getattr(each, "target", each).get_vocab() for each in (own, tokenizer))
        if theirs != ours:
            other = [token for token in sorted(theirs.keys() | ours.keys()) if theirs.get(token) != ours.get(token)]
            raise ConfigError(
                f"teacher = {name}: {len(other):,} tokens of its target vocabulary are not the model's, such as "
                f"{quoted(other[:3])}. Expected the same {len(ours):,} tokens: probabilities of tokens are compared.",
                hint=_HINT,
            )
        ids = [each(text_target=[_TRIAL])["input_ids"][0] for each in (own, tokenizer)]
        if ids[0] != ids[1]:
            raise ConfigError(
                f"teacher = {name}: its targets have other special tokens than the model's: a trial text becomes "
                f"{ids[0]}, and {ids[1]} for the model.",
                hint=_HINT,
            )
    longest, limit = int(examples.lengths[:, 1].max()), teacher.decoder.spec.max_positions
    if limit is not None and longest > limit:
        raise ConfigError(
            f"teacher = {name}: it writes at most {limit} tokens, and the longest target has {longest}.",
            hint=f"max_target_length = {limit} truncates targets.",
        )


def _examples_for(
    teacher: EncoderDecoderModel, own: Any, tokenizer: Any, examples: Examples, arguments: TrainingArguments
) -> Examples:
    """Return the pairs with the teacher's source ids: the student's own, if both read the same tokens."""
    examples = replace(examples, weights=None)
    limit = room_of(arguments, teacher.spec).source
    fits = limit is None or int(examples.lengths[:, 0].max()) <= limit
    if own is None or tokenizer is None:
        is_same = teacher.encoder.spec.vocab_size > examples.sources.range()[1]
    else:
        vocabularies = [getattr(each, "source", each).get_vocab() for each in (own, tokenizer)]
        is_same = vocabularies[0] == vocabularies[1] and own([_TRIAL])["input_ids"] == tokenizer([_TRIAL])["input_ids"]
    if is_same and fits:
        return examples
    if examples.texts is None or own is None:
        raise ConfigError(
            f"teacher = {arguments.teacher}: it reads other tokens than the model, or shorter sources, and the pairs "
            "came as ids.",
            hint="train on texts, which are encoded for each of the two.",
        )
    whole = arguments.copy(max_source_length=None)  # a number of the student's tokens
    read = to_examples(examples.texts, examples.name, Making(whole, teacher.spec, own))
    return replace(examples, sources=read.sources, columns={}, digest=None, measured=None)


def _source_pad(model: EncoderDecoderModel, tokenizer: Any) -> int:
    pads = (getattr(getattr(tokenizer, "source", tokenizer), "pad_token_id", None), model.encoder.config.pad_token_id)
    return next((pad for pad in pads if pad is not None), 0)
