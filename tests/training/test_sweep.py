"""Sweeps: what is varied, how steps are shared, which trials go on, and that a kill changes nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import ConfigError, DataError, JoinError, MissingBackend, TrainingError
from conjoin.checkpoint import write_json
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop.callbacks import TrainerControl
from conjoin.training.settings.recipe import Recipe, read_recipe
from conjoin.training.sweep import Choices, Interval, Sweep, parse_over
from conjoin.training.sweep.ladder import Ladder, ladder, rungs
from conjoin.training.sweep.space import combinations, draw
from training_toys import halves, toy_rows, write_rows


def test_values_are_listed_or_between_two_ends() -> None:
    space = parse_over(
        ["learning-rate=1e-4, 3e-4,3e-4", "share=none,embeddings", "seed=1..9", "weight_decay=0.001..0.1"]
    )
    assert space["learning_rate"] == Choices((1e-4, 3e-4)) and space["share"] == Choices(("none", "embeddings"))
    assert space["seed"] == Interval(1, 9, whole=True) and space["weight_decay"] == Interval(0.001, 0.1)
    assert parse_over(["bf16=true,false", "metrics=null,7"]) == {
        "bf16": Choices((True, False)),
        "metrics": Choices((None, 7)),
    }


@pytest.mark.parametrize("text", ["", "x", "=1", "x=", "x=2..1", "x=0..1", "x=a..b", "x=1..inf"])
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_over([text])


def test_a_setting_is_varied_once() -> None:
    with pytest.raises(ConfigError, match="learning_rate is varied twice"):
        parse_over(["learning_rate=1,2", "learning-rate=3"])


def test_trials_are_the_grid_or_drawn() -> None:
    space = parse_over(["a=1,2,3", "b=x,y"])
    assert len(combinations(space, None, 0)) == 6 == len(combinations(space, 10, 0))
    four = combinations(space, 4, 0)
    assert len(four) == 4 and len({repr(each) for each in four}) == 4 and four == combinations(space, 4, 0)
    drawn = [each["r"] for each in draw({"r": Interval(1e-5, 1e-1)}, 200, seed=3)]
    assert all(1e-5 <= value <= 1e-1 for value in drawn)
    assert 60 < sum(value < 1e-3 for value in drawn) < 140  # half of the factors
    assert {each["n"] for each in draw({"n": Interval(1, 4, whole=True)}, 9, seed=0)} == {1, 2, 3, 4}
    with pytest.raises(ConfigError, match="need a number of trials"):
        combinations({"r": Interval(1, 2)}, None, 0)
    with pytest.raises(ConfigError, match="Nothing is varied"):
        combinations({}, 3, 0)


def test_every_rung_has_as_many_steps() -> None:
    assert rungs(1) == (1,) and rungs(3) == (3, 1) and rungs(10) == (10, 4, 2, 1)
    plan = ladder(9, 270)
    assert plan == Ladder((9, 3, 1), (10, 40, 130))
    assert plan.total == 130 and plan.starts == 13
    assert plan.from_rung(0) == (270, 13) and plan.from_rung(1) == (180, 4)
    assert plan.shortened(1, 0.5) == Ladder((9, 3, 1), (10, 25, 70))
    with pytest.raises(ConfigError, match="enough for 50 steps, and 9 trials need 108"):
        ladder(9, 50)


class Fake:
    """Trains nothing: the loss of a step is that of a curve, which the learning rate decides."""

    def __init__(self, *, dies_at: int | None = None, bad: float | None = None) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.dies_at, self.bad = dies_at, bad

    def __call__(self, recipe: Recipe, *, callbacks: Any) -> str:
        folder, args = RunFolder(Path(recipe.arguments.output_dir)), recipe.arguments
        newest = folder.newest()
        step = newest.step if newest else 0
        begin, control, state = step, TrainerControl(), type("State", (), {"global_step": step})()
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        while not control.should_training_stop and step < args.max_steps:
            step += 1
            state.global_step = step
            callbacks[0].on_step_end(args, state, control)
        self.calls.append((folder.path.name, begin, step))
        if args.learning_rate == self.bad:
            raise TrainingError("The loss or its gradient is not a finite number any more.")
        if recipe.sources.share == "embeddings":
            raise JoinError("share = 'embeddings': the halves have different vocabularies.")
        assert control.should_evaluate and control.should_save
        write_json(self._state(folder, step), {"global_step": step})
        with (folder.path / "metrics.jsonl").open("a") as file:
            file.write(
                json.dumps({"step": step, "kind": "eval", "eval_loss": self.loss(args.learning_rate, step)}) + "\n"
            )
        return str(folder.path)

    @staticmethod
    def _state(folder: RunFolder, step: int) -> Path:
        folder.checkpoint(step).mkdir(parents=True)
        return folder.checkpoint(step) / "trainer_state.json"

    @staticmethod
    def loss(rate: float, step: int) -> float:
        return 1 + abs(math.log10(rate) + 3) + 1 / step


SETTINGS: dict[str, Any] = {"model": "m", "train": "t.jsonl", "validation": "v.jsonl", "num_train_epochs": 7}
RATES = "learning_rate=1e-5,3e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2,1e-1"


PLAN = Ladder((9, 3, 1), (10, 40, 130))


def sweep(folder: Path, fake: Fake, *, plan: Ladder | None = PLAN, **options: Any) -> Sweep:
    """A sweep with a plan, or one that measures."""
    values: dict[str, Any] = {"minutes": 60, "over": RATES, "settings": SETTINGS, **options}
    space = parse_over([values.pop("over")])
    made = Sweep(values.pop("settings"), space, out=folder / "sweep", launch=fake, **values)
    made.journal.ladder = made.journal.ladder or plan
    return made


def test_the_best_third_goes_on_from_its_checkpoint(tmp_path: Path, capsys: Any) -> None:
    fake = Fake()
    result = sweep(tmp_path, fake, plan=None, minutes=0.05).run()
    plan = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["ladder"]
    ends = plan["steps"]
    assert plan["trials"] == [9, 3, 1] and fake.calls[0][0] == "probe"
    assert fake.calls[1:10] == [(f"trial-{n}", 0, ends[0]) for n in range(1, 10)]
    assert {each[0] for each in fake.calls[10:13]} == {"trial-4", "trial-5", "trial-6"}
    assert all(each[1:] == (ends[0], ends[1]) for each in fake.calls[10:13])
    assert fake.calls[13:] == [("trial-5", ends[1], ends[2])]
    assert result.best.values == {"learning_rate": 1e-3} and result.best.status == "finished"
    assert [each.status for each in result.trials].count("stopped") == 8
    assert result.best.scores == [Fake.loss(1e-3, step) for step in ends]
    best = read_recipe(tmp_path / "sweep" / "best.yaml")
    assert best["learning_rate"] == 1e-3 and best["num_train_epochs"] == 7 and best["max_steps"] == -1
    assert best["eval_strategy"] == "auto" and best["save_total_limit"] == 2
    plain = result.to_dict()
    assert plain["trials"][0]["score"] == result.best.scores[-1] and plain["model"].endswith("trial-5")
    assert "9 trials, a step takes" in capsys.readouterr().err


@pytest.mark.parametrize("dies_at", [0, 4, 10, 12])
def test_a_sweep_that_was_killed_goes_on(tmp_path: Path, dies_at: int) -> None:
    first, second = Fake(dies_at=dies_at), Fake()
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, first).run()
    with pytest.raises(ConfigError, match="--resume goes on"):
        sweep(tmp_path, second)
    with pytest.raises(ConfigError, match="of another sweep: space differ"):
        sweep(tmp_path, second, over="learning_rate=1,2", resume=True)
    result = sweep(tmp_path, second, resume=True).run()
    done = [*first.calls, *second.calls]
    assert len(done) == len(set(done)) == 13  # nothing is trained twice
    assert result.best.values == {"learning_rate": 1e-3} and result.best.status == "finished"


def test_a_trial_whose_loss_is_not_finite_ends_alone(tmp_path: Path) -> None:
    result = sweep(tmp_path, Fake(bad=1e-3)).run()
    failed = result.trials[-1]
    assert failed.values == {"learning_rate": 1e-3} and failed.status == "failed" and "not a finite" in failed.problem
    assert result.best.values["learning_rate"] in (3e-4, 3e-3)


@pytest.mark.parametrize("bad", [1e-5, 1e-3])
def test_the_first_trial_may_fail_as_any_other(tmp_path: Path, bad: float) -> None:
    """It is the one whose steps are measured."""
    fake = Fake(bad=bad)
    result = sweep(tmp_path, fake, plan=None, minutes=0.05).run()
    assert result.trials[-1].values == {"learning_rate": bad} and result.trials[-1].status == "failed"
    assert [each[0] for each in fake.calls].count("probe") == (2 if bad == 1e-5 else 1)
    assert result.best.status == "finished"
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["ladder"]["trials"][0] in (8, 9)


def test_halves_that_do_not_go_together_end_one_trial(tmp_path: Path) -> None:
    settings = {"encoder": "e", "decoder": "d", "train": "t.jsonl", "validation": "v.jsonl"}
    for plan in (None, Ladder((3, 1), (10, 40))):
        over = {"over": "share=embeddings,none,all", "minutes": 0.05}
        made = sweep(tmp_path / str(plan is None), Fake(), settings=settings, plan=plan, **over)
        result = made.run()
        assert [each.values["share"] for each in result.trials if each.status == "failed"] == ["embeddings"]
        assert "different vocabularies" in result.trials[-1].problem and result.best.values["share"] in ("none", "all")


def test_a_sweep_without_a_trial_that_can_be_trained_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No trial can be trained; the first: The loss"):
        sweep(tmp_path, Fake(bad=1e-3), over="learning_rate=1e-3", plan=None).run()


@pytest.mark.parametrize("name", ["num_train_epochs", "max_steps", "max_minutes", "eval_steps", "recover"])
def test_what_the_sweep_decides_itself_is_not_varied(tmp_path: Path, name: str) -> None:
    values = "true,false" if name == "recover" else "1,2"
    with pytest.raises(ConfigError, match=f"--over {name}: a sweep decides itself"):
        sweep(tmp_path, Fake(), over=f"{name}={values}")


@pytest.mark.parametrize(("over", "probes"), [("learning_rate=1e-3,1e-4", 1), ("tokens_per_batch=400,800,6400", 3)])
def test_every_kind_of_step_is_measured(
    tmp_path: Path, over: str, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjoin.training.sweep.sweep.PROBING", 1.0)
    fake = Fake()
    sweep(tmp_path, fake, plan=None, minutes=0.05, over=over).run()
    assert [each[0] for each in fake.calls].count("probe") == probes


@pytest.mark.parametrize("after", [2, 9, 11])
def test_a_sweep_ends_in_its_time(tmp_path: Path, after: int, capsys: Any) -> None:
    fake = Fake()
    one = sweep(tmp_path, fake)
    one.out_of_time = lambda: len(fake.calls) >= after  # type: ignore[method-assign]
    result = one.run()
    assert len(fake.calls) == after
    assert result.best.scores and "over" in capsys.readouterr().err
    again = sweep(tmp_path, fake, resume=True).run()  # with more time, the others follow
    assert again.best.values == {"learning_rate": 1e-3} and again.best.status == "finished"


def test_a_greater_metric_may_be_better(tmp_path: Path) -> None:
    settings = {**SETTINGS, "greater_is_better": True}
    assert sweep(tmp_path, Fake(), settings=settings).run().best.values == {"learning_rate": 1e-5}


def test_a_machine_that_becomes_slower_shortens_what_is_left(tmp_path: Path, capsys: Any) -> None:
    fake = Fake()
    one = sweep(tmp_path, fake)
    measured = one._note

    def slow(trial: Any, outcome: Any, step: int) -> None:
        measured(trial, outcome, step)
        trial.step_s, trial.start_s, one.seconds = 1.0, 0.0, one._spent() + 90.5

    one._note = slow  # type: ignore[method-assign]
    result = one.run()
    assert "trials end at step 70" in capsys.readouterr().err
    assert result.best.steps <= 70


def test_what_cannot_be_swept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs validation data"):
        sweep(tmp_path, Fake(), settings={"model": "m", "train": "t"})
    with pytest.raises(ConfigError, match="expected a number above 0"):
        sweep(tmp_path, Fake(), minutes=0)
    with pytest.raises(ConfigError, match="Unknown settings"):
        sweep(tmp_path, Fake(), over="learning_rat=1,2")
    with pytest.raises(ConfigError, match="adam_beta1 = 3"):
        sweep(tmp_path, Fake(), over="adam_beta1=0.8,3")
    with pytest.raises(ConfigError, match="more --minutes"):
        sweep(tmp_path, Fake(), plan=None, minutes=1e-9).run()
    (tmp_path / "sweep").mkdir(exist_ok=True)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no sweep"):
        sweep(tmp_path, Fake(), resume=True)


def test_optuna_is_asked_for_by_name(tmp_path: Path) -> None:
    try:
        import optuna
    except ImportError:
        with pytest.raises(MissingBackend, match="needs optuna"):
            sweep(tmp_path, Fake(), engine="optuna").run()
        return
    options: dict[str, Any] = {"engine": "optuna", "over": "learning_rate=1e-5..1e-1", "trials": 14, "minutes": 60}
    options["plan"] = Ladder((14, 5, 2, 1), (5, 20, 60, 130))
    result = sweep(tmp_path, Fake(), **options).run()
    assert optuna and len(result.trials) == 14
    assert abs(math.log10(result.best.values["learning_rate"]) + 3) < 0.7
    assert {each.status for each in result.trials} == {"finished", "stopped"}
    dying, second = Fake(dies_at=12), Fake()
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "killed", dying, **options).run()
    again = sweep(tmp_path / "killed", second, **options, resume=True).run()
    done = [*dying.calls, *second.calls]
    assert len(again.trials) == 14 and len(set(done)) == len(done)


def test_the_command_sweeps_a_real_run(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "_plan", lambda self: Ladder((2, 1), (6, 18)))
    encoder, decoder = halves(tmp_path)
    write_rows(tmp_path / "train.jsonl", toy_rows(40))
    write_rows(tmp_path / "validation.jsonl", toy_rows(8, 1))
    recipe = {"encoder": encoder, "decoder": decoder, "train": tmp_path / "train.jsonl"}
    recipe |= {"validation": tmp_path / "validation.jsonl", "use_cpu": True, "report_to": "none", "doctor": False}
    (tmp_path / "recipe.yaml").write_text(
        "".join(
            f"{name}: {str(value).lower() if isinstance(value, bool) else value}\n" for name, value in recipe.items()
        )
    )
    command = ("sweep", tmp_path / "recipe.yaml", "--over", "learning_rate=0.01,1e-7", "--out", tmp_path / "sweep")
    told = run(*command, "--minutes", "60", "--json")
    assert told.code == 0, told.err
    result = json.loads(told.out)
    assert result["trials"][0]["settings"] == {"learning_rate": 0.01}
    assert result["trials"][1]["status"] == "stopped" and result["metric"] == "loss"
    assert (tmp_path / "sweep" / "trial-1" / "config.json").is_file()
    assert run(*command, "--minutes", "60").code == 1
    table = run(*command, "--minutes", "60", "--resume")
    assert table.code == 0 and "learning_rate=0.01" in table.out and table.lines[-1].endswith("best.yaml")
