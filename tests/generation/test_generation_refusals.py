"""What is said of generation settings that are wrong, contradict each other, or change nothing."""

import warnings
from typing import Any

import pytest

from conjoin.errors import ConjoinWarning, GenerationError
from conjoin.generation import CallFacts, GenerationConfig, Greedy, ModelFacts, Phrase, resolve
from conjoin.join import SpecialTokens
from generation_requests import MODEL, V, error_of, request_of, warning_of

OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    (
        {"temperature": 0, "do_sample": True},
        "temperature = 0: expected a number above 0; for greedy decoding set",
    ),
    ({"temperature": -1.0}, "temperature = -1.0: expected a number above 0"),
    ({"top_p": 1.5}, "top_p = 1.5: expected a number in (0, 1]"),
    ({"top_p": 0}, "top_p = 0: expected a number in (0, 1]"),
    ({"top_k": -1}, "top_k = -1: expected a whole number of at least 0"),
    ({"min_p": 2}, "min_p = 2: expected a number in [0, 1]"),
    ({"typical_p": 0.0}, "typical_p = 0.0: expected a number in (0, 1]"),
    ({"top_h": 0.0}, "top_h = 0.0: expected a number in (0, 1]"),
    ({"epsilon_cutoff": 1.0}, "epsilon_cutoff = 1.0: expected a number in [0, 1)"),
    ({"max_new_tokens": -1}, "max_new_tokens = -1: expected a whole number of at least 0"),
    ({"max_length": -3}, "max_length = -3: expected a whole number of at least 1"),
    ({"min_length": -1}, "min_length = -1: expected a whole number of at least 0"),
    ({"num_beams": 0}, "num_beams = 0: expected a whole number of at least 1"),
    ({"num_beams": 2.0}, "num_beams = 2.0: expected a whole number of at least 1"),
    ({"num_beams": True}, "num_beams = True: expected a whole number of at least 1"),
    ({"do_sample": "yes"}, "do_sample = 'yes': expected True or False"),
    ({"early_stopping": "soon"}, "early_stopping = 'soon': expected True or False or 'never'"),
    ({"length_penalty": float("nan")}, "length_penalty = nan: expected a number"),
    ({"repetition_penalty": 0.0}, "repetition_penalty = 0.0: expected a number above 0"),
    ({"max_time": 0}, "max_time = 0: expected a number above 0"),
    ({"stop_strings": ["a", ""]}, "stop_strings = ['a', '']: expected a non-empty string or a list of them"),
    ({"bad_words_ids": [[]]}, "bad_words_ids = [[]]: expected a list of lists of ids, none of them empty"),
    ({"bad_words_ids": [4]}, "bad_words_ids = [4]: expected a list of lists of ids"),
    ({"bad_words_ids": [[V]]}, "bad_words_ids = 53: expected ids of the decoder's vocabulary, 0 to 52"),
    ({"sequence_bias": {4: 1.0}}, "sequence_bias = {4: 1.0}: expected {(id, ...): bias} or [[[id, ...], bias], ...]"),
    ({"sequence_bias": {(V,): 99}}, "sequence_bias = 53: expected ids of the decoder's vocabulary"),
    ({"sequence_bias": [5]}, "sequence_bias = [5]: expected {(id, ...): bias}"),
    ({"force_words_ids": []}, "force_words_ids = []: expected a list of lists of ids"),
    ({"constraints": ["word"]}, "constraints = ['word']: expected a list of conjoin.generation.Phrase and AnyOf"),
    ({"exponential_decay_length_penalty": (1,)}, "exponential_decay_length_penalty = (1,): expected (start, factor)"),
    ({"watermarking_config": {"ngram_len": 5}}, "(SynthID is not supported)"),
    ({"watermarking_config": {"greenlist_ratio": 2.0}}, "expected a WatermarkingConfig: greenlist_ratio in (0, 1)"),
    ({"watermarking_config": {"hashing_key": "x"}}, "expected a WatermarkingConfig"),
    ({"watermarking_config": {"hashing_key": 2**70}}, "expected a WatermarkingConfig"),
    ({"watermarking_config": {"greenlist_ratio": "x"}}, "expected a WatermarkingConfig"),
    ({"watermarking_config": {"context_width": 1.5}}, "expected a WatermarkingConfig"),
    ({"length_penalty": 10**400}, "expected a number"),
    ({"eos_token_id": 99}, "eos_token_id = 99: expected ids of the decoder's vocabulary, 0 to 52"),
    ({"eos_token_id": [2, 99, -1]}, "eos_token_id = [99, -1]: expected ids of the decoder's vocabulary"),
    ({"pad_token_id": -1}, "pad_token_id = -1: expected ids of the decoder's vocabulary"),
    ({"decoder_start_token_id": 53}, "decoder_start_token_id = 53: expected ids of the decoder's vocabulary"),
    ({"decoder_start_token_id": [1, 2]}, "decoder_start_token_id has 2 ids for 1 sources: expected one, or one per"),
    ({"forced_bos_token_id": 60}, "forced_bos_token_id = 60: expected ids of the decoder's vocabulary"),
    ({"suppress_tokens": [-1]}, "suppress_tokens = -1: expected ids of the decoder's vocabulary"),
    ({"num_assistant_tokens_schedule": "x"}, "expected 'constant' or 'heuristic' or 'heuristic_transient'"),
    ({"assistant_ensemble_weight": 1.0}, "assistant_ensemble_weight = 1.0: expected a number in (0, 1)"),
]

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0},
        "num_beam_groups = 3 does not divide num_beams",
    ),
    ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups = 2 does not divide num_beams = 1"),
    ({"num_beams": 4, "num_beam_groups": 2}, "with diversity_penalty = 0 gives equal groups: set diversity_penalty"),
    (
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
        "diverse beams do not sample; set do_sample=False",
    ),
    ({"force_words_ids": [[4]]}, "force_words_ids needs beams: set num_beams (4, say)"),
    ({"constraints": [Phrase(ids=(4,))]}, "constraints needs beams"),
    (
        {"force_words_ids": [[4]], "num_beams": 4, "do_sample": True},
        "force_words_ids with do_sample = True: constrained beams do not sample",
    ),
    (
        {"force_words_ids": [[4]], "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        "force_words_ids with num_beam_groups = 2: set num_beam_groups=1",
    ),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences = 3 exceeds num_beams = 2: raise num_beams"),
    ({"num_return_sequences": 3}, "num_return_sequences = 3, but greedy decoding has one result: set do_sample=True"),
    (
        {"num_return_sequences": 2, "do_sample": True, "call": CallFacts(assistant=True)},
        "num_return_sequences = 2 with assistant_model",
    ),
    ({"penalty_alpha": 0.5, "num_beams": 2}, "contrastive search has no beams; set num_beams=1"),
    ({"penalty_alpha": 0.5, "do_sample": True}, "contrastive search does not sample; set do_sample=False"),
    ({"penalty_alpha": 0.5, "top_k": 1}, "with top_k = 1: contrastive search compares at least 2 tokens"),
    (
        {"copy_speculation": True, "do_sample": True, "num_return_sequences": 3},
        "num_return_sequences = 3 with copy_speculation or prompt_lookup_num_tokens: drafting works on one result",
    ),
    ({"penalty_alpha": 0.5, "copy_speculation": True}, "penalty_alpha = 0.5 with drafts: leave out assistant_model"),
    ({"num_beams": 2, "call": CallFacts(assistant=True)}, "assistant_model with num_beams = 2: drafting works without"),
    (
        {"copy_speculation": True, "call": CallFacts(assistant=True)},
        "assistant_model with copy_speculation or prompt_lookup_num_tokens: choose one source of drafts",
    ),
    ({"use_cache": False, "penalty_alpha": 0.5}, "use_cache = False: drafting and contrastive search need the cache"),
    (
        {"forced_eos_token_id": 2, "suppress_tokens": [2, 3]},
        "forced_eos_token_id = 2 is forced, but suppress_tokens forbids it",
    ),
    (
        {"stop_strings": "x", "call": CallFacts()},
        "stop_strings needs the target tokenizer: pass tokenizer= to generate()",
    ),
]

CANNOT: list[tuple[dict[str, Any], str]] = [
    ({"guidance_scale": 1.5}, "guidance_scale = 1.5: classifier-free guidance is not supported"),
    ({"token_healing": True}, "token_healing = True: token healing is not supported"),
    ({"dola_layers": "low"}, "dola_layers = 'low': DoLa decoding is not supported"),
    ({"use_mtp": True}, "use_mtp = True: multi-token prediction heads are not supported"),
    ({"assistant_early_exit": 2}, "assistant_early_exit = 2: early exit is not supported; pass assistant_model="),
    ({"speculation_type": "dflash"}, "speculation_type = 'dflash': only assistant_model= and copy_speculation=True"),
]


class TestErrors:
    @pytest.mark.parametrize(("settings", "words"), OUT_OF_RANGE)
    def test_values_out_of_range(self, settings: dict[str, Any], words: str) -> None:
        text = error_of(**settings)
        assert text.startswith("Generation settings out of range:\n  ") and words in text

    @pytest.mark.parametrize(("settings", "words"), CONTRADICTIONS)
    def test_contradictions(self, settings: dict[str, Any], words: str) -> None:
        text = error_of(**settings)
        assert text.startswith("Generation settings contradict each other:\n  ") and words in text

    @pytest.mark.parametrize(("settings", "words"), CANNOT)
    def test_what_cannot_be_honoured(self, settings: dict[str, Any], words: str) -> None:
        text = error_of(**settings)
        assert text.startswith("Generation settings that conjoin cannot honour:\n  ") and words in text

    def test_neutral_values_of_unsupported_settings_pass(self) -> None:
        request_of(guidance_scale=1.0, token_healing=False, use_mtp=False)

    def test_all_values_out_of_range_stand_in_one_error(self) -> None:
        assert error_of(temperature=-1.0, top_p=3, eos_token_id=77, bad_words_ids="x").count("\n  ") == 4

    def test_unknown_arguments_are_named_with_a_guess(self) -> None:
        assert error_of(temprature=0.5, max_tokens=3, xyzzy=1) == (
            "generate() does not know these arguments:\n"
            "  temprature: did you mean temperature?\n"
            "  max_tokens: did you mean max_new_tokens?\n"
            "  xyzzy"
        )

    def test_an_unknown_start_is_named(self) -> None:
        model = ModelFacts(
            vocab_size=V, max_positions=None, tokens=SpecialTokens(start=None, pad=0, eos=(2,), bos=None)
        )
        text = error_of(model=model)
        assert "decoder_start_token_id is not set, nor is bos_token_id: set model.generation_config" in text

    def test_arguments_of_generate_in_a_config_are_named(self) -> None:
        given = GenerationConfig(logits_processor=[], max_new_tokens=4)
        with pytest.raises(GenerationError, match="logits_processor stands in the generation config: pass"):
            resolve(GenerationConfig(), {}, given=given, model=MODEL)

    def test_a_prompt_that_fills_the_row_is_an_error(self) -> None:
        text = error_of(config=GenerationConfig(), max_length=4, call=CallFacts(prompt_length=4))
        assert text == (
            "max_length = 4 leaves nothing to generate behind 4 decoder tokens: max_length counts them too.\n\n"
            "hint: set max_new_tokens, which does not."
        )

    def test_a_prompt_that_fills_the_position_table_is_an_error(self) -> None:
        text = error_of(max_new_tokens=1, call=CallFacts(prompt_length=33))
        assert text == "33 decoder tokens were given, but the decoder has 32 positions."

    @pytest.mark.parametrize(("name", "value"), [("min_length", 12), ("min_new_tokens", 11)])
    def test_the_least_above_the_most_is_an_error(self, name: str, value: int) -> None:
        assert error_of(**{name: value}, max_new_tokens=9) == (
            f"{name} = {value} asks for 12 tokens in all, but a row ends at 10 (1 of them are the decoder's prompt)."
            f"\n\nhint: lower {name} or raise max_new_tokens."
        )


IDLE: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.5}, "temperature = 0.5: it needs do_sample=True; set that, or leave temperature out"),
    ({"top_k": 5}, "top_k = 5: it needs do_sample=True"),
    ({"top_p": 0.5, "num_beams": 3}, "top_p = 0.5: it needs do_sample=True"),
    ({"length_penalty": 2.0}, "length_penalty = 2.0: it needs num_beams above 1"),
    ({"early_stopping": True, "do_sample": True}, "early_stopping = True: it needs num_beams above 1"),
    ({"diversity_penalty": 0.5, "num_beams": 4}, "diversity_penalty = 0.5: it needs num_beam_groups above 1"),
    ({"num_assistant_tokens": 5}, "num_assistant_tokens = 5: it needs assistant_model=, an argument of generate()"),
    ({"max_matching_ngram_size": 3}, "max_matching_ngram_size = 3: it needs copy_speculation=True"),
    ({"copy_speculation": True, "num_beams": 4}, "copy_speculation = True: it needs num_beams=1"),
    ({"output_scores": True}, "output_scores = True: it needs return_dict_in_generate=True"),
    ({"max_length": 12, "max_new_tokens": 5}, "max_length = 12: max_new_tokens = 5 wins; leave one of them out"),
    ({"min_length": 4, "min_new_tokens": 5}, "min_length = 4: min_new_tokens = 5 wins; leave one of them out"),
    ({"cache_implementation": "static"}, "cache_implementation = 'static': conjoin has one cache"),
    ({"low_memory": True}, "low_memory = True: beams share the source's keys and values anyway"),
    ({"is_assistant": True}, "is_assistant = True: a model assists by being passed as assistant_model="),
    (
        {"encoder_no_repeat_ngram_size": 3, "call": CallFacts(source_ids=False)},
        "encoder_no_repeat_ngram_size = 3: it needs input_ids in the decoder's vocabulary; set encoder_no_repeat_ngr",
    ),
]


class TestWarnings:
    @pytest.mark.parametrize(("settings", "words"), IDLE)
    def test_settings_of_the_call_without_effect(self, settings: dict[str, Any], words: str) -> None:
        text = warning_of(**settings)
        assert text.startswith("Generation settings without effect:\n  ") and words in text

    def test_lengths_without_an_end_id(self) -> None:
        model = ModelFacts(vocab_size=V, max_positions=None, tokens=SpecialTokens(start=1, pad=0, eos=(), bos=None))
        with pytest.warns(ConjoinWarning, match="min_new_tokens = 3: it needs an eos_token_id"):
            resolve(GenerationConfig(), {"max_new_tokens": 9, "min_new_tokens": 3}, model=model)

    def test_what_the_models_file_says_is_no_reason_to_warn(self) -> None:
        config = GenerationConfig(
            num_beams=4, early_stopping=True, length_penalty=2.0, temperature=0.6, do_sample=True, max_length=20
        )
        assert request_of(config=config, num_beams=1, do_sample=False).mode == Greedy()
        assert request_of(config=config, max_new_tokens=3, do_sample=False).lengths.longest == 4

    def test_neutral_values_are_no_reason_to_warn(self) -> None:
        request_of(temperature=1.0, top_p=1.0, top_k=50, length_penalty=1.0, early_stopping=False, output_scores=False)

    def test_a_file_that_asks_for_the_source_is_a_reason_to_warn(self) -> None:
        config = GenerationConfig(encoder_repetition_penalty=1.5, max_new_tokens=4)
        text = warning_of(config=config, call=CallFacts(source_ids=False))
        assert (
            "encoder_repetition_penalty = 1.5: it needs input_ids in the decoder's vocabulary; "
            "set encoder_repetition_penalty=1"
        ) in text

    def test_keys_that_are_no_setting(self) -> None:
        text = warning_of(given=GenerationConfig(mystery=5, transformers_version="5.0"))
        assert text == (
            "Generation settings without effect:\n"
            "  mystery is no generation setting; remove it from the generation config"
        )

    def test_keys_that_the_models_own_config_has_too_are_no_reason_to_warn(self) -> None:
        config = GenerationConfig(mystery=5, max_new_tokens=4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            resolve(config, {}, given=config.copy(), model=MODEL)
            resolve(config, {}, given=config, model=MODEL)

    def test_no_length_at_all(self) -> None:
        assert warning_of(config=GenerationConfig()) == (
            "Neither max_new_tokens nor max_length is set, so results end after 20 tokens. Set max_new_tokens."
        )

    def test_lengths_beyond_the_position_table(self) -> None:
        assert warning_of(max_new_tokens=40) == (
            "Results may have 41 tokens, but the decoder has 32 positions: they end at 33. "
            "Set max_new_tokens to at most 32."
        )

    def test_the_models_least_gives_way_to_the_calls_most(self) -> None:
        text = warning_of(config=GenerationConfig(min_length=56, max_length=142), max_new_tokens=9)
        assert text == (
            "min_length = 56 asks for 56 tokens in all, but a row ends at 10 (1 of them are the decoder's prompt). "
            "The model's own min_length gives way: no row ends before 10. Set min_length=0 to let rows end."
        )
