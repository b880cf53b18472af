"""The joined model, as far as generation knows it."""

from typing import Any, Protocol

import torch
from torch import Tensor

from conjoin import spec
from conjoin.families import PretrainedConfig
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.embedding import Embedding
from conjoin.torch.model.stack_inputs import StackInputs


class Encoder(Protocol):
    """A module that encodes sources."""

    config: PretrainedConfig
    spec: spec.StackSpec
    forward: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class Decoder(Protocol):
    """A module that reads targets position by position, and scores the token after each."""

    spec: spec.StackSpec
    embed: Embedding

    def run(self, inputs: StackInputs) -> Tensor: ...
    def score(self, hidden: Tensor) -> Tensor: ...
    def places(self, input_ids: Tensor, cache: KVCache, source: int = 0) -> Tensor | None: ...


class Seq2SeqModel(Protocol):
    """An encoder, a decoder, the projection between them, and settings."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def decoder(self) -> Decoder: ...
    @property
    def config(self) -> PretrainedConfig: ...
    @property
    def generation_config(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    def project(self, encoder_hidden_states: Tensor | None) -> Tensor | None: ...
