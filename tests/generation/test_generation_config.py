"""Settings of generate: transformers' file, and what is said of settings that cannot be or change nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracle_generation as oracle
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import GenerationError
from conjoin.families.bert import BertConfig
from conjoin.families.gpt2 import GPT2Config
from conjoin.generation import (
    CALLERS,
    DEFAULTS,
    IDS,
    AnyOf,
    Assisted,
    BeamSampling,
    BeamSearch,
    CallFacts,
    ConstrainedBeams,
    Contrastive,
    CopySpeculation,
    DiverseBeams,
    GenerationConfig,
    Greedy,
    Lengths,
    Outputs,
    Phrase,
    ProcessorSpec,
    Sampling,
    Tokens,
    WatermarkingConfig,
    collect,
    resolve,
    resolve_tokens,
)
from conjoin.join import SpecialTokens
from generation_requests import CALL, MODEL, request_of

OURS = {"copy_speculation", "truncation"}

SET: dict[str, Any] = {
    "max_length": 40,
    "max_new_tokens": 12,
    "min_length": 2,
    "min_new_tokens": 3,
    "early_stopping": "never",
    "max_time": 3.5,
    "stop_strings": ["a", "b"],
    "do_sample": True,
    "num_beams": 4,
    "use_cache": True,
    "temperature": 0.7,
    "top_k": 9,
    "top_p": 0.9,
    "min_p": 0.1,
    "top_h": 0.4,
    "typical_p": 0.95,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 1e-3,
    "repetition_penalty": 1.2,
    "encoder_repetition_penalty": 1.3,
    "length_penalty": 0.8,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[4], [5, 6]],
    "renormalize_logits": True,
    "forced_bos_token_id": 4,
    "forced_eos_token_id": [2],
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [5, 1.1],
    "suppress_tokens": [7],
    "begin_suppress_tokens": [8],
    "sequence_bias": [[[3, 4], 1.5]],
    "watermarking_config": {"bias": 2.5},
    "num_return_sequences": 2,
    "output_scores": True,
    "return_dict_in_generate": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "encoder_no_repeat_ngram_size": 2,
    "decoder_start_token_id": 1,
    "num_assistant_tokens": 7,
    "prompt_lookup_num_tokens": 5,
}


class TestTheFile:
    def test_fields_are_transformers_fields_and_ours(self) -> None:
        assert set(GenerationConfig.FIELDS) - oracle.config_fields() == OURS
        assert oracle.config_fields() <= set(GenerationConfig.FIELDS)

    def test_every_field_starts_unset(self) -> None:
        assert set(GenerationConfig().to_dict().values()) == {None}
        assert GenerationConfig().to_diff_dict() == {}

    def test_defaults_are_transformers_defaults(self) -> None:
        theirs = {name: value for name, value in oracle.config_defaults().items() if value is not None}
        assert theirs.pop("max_length") == 20
        assert {name: DEFAULTS[name] for name in theirs} == theirs

    def test_transformers_reads_what_we_write(self, tmp_path: Path) -> None:
        mine = GenerationConfig(**SET, mystery=5)
        mine.save_pretrained(tmp_path)
        theirs = oracle.load_config(tmp_path)
        for name, value in SET.items():
            found = getattr(theirs, name)
            assert (found.to_dict()["bias"] if name == "watermarking_config" else found) == (
                2.5 if name == "watermarking_config" else value
            )
        assert theirs.mystery == 5

    def test_we_read_what_transformers_writes(self, tmp_path: Path) -> None:
        oracle.config(**SET, mystery=5).save_pretrained(tmp_path)
        mine = GenerationConfig.from_pretrained(tmp_path)
        assert {name: getattr(mine, name) for name in SET if name != "watermarking_config"} == {
            name: value for name, value in SET.items() if name != "watermarking_config"
        }
        assert mine.watermarking_config["bias"] == 2.5  # pyright: ignore
        assert mine.mystery == 5 and "transformers_version" in mine.extras  # pyright: ignore

    def test_a_round_trip_through_both_changes_nothing(self, tmp_path: Path) -> None:
        mine = GenerationConfig(**{**SET, "watermarking_config": None}, mystery=5)
        mine.save_pretrained(tmp_path / "a")
        oracle.load_config(tmp_path / "a").save_pretrained(tmp_path / "b")
        assert GenerationConfig.from_pretrained(tmp_path / "b") == mine

    def test_tuple_keys_that_transformers_wrote_as_text_are_read(self, tmp_path: Path) -> None:
        oracle.config(sequence_bias={(3, 4): 1.5, (5,): -2.0}).save_pretrained(tmp_path)
        mine = GenerationConfig.from_pretrained(tmp_path)
        assert mine.sequence_bias == {(3, 4): 1.5, (5,): -2.0}
        mine.save_pretrained(tmp_path)
        assert oracle.load_config(tmp_path).sequence_bias == [[[3, 4], 1.5], [[5], -2.0]]
        request = request_of(config=GenerationConfig.from_pretrained(tmp_path), max_new_tokens=5)
        assert request.plan[0].arguments == ((((3, 4), 1.5), ((5,), -2.0)),)

    def test_settings_that_transformers_refuses_to_save_are_saved(self, tmp_path: Path) -> None:
        GenerationConfig(num_beams=1, early_stopping=True, temperature=0.5).save_pretrained(tmp_path)
        assert json.loads((tmp_path / "generation_config.json").read_text()) == {
            "early_stopping": True,
            "num_beams": 1,
            "temperature": 0.5,
        }

    def test_another_file_name_is_possible(self, tmp_path: Path) -> None:
        GenerationConfig(num_beams=3).save_pretrained(tmp_path, "other.json")
        assert GenerationConfig.from_pretrained(tmp_path, "other.json", top_k=5) == GenerationConfig(
            num_beams=3, top_k=5
        )

    def test_objects_are_written_as_their_dict(self, tmp_path: Path) -> None:
        config = GenerationConfig(watermarking_config=WatermarkingConfig(bias=3.0), compile_config=object())
        config.save_pretrained(tmp_path)
        said = json.loads((tmp_path / "generation_config.json").read_text())
        assert said == {"watermarking_config": WatermarkingConfig(bias=3.0).to_dict()}

    def test_update_returns_what_it_does_not_know(self) -> None:
        config = GenerationConfig(mystery=1)
        assert config.update(num_beams=2, mystery=3, other=4) == {"other": 4}
        assert (config.num_beams, config.mystery) == (2, 3)  # pyright: ignore

    def test_a_copy_is_apart(self) -> None:
        config = GenerationConfig(eos_token_id=[2, 3])
        changed = config.copy(num_beams=2)
        changed.eos_token_id.append(4)  # pyright: ignore
        assert config.eos_token_id == [2, 3] and changed != config and "num_beams" in repr(changed)

    def test_old_configs_hold_settings_of_generation(self) -> None:
        decoder = GPT2Config(eos_token_id=7, no_repeat_ngram_size=3, length_penalty=2.0)
        pair = EncoderDecoderConfig(
            encoder=BertConfig(), decoder=decoder, num_beams=4, length_penalty=0.5, pad_token_id=0
        )
        found = GenerationConfig.from_model_config(pair)
        assert (found.num_beams, found.length_penalty, found.no_repeat_ngram_size) == (4, 0.5, 3)
        assert (found.eos_token_id, found.pad_token_id, found.use_cache) == (7, 0, None)
        assert found.extras == {"_from_model_config": True}


MODES: list[tuple[dict[str, Any], CallFacts, Any]] = [
    ({}, CALL, Greedy()),
    ({"do_sample": True, "top_p": 0.9}, CALL, Sampling()),
    (
        {"do_sample": True, "num_return_sequences": 3},
        CALL,
        Sampling(num_return_sequences=3),
    ),
    ({"num_beams": 4, "length_penalty": 2}, CALL, BeamSearch(num_beams=4, length_penalty=2.0)),
    (
        {"num_beams": 4, "early_stopping": "never", "num_return_sequences": 4},
        CALL,
        BeamSearch(num_beams=4, early_stopping="never", num_return_sequences=4),
    ),
    ({"num_beams": 4, "do_sample": True, "top_k": 0}, CALL, BeamSampling(num_beams=4)),
    (
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        CALL,
        DiverseBeams(num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    ),
    (
        {"num_beams": 4, "force_words_ids": [[4, 5], [[6], [7, 8]]]},
        CALL,
        ConstrainedBeams(
            num_beams=4,
            constraints=(Phrase(ids=(4, 5)), AnyOf(phrases=(Phrase(ids=(6,)), Phrase(ids=(7, 8))))),
        ),
    ),
    (
        {"num_beams": 2, "constraints": [Phrase(ids=(4,))]},
        CALL,
        ConstrainedBeams(num_beams=2, constraints=(Phrase(ids=(4,)),)),
    ),
    ({"penalty_alpha": 0.6, "top_k": 4}, CALL, Contrastive(penalty_alpha=0.6, top_k=4)),
    ({"penalty_alpha": 0.6}, CALL, Contrastive(penalty_alpha=0.6, top_k=50)),
    ({"penalty_alpha": 0.0}, CALL, Greedy()),
    ({"num_assistant_tokens": 5}, CallFacts(assistant=True), Assisted(base=Greedy(), num_assistant_tokens=5)),
    (
        {"do_sample": True, "temperature": 0.5},
        CallFacts(assistant=True),
        Assisted(base=Sampling()),
    ),
    ({"copy_speculation": True}, CALL, CopySpeculation(base=Greedy())),
    (
        {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 3},
        CALL,
        CopySpeculation(base=Greedy(), num_tokens=8, max_matching_ngram_size=3),
    ),
]


class TestARequest:
    @pytest.mark.parametrize(("settings", "call", "mode"), MODES)
    def test_settings_pick_the_mode(self, settings: dict[str, Any], call: CallFacts, mode: Any) -> None:
        assert request_of(settings, call=call).mode == mode

    def test_rows_per_source(self) -> None:
        assert request_of().rows_per_source == 1
        assert request_of(do_sample=True, num_return_sequences=3).rows_per_source == 3
        beams = request_of(num_beams=4, num_return_sequences=2)
        assert (beams.rows_per_source, beams.num_beams, beams.num_return_sequences) == (4, 4, 2)

    def test_keywords_win_over_the_given_config_and_that_over_the_models(self) -> None:
        config = GenerationConfig(num_beams=2, length_penalty=0.5, max_new_tokens=5, repetition_penalty=1.5)
        given = GenerationConfig(num_beams=3, length_penalty=0.7)
        request = resolve(config, {"num_beams": 4}, given=given, model=MODEL)
        assert request.mode == BeamSearch(num_beams=4, length_penalty=0.7)
        assert request.plan == (ProcessorSpec("repetition_penalty", (1.5,)), CALLERS)

    def test_none_leaves_the_models_value(self) -> None:
        assert request_of(config=GenerationConfig(num_beams=2, max_new_tokens=5), num_beams=None).num_beams == 2

    @pytest.mark.parametrize(
        ("settings", "prompt", "lengths"),
        [
            ({"max_new_tokens": 5}, 1, Lengths(prompt=1, longest=6)),
            ({"max_new_tokens": 5}, 4, Lengths(prompt=4, longest=9)),
            ({"max_length": 9}, 4, Lengths(prompt=4, longest=9)),
            ({"max_length": 9, "min_length": 6}, 4, Lengths(prompt=4, longest=9, shortest=6)),
            (
                {"max_new_tokens": 5, "min_new_tokens": 2},
                3,
                Lengths(prompt=3, longest=8, shortest=5, min_new_tokens=2),
            ),
            ({"max_new_tokens": 32}, 1, Lengths(prompt=1, longest=33)),
        ],
    )
    def test_lengths_count_the_prompt(self, settings: dict[str, Any], prompt: int, lengths: Lengths) -> None:
        call = CallFacts(prompt_length=prompt)
        found = request_of(settings, config=GenerationConfig(), call=call).lengths
        assert found == lengths and found.max_new_tokens == lengths.longest - prompt

    def test_special_ids_come_from_the_call_then_the_config_then_the_model(self) -> None:
        config = GenerationConfig(eos_token_id=5, pad_token_id=6)
        known = SpecialTokens(start=1, pad=0, eos=(2, 3), bos=4)
        assert resolve_tokens(collect(config, {"pad_token_id": 7}), known) == Tokens(start=(1,), pad=7, eos=(5,), bos=4)
        assert resolve_tokens(collect(GenerationConfig(), {}), known).eos == (2, 3)

    def test_the_start_falls_back_to_bos_and_pad_to_eos(self) -> None:
        known = SpecialTokens(start=None, pad=None, eos=(2, 3), bos=4)
        assert resolve_tokens(collect(GenerationConfig(), {}), known) == Tokens(start=(4,), pad=2, eos=(2, 3), bos=4)

    @pytest.mark.parametrize("name", IDS)
    @pytest.mark.parametrize("value", [[None], [[1]], ["1"], 1.5, True, "x", {"a": 1}, 2**63, 2**24])
    def test_special_ids_are_whole_numbers(self, name: str, value: Any) -> None:
        known = SpecialTokens(start=1, pad=0, eos=(2,), bos=4)
        with pytest.raises(GenerationError, match=f"{name} holds .*; expected token ids"):
            resolve_tokens(collect(GenerationConfig(**{name: value}), {}), known)

    @pytest.mark.parametrize("ids", [torch.tensor([3]), np.array(3), np.int64(3)])
    def test_special_ids_may_be_arrays(self, ids: Any) -> None:
        values: dict[str, Any] = dict.fromkeys(IDS, ids)
        known = SpecialTokens(start=1, pad=0, eos=(2,), bos=4)
        assert resolve_tokens(collect(GenerationConfig(), values), known) == Tokens(start=(3,), pad=3, eos=(3,), bos=3)

    def test_every_special_id_that_is_none_is_named(self) -> None:
        wrong = {"eos_token_id": [2, None], "bos_token_id": "a"}
        with pytest.raises(GenerationError, match=r"eos_token_id holds None(.|\n)*bos_token_id holds 'a'"):
            resolve_tokens(collect(GenerationConfig(), wrong), SpecialTokens(start=1, pad=0, eos=(2,), bos=4))

    def test_each_source_may_start_differently(self) -> None:
        call = CallFacts(batch_size=3)
        assert request_of(decoder_start_token_id=[4, 5, 6], call=call).tokens.start == (4, 5, 6)

    def test_processors_outputs_and_stops_are_filled_in(self) -> None:
        request = request_of(
            config=GenerationConfig(),
            max_new_tokens=9,
            bad_words_ids=[[4], [5, 6]],
            forced_eos_token_id=[2],
            exponential_decay_length_penalty=[3, 1.5],
            sequence_bias={(3, 4): 1},
            watermarking_config={"bias": 1.0},
            stop_strings="end",
            max_time=2,
            truncation=True,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert {spec.name: spec.arguments for spec in request.plan} == {
            "bad_words_ids": (((4,), (5, 6)),),
            "forced_eos_token_id": ((2,), 10),
            "exponential_decay_length_penalty": (4, 1.5, (2,)),
            "sequence_bias": ((((3, 4), 1.0),),),
            "watermarking_config": (WatermarkingConfig(bias=1.0),),
            "logits_processor": (),
        }
        assert request.outputs == Outputs(as_dict=True, scores=True)
        assert (request.stop_strings, request.max_time_s, request.truncation) == (("end",), 2, True)
