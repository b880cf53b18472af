"""What a run chooses by itself: rules over facts, without training; what is given stays as it is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import conjoin.cli
from conjoin import ConfigError, EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments
from conjoin.training import Recipe
from conjoin.training.facts import join_facts, pair_facts
from conjoin.training.settings.arguments import CHOOSABLE
from conjoin.training.settings.choices import (
    RULES,
    DataFacts,
    Facts,
    JoinFacts,
    Machine,
    PairFacts,
    choose,
    choose_join,
    safer,
)
from conjoin.training.settings.recipe import read_recipe
from training_toys import arguments, halves, toy_model, toy_rows, write_rows

GRAFTED = frozenset({"decoder.cross_attention", "decoder.head"})
PAIR = PairFacts(fresh=GRAFTED, writes=False, joined=True, width=384, dropout=0.1)
TRAINED = PairFacts(fresh=frozenset(), writes=True, joined=False, width=384, dropout=0.1)
AMX = Machine(bf16="AMX", is_gpu=False)


def lengths(source: float, target: float, pairs: int = 1000) -> Any:
    """Lengths with a long tail, of these means."""
    draw = np.random.default_rng(0)
    found = np.stack([np.ceil(draw.exponential(mean, pairs)) for mean in (source, target)], 1).astype(int)
    found[0] = 500, 400
    return found


DATA = DataFacts(pairs=36_000, lengths=lengths(80, 12), is_text=True, validates=False)


def chosen(pair: PairFacts = PAIR, data: DataFacts = DATA, machine: Machine = AMX, **given: Any) -> TrainingArguments:
    """Arguments after all choices."""
    found, _ = choose(TrainingArguments.chosen(**given), Facts(data=data, pair=pair, machine=machine))
    return found


def test_a_fresh_pair_gets_the_recipe_that_was_measured() -> None:
    found = chosen()
    assert (found.learning_rate, found.encoder_learning_rate) == (7e-4, 3.5e-5)
    assert found.of_group("learning_rate", "cross_attention") == 7e-4
    assert (found.tokens_per_batch, found.bf16, found.lr_scheduler_type) == (904, True, "linear")  # the longest pair
    assert 0 < found.warmup_steps < 1 and found.recover and found.dropout_from_epoch == 1
    assert found.auto == "none" or not found.to_choose


def test_a_warm_pair_is_not_wrecked() -> None:
    found = chosen(TRAINED)
    assert found.learning_rate < 2e-4
    assert found.encoder_learning_rate is None and found.decoder_learning_rate is None
    wide = chosen(replace(TRAINED, width=1024))
    assert wide.learning_rate == pytest.approx(found.learning_rate * 384 / 1024, rel=0.05)


def test_a_language_model_keeps_its_words_while_its_cross_attention_learns() -> None:
    found = chosen(replace(PAIR, fresh=frozenset({"decoder.cross_attention"}), writes=True, width=576))
    rates = {part: found.of_group("learning_rate", part) for part in ("encoder", "decoder", "cross_attention")}
    assert rates["encoder"] < rates["decoder"] < rates["cross_attention"]
    assert rates["decoder"] == pytest.approx(2e-4)
    merged = chosen(replace(PAIR, fresh=frozenset(), writes=True, width=576))
    assert merged.learning_rate == pytest.approx(2e-4) and merged.encoder_learning_rate is None
    assert merged.tokens_per_batch == 1600


def test_an_encoder_that_knows_nothing_learns_as_fast_as_the_rest() -> None:
    fresh = frozenset({"encoder.layers", "decoder.layers", "decoder.cross_attention"})
    found = chosen(replace(PAIR, fresh=fresh))
    assert found.encoder_learning_rate is None
    assert found.warmup_steps > chosen().warmup_steps


def test_one_stack_for_both_halves_is_no_slow_encoder() -> None:
    found = chosen(replace(PAIR, shares_all=True))
    assert found.encoder_learning_rate is not None
    assert found.learning_rate / 10 < found.encoder_learning_rate < found.learning_rate


GIVEN: dict[str, Any] = {
    "max_source_length": 64,
    "max_target_length": 16,
    "tokens_per_batch": 4000,
    "bf16": False,
    "num_train_epochs": 1.0,
    "learning_rate": 5e-5,
    "encoder_learning_rate": 5e-5,
    "decoder_learning_rate": 5e-5,
    "cross_attention_learning_rate": 5e-5,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "dropout_from_epoch": 0.0,
    "generation_max_length": 30,
    "ema_decay": 0.5,
    "load_best_model_at_end": False,
    "early_stopping_patience": 7,
    "recover": False,
}


def test_every_choice_has_a_rule_and_gives_way_to_its_flag() -> None:
    assert set(RULES) == set(CHOOSABLE) == set(GIVEN)
    data = replace(DATA, validates=True)
    for name, value in GIVEN.items():
        assert getattr(chosen(data=data, **{name: value}), name) == value


def test_a_rate_that_is_given_is_the_rate_of_all_parts() -> None:
    found = chosen(learning_rate=5e-5)
    assert {found.of_group("learning_rate", part) for part in ("encoder", "decoder", "cross_attention")} == {5e-5}
    found = chosen(learning_rate=1e-3, encoder_learning_rate="auto")
    assert found.encoder_learning_rate == pytest.approx(5e-5)


def test_pairs_per_batch_that_are_given_are_kept() -> None:
    found = chosen(per_device_train_batch_size=4)
    assert found.tokens_per_batch is None and found.per_device_train_batch_size == 4


def test_the_machine_decides_on_bfloat16_and_the_size_of_batches() -> None:
    assert not chosen(machine=Machine(bf16=None, is_gpu=False)).bf16
    gpu = chosen(machine=Machine(bf16="cuda", is_gpu=True))
    assert gpu.bf16 and gpu.tokens_per_batch and gpu.tokens_per_batch > 904
    assert not chosen(fp16=True).bf16


def test_lengths_decide_on_limits_and_batches() -> None:
    summary = chosen()
    source, target = summary.max_source_length, summary.max_target_length
    assert source and (DATA.lengths[:, 0] <= source).mean() == pytest.approx(0.95, abs=0.02)
    assert target and (DATA.lengths[:, 1] <= target).mean() > 0.995
    translation = chosen(data=replace(DATA, lengths=lengths(40, 45)))
    assert translation.max_source_length
    assert (lengths(40, 45)[:, 0] <= translation.max_source_length).mean() > 0.99
    even = replace(DATA, lengths=np.full((50, 2), 30))
    assert chosen(data=even).max_source_length is None
    tokenized = chosen(data=replace(DATA, is_text=False))
    assert tokenized.max_source_length is None and tokenized.max_target_length is None
    long = replace(DATA, lengths=np.array([[900, 100], [800, 100]]))
    batch = chosen(data=long).tokens_per_batch
    assert batch and batch >= 8 * 950
    packed = chosen(data=replace(DATA, lengths=np.array([[5000, 1], [1, 5000]])), packing=True).tokens_per_batch
    assert packed and packed >= 10_000


def test_results_may_be_a_quarter_longer_than_the_longest_target_unless_the_model_says_otherwise() -> None:
    data = replace(DATA, longest_target=400)
    assert chosen(data=data).generation_max_length == 504
    assert chosen(replace(PAIR, positions=450), data).generation_max_length == 449
    assert chosen(replace(PAIR, limit=400), data).generation_max_length is None
    assert chosen(replace(PAIR, limit=399), data).generation_max_length == 504
    assert (
        chosen(replace(PAIR, limit=449, positions=450), replace(DATA, longest_target=600)).generation_max_length is None
    )
    assert chosen(data=replace(DATA, longest_target=0)).generation_max_length is None


def test_passes_are_chosen_only_where_nothing_else_ends_the_run() -> None:
    assert chosen().num_train_epochs == 3
    few = replace(DATA, pairs=500, validates=True)
    found = chosen(data=few)
    assert 3 < found.num_train_epochs <= 10
    assert found.load_best_model_at_end and found.early_stopping_patience
    for budget in ({"max_minutes": 5}, {"max_tokens": 1000}, {"max_steps": 10}):
        bounded = chosen(data=few, **budget)
        assert not bounded.load_best_model_at_end and bounded.early_stopping_patience is None
        assert bounded.num_train_epochs == 3


def test_choices_are_the_same_again() -> None:
    facts = Facts(data=DATA, pair=PAIR, machine=AMX)
    assert choose(TrainingArguments.chosen(), facts) == choose(TrainingArguments.chosen(), facts)


def test_a_safer_recipe_is_slower_everywhere() -> None:
    for given in (TrainingArguments(learning_rate=1e-2), chosen(), TrainingArguments(two_optimizers=True)):
        found = safer(given, PAIR)
        assert found.learning_rate <= 3.5e-4
        assert found.of_group("learning_rate", "cross_attention") <= 3.5e-4
        assert found.of_group("learning_rate", "encoder") <= 3.5e-4 / 19
        assert found.warmup_steps >= 0.1


JOIN = JoinFacts(one_vocabulary=True, writes=False, can_gate=False, reads_by_itself=False)


def test_how_checkpoints_are_joined() -> None:
    names = ("share", "cross_attention_init")

    def values(facts: JoinFacts) -> dict[str, Any]:
        return {choice.name: choice.value for choice in choose_join(names, facts)}

    assert values(JOIN)["share"] == "embeddings"
    assert values(replace(JOIN, one_vocabulary=False))["share"] == "none"
    assert values(replace(JOIN, writes=True, can_gate=True))["cross_attention_init"] == "zero_gate"
    assert "cross_attention_init" not in values(replace(JOIN, reads_by_itself=True))
    assert choose_join((), JOIN) == []
    itself = replace(JOIN, writes=True, can_gate=True, is_itself=True)
    assert values(itself) == {"share": "all", "cross_attention_init": "layerwise"}
    assert [choice.value for choice in choose_join(("share",), itself, "zero_gate")] == ["embeddings"]
    assert [choice.value for choice in choose_join(("share",), itself, "layerwise")] == ["all"]
    assert values(replace(JOIN, is_itself=True))["cross_attention_init"] == "normal"


def test_facts_of_checkpoints_and_pairs(tmp_path: Path) -> None:
    encoder, decoder = halves(tmp_path)
    facts = join_facts(str(encoder), str(decoder))
    assert facts is not None and not facts.one_vocabulary and not facts.writes
    same = join_facts(str(encoder), str(encoder))
    assert same is not None and same.one_vocabulary
    assert join_facts(str(tmp_path / "none"), str(decoder)) is None
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder)
    pair = pair_facts(model.join_report, model.spec)
    assert pair.reads_anew and pair.joined and not pair.writes and not pair.is_random
    assert pair.width == 12
    model.save_pretrained(tmp_path / "joined")
    joined = EncoderDecoderModel.from_pretrained(tmp_path / "joined")
    assert pair_facts(joined.join_report, joined.spec).reads_anew
    trained = toy_model(tmp_path)
    trained.save_pretrained(tmp_path / "trained")
    loaded = EncoderDecoderModel.from_pretrained(tmp_path / "trained")
    assert not pair_facts(loaded.join_report, loaded.spec).joined
    random = toy_model(dropout=0.3)
    assert pair_facts(random.join_report, random.spec).is_random
    assert pair_facts(random.join_report, random.spec).dropout == 0.3


def test_python_has_transformers_defaults_and_chosen_ones_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Seq2SeqTrainer(toy_model(tmp_path), args=arguments(tmp_path / "run"), train_dataset=toy_rows(20))
    assert not plain.reasons and plain.args.learning_rate == 1e-2 and not plain.args.bf16
    assert TrainingArguments().learning_rate == 5e-5 and not TrainingArguments().to_choose
    args = TrainingArguments.chosen(output_dir=str(tmp_path / "run"), use_cpu=True, weight_decay=0.1)
    trainer = Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(20))
    assert trainer.args.learning_rate > 5e-5 and trainer.args.weight_decay == 0.1
    assert "learning_rate" in trainer.reasons and not trainer.args.to_choose
    assert "learning_rate" in capsys.readouterr().err


def test_one_setting_may_be_left_to_the_run(tmp_path: Path) -> None:
    given: Any = {"learning_rate": "auto"}
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, **given)
    trainer = Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(20))
    assert list(trainer.reasons) == ["learning_rate"]
    assert trainer.args.tokens_per_batch is None


def test_names_that_nobody_chooses_are_an_error() -> None:
    with pytest.raises(ConfigError, match="auto: seed is not a setting that a run can choose"):
        TrainingArguments(auto="seed")
    with pytest.raises(ConfigError, match="auto names bf16, and a value is given too"):
        Recipe.of({"auto": "bf16", "bf16": True})


WORDS = ["--encoder", "encoder", "--decoder", "decoder", "--train", "train.jsonl", "--use-cpu", "--report-to", "none"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with halves and data in it."""
    halves(tmp_path)
    write_rows(tmp_path / "train.jsonl", toy_rows(40))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    """Exit code of a command line."""
    try:
        conjoin.cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_recipe_holds_values_and_reasons_and_does_not_choose_anew(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *WORDS, "--out", "run", "--max-steps", "2"]
    assert run(*words, "--print-config") == 0
    printed = capsys.readouterr().out
    assert run(*words) == 0
    assert "because" in capsys.readouterr().err
    recipe = read_recipe("run/recipe.yaml")
    assert recipe["auto"] == "none" and recipe["learning_rate"] > 5e-5
    assert "cross-attention is fresh" in recipe["reasons"]["learning_rate"]
    longest = json.loads(Path("run/generation_config.json").read_text())["max_new_tokens"]
    assert longest == recipe["generation_max_length"] > 0
    Path("printed.yaml").write_text(printed)
    assert read_recipe("printed.yaml") == recipe
    again = Recipe.of(recipe)
    assert not again.arguments.to_choose and again.reasons == recipe["reasons"]
    assert run("train", "--config", "run/recipe.yaml", "--learning-rate", "2e-3", "--out", "again") == 0
    assert "because" not in capsys.readouterr().err
    second = read_recipe("again/recipe.yaml")
    assert second["learning_rate"] == 2e-3 and "learning_rate" not in second["reasons"]
    assert second["tokens_per_batch"] == recipe["tokens_per_batch"]
    assert run("inspect", "run") == 0
    assert "cross-attention is fresh" in " ".join(capsys.readouterr().out.split())
    assert run("inspect", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["learning_rate"]["value"] == recipe["learning_rate"]


def test_a_run_that_goes_on_keeps_the_limit_of_results_and_a_model_s_own_stays(folder: Path) -> None:
    words = ["train", *WORDS, "--save-steps", "1"]
    assert run(*words, "--out", "run", "--max-steps", "2") == 0
    first = json.loads(Path("run/generation_config.json").read_text())["max_new_tokens"]
    assert run("train", "--resume", "--out", "run", "--max-steps", "3") == 0
    assert json.loads(Path("run/generation_config.json").read_text())["max_new_tokens"] == first
    model = EncoderDecoderModel.from_pretrained("run")
    more = ["--train", "train.jsonl", "--use-cpu", "--report-to", "none", "--max-steps", "1"]
    for own, stays in ((first, True), (1, False)):  # one that cuts what is learnt is raised
        model.generation_config.max_new_tokens = own
        model.save_pretrained("limited")
        assert run("train", "--model", "limited", *more, "--out", f"more-{own}") == 0
        assert json.loads(Path(f"more-{own}/generation_config.json").read_text())["max_new_tokens"] == first
        assert ("generation_max_length" not in read_recipe(f"more-{own}/recipe.yaml")["reasons"]) == stays


def test_auto_none_leaves_transformers_defaults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *WORDS, "--out", "run", "--auto", "none", "--print-config"]
    assert run(*words) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    settings = read_recipe("printed.yaml")
    assert settings["learning_rate"] == 5e-5 and settings["tokens_per_batch"] is None and not settings["bf16"]
    assert run(*words, "--learning-rate", "auto") == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert read_recipe("printed.yaml")["learning_rate"] > 5e-5


def test_a_model_that_learns_to_rank_gets_a_rate_of_its_own_and_does_not_stop_by_a_loss_that_rises() -> None:
    data = replace(DATA, validates=True)
    ranking = replace(data, ranks=True)
    settings = {"num_train_epochs": 3.0}
    usual, ranks = chosen(TRAINED, data, **settings), chosen(TRAINED, ranking, **settings)
    assert (usual.learning_rate, ranks.learning_rate) == (1.5e-4, 5e-5)
    assert chosen(replace(TRAINED, width=1024), ranking).learning_rate == 1.9e-5  # BRIO's highest is 2e-5
    assert usual.load_best_model_at_end and usual.early_stopping_patience is not None
    assert not ranks.load_best_model_at_end and ranks.early_stopping_patience is None
    texts = {"metric_for_best_model": "rougeL", "predict_with_generate": True, "metrics": "rougeL"}
    assert chosen(TRAINED, ranking, **settings, **texts).load_best_model_at_end


@pytest.mark.parametrize("asked", [{"r_drop": 5.0}, {"lora": 8, "lora_dropout": 0.05}])
def test_dropout_that_was_asked_for_begins_at_once(asked: dict[str, Any]) -> None:
    assert chosen().dropout_from_epoch == 1 and chosen(**asked).dropout_from_epoch == 0
