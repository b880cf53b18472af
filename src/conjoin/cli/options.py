"""Options that several commands share, and loading the model that they name."""

import json
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from conjoin.bulk.spec import DeviceNameError, ModelSpec
from conjoin.evaluation.mbr import MBR

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


class UtilityName(StrEnum):
    """How candidates are compared."""

    chrf = "chrf"
    bleu = "bleu"
    rouge = "rouge"
    rouge1 = "rouge1"
    rouge2 = "rouge2"
    rougeL = "rougeL"


class CandidateKind(StrEnum):
    """Where candidates come from."""

    sample = "sample"
    beam = "beam"


Model = Annotated[str, typer.Argument(help="Folder or hub id of a joined model.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sources per batch; sources are sorted by length.")]
MaxSourceLength = Annotated[
    int | None,
    typer.Option(min=1, help="Truncate sources to this many tokens; by default to the longest that the model reads."),
]
SourceColumn = Annotated[str, typer.Option(help="JSON key or table column of the source.")]
TargetColumn = Annotated[str, typer.Option(help="JSON key or table column of the target.")]
SourcePrefix = Annotated[str, typer.Option(help="Text to put before every source.")]
SourceLanguage = Annotated[
    str | None, typer.Option(help="Language of the sources: a code, such as en_XX or en; the tokenizer's by default.")
]
TargetLanguage = Annotated[
    str | None, typer.Option(help="Language of the targets: a code, such as ro_RO or ro; the model's by default.")
]
NumBeams = Annotated[
    int | None, typer.Option(min=1, help="Number of beams; 1 is greedy search. The model's setting by default.")
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum tokens of a result; the model's setting by default, or 128."),
]
MbrCandidates = Annotated[
    int | None,
    typer.Option(
        "--mbr", min=2, metavar="N", help="Generate N candidates per source; choose the one most like the others."
    ),
]
UtilityOption = Annotated[
    UtilityName | None, typer.Option("--utility", help="How --mbr compares candidates; chrf by default.")
]
MbrKind = Annotated[
    CandidateKind | None,
    typer.Option("--mbr-candidates", help="Candidates of --mbr: samples, by default, or N beams."),
]
Seed = Annotated[int, typer.Option(help="Random seed for sampling, of --mbr too; each source has its own, made of it.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting of `generate`, such as --set length_penalty=0.6."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a GPU if there is one.")]
MaxShardSize = Annotated[str, typer.Option(help="Maximum size of a weight file; larger models are split into shards.")]
OverwriteModel = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing model in --out; other files are kept.")
]
EncoderLayers = Annotated[
    str | None,
    typer.Option(
        help="Layers of the encoder to keep: a number, spread evenly from the first to the last, or indices such as "
        "0,2,5; all by default."
    ),
]
DecoderLayers = Annotated[str | None, typer.Option(help="Layers of the decoder to keep, likewise.")]


class Once(TyperCommand):
    """A command that rejects repeated options, of which typer would silently use the last; list options may repeat."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse the arguments of the command.

        Raises:
            BadParameter: an option is repeated.
        """
        options = [] if ctx.resilient_parsing else self.make_parser(ctx).parse_args(args=list(args))[2]
        for option, count in Counter(options).items():
            if count > 1 and option.param_type_name == "option" and not getattr(option, "multiple", False):
                flags = "/".join([*option.opts, *option.secondary_opts])
                raise typer.BadParameter(
                    f"given {count} times; expected once, with one value.", ctx=ctx, param_hint=flags
                )
        return super().parse_args(ctx, args)


class Dtype(StrEnum):
    """Data type of the parameters."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Data type of the parameters; that of the checkpoint by default.")
]


def generation_settings(assignments: list[str] | None, **options: Any) -> dict[str, Any]:
    """Return the settings of `generate`: from named options, and from NAME=VALUE, whose values are JSON or plain text.

    Raises:
        BadParameter: an assignment has no "=", or a setting is given twice.
        GenerationError: a name is no setting of `generate`.
    """
    from conjoin.generation import GenerationConfig, collect

    settings = {name: value for name, value in options.items() if value is not None}
    for assignment in assignments or []:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{assignment!r} is not NAME=VALUE.", param_hint="--set")
        name = name.strip().replace("-", "_")
        if name in settings:
            raise typer.BadParameter(f"{name} is given twice; expected once, with one value.", param_hint="--set")
        settings[name] = _value(value)
    collect(GenerationConfig(), settings)
    return settings


def mbr_settings(number: int | None, utility: UtilityName | None, candidates: CandidateKind | None) -> MBR | None:
    """Return the settings of MBR decoding from its flags.

    Raises:
        BadParameter: flags that only matter with --mbr are given without it.
    """
    if number is None:
        for flag, value in (("--utility", utility), ("--mbr-candidates", candidates)):
            if value is not None:
                raise typer.BadParameter("only has an effect with --mbr N.", param_hint=flag)
        return None
    values: dict[str, Any] = {"num_candidates": number}
    values |= {} if utility is None else {"utility": utility.value}
    values |= {} if candidates is None else {"candidates": candidates.value}
    return MBR(**values)


def _value(text: str) -> Any:
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


def load(
    name: str, dtype: Dtype | None, device: str | None, languages: tuple[str | None, str | None] = (None, None)
) -> "EncoderDecoderModel":
    """Load a model in evaluation mode onto a device.

    Args:
        languages: Language codes of sources and of targets; None keeps the tokenizer's.

    Raises:
        ConjoinError: the model cannot be loaded.
        BadParameter: there is no such device.
    """
    try:
        return ModelSpec(name=name, dtype=dtype.value if dtype else None, device=device, languages=languages).load()
    except DeviceNameError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
