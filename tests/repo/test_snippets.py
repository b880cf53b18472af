"""Every code block of the README and the docs runs, in order, with small local checkpoints where it names hub ids."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from conjoin import AutoTokenizer, BertConfig, EncoderDecoderModel, ModernBertConfig
from conjoin.cli import app
from conjoin.families import families
from conjoin.torch.pair.halves import Encoder
from lanes import lanes
from pairs import SMALL, stir, with_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "serving.md"})]
"""Pages whose blocks run here; those of docs/serving.md need a server, and run in tests/serving/test_docs.py."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
RUN = {"python", "sh"}
SAID = {"", "text", "json"}
"""Blocks that show what is printed or stored."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def is_quick(page: Path) -> bool:
    """True unless a page trains, or compiles with JAX or TensorFlow; `make docs` and the slow lane run those too."""
    return page.name not in ("adapt.md", "better.md", "training.md", "jax.md", "tensorflow.md")


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder where the hub ids of the pages are folders, and a BertConfig() that is quick to fill."""
    monkeypatch.chdir(tmp_path)
    bert = with_tokenizer(Path("google-bert/bert-base-uncased"), "bert", max_position_embeddings=512)
    with_tokenizer(Path("openai-community/gpt2"), "gpt2", n_positions=512)
    modern, tokenizer = Path("answerdotai/ModernBERT-base"), AutoTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(modern)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=20, num_attention_heads=5, num_hidden_layers=3, intermediate_size=37
    )
    stir(Encoder.from_config(config)).save_pretrained(modern)
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(bert, bert)
    pair.tokenizer, pair.config.fresh = tokenizer, []  # it stands for a trained one
    pair.save_pretrained("patrickvonplaten/bert2bert_cnn_daily_mail")
    for name, value in {
        **SMALL,
        "vocab_size": 420,
        "max_position_embeddings": 512,
        "hidden_size": 20,
        "num_attention_heads": 5,
    }.items():
        monkeypatch.setattr(BertConfig, name, value)


@pytest.mark.parametrize("page", lanes(PAGES, is_quick), ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("stand_ins")
def test_every_block_of_a_page_runs(page: Path) -> None:
    names: dict[str, object] = {}
    for language, text in blocks(page):
        assert language in RUN | SAID, f"{page.name}: a block of {language!r} cannot be run"
        if language == "python":
            exec(compile(text, f"{page.name}: {text.splitlines()[0]}", "exec"), names)
        elif language == "sh":
            run_lines(text)
    if page == ROOT / "README.md":
        assert torch.isfinite(names["loss"])  # pyright: ignore[reportArgumentType]


CONTRACT = """
from conjoin import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, AutoTokenizer, BertTokenizer

config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig())
model = EncoderDecoderModel(config=config)

tokenizer = BertTokenizer.from_pretrained("google-bert/bert-base-uncased")
model = EncoderDecoderModel.from_encoder_decoder_pretrained(
    "google-bert/bert-base-uncased", "google-bert/bert-base-uncased"
)

model.config.decoder_start_token_id = tokenizer.cls_token_id
model.config.pad_token_id = tokenizer.pad_token_id
loss = model(input_ids=input_ids, labels=labels).loss

model.save_pretrained("out"); model = EncoderDecoderModel.from_pretrained("patrickvonplaten/bert2bert_cnn_daily_mail")
ids = model.generate(tokenizer(text, return_tensors="pt").input_ids, num_beams=4)
print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
"""
"""Code that users have for Hugging Face's class, with nothing but the import changed."""


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.filterwarnings("ignore:Neither max_new_tokens nor max_length")
def test_code_for_transformers_runs_with_another_import_only(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[8, 9]]), "text": "a quick fox"}
    exec(CONTRACT, given)
    assert torch.isfinite(given["loss"])
    assert capsys.readouterr().out.endswith("\n")


def run_lines(text: str) -> None:
    """Run the lines of a shell block, each a call of conjoin."""
    for line in text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "conjoin", line
        told = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert told.exit_code == 0, f"{line}\n{told.output}"


def test_the_table_of_families_is_what_they_are_now() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "families_table.py"))
    assert page["PAGE"].read_text() == page["written"](), "run `make fix`"
    assert set(re.findall(r"^\| `([\w-]+)`", page["table"](), re.MULTILINE)) == set(families())


@pytest.mark.parametrize("name", sorted(families()))
def test_a_family_names_checkpoints_that_are_of_it(name: str) -> None:
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", known) for known in families()[name].known)


def test_the_readme_is_short_and_every_page_of_the_docs_is_in_the_index() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ]
    assert not missing


def test_the_picture_of_the_rooms_is_what_the_imports_are() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import draw_rooms; print(draw_rooms.draw(), end='')"],
        check=True, capture_output=True, text=True, cwd=ROOT / "docs",
    )  # fmt: skip
    assert told.stdout == (ROOT / "docs" / "rooms.svg").read_text(), "make docs draws it"


def test_every_room_has_a_short_readme() -> None:
    rooms = [path.parent for path in (ROOT / "src" / "conjoin").glob("*/__init__.py")]
    assert rooms
    long = [room.name for room in rooms if len((room / "README.md").read_text().splitlines()) > 20]
    assert not long
