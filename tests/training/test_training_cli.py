"""`conjoin train`: flags and recipes say the same, errors are one message, what is printed runs."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import conjoin.cli
from conjoin import ConfigError, ConjoinError, EncoderDecoderModel, FileError
from conjoin.training import Recipe, TrainerCallback
from conjoin.training.launch import launch
from conjoin.training.loop.finish import as_code, model_card
from conjoin.training.settings.recipe import read_recipe
from training_toys import halves, toy_model, toy_rows, write_rows

QUICK = ["--max-steps", "3", "--use-cpu", "--report-to", "none", "--logging-steps", "1", "--eval-samples", "1"]
QUICK += ["--per-device-train-batch-size", "8"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with halves and data in it."""
    halves(tmp_path)
    write_rows(tmp_path / "train.jsonl", toy_rows(40))
    write_rows(tmp_path / "validation.jsonl", toy_rows(6, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


HALVES = ["--encoder", "encoder", "--decoder", "decoder"]
DATA = ["--train", "train.jsonl", "--validation", "validation.jsonl"]


def run(*words: str) -> int:
    """Exit code of `conjoin train ...`."""
    try:
        conjoin.cli.main(["train", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_two_halves_and_pairs_become_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*HALVES, *DATA, "--out", "run", *QUICK) == 0
    told = capsys.readouterr()
    assert told.out.strip() == "run"
    assert "decoder.cross_attention" in told.err and "gradients" in told.err
    model = EncoderDecoderModel.from_pretrained("run")
    ids = model.generate(model.tokenizer(["w1 w2"], return_tensors="pt")["input_ids"], max_new_tokens=4)
    assert model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "train", "eval", "sample"]


def test_a_run_s_recipe_repeats_it_and_flags_win(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*HALVES, *DATA, "--out", "run", "--learning-rate", "1e-3", *QUICK) == 0
    assert run("--config", "run/recipe.yaml", "--out", "again") == 0
    one, other = (Path(name, "model.safetensors").read_bytes() for name in ("run", "again"))
    assert one == other
    capsys.readouterr()
    assert run("--config", "run/recipe.yaml", "--learning-rate", "2", "--print-config") == 0
    words = capsys.readouterr().out
    (Path("printed.yaml")).write_text(words)
    recipe = Recipe.of(read_recipe("printed.yaml"))
    assert recipe.arguments.learning_rate == 2 and recipe.arguments.max_steps == 3
    assert recipe.sources.encoder == "encoder"


def test_a_model_s_folder_toml_and_csv(folder: Path) -> None:
    toy_model(folder).save_pretrained("model")
    Path("data.csv").write_text("question,answer\n" + "w1 w2,w2 w1\n" * 20)
    Path("recipe.toml").write_text(
        'model = "model"\ntrain = "data.csv"\nsource-column = "question"\ntarget_column = "answer"\nout = "run"\n'
        "max-steps = 2\nuse-cpu = true\nreport-to = 'none'\nlearning-rate = 1e-3\n"
    )
    assert run("--config", "recipe.toml") == 0
    assert (Path("run") / "checkpoint-2").is_dir()


def test_a_data_set_in_a_folder(folder: Path) -> None:
    write_rows(Path("data/train.jsonl"), toy_rows(20))
    write_rows(Path("data/validation.jsonl"), toy_rows(4, 1))
    words = [*HALVES, "--dataset", "data", "--validation-split", "validation", "--out", "run"]
    assert run(*words, *QUICK) == 0


def test_resume_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*HALVES, *DATA, "--out", "run", *QUICK]
    assert run(*words, "--resume") == 0
    assert run(*words) == 1
    assert "--resume goes on with it" in capsys.readouterr().err
    assert run(*HALVES, *DATA, "--out", "run", *QUICK[2:], "--max-steps", "5", "--resume") == 0
    assert (Path("run") / "checkpoint-5").is_dir()


BAD: list[tuple[list[str], int, str]] = [
    ([*HALVES, *DATA], 2, "--out"),
    ([*HALVES, *DATA, "--out", "run", "--max-steps", "many"], 2, "max-steps"),
    ([*HALVES, *DATA, "--out", "run", "--nonsense"], 2, "nonsense"),
    (["--encoder", "encoder", *DATA, "--out", "run"], 1, "Given: encoder. Expected encoder and decoder, or model"),
    (["--model", "m", *HALVES, *DATA, "--out", "run"], 1, "Given: encoder, decoder, model"),
    ([*HALVES, "--out", "run"], 1, "Neither train nor dataset is given"),
    ([*HALVES, "--train", "none.jsonl", "--out", "run"], 1, "none.jsonl: no such file"),
    ([*HALVES, "--train", "bad.jsonl", "--out", "run"], 1, "line 2: is not JSON"),
    ([*HALVES, "--train", "train.jsonl", "--source-column", "x", "--out", "run"], 1, "has no column 'x'; it has"),
    (["--encoder", "none", "--decoder", "decoder", *DATA, "--out", "run"], 1, "none"),
    ([*HALVES, *DATA, "--out", "run", "--lr-scheduler-type", "wavy"], 1, "lr_scheduler_type = 'wavy'; expected one of"),
    ([*HALVES, *DATA, "--out", "run", "--freeze", "head,nose"], 1, "'nose'"),
    ([*HALVES, *DATA, "--out", "run", "--metrics", "rogue", "--predict-with-generate"], 1, "rogue"),
    (["--model", "m", *DATA, "--out", "run", "--share", "all"], 1, "share = all with model = m: a joined model stays"),
    (
        ["--model", "m", *DATA, "--out", "run", "--framework", "jax", "--cross-attention-init", "zero_gate"],
        1,
        "cross_attention_init = zero_gate with model = m",
    ),
    (["--model", "small", *DATA, "--out", "run"], 1, "The model is in 8 bits, which is for inference only"),
    (["--model", "small", *DATA, "--out", "run", "--framework", "jax"], 1, "The model is in 8 bits"),
    ([*HALVES, *DATA, "--out", "run", "--learning-rate", "-1"], 1, "learning_rate = -1.0; expected 0 or more."),
    ([*HALVES, *DATA, "--out", "run", "--seed", "-1"], 1, "seed = -1; expected a whole number from 0 to 4294967295."),
    ([*HALVES, *DATA, "--out", "run", "--report-to", "wandb"], 1, "report_to = 'wandb'; expected one of auto, tensorb"),
    ([*HALVES, *DATA, "--out", "bad.yaml/run", *QUICK], 1, "bad.yaml/run: cannot be written: File exists"),
    (["--config", "none.yaml"], 1, "none.yaml: the recipe cannot be read"),
    (["--config", "bad.yaml"], 1, "bad.yaml: not YAML"),
    (["--config", "odd.yaml"], 1, "Unknown settings in the recipe: learning_rat"),
]


@pytest.mark.parametrize(("words", "code", "told"), BAD)
def test_what_goes_wrong_is_one_message(
    words: list[str], code: int, told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.jsonl").write_text('{"source": "w1", "target": "w2"}\n{"source": "w1", "ta\n')
    Path("bad.yaml").write_text("learning-rate: [1\n")
    Path("odd.yaml").write_text("learning-rat: 1\n")
    Path("small").mkdir()
    Path("small/config.json").write_text('{"quantization_config": {"quant_method": "conjoin-int8", "bits": 8}}')
    assert run(*words) == code
    err = " ".join(capsys.readouterr().err.split())
    assert told in err
    assert "Traceback" not in err
    assert not Path("run").exists()


def test_nothing_outside_of_its_folder_loads_a_framework() -> None:
    rooms = {
        "training": "launch",
        "training.data": "arrays, batching, datasets",
        "training.folder": "recorder, run_folder",
        "training.loop": "callbacks, evaluator, finish, schedules, trainer",
    }
    imports = "; ".join(f"from conjoin.{room} import {names}" for room, names in rooms.items())
    code = f"{imports}; import conjoin.cli, sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "jax", "tensorflow", "datasets"} & set(told.stdout.split())


def test_numbers_of_a_recipe_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-4\nout: 1e-4x\nresume: true\neval_strategy: no\n")
    recipe = Recipe.of(read_recipe(tmp_path / "a.yaml"))
    assert recipe.arguments.learning_rate == 1e-4
    assert recipe.arguments.output_dir == "1e-4x"
    assert recipe.arguments.eval_strategy == "no"
    assert recipe.arguments.resume_from_checkpoint == "latest"
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected names and values"):
        read_recipe(tmp_path / "b.yaml")
    with pytest.raises(FileError):
        read_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"share = 'some'; expected one of none, embeddings, all"):
        Recipe.of({"share": "some"})


def test_resume_needs_no_more_than_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*HALVES, *DATA, "--out", "run", "--learning-rate", "1e-3", "--overwrite-output-dir", *QUICK]
    assert run(*words) == 0
    whole = Path("run/model.safetensors").read_bytes()
    shutil.copytree("run", "cut")
    for path in ("model.safetensors", "config.json"):
        Path("cut", path).unlink()
    capsys.readouterr()
    assert run("--resume", "--out", "cut") == 0
    told = capsys.readouterr().err
    assert "cut goes on after step 3 of 3." in told and "have changed" not in told
    assert Path("cut/model.safetensors").read_bytes() == whole
    words = ["--max-steps", "5", "--learning-rate", "2e-3", "--validation", "train.jsonl"]
    assert run("--resume", "--out", "cut", *words) == 0
    told = capsys.readouterr().err
    assert "cut goes on after step 3 of 5." in told
    assert "max_steps = 5 (was 3)" in told and "learning_rate = 0.002 (was 0.001)" in told
    assert "validation = train.jsonl (was validation.jsonl)" in told and "validation data have changed" in told
    recipe = Recipe.of(read_recipe("cut/recipe.yaml"))
    assert (recipe.arguments.max_steps, recipe.arguments.overwrite_output_dir) == (5, False)
    assert recipe.arguments.resume_from_checkpoint is None


def test_a_recipe_is_there_before_the_first_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Killed(BaseException):
        pass

    class Look(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            raise Killed

    words = {"encoder": "encoder", "decoder": "decoder", "train": "train.jsonl", "out": "run", "max_steps": 2}
    with pytest.raises(Killed):
        launch(Recipe.of({**words, "use_cpu": True, "report_to": "none", "seed": 3}), callbacks=[Look()])
    assert Recipe.of(read_recipe("run/recipe.yaml")).arguments.seed == 3
    assert run("--resume", "--out", "run") == 0
    assert "run has no checkpoint yet: the run begins with step 1 of 2." in capsys.readouterr().err


def test_other_training_data_are_refused_when_a_run_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*HALVES, *DATA, "--out", "run", *QUICK) == 0
    write_rows(folder / "train.jsonl", toy_rows(40, seed=5))
    assert run("--resume", "--out", "run") == 1
    assert "another order of batches (training data:" in " ".join(capsys.readouterr().err.split())


TWICE = [
    ["train", "--train", "a", "--train", "b"],
    ["train", "--train=a", "--train", "a"],
    ["train", "--doctor", "--no-doctor"],
    ["train", "--resume", "--resume-from-checkpoint", "latest"],
    ["generate", "model", "text", "--num-beams", "2", "--num-beams", "3"],
    ["generate", "model", "text", "--set", "a=1", "--set", "a=2"],
    ["evaluate", "model", "data", "--batch-size", "1", "--batch-size", "2"],
]


@pytest.mark.parametrize("words", TWICE, ids=" ".join)
def test_an_option_that_is_given_twice_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        conjoin.cli.main(words)
    assert end.value.code == 2
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert any(reason in told for reason in ("expected once", "expected one of them", "cannot be combined with"))


RECIPES = {
    "train: 2001-99-99": "not YAML: a value, before line",
    "seed: 0b_": "not YAML: a value, before line",
    "seed: 1\na: !!timestamp x": "not YAML: line 2: a tag",
    "a: !!python/object/apply:os.system ['true']": "not YAML: line 1: a tag",
    "seed: !!int": "a tag",
    "[" * 2000: "more than 20 lists and mappings",
    "seed: " + "9" * 5000: "not YAML",
    "seed: " + "1:" * 200_000 + "1": "more than 10000 letters",
    "a: &x 1\nseed: *x": "not YAML: line 2: an alias (*x); write the value where it is wanted",
    "seed: 1\nseed: 2": "not YAML: line 2: 'seed' is there twice",
    "learning-rate: 1\nlearning_rate: 2": "learning_rate is given twice",
    "out: a\noutput_dir: b": "output_dir is given twice",
    "seed: " + "0x" + "f" * 9000: "seed = a number of 36000 bits; expected",
    "learning_rate: " + "1" + "0" * 400: "at most 9007199254740992",
    "train: [" + "abc, " * 1900 + "d]": "train = ['abc', 'abc'",
    "x" * 900 + ": 1": "Unknown settings in the recipe: 'xxx",
    "#" * (1 + (1 << 20)): "has more than 1,048,576 bytes",
}


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text[:30])
def test_a_recipe_with_odd_values_is_one_short_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConjoinError) as caught:
        Recipe.of(read_recipe(path))
    assert RECIPES[text] in str(caught.value)
    assert len(str(caught.value)) < 1000


TOML = ["train = 2001-99-99", "a = " + "[" * 2000, "seed = " + "9" * 5000, "seed = 1979-05-27", "seed = 1\nseed = 2"]


@pytest.mark.parametrize("text", TOML, ids=lambda text: text[:20])
def test_a_toml_recipe_with_odd_values_is_one_short_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConjoinError) as caught:
        Recipe.of(read_recipe(path))
    assert len(str(caught.value)) < 1000


def test_names_in_a_model_card_are_names(tmp_path: Path) -> None:
    name = 'a"b\\ <script>alert(1)</script> `x` *y* [z](w)\n# title\n---'
    card = model_card(
        tmp_path / "out" / name.replace("/", "_"),
        origin=f"{as_code('en`c``<b>')} joined to {as_code('d')}",
        data="3 pairs (x|y<img>.jsonl)",
        steps=3,
        metrics={"eval_a|b<i>": 0.5},
        settings={"learning_rate": 5e-5},
    )
    shown = name.replace("/", "_")
    assert card.splitlines()[4].startswith('# a"b\\\\ &lt;script&gt;alert(1)')
    assert "```en`c``<b>```" in card and "x\\|y&lt;img&gt;" in card and "| a\\|b&lt;i&gt; | 0.5 |" in card
    assert "<script>" not in card.split("```python")[0] and card.count("\n---\n") == 1
    code = card.split("```python\n")[1].split("```\n")[0]
    (call,) = [each for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Call)][:1]
    assert ast.literal_eval(call.args[0]) == shown
