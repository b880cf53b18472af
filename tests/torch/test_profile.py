"""Where a call's time goes: phases that add up, work that is counted, nothing where nobody asks."""

import time
from typing import Any

import pytest

from conjoin import AlbertConfig, EncoderDecoderModel
from conjoin.join import half_spec
from conjoin.spec.work import stack_work
from conjoin.torch.cpu import rates
from conjoin.torch.cpu.clock import NATIVE, Clock, NativeSeconds, running
from conjoin.torch.profile import STEP_PHASES, Profile
from generate_models import models, sources

PHASES = ["encode", "first step", "steps", "rest"]
FIXED: dict[str, Any] = {"min_new_tokens": 6, "max_new_tokens": 6}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
}


def pair() -> EncoderDecoderModel:
    return models("bert-gpt2")[0]


def call(model: EncoderDecoderModel, **settings: Any) -> None:
    ids, mask = sources("bert-gpt2")
    model.generate(ids, attention_mask=mask, **{**FIXED, **settings})


def close(sums: float, whole: float) -> bool:
    return abs(sums - whole) < 1e-9


@pytest.mark.parametrize("mode", MODES)
def test_phases_add_up_to_the_call(mode: str) -> None:
    with pair().profile() as profile:
        start = time.perf_counter()
        call(pair(), **MODES[mode])
        taken = time.perf_counter() - start
    assert profile.calls == 1
    assert profile.steps >= FIXED["max_new_tokens"] - 1  # contrastive search reads its last token too
    assert list(profile.phases) == PHASES and list(profile.step_phases) == list(STEP_PHASES)
    assert all(seconds >= 0 for seconds in (*profile.phases.values(), *profile.step_phases.values()))
    assert all(profile.phases[name] > 0 for name in PHASES)
    assert close(sum(profile.phases.values()), profile.seconds) and profile.seconds <= taken
    assert close(sum(profile.step_phases.values()), profile.phases["steps"])


def test_calls_add_up_and_what_is_between_them_does_not_count() -> None:
    with pair().profile() as profile:
        call(pair())
        first = profile.seconds
        time.sleep(0.02)
        assert profile.seconds == first
        call(pair())
    assert profile.calls == 2
    before = profile.seconds
    call(pair())
    assert (profile.calls, profile.seconds) == (2, before)


def test_another_models_calls_do_not_count_but_an_assistants_time_does() -> None:
    other = models("bert-gpt2", 1)[0]
    ids = sources("bert-gpt2")[0][:1]
    with pair().profile() as profile:
        other.generate(ids, **FIXED)
        assert profile.calls == 0 and profile.seconds == 0
        pair().generate(ids, assistant_model=other, **FIXED)
    assert profile.calls == 1
    assert profile.clock.work.source_tokens == ids.numel()


def test_work_is_counted_by_real_tokens_once_per_source() -> None:
    ids, mask = sources("bert-gpt2")
    lengths = mask.sum(1)
    for beams in (1, 3):
        with pair().profile() as profile:
            call(pair(), num_beams=beams)
        work, rows, steps = profile.clock.work, len(ids) * beams, FIXED["max_new_tokens"] - 1
        assert (work.source_tokens, work.source_pairs) == (int(lengths.sum()), int((lengths**2).sum()))
        assert work.first_tokens == len(ids)
        assert (work.steps, work.step_tokens) == (steps, steps * rows)
        assert work.self_keys == rows * sum(range(2, steps + 2))
        assert work.cross_keys == steps * int(lengths.sum())
        assert work.cross_scored == beams * work.cross_keys


def test_many_steps_of_one_call_count_as_so_many_calls_of_one_step() -> None:
    together, apart = Clock().work, Clock().work
    together.count_steps(3, 4, 3, 10, length=2, steps=5)
    for step in range(5):
        apart.count_steps(3, 4 + 2 * step, 3, 10, length=2)
    assert together == apart


def test_seconds_of_the_kernels_divide_the_phase_that_they_ran_in() -> None:
    now = iter(range(100))
    clock = Clock(now=lambda: float(next(now)))
    native = NativeSeconds(*(0.125 for _ in NATIVE))
    with clock.call(), clock.phase("selection"):
        with clock.phase("first step"):
            clock.divide(native[:])
        with clock.phase("head"):
            pass
        with clock.phase("blocks"):
            clock.divide(native[:])
    assert clock.seconds["first step"] == 2  # its head is part of it
    assert clock.seconds["blocks"] == 1 - 0.125 * len(NATIVE)
    assert all(clock.seconds[name] == 0.125 for name in ("products", "attention", "norms", "head", "waiting"))
    assert sum(clock.seconds.values()) == 9


def test_a_failed_call_leaves_no_clock_behind() -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("stop")

    with pair().profile() as profile, pytest.raises(KeyError, match="stop"):
        call(pair(), logits_processor=[fail])
    assert running() is None
    before = profile.seconds
    call(pair())
    assert 0 < before == profile.seconds


def test_a_profile_prints_a_table_with_shares_of_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "read_gb_s", lambda: 20.0)
    monkeypatch.setattr(rates, "gflops", lambda kind: {"fp32": 100.0}[kind])
    with pair().profile() as profile:
        call(pair())
    floor = profile.floor()
    assert floor is not None
    decoder, work = stack_work(pair().spec.decoder), profile.clock.work
    kept = work.self_keys * decoder.self_kept + work.cross_keys * decoder.cross_kept
    assert floor.steps >= 4 * (5 * decoder.weights + kept) / 20e9
    assert floor.encode >= 2 * work.source_tokens * stack_work(pair().spec.encoder).products / 100e9
    lines = str(profile).splitlines()
    assert lines[0].startswith("1 call of generate, 5 steps, ") and "20 GB/s" in lines[-1]
    assert [line.split("  ")[0] for line in lines[2:6]] == ["encode", "first step", "steps", ""]
    assert all("%" in line for line in lines[2:-1])


def test_an_empty_profile_prints_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "read_gb_s", lambda: 20.0)
    monkeypatch.setattr(rates, "gflops", lambda kind: 100.0)
    with pair().profile() as profile:
        pass
    assert str(profile).startswith("0 calls of generate, 0 steps, 0.0 ms")


def test_the_environment_makes_every_call_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Profile, "__str__", lambda self: f"{self.calls} call, {self.steps} steps")
    for value, printed in (("0", ""), ("", ""), ("1", "1 call, 5 steps\n")):
        monkeypatch.setenv("CONJOIN_PROFILE", value)
        call(pair())
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", printed)


def test_a_machines_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_ROWS", 32)
    monkeypatch.setattr(rates, "_SECONDS", 0.01)
    assert rates.read_memory(4).gb_s > 0
    assert (rates.product_gflops("fp32") or 0) > 0


@pytest.mark.parametrize("name", ["bert-gpt2", "bart", "bert-bert"])
def test_the_weights_of_a_step_are_the_models_matrices(name: str) -> None:
    decoder = models(name)[0].decoder
    tied = decoder.head.vocab is None
    matrices = {
        name: weight.numel()
        for name, weight in decoder.named_parameters()
        if weight.dim() == 2 and not name.startswith("embed") and "cross_attn.k" not in name
        if "cross_attn.v" not in name
    }
    work = stack_work(decoder.spec)
    assert work.weights == work.products
    assert work.weights == sum(matrices.values()) + (decoder.embed.words.weight.numel() if tied else 0)
    blocks = decoder.spec.blocks
    width = blocks[0].self_attn.attention.num_heads * blocks[0].self_attn.attention.head_size
    assert (work.self_kept, work.cross_kept) == (2 * width * len(blocks),) * 2


def test_layers_that_share_weights_read_them_once_and_use_them_often() -> None:
    config = AlbertConfig(
        vocab_size=61,
        embedding_size=8,
        hidden_size=20,
        num_attention_heads=5,
        num_hidden_layers=3,
        intermediate_size=37,
    )
    work = stack_work(half_spec(config, "encoder"))
    block = 4 * 20 * 20 + 2 * 20 * 37
    assert work.products - work.weights == 2 * block
