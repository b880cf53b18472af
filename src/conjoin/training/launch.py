"""From a recipe to a trained model: load or join the model, read the data, train."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from conjoin.checkpoint import read_json
from conjoin.configuration import FOREIGN
from conjoin.errors import ConfigError, NoTokenizerError, shown
from conjoin.texts.pairs import PairReader, Pairs, load_hub, read_pairs
from conjoin.texts.predictions import candidate_pairs, joined_pairs, pseudo_pairs
from conjoin.training.data.corpus import RawText
from conjoin.training.data.datasets import Named, columns_of
from conjoin.training.facts import join_facts
from conjoin.training.loop.callbacks import TrainerCallback
from conjoin.training.loop.checks import refuse_quantized
from conjoin.training.loop.trainer import Trainer
from conjoin.training.settings.arguments import JOIN_CHOICES
from conjoin.training.settings.choices import choose_join
from conjoin.training.settings.recipe import Recipe, Sources


def launch(recipe: Recipe, *, callbacks: Sequence[TrainerCallback] = (), started: float | None = None) -> str:
    """Train the model of a recipe on its data.

    Args:
        callbacks: Callbacks of the run.
        started: When the command started, by `time.monotonic`, from which max_minutes count; now by default.

    Returns:
        The folder of the final model.

    Raises:
        ConjoinError: with one message; what was saved is untouched.
    """
    started = time.monotonic() if started is None else started
    trainer = make_trainer(recipe, callbacks)
    trainer.started = started
    trainer.train()
    return recipe.arguments.output_dir


def make_trainer(recipe: Recipe, callbacks: Sequence[TrainerCallback] = ()) -> Trainer[Any]:
    """Read the data of a recipe, build its model, and choose what it leaves open; `trainer.recipe` has it all.

    Raises:
        ConjoinError: with one message.
    """
    recipe.sources.require()
    _refuse_untrainable(recipe.sources.model)
    train, validation = find_data(recipe)
    recipe = with_join_choices(recipe)
    build_model, kind = _framework(recipe.sources.framework)
    model = build_model(recipe)
    _require_tokenizer(model)
    recipe = _with_template_date(recipe, model)
    return kind(
        model,
        None,
        recipe.arguments,
        train_dataset=train,
        eval_dataset=validation,
        callbacks=callbacks,
        recipe=recipe,
    )


def with_join_choices(recipe: Recipe) -> Recipe:
    """Choose how the two checkpoints of a recipe are joined, where that is left open."""
    left, sources = recipe.arguments.to_choose, recipe.sources
    open_names = [name for name in left if name in JOIN_CHOICES]
    if not open_names or sources.encoder is None or sources.decoder is None:
        return recipe
    facts = join_facts(sources.encoder, sources.decoder)
    if facts is not None and (sources.encoder_layers is not None or sources.decoder_layers is not None):
        facts = replace(facts, is_itself=False)
    choices = choose_join(open_names, facts, sources.cross_attention_init) if facts is not None else []
    return recipe.with_choices(
        {choice.name: choice.reason for choice in choices},
        sources=replace(sources, **{choice.name: choice.value for choice in choices}),
        arguments=recipe.arguments.copy(auto=",".join(name for name in left if name not in JOIN_CHOICES)),
    )


def _with_template_date(recipe: Recipe, model: Any) -> Recipe:
    """Give the model the day that the recipe's chat template writes, or the recipe the one that the model has now."""
    sources = recipe.sources
    if sources.source_template is None:
        return recipe
    if sources.template_date is not None:
        model.set_source_template(sources.source_template, date=sources.template_date)
        if model.tokenizer.source_rules.template_date is None:
            raise ConfigError(
                f"template_date = {sources.template_date} has no effect: source_template = "
                f"{shown(sources.source_template)} writes no day.",
                hint="leave template_date out.",
            )
        return recipe
    day = model.tokenizer.source_rules.template_date
    return recipe if day is None else replace(recipe, sources=replace(sources, template_date=day))


def _require_tokenizer(model: Any) -> None:
    try:
        tokenizer = model.tokenizer
    except NoTokenizerError as error:
        raise ConfigError(
            f"The model's folders have no tokenizer. {error}".partition("\n")[0],
            hint="put the tokenizers' files beside config.json.",
        ) from error
    assert tokenizer is not None


def _refuse_untrainable(model: str | None) -> None:
    """Refuse a model in 8 bits, or around a module, by its config.json, before anything is loaded."""
    config = Path(model, "config.json") if model is not None else None
    if config is None or not config.is_file():
        return
    values = read_json(config)
    refuse_quantized(values.get("quantization_config"))
    if values.get("model_type") == FOREIGN:
        raise ConfigError(
            f"{model}: the encoder is a module of a user's, which no file holds; conjoin train reads texts.",
            hint="train it in Python: EncoderDecoderModel.from_pretrained(folder, encoder=module), then "
            "Seq2SeqTrainer(model=model, train_dataset=rows); docs/vision.md has an example.",
        )


def _framework(name: Literal["torch", "jax"]) -> tuple[Callable[[Recipe], Any], type[Trainer[Any]]]:
    """Return a framework's function that builds the model, and its trainer; no other framework is imported."""
    match name:
        case "torch":
            from conjoin.training.torch.launch import build_model
            from conjoin.training.torch.trainer import Seq2SeqTrainer
        case "jax":
            from conjoin.training.jax.launch import build_model
            from conjoin.training.jax.trainer import Seq2SeqTrainer
    return build_model, Seq2SeqTrainer


def find_data(recipe: Recipe) -> tuple[Named | RawText, Named | RawText | None]:
    """Return the training and validation data of a recipe; their first rows are read, all others by the trainer.

    Raises:
        DataError: data that cannot be used.
    """
    sources = recipe.sources
    if sources.text:
        validation = _raw_text(sources, sources.validation_text) if sources.validation_text else None
        return _raw_text(sources, sources.text), validation
    train, validation = (
        _pairs(recipe, path, split)
        for path, split in ((sources.train, sources.train_split), (sources.validation, sources.validation_split))
    )
    generated = _read_generated(recipe)
    if generated is not None and train is not None:
        generated = joined_pairs(read_pairs(train.data, columns_of(recipe.arguments), train.name), generated)
    data = train if generated is None else Named(generated, generated.name)
    assert data is not None
    return data, validation


def _raw_text(sources: Sources, files: list[str]) -> RawText:
    """Return raw text of which the beginning can be read."""
    paths = [Path(file) for file in files]
    for path in paths:
        next(iter(RawText([path], column=sources.text_column).documents), None)
    return RawText(
        paths,
        sources.objective,
        sources.text_column,
        mode_tokens=sources.mode_tokens,
        mlm_probability=sources.mlm_probability,
        mean_noise_span_length=sources.mean_noise_span_length,
    )


def _pairs(recipe: Recipe, path: str | None, split: str | None) -> Named | None:
    """Return pairs of which the first rows can be read; None without a file or a split."""
    sources = recipe.sources
    if sources.dataset is not None and split:
        data = Named(load_hub(sources.dataset, sources.dataset_config, split), f"{sources.dataset} ({split})")
    elif sources.dataset is None and path:
        data = Named(path, path)
    else:
        return None
    PairReader(data.data, columns_of(recipe.arguments), data.name).check_start()
    return data


def _read_generated(recipe: Recipe) -> Pairs | None:
    """Read texts that a model generated, if there are some."""
    sources, columns = recipe.sources, columns_of(recipe.arguments)
    if sources.calibrate is not None:
        return candidate_pairs(sources.calibrate, columns)
    if sources.pseudo_labels is None:
        return None
    return pseudo_pairs(sources.pseudo_labels, columns, sources.pseudo_weight)
