"""How a model of plain arrays is built: from two checkpoints, from one, or from a config. JAX, TensorFlow."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Self

from conjoin import spec
from conjoin.checkpoint import refuse_adapter
from conjoin.configuration import CrossAttentionInit, EncoderAttention, EncoderDecoderConfig, Share
from conjoin.errors import JoinError, warn
from conjoin.families import Layers, PretrainedConfig, Role
from conjoin.join import JoinReport, OneFolder, complete_tokens
from conjoin.pretrained.dtypes import stored_dtype
from conjoin.pretrained.keywords import Placing, reject_unsupported_kwargs
from conjoin.pretrained.model import JoinedModel
from conjoin.pretrained.sources import find_saved, find_sources, open_join, open_saved, tokenizer_folders
from conjoin.pretrained.summary import summary


class ArrayModel(JoinedModel):
    """A joined model's constructors; a framework's class implements `_build`."""

    placing: ClassVar[Placing]
    """Who decides where arrays lie."""
    _halves_of: ClassVar[type[Any]]
    """Whose instances may give a half: the framework's own class, for its subclasses too."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Note the framework's class."""
        super().__init_subclass__(**kwargs)
        if ArrayModel in cls.__bases__:
            cls._halves_of = cls

    def __repr__(self) -> str:
        if not hasattr(self, "join_report"):  # keras asks before the model is whole
            return object.__repr__(self)
        some = next(iter(self.all_params().values()))
        return summary(self, self.num_parameters(), some.dtype.name)

    def num_parameters(self) -> int:
        """Numbers in the model, shared ones once."""
        raise NotImplementedError

    def _build(
        self,
        config: PretrainedConfig,
        pair: spec.PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """Become the model of a plan, but for the generation settings.

        Args:
            stored: The dtype of the parameters.
            dtype: What the user asked to compute in.
            given: Parameters in memory, where the plan says so.
        """
        raise NotImplementedError

    def all_params(self) -> Mapping[str, Any]:
        """Parameters by canonical name, shared ones under every name."""
        raise NotImplementedError

    @classmethod
    def _read_half(cls, role: Role, model: Any) -> tuple[PretrainedConfig, Mapping[str, Any]]:
        kind = cls._halves_of
        if not isinstance(model, kind):
            raise JoinError(
                f"{role}_model is a {type(model).__name__}; expected a {kind.__name__}, whose {role} is taken.",
                hint="give the folder or hub id of the checkpoint instead.",
            )
        pair = model.config
        config = getattr(pair, role) if isinstance(pair, EncoderDecoderConfig) else pair  # a whole model's is for both
        return config, {name: x for name, x in model.all_params().items() if name.startswith(f"{role}.")}

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        share: Share = "none",
        cross_attention_init: CrossAttentionInit = "normal",
        encoder_layers: Layers | None = None,
        decoder_layers: Layers | None = None,
        encoder_attention: EncoderAttention | None = None,
        source_layers: Sequence[int] | None = None,
        source_template: str | None = None,
        dtype: Any = None,
        seed: int = 0,
        **keywords: Any,
    ) -> Self:
        """Join two checkpoints; what they lack (cross-attention, mostly) is fresh and must be trained.

        Args:
            share: "embeddings" ties the word tables, "all" every parameter that both halves have.
            cross_attention_init: How fresh cross-attention starts: "normal", "self_attention" or "zero_gate"; or, with
                nothing fresh, "merged" or "layerwise": self-attention reads source and target in one softmax.
            encoder_layers, decoder_layers: Layers of that checkpoint to join: a number, spread evenly with the first
                and the last (Shleifer & Rush 2020, arXiv:2010.13002), or a list of indices from 0; all by default.
            encoder_attention, source_layers, source_template: As in the PyTorch class.
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
        reject_unsupported_kwargs(keywords, cls.placing)
        names = encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path
        layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        sources = find_sources(*names, keywords, cls._read_half, **layers)
        model = cls.__new__(cls)
        values = keywords | {"share": share, "cross_attention_init": cross_attention_init}
        values |= {"encoder_attention": encoder_attention, "source_layers": source_layers}
        with open_join(sources, values) as (config, pair, plan):
            given = {**sources[0].parameters, **sources[1].parameters}
            model._build(config, pair, plan, stored="float32", dtype=dtype, seed=seed, given=given)
        model.load_generation_config(None)
        model.note_fresh(model.all_params())
        model._tokenizer_folders = tokenizer_folders(sources)
        if source_template is not None:
            model.set_source_template(source_template)
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
        reject_unsupported_kwargs(overrides, cls.placing)
        saved = find_saved(name_or_path, config, overrides)
        refuse_adapter(saved.folder)
        model = cls.__new__(cls)
        with open_saved(saved) as (pair, plan, checkpoint):
            model._build(saved.config, pair, plan, stored=stored_dtype(list(checkpoint.values())), dtype=dtype)
        model.load_generation_config(saved.folder, generation_config, saved.settings)
        model.note_fresh(model.all_params())
        model._tokenizer_folders = OneFolder(saved.folder)
        complete_tokens(saved.config, saved.folder)
        return model
