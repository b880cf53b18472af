"""What a joined model has beside its arrays: config, generation settings, tokenizers, a record of what is fresh."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from conjoin import spec as specs
from conjoin.checkpoint import Staging, write_json
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, ConjoinError, TokenizerError, shown, warn
from conjoin.families import PretrainedConfig, family
from conjoin.generation import GENERATION_WORDS, IDS, GenerationConfig
from conjoin.join import (
    FreshStart,
    JoinReport,
    OneFolder,
    TwoFolders,
    first_numbers,
    fresh_names,
    part_of,
    record,
    recorded,
    with_ends,
)
from conjoin.pretrained.settings import FILE, are_ids, warn_of_disagreement, without_generation_settings

if TYPE_CHECKING:
    from conjoin.tokenizer import Tokenizer, TokenizerPair

_PROBES = ("a", "The end. ", "7 %")
"""Sources that end differently."""
_OF_A_PAIR = ("tokenizer_pair.json", "target_tokenizer")
_BESIDE_TOKENIZER = (
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
    "additional_chat_templates",
)
"""Files of an older tokenizer that would change the one that is written."""


class JoinedModel:
    """The part of a joined model that no framework is needed for."""

    spec: specs.PairSpec
    join_report: JoinReport
    reads_ids: ClassVar[bool] = True
    """False where the encoder is a module of the caller's."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Attributes of transformers' class that this one lacks -> what to use here."""
    _own_config: PretrainedConfig
    _generation_config: GenerationConfig | None = None
    _tokenizer: "Tokenizer | TokenizerPair | None" = None
    _tokenizer_folders: OneFolder | TwoFolders = TwoFolders(None, None)
    _fresh_start: FreshStart | None = None
    _fresh_parts: tuple[str, ...] = ()

    def can_generate(self) -> bool:
        """Always True: every pair can generate."""
        return True

    @property
    def config(self) -> PretrainedConfig:
        """The model's config; its settings of `generate` are those of `generation_config`."""
        return self._own_config

    @config.setter
    def config(self, config: PretrainedConfig) -> None:
        self._own_config = config
        if self._generation_config is not None:
            for name, value in self._bind(self._generation_config).items():
                setattr(self._generation_config, name, value)

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of `generate`. Special ids that it does not hold itself are those of `config`."""
        if self._generation_config is None:
            raise AttributeError("generation_config")  # keras asks before it sets
        return self._generation_config

    @generation_config.setter
    def generation_config(self, given: Any) -> None:
        self._bind(GenerationConfig.of(given))

    def _bind(self, settings: GenerationConfig) -> dict[str, Any]:
        """Let the config read and write these settings; returns those that the config held."""
        old, new = self._generation_config, settings.belong_to(self.config)
        self._generation_config = new
        held: dict[str, Any] = {}
        for name, part in vars(self.config).items():
            if isinstance(part, PretrainedConfig):
                held |= part.bind_generation(GENERATION_WORDS, new, writes=name != "encoder", instead_of=old)
        return held | self.config.bind_generation(GENERATION_WORDS, new, instead_of=old)

    def load_generation_config(
        self, folder: Path | None, given: Any | None = None, keywords: Mapping[str, Any] | None = None
    ) -> None:
        """Load generation_config.json, or what older files keep in config.json; move the special ids into `config`.

        Args:
            given: In place of what the folder says.
            keywords: Settings by name that win over all of it.

        Raises:
            ConfigError: a special id is no id.
        """
        older = GenerationConfig.from_model_config(self.config)
        if given is not None:
            settings = GenerationConfig.of(given).copy()
        elif folder is not None and (folder / FILE).exists():
            settings = GenerationConfig.from_pretrained(folder)
            warn_of_disagreement(self.config, older, settings)
        else:
            settings = older
        self._move_ids(settings)
        self.generation_config = settings
        for name, value in (keywords or {}).items():
            setattr(self.generation_config, name, value)

    def _move_ids(self, settings: GenerationConfig) -> None:
        """Let `config` hold the special ids, but those that training and generation are told differently."""
        for name in IDS:
            said, known = vars(settings)[name], getattr(self.config, name)
            if not are_ids(said):
                raise ConfigError(f"{FILE}: {name} = {shown(said)}; expected an id of a token, or null.")
            if said is None or said == known:
                setattr(settings, name, None)
            elif known is None or name == "eos_token_id":
                setattr(self.config, name, said)
                setattr(settings, name, None)
            else:
                warn(
                    f"{name} is {known} in config.json and {said} in {FILE}: training uses the first, generate the "
                    f"second. If that is not meant, set model.generation_config.{name} = None."
                )

    def config_to_save(self, dtype: str, parameters: Mapping[str, Any]) -> PretrainedConfig:
        """A copy of the config as config.json shall be.

        Args:
            parameters: By canonical name; they tell which are fresh still.
        """
        config = without_generation_settings(self.config)
        config.dtype = dtype
        if isinstance(config, EncoderDecoderConfig):
            config.architectures = ["EncoderDecoderModel"]
            config.fresh = self.fresh_record(parameters)
        elif whole := family(config.model_type).whole:
            config.architectures = [whole.architecture]
            if whole.unsaved:
                logging.getLogger(__name__).warning(
                    "%s: saved without %s, which is not read: transformers fills it with random numbers, and reads the "
                    "file for text.",
                    config.model_type,
                    whole.unsaved,
                )
        return config

    def save_settings(self, staging: Staging, config: PretrainedConfig) -> None:
        """Write what stands beside the weights: tokenizers, generation settings and config.json."""
        self.save_tokenizers(staging)
        self.save_generation_config(staging)
        staging.path("config.json").write_text(config.to_json_string(), encoding="utf-8")

    def save_generation_config(self, staging: Staging) -> None:
        """Write generation_config.json, with the special ids, for transformers to find."""
        values = self.generation_config.to_dict()
        values.pop("_from_model_config", None)  # config.json does not hold them any more
        values |= {name: value for name in IDS if (value := getattr(self.generation_config, name)) is not None}
        write_json(staging.path(FILE), GenerationConfig.from_dict(values).to_diff_dict())

    @property
    def tokenizer(self) -> "Tokenizer | TokenizerPair":
        """The tokenizers of source and target, called as one; loaded when first asked for, saved with the model.

        Raises:
            NoTokenizerError: the model's folders have none, with the line to write.
        """
        return self._loaded_tokenizer()

    @tokenizer.setter
    def tokenizer(self, tokenizer: "Tokenizer | TokenizerPair") -> None:
        self._tokenizer = tokenizer

    def set_source_template(self, template: str | None, *, date: str | None = None) -> None:
        """Put a prompt around every source from here on, in training and in generation; saved with the model.

        Where targets continue their sources (`cross_attention_init="layerwise"`), they start with the template's last
        token: the model then reads template and target as one text.

        Args:
            template: Text with {source} in it, such as "{source}\\nSummary:", where \\n is a line break; or "chat" for
                the tokenizer's own chat template, or "chat: " and a text with {source} for the user's turn; None for no
                prompt.
            date: Day (ISO 8601) that a chat template writes as today's from here on; by default that of the same
                template before, else today.

        Raises:
            TokenizerError: the template has no {source}, or its last token depends on the source; or the tokenizer has
                no chat template.
        """
        from conjoin.tokenizer import TokenizerPair

        template = None if template is None else template.replace("\\n", "\n")  # as a shell writes a line break
        old = self.tokenizer
        source: Any = getattr(old, "source", old)
        target: Any = getattr(old, "target", old)
        own = {"target_eos": target.end_token_id is not None, "target_bos": True}  # labels as one tokenizer makes them
        rules = asdict(old.rules) if isinstance(old, TokenizerPair) else own
        if date is None and isinstance(old, TokenizerPair) and old.source_rules.source_template == template:
            date = old.source_rules.template_date
        dated: dict[str, Any] = {"source_template": template, "template_date": date}
        pair = TokenizerPair(source, target, **rules, **dated)
        if template is not None and self.spec.decoder.continues_source:
            start = self._last_of_template(pair, template)
            pair = TokenizerPair(source, target, **rules, **dated, target_start_id=start)
            self.config.decoder_start_token_id = start
        self.tokenizer = pair

    def _last_of_template(self, pair: "TokenizerPair", template: str) -> int:
        """The id in which every source ends."""
        vocabularies = [side.get_vocab() for side in (pair.source, pair.target)]
        if vocabularies[0] != vocabularies[1]:
            raise TokenizerError("source_template: targets that continue their sources need one vocabulary for both.")
        last = {row[-1] for row in pair(list(_PROBES))["input_ids"]}
        if len(last) > 1:
            raise TokenizerError(
                f"source_template = {template!r}: the last token depends on the source, but targets start with it.",
                hint='put text behind {source}, such as "{source}\nSummary:".',
            )
        return last.pop()

    def _loaded_tokenizer(self) -> "Tokenizer | TokenizerPair":
        if self._tokenizer is None:
            self._tokenizer = with_ends(self._tokenizer_folders.load(), self.config)
        return self._tokenizer

    def __getattr__(self, name: str) -> Any:
        """Python asks here where `tokenizer` raises an AttributeError, since there is none: raise it again."""
        if name == "tokenizer":
            return self._loaded_tokenizer()
        above = getattr(super(), "__getattr__", None)
        if above is None:
            hint = self.elsewhere.get(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}" + (f"\n\nhint: {hint}" if hint else "")
            raise AttributeError(text, name=name, obj=self)
        return above(name)

    def save_tokenizers(self, staging: Staging) -> None:
        """Write the tokenizers, where there are any; those that cannot be loaded are left out with a warning."""
        if self._tokenizer is None and not self._tokenizer_folders.complete:
            return
        try:
            tokenizer = self.tokenizer
        except ConjoinError as error:
            warn(f"The model is saved without its tokenizers: {error}")
            return
        for name in (*_OF_A_PAIR, *_BESIDE_TOKENIZER):
            staging.remove(name)
        tokenizer.save_pretrained(Path(staging))

    def note_fresh(self, parameters: Mapping[str, Any]) -> None:
        """Remember the first values of the fresh parameters, once all are filled, and name these in the config.

        Args:
            parameters: By canonical name.
        """
        names = fresh_names(self.join_report)
        if not names or not isinstance(self.config, EncoderDecoderConfig):
            return
        self._fresh_parts = tuple(sorted({*recorded(self.join_report).values()}))
        self._fresh_start = FreshStart(names, _reader(parameters))
        self.config.fresh = record(self.join_report, names)

    def fresh_record(self, parameters: Mapping[str, Any]) -> list[str]:
        """The fresh parameters that are unchanged still, as config.json names them."""
        if self._fresh_start is None or not isinstance(self.config, EncoderDecoderConfig) or not self.config.fresh:
            return []
        return record(self.join_report, self._fresh_start.untouched(_reader(parameters)))

    def warn_of_fresh(self, parameters: Callable[[], Mapping[str, Any]]) -> None:
        """Warn once, before it generates, that a model that was saved after a join has not been trained since."""
        parts, self._fresh_parts = self._fresh_parts, ()
        if not parts:
            return
        fresh = self.fresh_record(parameters())
        if still := sorted(part for part in parts if any(name == part or part_of(name) == part for name in fresh)):
            warn(
                f"{', '.join(still)}: fresh since the join, and never trained; what this model writes means nothing "
                "yet. Train it; or, if you gave it trained weights, set model.config.fresh = []."
            )


def _reader(parameters: Mapping[str, Any]) -> Callable[[str], tuple[np.ndarray, str]]:
    def read(name: str) -> tuple[np.ndarray, str]:
        value = parameters.get(name)
        if value is None:  # another library took its place
            return np.empty(0, np.float32), ""
        few = first_numbers(value.detach() if hasattr(value, "detach") else np.asarray(value))
        dtype = str(few.dtype).removeprefix("torch.")
        numbers = few.float().cpu().numpy() if hasattr(few, "cpu") else few
        return np.array(numbers, np.float32), dtype  # a copy: training writes over the original

    return read
