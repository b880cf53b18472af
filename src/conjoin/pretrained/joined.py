"""How a model of plain arrays comes about: from two checkpoints, from one, or from a config. JAX, TensorFlow."""

from collections.abc import Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

from conjoin import spec
from conjoin.checkpoint import FROM_KEYWORDS, open_checkpoint, resolve, take_framework
from conjoin.configuration import CrossAttentionInit, EncoderDecoderConfig, Share
from conjoin.errors import warn
from conjoin.families import HUB_KEYWORDS, PretrainedConfig
from conjoin.join import (
    JoinReport,
    OneFolder,
    TwoFolders,
    complete_tokens,
    fill_special_tokens,
    never_fresh,
    pair_offer,
    pair_spec,
    plan_join,
    plan_random,
    target_tokenizer,
    untied_head,
    with_record,
)
from conjoin.pretrained.dtypes import stored_dtype
from conjoin.pretrained.fresh import RemembersFresh
from conjoin.pretrained.halves import find_source, plan_sources
from conjoin.pretrained.keywords import (
    Placing,
    find_config,
    refuse_misspelt,
    refuse_torch_words,
    route,
    take_generation_words,
)
from conjoin.pretrained.plans import loosen_sharing, untie_head
from conjoin.pretrained.settings import WithGenerationConfig
from conjoin.pretrained.summary import summary
from conjoin.pretrained.tokenizing import WithTokenizer


def random_plan(config: PretrainedConfig) -> tuple[spec.PairSpec, JoinReport]:
    """What a config describes, with every parameter drawn."""
    fill_special_tokens(config, None)
    pair = pair_spec(config)
    init = config.cross_attention_init if isinstance(config, EncoderDecoderConfig) else "normal"
    return pair, plan_random(pair, init)


class FromCheckpoints(WithTokenizer, WithGenerationConfig, RemembersFresh):
    """A joined model's constructors; a framework's class says how it becomes what a plan describes."""

    placing: ClassVar[Placing]
    """Who decides where arrays lie."""
    _halves_of: ClassVar[type[Any]]
    """Whose instances may give a half: the framework's own class, for its subclasses too."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Note the framework's class."""
        super().__init_subclass__(**keywords)
        if FromCheckpoints in cls.__bases__:
            cls._halves_of = cls

    def __repr__(self) -> str:
        if not hasattr(self, "join_report"):  # keras asks before the model is whole
            return object.__repr__(self)
        some = next(iter(self.all_params().values()))
        return summary(self, self.num_parameters(), some.dtype.name)

    def num_parameters(self) -> int:
        """Numbers in the model, shared ones once."""
        raise NotImplementedError

    def _take(
        self,
        config: PretrainedConfig,
        pair: spec.PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Become the model of a plan.

        Args:
            stored: The dtype of the parameters.
            dtype: What the user asked to compute in.
            given: Parameters in memory, where the plan says so.
            folder: Where the model's own settings lie.
        """
        raise NotImplementedError

    def all_params(self) -> Mapping[str, Any]:
        """Parameters by canonical name, shared ones under every name."""
        raise NotImplementedError

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        share: Share = "none",
        cross_attention_init: CrossAttentionInit = "normal",
        dtype: Any = None,
        seed: int = 0,
        **keywords: Any,
    ) -> Self:
        """Join two checkpoints; what they lack (cross-attention, mostly) is fresh and must be trained.

        Args:
            share: "embeddings" ties the word tables, "all" every parameter that both halves have.
            cross_attention_init: How fresh cross-attention starts: "normal", "self_attention" or "zero_gate".
            dtype: As the class takes it. Parameters are float32, since a join is there to be trained.
            seed: Of the fresh parameters.
            keywords: `encoder_*` and `decoder_*` go to that half: config values, hub keywords, `encoder_config=`, and
                `encoder_model=` (another model of this class, whose half is taken). `encoder_from_pt=True` (or
                from_tf, from_flax) reads the weights that this framework wrote, where a folder has several. Without
                prefix: values of the pair's own config, and such keywords for both.

        Raises:
            JoinError, ConfigError, WeightError, FileError: before anything is half done.
        """
        dtype = dtype or keywords.pop("torch_dtype", None)
        refuse_torch_words(keywords, cls.placing)
        both = {*HUB_KEYWORDS, *FROM_KEYWORDS} - {"subfolder"}
        hub = {key: keywords.pop(key) for key in both if key in keywords}
        encoder_words, decoder_words, values = route(keywords)
        refuse_misspelt(values)
        sources = (
            find_source(cls._halves_of, "encoder", encoder_pretrained_model_name_or_path, hub | encoder_words),
            find_source(cls._halves_of, "decoder", decoder_pretrained_model_name_or_path, hub | decoder_words),
        )
        values |= {"share": share, "cross_attention_init": cross_attention_init}
        model = cls.__new__(cls)
        with ExitStack() as files:
            config, pair, plan = plan_sources(sources, values, files)
            fill_special_tokens(config, target_tokenizer(sources[1].folder))
            given = sources[0].arrays() | sources[1].arrays()
            model._take(config, pair, plan, stored="float32", dtype=dtype, seed=seed, given=given)
        model.note_fresh(model.all_params())
        model._tokenizer_folders = TwoFolders(sources[0].folder, sources[1].folder)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | None = None,
        dtype: Any = None,
        generation_config: Any | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a joined pair, or a whole seq2seq checkpoint (BART, T5), whichever framework wrote it.

        Args:
            dtype: As the class takes it.
            generation_config: In place of the folder's.
            overrides: Config values; revision, cache_dir, local_files_only, token, subfolder for the hub; and from_pt,
                from_tf or from_flax=True to read the weights that this framework wrote, where a folder has several.

        Raises:
            WeightError: missing, misshapen, truncated or non-finite tensors, all of them in one error.
            ConfigError, FileError: unreadable or unknown config, no such folder or hub id.
        """
        dtype = dtype or overrides.pop("torch_dtype", None)
        if overrides.pop("seed", None) is not None:
            warn("seed: no effect, a file holds every parameter.")
        refuse_torch_words(overrides, cls.placing)
        framework = take_framework(overrides)
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        folder = resolve(name_or_path, **hub)
        words = take_generation_words(overrides)
        found = find_config(folder, config, overrides)
        pair = pair_spec(found)
        model = cls.__new__(cls)
        with open_checkpoint(folder, framework=framework) as checkpoint:
            offer = pair_offer(found, pair, checkpoint)
            if untied_head(pair, [offer]):
                pair = untie_head(found, pair)
            pair = loosen_sharing(found, pair, offer)
            plan = with_record(plan_join(pair, [offer], init="normal", fresh_allowed=never_fresh), found)
            model._take(found, pair, plan, stored=stored_dtype(list(checkpoint.values())), dtype=dtype, folder=folder)
        model.note_fresh(model.all_params())
        if generation_config is not None or words:
            model.take_generation_config(None, generation_config or model.generation_config, words)
        model._tokenizer_folders = OneFolder(folder)
        complete_tokens(found, folder)
        return model
