"""The config of a joined pair, and `AutoConfig`, which picks the class of a config by its model_type."""

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from conjoin.checkpoint import SAFETENSORS, read_json, resolve
from conjoin.errors import ConfigError, FileError, listing, near, shown
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, config_from_dict, family, known_keys

Share = Literal["none", "embeddings", "all"]
CrossAttentionInit = Literal["normal", "self_attention", "zero_gate", "merged", "layerwise"]
EncoderAttention = Literal["bidirectional", "causal"]

PAIR_TYPES = ("encoder-decoder", "conjoin")
"""model_type of a joined pair: Hugging Face's if transformers can load it, else ours, so that transformers refuses."""
FOREIGN = "conjoin-foreign"
"""model_type of a pair whose encoder is a module of the caller's."""


class EncoderDecoderConfig(PretrainedConfig):
    """A pair of configs (transformers' class of the same name).

    Args:
        encoder, decoder: Configs, or the dicts that config.json holds. Both default to BERT.
        conjoin: Settings that Hugging Face's format has no key for: `share`, `cross_attention_init`,
            `encoder_attention`, `source_layers` and `fresh`, the parts (or parameters) that came from no checkpoint and
            are not trained yet. Training empties `fresh`; set it to [] to declare them trained.
        cross_attention_init: How the decoder reads the encoder. "normal", "self_attention" and "zero_gate" are three
            starts of cross-attention. "merged" and "layerwise" add no parameters: self-attention reads the source in
            the same softmax as the target, either the encoder's output or, layer by layer, what the encoder's own
            layer of that number reads.
        encoder_attention: "causal" lets the encoder read like a decoder, "bidirectional" both ways. The default is
            "bidirectional", but for causal language models that are read layer by layer.
        source_layers: With "layerwise", the layer of the encoder whose input each decoder layer reads; by default, and
            only if both have as many layers, the one of its own number.
        tie_encoder_decoder: transformers 4's name for `share="all"`; read, never written.

    Raises:
        ConfigError: a half is missing or of an unknown family, `conjoin` has an unknown key, or a keyword argument
            looks like a misspelt field or setting of `generate`.
    """

    model_type = "encoder-decoder"
    encoder: PretrainedConfig
    decoder: PretrainedConfig
    is_encoder_decoder: bool = True
    share: Share = "none"
    cross_attention_init: CrossAttentionInit = "normal"
    encoder_attention: EncoderAttention = "bidirectional"
    source_layers: list[int] | None = None
    fresh: list[str] = []  # noqa: RUF012  # each config gets its own

    def __init__(self, /, **values: Any) -> None:
        if not values.pop("_from_file", False):
            _reject_misspelt(type(self), values)
        if ("encoder" in values) != ("decoder" in values):
            raise ConfigError("EncoderDecoderConfig: give both encoder and decoder, or neither (two BERTs).")
        encoder = _half(values.pop("encoder", {"model_type": "bert"}))
        decoder = _half(values.pop("decoder", {"model_type": "bert"}))
        extra = _extra(values.pop("conjoin", None) or {})
        if values.pop("tie_encoder_decoder", False):
            extra.setdefault("share", "all")
        if is_gated(decoder):
            values["cross_attention_init"] = "zero_gate"
        fresh: Any = values.get("fresh") or extra.pop("fresh", None) or []
        if not _are_names(fresh):
            raise ConfigError(f"EncoderDecoderConfig: fresh = {shown(fresh)}; expected a list of names.")
        values["fresh"] = list(fresh)
        joined = {**extra, **values}
        if joined.get("cross_attention_init") == "layerwise" and joined.get("encoder_attention") is None:
            was_causal = family(encoder.model_type).encoder == "bidirectional"
            values["encoder_attention"] = "causal" if was_causal else "bidirectional"
        elif joined.get("encoder_attention") is None:
            values["encoder_attention"] = "bidirectional"
        super().__init__(
            encoder=encoder.copy(is_decoder=False, add_cross_attention=False),
            decoder=family(decoder.model_type).with_own_words(decoder).copy(is_decoder=True, add_cross_attention=True),
            **{**extra, **values},
        )

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: PretrainedConfig, decoder_config: PretrainedConfig, **values: Any
    ) -> Self:
        """Build the config of a pair from copies of two configs; the decoder's copy gets cross-attention."""
        return cls(encoder=encoder_config, decoder=decoder_config, **values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from what config.json holds, under Hugging Face's model_type or ours."""
        _reject_misspelt(cls, overrides)
        plain = {**values, **overrides}
        if plain.get("model_type") in PAIR_TYPES:
            plain.pop("model_type")
        return super().from_dict({**plain, "_from_file": True})

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds; conjoin's own settings are under the key `conjoin`."""
        plain = super().to_dict()
        own = {key: plain.pop(key) for key in _OWN}
        changed = {key: value for key, value in own.items() if value != getattr(EncoderDecoderConfig, key)}
        if self.cross_attention_init == "layerwise":
            changed["encoder_attention"] = self.encoder_attention
        if changed:
            plain["conjoin"] = changed
        plain["model_type"] = self.model_type if self.transformers_can_hold else "conjoin"
        return plain

    @property
    def transformers_can_hold(self) -> bool:
        """True if transformers' EncoderDecoderModel computes the same from the same file."""
        encoder, decoder = family(self.encoder.model_type), family(self.decoder.model_type)
        plain = self.share == "none" and self.cross_attention_init in ("normal", "self_attention")
        plain = plain and self.encoder_attention == "bidirectional"
        return plain and encoder.encoder == "native" and decoder.held_by_transformers


def is_gated(decoder: PretrainedConfig) -> bool:
    """True if the decoder was saved from a pair whose cross-attention has gates.

    Raises:
        ConfigError: what its file says of that is no object.
    """
    ours: Any = getattr(decoder, "conjoin", None) or {}
    if not isinstance(ours, Mapping):
        raise ConfigError(f"{decoder.model_type}: under 'conjoin' stands {shown(ours)}; expected an object.")
    return cast("Mapping[str, Any]", ours).get("cross_attention_init") == "zero_gate"


def _half(value: Any) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    if isinstance(value, Mapping):
        return config_from_dict(cast(Mapping[str, Any], value))
    raise ConfigError(f"A half of the pair is a {type(value).__name__}; expected a config or a dict.")


def _extra(values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(cast(Any, values), Mapping):
        raise ConfigError(f"config.json: the key 'conjoin' holds {values!r}.\nExpected an object: {_CHOICES}.")
    wrong = [f"{key} = {value!r}" for key, value in values.items() if not _is_setting(key, value)]
    if wrong:
        expected = f"{_CHOICES}, a list of names as 'fresh', and a list of layers as 'source_layers'"
        raise ConfigError(f"config.json: the key 'conjoin' holds {', '.join(wrong)}.\nExpected: {expected}.")
    return dict(values)


def _is_setting(key: str, value: Any) -> bool:
    """True if this may stand under the key 'conjoin'."""
    if key == "fresh":
        return _are_names(value)
    if key == "source_layers":
        layers: list[Any] = cast("list[Any]", value) if isinstance(value, list | tuple) else [None]
        return value is None or all(type(layer) is int for layer in layers)
    return isinstance(value, str) and value in _CHOICES.get(key, ())


_OWN = ("share", "cross_attention_init", "encoder_attention", "source_layers", "fresh")
_CHOICES: dict[str, tuple[str, ...]] = {
    "share": get_args(Share),
    "cross_attention_init": get_args(CrossAttentionInit),
    "encoder_attention": get_args(EncoderAttention),
}


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in cast("list[Any]", value))


def _reject_misspelt(cls: type[EncoderDecoderConfig], values: Iterable[str]) -> None:
    """Raise for keyword arguments that are almost a known key; other unknown ones are kept, as config.json's are."""
    known = {*known_keys(cls), "torch_dtype", "model_type"}
    suggestions = {name: near(name, known, cutoff=0.85) for name in values if name not in known}
    if problems := [f"{name}: did you mean {key}?" for name, key in suggestions.items() if key]:
        raise ConfigError(f"{cls.__name__} has no such fields:\n{listing(problems)}")


class AutoConfig:
    """Loads any config that conjoin knows: of a single model, of a whole seq2seq model or of a pair."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> PretrainedConfig:
        """Build the config object from what config.json holds; keyword arguments override its values."""
        if values.get("model_type") in PAIR_TYPES:
            return EncoderDecoderConfig.from_dict(values, **overrides)
        if values.get("model_type") == FOREIGN:
            encoder: Any = values.get("encoder")
            said: Any = cast("Mapping[str, Any]", encoder).get("class") if isinstance(encoder, Mapping) else encoder
            raise ConfigError(
                f"This model's encoder is a {shown(said)}, which conjoin does not build: only PyTorch's "
                "EncoderDecoderModel loads it, around a module that you give.",
                hint="EncoderDecoderModel.from_pretrained(folder, encoder=module)",
            )
        return config_from_dict(values, **overrides)

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike[str], **overrides: Any) -> PretrainedConfig:
        """Load config.json from a folder or hub id; other keyword arguments override its values.

        Raises:
            ConfigError: unknown model_type, bad JSON, or values of the wrong type.
            FileError: no such folder or hub id.
        """
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        folder = resolve(name_or_path, allow_patterns=["config.json"], **hub)
        _require_config(folder)
        values = read_json(folder / "config.json")
        return cls.from_dict(values, **overrides)


def _require_config(folder: Path) -> None:
    """Raise an error that says where weights without a config usually come from."""
    if not (folder / "config.json").exists() and (folder / SAFETENSORS.file).exists():
        raise FileError(
            f"{folder} has weights, but no config.json.",
            hint="transformers' Trainer leaves the config out; mix conjoin.training.SavesPretrained into your Trainer "
            "(docs/training.md, Other trainers), or save with model.save_pretrained.",
        )
