"""`pipeline`: a task and the name of a model -> an object that is called with texts."""

from dataclasses import replace
from os import PathLike
from typing import Any, cast

from conjoin.errors import ConfigError, shown
from conjoin.pipelines.models import LoadArguments, load_model, load_tokenizer
from conjoin.pipelines.options import CallArguments
from conjoin.pipelines.tasks import DEFAULT_MODELS, parse_task
from conjoin.pipelines.text2text import PIPELINES, Text2TextGenerationPipeline

_IDLE: dict[str, Any] = {
    "args_parser": None,
    "binary_output": False,
    "feature_extractor": None,
    "image_processor": None,
    "modelcard": None,
    "pipeline_class": None,
    "processor": None,
    "trust_remote_code": False,
}
"""Arguments of transformers' pipelines that mean nothing for texts, or nothing here, and their default."""


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Text2TextGenerationPipeline:
    """Return a pipeline for summarization, translation, translation_xx_to_yy or text2text-generation.

    The arguments, and the results of calls, are those of transformers 4, whose version 5 has no such pipelines.

    Args:
        task: One of the four.
        model: A folder, a hub id or a model of conjoin.
        config: Config of a model that is named, or the name of one.
        tokenizer: A tokenizer, its name, or (name, keyword arguments); the model's own by default.
        framework: "pt" (PyTorch, the default), "tf" or "flax".
        revision, token: What the hub is asked for a model that is named.
        use_fast: Accepted for old code; there is only one kind.
        device: Device of a PyTorch model: a name, a number (a GPU; -1 is the CPU) or a torch.device. By default a model
            that is named goes to a GPU if there is one, and a model that is given stays where it is.
        dtype, torch_dtype: Dtype of the parameters of a model that is named; that of the checkpoint by default.
        model_kwargs: More keyword arguments of `from_pretrained`.
        settings: What calls take, as defaults of all calls: batch_size, truncation, settings of `generate` ...

    Raises:
        ConfigError: the task or arguments are unknown or impossible.
        FileError, WeightError: the model cannot be loaded.
        MissingBackend: the framework is not installed.

    Example:
        translate = conjoin.pipeline("translation", model="facebook/mbart-large-50-many-to-many-mmt")
        translate("How old are you?", src_lang="en_XX", tgt_lang="ro_RO")  # [{"translation_text": "..."}]
    """
    del use_fast
    _check_idle(settings)
    kind = parse_task(task).kind
    if model is None:
        raise ConfigError(
            "model is not given: no model is downloaded that nobody named.",
            hint=f'model="{DEFAULT_MODELS[kind]}" is what transformers 4 took.',
        )
    CallArguments.of(settings)  # before anything is loaded
    arguments = LoadArguments(
        framework=framework,
        config=config,
        dtype=_one("dtype", dtype, "torch_dtype", torch_dtype),
        device=device,
        keywords=_without_none(
            {**(model_kwargs or {}), "revision": revision, "token": token, "device_map": device_map}
        ),
    )
    is_named = isinstance(model, str | PathLike)
    if is_named:
        name = cast(str, model)
        model, device = load_model(name, arguments), None
        if tokenizer is not None:
            tokenizer = load_tokenizer(tokenizer, arguments, is_models=tokenizer == name)
    else:
        _check_given(arguments)
        tokenizer = None if tokenizer is None else load_tokenizer(tokenizer, arguments, is_models=False)
    assert task is not None
    hub = {name: value for name, value in arguments.hub.items() if name not in ("revision", "subfolder")}
    if isinstance(assistant := settings.get("assistant_model"), str | PathLike):
        settings["assistant_model"] = load_model(cast(str, assistant), replace(arguments, config=None, keywords=hub))
    return PIPELINES[kind](model, tokenizer, framework=framework, task=task, device=device, **settings)


def _check_idle(settings: dict[str, Any]) -> None:
    """Remove arguments that have their default here.

    Raises:
        ConfigError: one of them has another value.
    """
    wrong = [
        f"{name} = {shown(value)}"
        for name, default in _IDLE.items()
        if (value := settings.pop(name, default)) not in (None, default)
    ]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: pipelines here are of texts, and run code of conjoin only.")


def _check_given(arguments: LoadArguments) -> None:
    """Refuse arguments of loading for a model that is loaded already."""
    given = {"config": arguments.config, "dtype": arguments.dtype, **arguments.keywords}
    given.pop("token", None)  # the tokenizer may need it
    wrong = [name for name, value in given.items() if value not in (None, "auto")]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)}: for a model that is named; this one is loaded already.",
            hint="EncoderDecoderModel.from_pretrained(name, ...) takes them.",
        )


def _one(name: str, value: Any, other_name: str, other: Any) -> Any:
    if value is not None and other is not None and value != other:
        raise ConfigError(f"{name} = {shown(value)}, {other_name} = {shown(other)}; expected one of them.")
    return other if value is None else value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
