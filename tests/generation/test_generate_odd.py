"""Long and odd input: a clear error, or the same as in plain cases; streams; what generate leaves behind."""

from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin import BertConfig, EncoderDecoderModel, LlamaConfig
from conjoin.errors import ConjoinWarning, GenerationError, ShapeError
from generate_models import EOS, PAD, models, sources
from lanes import thinned
from pairs import SMALL, SOURCE, fresh, stir

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 4},
    "beam sampling": {"num_beams": 4, "do_sample": True},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constrained": {"num_beams": 4, "force_words_ids": [[20]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "copies": {"copy_speculation": True},
}


def setting(name: str = "bart", lengths: tuple[int, ...] = (7, 5, 3)) -> tuple[EncoderDecoderModel, Tensor, Tensor]:
    model, _ = models(name, 0)
    return model, *sources(name, 0, lengths)


def test_a_source_that_is_too_long_is_an_error_or_is_cut() -> None:
    model, _, _ = setting("bert-gpt2")
    ids = torch.randint(11, 53, (2, 70))
    mask = torch.ones_like(ids)
    with pytest.raises(ShapeError, match="70 positions, but this checkpoint's position table has 64"):
        model.generate(ids, max_new_tokens=3)
    cut = model.generate(ids, attention_mask=mask, max_new_tokens=3, truncation=True, encoder_no_repeat_ngram_size=2)
    assert cut.equal(model.generate(ids[:, :64], max_new_tokens=3, encoder_no_repeat_ngram_size=2))
    types = torch.zeros_like(ids)
    assert model.generate(ids, token_type_ids=types, max_new_tokens=3, truncation=True).shape == (2, 4)


def test_padding_on_the_left_is_not_what_a_cut_source_keeps() -> None:
    """A row keeps its first tokens, wherever they stand, so that no other row of the batch changes it."""
    model, _, _ = setting("bert-gpt2")
    long, half, short = torch.randint(11, 53, (90,)), torch.randint(11, 53, (50,)), torch.randint(11, 53, (20,))
    ids = torch.full((3, 90), PAD)
    mask = torch.zeros_like(ids)
    for row, source in enumerate((long, half, short)):
        ids[row, 90 - len(source) :], mask[row, 90 - len(source) :] = source, 1
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4}
    cut = model.generate(ids, attention_mask=mask, truncation=True, **settings)
    for row, source in enumerate((long[:64], half, short)):
        assert cut[row].equal(model.generate(source[None], **settings)[0])
    right = torch.zeros_like(ids), torch.zeros_like(mask)
    for row, source in enumerate((long, half, short)):
        right[0][row, : len(source)], right[1][row, : len(source)] = source, 1
    assert cut.equal(model.generate(right[0], attention_mask=right[1], truncation=True, **settings))


def test_a_prefix_that_ends_in_padding_is_an_error() -> None:
    model, ids, mask = setting("bert-gpt2")
    prefix = torch.randint(11, 53, (len(ids), 3))
    padded = torch.ones_like(prefix)
    padded[1, 2] = 0
    with pytest.raises(GenerationError, match=r"Rows \[1\] of decoder_input_ids end in padding"):
        model.generate(
            ids, attention_mask=mask, decoder_input_ids=prefix, decoder_attention_mask=padded, max_new_tokens=3
        )


def test_the_start_stands_behind_the_padding_of_a_prefix() -> None:
    """Prefixes of different lengths without the start id, where padding is an id that processors look at."""
    model, ids, mask = setting("bert-gpt2")
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "repetition_penalty": 3.0}
    prefixes = [torch.randint(11, 53, (length,)) for length in (4, 1, 2)]
    prefix, padded = torch.full((3, 4), EOS), torch.zeros(3, 4, dtype=torch.long)
    for row, each in enumerate(prefixes):
        prefix[row, 4 - len(each) :], padded[row, 4 - len(each) :] = each, 1
    together = model.generate(
        ids, attention_mask=mask, decoder_input_ids=prefix, decoder_attention_mask=padded, **settings
    )
    for row, each in enumerate(prefixes):
        source = ids[row : row + 1, : int(mask[row].sum())]
        alone = model.generate(source, decoder_input_ids=each[None], **settings)
        assert together[row, 4 - len(each) :].equal(alone[0])


def test_contrastive_search_ends_at_the_end_of_the_position_table() -> None:
    """It reads the last token, too, to compare it."""
    model, ids, mask = setting("bert-gpt2")
    most = model.decoder.spec.max_positions
    assert most is not None
    settings: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": most, "min_new_tokens": most - 1}
    with pytest.warns(ConjoinWarning, match=f"they end at {most}"):
        found = model.generate(ids[:1], attention_mask=mask[:1], **settings)
    assert found.shape == (1, most)


def test_sources_without_a_position_table_may_be_long() -> None:
    model, _, _ = setting("t5")
    assert model.generate(torch.randint(11, 53, (1, 300)), max_new_tokens=3, eos_token_id=8).shape == (1, 4)


@pytest.mark.parametrize("shape", [(3, 0), (0, 5), (5,)])
def test_a_source_without_tokens_is_an_error(shape: tuple[int, ...]) -> None:
    model, _, _ = setting()
    with pytest.raises(GenerationError, match="at least one of each"):
        model.generate(input_ids=torch.ones(shape, dtype=torch.long), max_new_tokens=3)


def test_what_is_missing_or_of_another_kind_is_named() -> None:
    model, ids, mask = setting()
    with pytest.raises(GenerationError, match="got no source"):
        model.generate(max_new_tokens=3)
    with pytest.raises(GenerationError, match="both inputs and input_ids"):
        model.generate(ids, input_ids=ids, max_new_tokens=3)
    with pytest.raises(GenerationError, match="inputs is a list; attention_mask is a list: expected tensors"):
        model.generate(input_ids=ids.tolist(), attention_mask=mask.tolist(), max_new_tokens=3)
    with pytest.raises(GenerationError, match=r"Source ids are torch\.float32; expected integers"):
        model.generate(input_ids=ids.float(), attention_mask=mask, max_new_tokens=3)
    with pytest.raises(ShapeError, match="attention_mask has shape"):
        model.generate(ids, attention_mask=mask[:, :3], max_new_tokens=3)
    with pytest.raises(GenerationError, match="decoder_input_ids has shape"):
        model.generate(ids, decoder_input_ids=ids[:2], max_new_tokens=3)
    with pytest.raises(GenerationError, match="decoder_attention_mask has shape"):
        model.generate(ids, decoder_input_ids=ids, decoder_attention_mask=ids[:, :2], max_new_tokens=3)
    with pytest.raises(GenerationError, match="synced_gpus = True"):
        model.generate(ids, max_new_tokens=3, synced_gpus=True)
    assert model.generate(ids, attention_mask=mask, max_new_tokens=3, synced_gpus=False).shape == (3, 4)


def test_prompts_of_which_only_some_begin_with_the_start_id_are_refused() -> None:
    model, ids, _ = setting()
    prompt = torch.tensor([[9, 20], [30, 21], [9, 22]])
    with pytest.raises(GenerationError, match=r"Rows \[0, 2\] of decoder_input_ids begin with decoder_start_token_id"):
        model.generate(ids, decoder_input_ids=prompt, max_new_tokens=3)


SURE = [kind for kind in KINDS if "sampling" not in kind]


@pytest.mark.parametrize(("name", "kind"), thinned(5, ["bart", "electra-electra", "t5"], SURE))
def test_a_source_that_is_all_padding_has_a_result_and_disturbs_nobody(name: str, kind: str) -> None:
    model, ids, mask = setting(name)
    given = {**KINDS[kind], "max_new_tokens": 6, "eos_token_id": 8}
    wanted = model.generate(ids, attention_mask=mask, **given)
    mask[1] = 0
    found = model.generate(ids, attention_mask=mask, **given)
    assert found[[0, 2]].equal(wanted[[0, 2]])
    alone = model.generate(ids[1:2], attention_mask=mask[1:2], **given)
    assert found[1:2].equal(alone)
    scores = model.generate(ids, attention_mask=mask, **given, return_dict_in_generate=True, output_logits=True).logits
    assert all(step.isfinite().all() for step in scores)


@pytest.mark.parametrize("kind", KINDS)
def test_no_new_token_gives_the_prompt(kind: str) -> None:
    """transformers refuses max_new_tokens = 0; a prompt that nothing may follow is its own result."""
    model, ids, mask = setting()
    prompt = torch.tensor([[9, 20, 30]]).expand(3, -1)
    given = {**KINDS[kind], "attention_mask": mask, "max_new_tokens": 0}
    assert model.generate(ids, **given).tolist() == [[9]] * 3
    assert model.generate(ids, **given, decoder_input_ids=prompt).equal(prompt)
    found = model.generate(ids, **given, return_dict_in_generate=True, output_scores=True)
    assert found.sequences.tolist() == [[9]] * 3 and not found.scores
    with pytest.raises(GenerationError, match="max_length = 3 leaves nothing to generate"):
        model.generate(ids, attention_mask=mask, decoder_input_ids=prompt, max_length=3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_new_token(kind: str) -> None:
    model, ids, mask = setting()
    assert model.generate(ids, **KINDS[kind], attention_mask=mask, max_new_tokens=1).shape == (3, 2)


@pytest.mark.parametrize("kind", ["greedy", "beams", "contrastive"])
def test_batches_of_many_sources(kind: str) -> None:
    model, _, _ = setting()
    ids = torch.randint(11, 53, (257, 4), generator=torch.Generator().manual_seed(0))
    given = {**KINDS[kind], "max_new_tokens": 3, "eos_token_id": [EOS, 36]}
    found = model.generate(ids, **given)
    assert len(found) == 257
    for row in (0, 128, 256):
        alone = model.generate(ids[row : row + 1], **given)
        assert found[row, : alone.shape[1]].equal(alone[0])


@pytest.mark.parametrize("kind", [*KINDS])
@pytest.mark.parametrize("ends", [[4], [4, 5, 6], [0, 1, 2, 4, 5, 6]], ids=str)
def test_vocabularies_of_few_words_and_many_ends(kind: str, ends: list[int]) -> None:
    torch.manual_seed(0)
    decoder = BertConfig(vocab_size=7, hidden_size=12, num_attention_heads=3, pad_token_id=3, **SMALL)
    words = {"decoder_start_token_id": 0, "pad_token_id": 3, "eos_token_id": 4, "bos_token_id": 0}
    source = BertConfig(vocab_size=7, hidden_size=20, num_attention_heads=5, pad_token_id=4, **SMALL)
    model = stir(fresh(source, decoder, **words))
    given = {**KINDS[kind], "max_new_tokens": 5, "eos_token_id": ends}
    if kind == "constrained":
        given["force_words_ids"] = [[1], [2]] if ends == [4] else [[3]]
    found = model.generate(torch.tensor([[5, 6, 1], [2, 2, 0]]), **given)
    assert len(found) == 2 and 2 <= found.shape[1] <= 6


def test_that_the_cache_cannot_be_left_out_is_said() -> None:
    model, ids, mask = setting()
    with pytest.warns(ConjoinWarning, match="use_cache = False: keys and values are always kept"):
        found = model.generate(ids, attention_mask=mask, max_new_tokens=4, use_cache=False)
    assert found.equal(model.generate(ids, attention_mask=mask, max_new_tokens=4))


def test_an_encoder_output_may_take_many_forms() -> None:
    model, ids, mask = setting()
    encoded = model.encoder(ids, mask)
    wanted = model.generate(ids, attention_mask=mask, max_new_tokens=5)
    for form in (encoded, encoded.last_hidden_state, (encoded.last_hidden_state,), encoded.to_tuple()):
        assert model.generate(encoder_outputs=form, attention_mask=mask, max_new_tokens=5).equal(wanted)
    embedded = model.encoder.embed.look_up(ids)
    assert model.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=5).equal(wanted)


class Stream:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.put_: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.put_.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1

    @property
    def ids(self) -> list[int]:
        return [token for tokens in self.put_ for token in tokens]


@pytest.mark.parametrize(("new", "name", "kind"), thinned(5, [0, 1, 9], ["bart", "electra-electra"], KINDS))
def test_what_is_streamed_is_the_result(name: str, kind: str, new: int) -> None:
    model, ids, mask = setting(name, (7,))
    prompt = torch.tensor([[9, 20, 30]])
    for seed in range(2):
        for end in {EOS, int(model.generate(ids, attention_mask=mask, max_new_tokens=9)[0, 3])}:
            stream = Stream()
            torch.manual_seed(seed)
            given = {**KINDS[kind], "attention_mask": mask, "max_new_tokens": new, "eos_token_id": end}
            found = model.generate(ids, **given, streamer=stream, decoder_input_ids=prompt)
            assert stream.ids == found[0].tolist() and stream.ended == 1
            assert stream.put_[0] == [9, 20, 30] and all(len(tokens) == 1 for tokens in stream.put_[1:])


def test_beams_stream_before_they_end() -> None:
    """What all hypotheses share is certain: it is sent while the search goes on."""
    model, ids, mask = setting("bart", (7,))
    early: list[int] = []
    stream = Stream()

    def watch(input_ids: Tensor, scores: Any) -> bool:
        early.append(len(stream.ids))
        return False

    found = model.generate(
        ids, attention_mask=mask, num_beams=2, max_new_tokens=20, streamer=stream, stopping_criteria=[watch]
    )
    assert early == sorted(early) and 1 < early[-1] <= found.shape[1]


def test_streams_follow_one_result() -> None:
    model, ids, mask = setting()
    with pytest.raises(GenerationError, match="A streamer follows one result, but 3 sources with 1 results"):
        model.generate(ids, attention_mask=mask, max_new_tokens=3, streamer=Stream())
    with pytest.raises(GenerationError, match="but 1 sources with 2 results"):
        model.generate(ids[:1], max_new_tokens=3, num_beams=2, num_return_sequences=2, streamer=Stream())


@pytest.mark.parametrize("wants", [{}, {"return_dict_in_generate": True, "output_scores": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_can_be_trained_on(kind: str, wants: dict[str, Any]) -> None:
    """Back-translation and reinforcement learning feed results to the model; tensors of inference mode could not be."""
    model = stir(fresh())
    ids = torch.tensor([[20, 30, 40], [33, 12, 50]])
    found = model.generate(ids, **{**KINDS[kind], "copy_speculation": False}, **wants, max_new_tokens=4)
    written = found if isinstance(found, Tensor) else found.sequences
    model.train()
    model(ids, decoder_input_ids=written, labels=written).loss.backward()
    if not isinstance(found, Tensor):
        weight = torch.ones(1, requires_grad=True)
        (found.scores[0].clamp(-50, 50) * weight).sum().backward()
    assert not model.decoder.embed.words.weight.is_inference()


def test_training_goes_on_after_generating_with_rotary_positions() -> None:
    """Angles kept from generating are plain tensors."""
    decoder = LlamaConfig(
        vocab_size=53, hidden_size=12, intermediate_size=29, num_hidden_layers=2, num_attention_heads=3, pad_token_id=3
    )
    model = fresh(SOURCE, decoder)
    ids = torch.tensor([[20, 30, 40]])
    written = model.generate(ids, max_new_tokens=4)
    model.train()
    model(ids, labels=written).loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_decodes(kind: str, dtype: torch.dtype) -> None:
    model = stir(fresh()).to(dtype)
    ids = torch.tensor([[20, 30, 40], [33, 12, 50]])
    found = model.generate(ids, **{**KINDS[kind], "copy_speculation": False}, max_new_tokens=5)
    assert len(found) == 2 and found.shape[1] <= 6


def test_the_model_is_left_as_it_was() -> None:
    model, ids, mask = setting()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.generation_config.to_dict()
    model.generate(ids, attention_mask=mask, num_beams=3, max_new_tokens=4, length_penalty=2.0)
    assert model.generation_config.to_dict() == config
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_padding_is_found_where_no_mask_says_it() -> None:
    model, ids, mask = setting("electra-electra")
    assert (ids[1] == PAD + 1).any()  # the encoder's pad id is 4
    assert model.generate(ids, max_new_tokens=6).equal(model.generate(ids, attention_mask=mask, max_new_tokens=6))


@pytest.mark.parametrize("name", ["decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id"])
def test_an_id_that_no_integer_tensor_holds_is_refused(name: str) -> None:
    model, _, _ = setting()
    for value in (2**63, [2**63]) if name.startswith(("decoder", "eos")) else (2**63,):
        with pytest.raises(GenerationError, match="holds 9223372036854775808; expected token ids"):
            model.generate(torch.tensor([[3, 4]]), max_new_tokens=2, **{name: value})
