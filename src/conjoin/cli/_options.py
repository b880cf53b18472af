"""Options that several commands have, and the model that they name."""

import json
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from conjoin.errors import MissingBackend
from conjoin.join import set_languages

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

Model = Annotated[str, typer.Argument(help="Folder or hub id of a joined model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sources at a time; they are sorted by length.")]
MaxSourceLength = Annotated[
    int | None, typer.Option(min=1, help="Longer sources are cut to so many tokens; the model's limit by default.")
]
SourceColumn = Annotated[str, typer.Option(help="The key or column that holds the source.")]
SourceLanguage = Annotated[
    str | None, typer.Option(help="Code of the sources' language, as en_XX; the tokenizer's own by default.")
]
TargetLanguage = Annotated[
    str | None, typer.Option(help="Code of the language to write, as ro_RO; the model's own by default.")
]
NumBeams = Annotated[int | None, typer.Option(min=1, help="Beams; 1 is greedy. The model's own setting by default.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest result in tokens; the model's own setting by default, else 128.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting of `generate`, as in --set length_penalty=0.6."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU by default, where there is one.")]


class Once(TyperCommand):
    """A command whose options may be given once, but for those that take several: the last would win in silence."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse.

        Raises:
            BadParameter: an option is there twice.
        """
        given = [] if ctx.resilient_parsing else self.make_parser(ctx).parse_args(args=list(args))[2]
        for option, count in Counter(given).items():
            if count > 1 and option.param_type_name == "option" and not getattr(option, "multiple", False):
                said = "/".join([*option.opts, *option.secondary_opts])
                raise typer.BadParameter(
                    f"given {count} times; expected once, with one value.", ctx=ctx, param_hint=said
                )
        return super().parse_args(ctx, args)


class Dtype(StrEnum):
    """Of the parameters."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[Dtype | None, typer.Option(help="Of the parameters; the checkpoint's own by default.")]


def generation_settings(given: list[str] | None, **named: Any) -> dict[str, Any]:
    """Settings of `generate`: named options, then NAME=VALUE, whose values are JSON or plain words.

    Raises:
        BadParameter: no "=" in one of them, or one of them twice.
    """
    found = {name: value for name, value in named.items() if value is not None}
    for word in given or []:
        name, is_there, value = word.partition("=")
        if not is_there or not name:
            raise typer.BadParameter(f"{word!r} is not NAME=VALUE.", param_hint="--set")
        plain = name.strip().replace("-", "_")
        if plain in found:
            raise typer.BadParameter(f"{plain} is given twice; expected once, with one value.", param_hint="--set")
        found[plain] = _value(value)
    return found


def _value(text: str) -> Any:
    spelled = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    try:
        return json.loads(spelled)
    except ValueError:
        return text


def load(
    name: str, dtype: Dtype | None, device: str | None, languages: tuple[str | None, str | None] = (None, None)
) -> "EncoderDecoderModel":
    """Load a model, in evaluation mode, on the device asked for.

    Args:
        languages: Of sources and of targets, where the caller names them.

    Raises:
        ConjoinError: it cannot be loaded.
        BadParameter: there is no such device.
    """
    from conjoin import EncoderDecoderModel

    try:
        import torch
    except ImportError:
        raise MissingBackend("This command needs torch: pip install 'conjoin[torch]'") from None
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{chosen!r}: {str(error).splitlines()[0]}", param_hint="--device") from None
    model = EncoderDecoderModel.from_pretrained(name, dtype=dtype.value if dtype else None, device=chosen)
    if languages != (None, None):
        set_languages(model, model.tokenizer, *languages)
    return model
