"""Drafts change how often the model is read, never what is written."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conjoin import EncoderDecoderModel
from conjoin.errors import ConjoinWarning, GenerationError
from conjoin.torch.generation.loops.drafters import CopyDrafter, paying_length
from conjoin.torch.generation.reader import Reader
from generate_models import EOS, PAD, models, sources

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

TRIALS = settings(max_examples=16, deadline=None, derandomize=True)
SHARED = ["electra-electra", "bart", "t5"]
"""Pairs whose halves share their words, so that the source can be copied as it is."""

either = st.sampled_from
PROCESSED: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": either([0.6, 1.6]),
    "no_repeat_ngram_size": either([1, 2, 3]),
    "min_new_tokens": either([3, 9]),
    "bad_words_ids": st.lists(st.lists(st.integers(0, 52), min_size=1, max_size=2), min_size=1, max_size=4),
    "forced_bos_token_id": st.integers(11, 52),
    "forced_eos_token_id": st.just(EOS),
    "encoder_repetition_penalty": either([0.6, 1.7]),
    "encoder_no_repeat_ngram_size": either([2, 3]),
    "exponential_decay_length_penalty": st.just((2, 1.3)),
    "stop_strings": st.lists(st.text("abcdefghij", min_size=1, max_size=2), min_size=1, max_size=3),
    "suppress_tokens": st.lists(st.integers(8, 52), min_size=1, max_size=9).map(
        lambda words: [w for w in words] or [8]
    ),
}


class Letters:
    """A tokenizer whose words are letters."""

    def __init__(self, words: int) -> None:
        self.words = [chr(ord("a") + i % 26) for i in range(words)]

    def get_vocab(self) -> dict[str, int]:
        return {f"{letter}{i}": i for i, letter in enumerate(self.words)}

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return f"{self.words[ids]}{ids}" if isinstance(ids, int) else [f"{self.words[i]}{i}" for i in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(token[0] for token in tokens)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}


def near(name: str, seed: int, amount: float) -> EncoderDecoderModel:
    """A model like that of the same name and seed, more or less: it guesses right now and then."""
    key = (name, seed, amount)
    if key not in _NEAR:
        model, _ = models(name, seed)
        other = type(model)(config=model.config)
        other.load_state_dict(model.state_dict())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
        _NEAR[key] = other.eval()
    return _NEAR[key]


_NEAR: dict[tuple[str, int, float], EncoderDecoderModel] = {}


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    chosen = {name: draw(PROCESSED[name]) for name in draw(st.lists(either([*PROCESSED]), max_size=3, unique=True))}
    if "stop_strings" in chosen:
        chosen["tokenizer"] = Letters(61)
    if draw(st.booleans()):
        chosen["decoder_input_ids"] = torch.tensor([[9, *draw(st.lists(st.integers(11, 52), max_size=3))]])
    return {**chosen, "max_new_tokens": draw(either([9, 15] if "min_new_tokens" in chosen else [9, 1, 2, 15]))}


@pytest.mark.parametrize("name", SHARED)
def test_drafted_words_are_those_of_greedy_decoding(name: str) -> None:
    @TRIALS
    @given(
        seed=st.integers(0, 3),
        call=calls(),
        drafts=either(["copies", 0.0, 0.02, 0.1, 9.0]),
        tuned=st.fixed_dictionaries(
            {},
            optional={
                "num_assistant_tokens": either([1, 3, 20]),
                "num_assistant_tokens_schedule": either(["constant", "heuristic"]),
                "assistant_confidence_threshold": either([0.0, 0.05]),
            },
        ),
        ends=st.lists(st.integers(1, 7), max_size=2),
    )
    def check(seed: int, call: dict[str, Any], drafts: Any, tuned: dict[str, Any], ends: list[int]) -> None:
        model, _ = models(name, seed)
        ids, mask = sources(name, seed)
        given: dict[str, Any] = {**call, "attention_mask": mask}
        if "decoder_input_ids" in call:
            given["decoder_input_ids"] = call["decoder_input_ids"].expand(len(ids), -1)
        free = model.generate(ids, attention_mask=mask, max_new_tokens=8)
        given["eos_token_id"] = sorted({EOS, *(int(free[0, end % free.shape[1]]) for end in ends)} - {PAD})
        by = (
            {"copy_speculation": True} if drafts == "copies" else {"assistant_model": near(name, seed, drafts), **tuned}
        )
        assert model.generate(ids, **given, **by).tolist() == model.generate(ids, **given).tolist()

    check()


class Passes:
    """Counts what decoders are asked to read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[Any, tuple[int, ...]]] = []
        read = Reader.read

        def counted(reader: Reader, ids: Tensor, *more: Any) -> Tensor:
            self.shapes.append((reader.decoder, tuple(ids.shape)))
            return read(reader, ids, *more)

        monkeypatch.setattr(Reader, "read", counted)

    def of(self, model: EncoderDecoderModel) -> int:
        return sum(decoder is model.decoder for decoder, _ in self.shapes)


def test_text_that_repeats_is_read_in_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = models("bart", 2)  # which writes one word again and again
    ids, mask = sources("bart", 2, (7,))
    passes = Passes(monkeypatch)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=40, copy_speculation=True, eos_token_id=8)
    new = found.shape[1] - 1
    assert new == 40 and passes.of(model) < new / 2
    assert found.equal(model.generate(ids, attention_mask=mask, max_new_tokens=40, eos_token_id=8))


def test_text_that_copies_its_source_is_read_in_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model writes anyway is given as source to the drafter, so that every copy is right."""
    model, _ = models("bart", 0)
    ids, mask = sources("bart", 0, (7,))
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=30, eos_token_id=8)
    states = model.encoder(ids, mask)
    monkeypatch.setattr("conjoin.torch.generation.loops.copying._real_ids", lambda source: plain[0].tolist())
    passes = Passes(monkeypatch)
    found = model.generate(
        encoder_outputs=states, attention_mask=mask, max_new_tokens=30, copy_speculation=True, eos_token_id=8
    )
    assert found.equal(plain) and passes.of(model) < 15


def passes_with_copies(source: list[int], target: list[int]) -> int:
    """How often a model is read that writes the target whatever it is given, and drafts are copied from the source."""
    drafter, ids, passes = CopyDrafter(source), [0], 0
    while len(ids) <= len(target):
        rest = target[len(ids) - 1 :]
        draft = drafter.propose(ids, len(rest))[0] if len(ids) > 1 else []
        agreed = next(
            (i for i, (a, b) in enumerate(zip(draft, rest, strict=False)) if a != b), min(len(draft), len(rest))
        )
        ids += rest[: agreed + 1]
        drafter.hear(len(draft), agreed)
        passes += 1
    return passes


def test_a_copy_goes_on_behind_words_that_were_changed_left_out_or_added() -> None:
    source = list(range(100, 180))
    untouched = passes_with_copies(source, source)
    assert untouched <= 2 + len(source) // 9
    changed = [7, *source[1:20], 8, *source[21:40], 9, *source[41:]]
    assert passes_with_copies(source, changed) <= untouched + 3
    assert passes_with_copies(source, [*source[:30], *source[31:60], *source[61:]]) <= untouched + 2
    assert passes_with_copies(source, [*source[:30], 7, 8, *source[30:]]) <= untouched + 4


def test_text_that_is_never_copied_is_hardly_ever_drafted() -> None:
    source, target = [i % 40 + 100 for i in range(0, 400, 7)], [(i * i) % 40 + 100 for i in range(200)]
    drafter, rows, ids = CopyDrafter(source), 0, [0]
    for word in target:
        draft = drafter.propose(ids, 100)[0] if len(ids) > 1 else []
        rows += len(draft)
        drafter.hear(len(draft), 0)
        ids.append(word)
    assert rows < 60


@pytest.mark.parametrize(("share", "length"), [(0.02, 1), (0.5, 3), (0.9, 13), (0.99, 16)])
def test_drafts_are_as_long_as_pays(share: float, length: int) -> None:
    assert paying_length(share, 16) == length


def test_an_assistant_that_is_always_right_saves_most_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, assistant = models("bart", 0)[0], near("bart", 0, 0.0)
    ids, mask = sources("bart", 0, (7,))
    given = {"attention_mask": mask, "max_new_tokens": 24, "eos_token_id": 8, "assistant_confidence_threshold": 0.0}
    passes = Passes(monkeypatch)
    found = model.generate(ids, **given, assistant_model=assistant, num_assistant_tokens=5)
    new = found.shape[1] - 1
    assert new == 24 and passes.of(model) <= 2 + new // 6
    assert passes.of(assistant) <= new


def test_an_assistant_that_is_not_sure_drafts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, assistant = models("bart", 0)[0], near("bart", 0, 0.1)
    ids, mask = sources("bart", 0, (7,))
    given = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": 8, "assistant_model": assistant}
    drafted = []
    for threshold in (0.0, 1.0):
        passes = Passes(monkeypatch)
        model.generate(ids, **given, assistant_confidence_threshold=threshold, num_assistant_tokens=6)
        drafted.append(passes.of(assistant))
        monkeypatch.undo()
    assert drafted[1] < drafted[0] / 2


def test_no_more_is_read_than_positions_there_are() -> None:
    """The assistant's table is as long as the model's; both end at the same word."""
    model, assistant = models("bart", 0)[0], near("bart", 0, 0.0)
    ids, mask = sources("bart", 0, (7,))
    with pytest.warns(ConjoinWarning, match="64 positions"):
        found = model.generate(ids, attention_mask=mask, max_new_tokens=80, eos_token_id=8, assistant_model=assistant)
    assert found.shape[1] == 65


def test_an_assistant_with_a_shorter_table_stops_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    model, assistant = models("t5", 0)[0], models("t5", 1)[0]
    ids, mask = sources("t5", 0, (7,))
    from conjoin.torch.generation.loops import drafters

    before = drafters.ModelDrafter.__init__

    def short(self: Any, *arguments: Any, **keywords: Any) -> None:
        before(self, *arguments, **keywords)
        self.limit = 6

    monkeypatch.setattr(drafters.ModelDrafter, "__init__", short)
    passes = Passes(monkeypatch)
    given = {"attention_mask": mask, "max_new_tokens": 20, "eos_token_id": 8}
    found = model.generate(ids, **given, assistant_model=assistant)
    assert found.equal(model.generate(ids, **given))
    assert sum(shape[1] for decoder, shape in passes.shapes if decoder is assistant.decoder) <= 6 * 6


WANTS = dict.fromkeys(
    ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"), True
)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("drafts", ["copies", "assistant"])
def test_everything_that_greedy_decoding_returns_is_returned_with_drafts(name: str, drafts: str) -> None:
    model, _ = models(name, 0)
    ids, mask = sources(name, 0, (7,))
    given = {"attention_mask": mask, "max_new_tokens": 12, **WANTS}
    by = {"copy_speculation": True} if drafts == "copies" else {"assistant_model": near(name, 0, 0.02)}
    wanted, found = model.generate(ids, **given), model.generate(ids, **given, **by)
    assert found.sequences.equal(wanted.sequences) and {*found} == {*wanted}
    close = {"rtol": 1e-5, "atol": 1e-5}
    for each in {*wanted} - {"sequences", "past_key_values", "encoder_attentions", "encoder_hidden_states"}:
        torch.testing.assert_close(found[each], wanted[each], **close)


def test_steps_of_several_sources_are_put_together() -> None:
    model, _ = models("bart", 0)
    ids, mask = sources("bart", 0)
    free = model.generate(ids, attention_mask=mask, max_new_tokens=8)
    given = {"attention_mask": mask, "max_new_tokens": 8, "eos_token_id": int(free[1, 3])}
    wants = {"return_dict_in_generate": True, "output_scores": True}
    wanted, found = model.generate(ids, **given, **wants), model.generate(ids, **given, **wants, copy_speculation=True)
    assert found.sequences.equal(wanted.sequences)
    for step, (mine, plain) in enumerate(zip(found.scores, wanted.scores, strict=True)):
        going = step <= (wanted.sequences[:, 1:] != PAD).sum(1) - 1
        torch.testing.assert_close(mine[going], plain[going], rtol=1e-5, atol=1e-5)
        assert (mine[~going] == 0).all()
    with pytest.raises(GenerationError, match="no common steps"):
        model.generate(ids, **given, **WANTS, copy_speculation=True)


def test_an_assistant_of_other_words_is_refused() -> None:
    model, other = models("bart", 0)[0], models("electra-electra", 0)[0]
    ids, mask = sources("bart", 0)
    with pytest.raises(GenerationError, match=r"reads 61 tokens, the model 53.*\n.*writes 61 tokens"):
        model.generate(ids, attention_mask=mask, max_new_tokens=3, assistant_model=other)
    with pytest.raises(GenerationError, match="reads source ids"):
        model.generate(
            encoder_outputs=model.encoder(ids, mask), attention_mask=mask, max_new_tokens=3, assistant_model=model
        )


def test_copies_between_vocabularies_need_tokenizers() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    with pytest.raises(GenerationError, match="the vocabularies differ"):
        model.generate(ids, attention_mask=mask, max_new_tokens=3, copy_speculation=True)
