"""The oracle: transformers' own tiny models, against which every room of conjoin is held.

Only this file and its siblings `oracle_*.py` import transformers; nothing under src does. Attention is eager
everywhere, so that weights can be asked for and no fused kernel decides what a mask means.

What surprised us in transformers 5.23, and what is done about it here:

| where | what | here |
|---|---|---|
| distilbert, albert, modernbert ... | no causal LM, so never a decoder | WITHOUT_CAUSAL_LM |
| t5, mt5 | no causal LM; AutoModel of their folder is the whole model | in WHOLE_KEYS only |
| bart, mbart as causal LM | cache sized by encoder_layers: with fewer of them, IndexError | `use_cache=False` |
| llama, qwen, opt, gpt_neox ... | take no encoder_hidden_states: no pair can be built | `can_hold` is False |
| bert and its kin as causal LM | see the future, silently, unless is_decoder is set | `is_decoder=True` |
| EncoderDecoderModel.generate | start and pad come from generation_config alone | `save_pair` sets them |
| EncoderDecoderModel(labels=...) | a FutureWarning at every call | silenced |
| gemma3_text, attn_logit_softcapping | read and never used | see test_oracle.py |
| gemma3_text, rope_scaling | the older word `type` is dropped: plain rotation, silently | `rope_type` is written |
| opt | positions count the real tokens of the mask: not possible in 4-D | position_ids are passed |
| windows | causal w keys; ModernBERT abs(q - k) <= local_attention // 2 | see oracle_masks.py |
| marian | files with a head lack the table of positions, which is computed | left as it is |
| falcon with alibi, eager | adds the bias to scores and to the mask: twice | `sdpa` |
| falcon and bloom with a 4-D mask | count positions of a 2-D one | the bias is replaced, see oracle_masks.py |
| big_bird, megatron-bert as decoders | read no source, or only one as long as the target | not in `can_hold` |
| gpt_bigcode as decoder | reads no source: its cross-attention raises | not in `can_hold` |
| big_bird as causal LM | has a pooler that nothing reads | missing when we saved it |
| ministral without head_dim | no model can be made | `head_dim` is said |
| padding_idx | no gradient at the pad row of embeddings that have one | left as it is |
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    PreTrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from oracle_configs import can_hold
from oracle_legacy import legacy_config
from oracle_masks import bidirectional_mask, bidirectional_states
from oracle_tiny import (
    CAUSAL_FAMILIES,
    CAUSAL_KEYS,
    DECODER_KEYS,
    ENCODER_KEYS,
    FIRST_ORDINARY_ID,
    MADE_CAUSAL_FAMILIES,
    START_ID,
    TINY,
    WHOLE_FAMILIES,
    WHOLE_KEYS,
    WITHOUT_CAUSAL_LM,
    WITHOUT_MASKED_LM,
    can_decode,
    model_type,
    target_words,
)

__all__ = [
    "CAUSAL_KEYS",
    "DECODER_KEYS",
    "ENCODER_KEYS",
    "FIRST_ORDINARY_ID",
    "START_ID",
    "TINY",
    "WHOLE_FAMILIES",
    "WHOLE_KEYS",
    "WITHOUT_CAUSAL_LM",
    "Batch",
    "KeyMismatch",
    "PairOutputs",
    "as_read",
    "batch",
    "batch_for",
    "beams",
    "bidirectional_mask",
    "bidirectional_states",
    "build_config",
    "can_decode",
    "can_hold",
    "decoder_logits",
    "encoder_states",
    "greedy",
    "greedy_of_prompt",
    "legacy_config",
    "model_type",
    "pair_outputs",
    "randomise",
    "reload_decoder",
    "reload_encoder",
    "reload_pair",
    "reload_tokenizer",
    "reload_whole",
    "save_config_of",
    "save_decoder",
    "save_encoder",
    "save_pair",
    "save_whole",
    "target_words",
]

Head = Literal["none", "mlm"]
Batch = dict[str, Tensor]
POSITIONS = ("wpe", "embed_positions", "position_embeddings", "relative_attention_bias")
VISION = tuple(f"{at}encoder.{part}." for at in ("model.", "") for part in ("vision_tower", "multi_modal_projector"))
"""T5Gemma 2's tensors that text does not need; conjoin's files lack them."""
IGNORED = -100  # torch.nn.functional.cross_entropy's ignore_index, transformers' label padding

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def build_config(key: str, **changes: Any) -> PreTrainedConfig:
    """Build transformers' config of a TINY key, with eager attention."""
    config = AutoConfig.for_model(model_type(key), **{**TINY[key], **changes})
    config._attn_implementation = _attention_of(config)
    return config


def _attention_of(config: PreTrainedConfig) -> str:
    return "sdpa" if getattr(config, "alibi", False) else "eager"


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter, norms and biases too, so that none stays at a value that hides a mistake.

    Scales of norms lie around 1, or around 0 where the norm itself adds 1 (Gemma). The spreads were chosen so that
    generated ids depend on the source and the position, not on the last bias alone, and float32 stays within 1e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    for path, module in model.named_modules():
        if type(module).__name__ == "MarianSinusoidalPositionalEmbedding":
            continue
        for name, tensor in [*module.named_parameters(recurse=False), *_learned_buffers(module)]:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise * _spread(path, name, module, tensor) + _centre(name, module))


def _learned_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if name == "final_logits_bias"]


def _centre(name: str, module: nn.Module) -> float:
    kind = type(module).__name__
    return 1.0 if name == "weight" and "Norm" in kind and "Gemma" not in kind else 0.0


def _spread(path: str, name: str, module: nn.Module, tensor: Tensor) -> float:
    if "bias" in name:
        return 0.1
    if isinstance(module, nn.Embedding):
        return 0.8 if path.endswith(POSITIONS) else 0.6
    if path.endswith("Attention.q"):
        return 0.1  # T5 does not scale its scores
    return 0.3 if _centre(name, module) or tensor.ndim == 1 else 0.2


def _finish(model: Any, folder: Path, seed: int) -> Any:
    randomise(model, seed)
    model.eval()
    with _quiet():
        model.save_pretrained(folder)
    return model


def save_encoder(key: str, folder: Path, seed: int = 0, head: Head = "none") -> Any:
    """Save a random encoder; with `head="mlm"` as the published checkpoints are, under a language-model head.

    A seq2seq family is saved whole and `encoder_states` reads its encoder half; a causal family is saved as it is
    and read with `oracle_masks.bidirectional_states`.
    """
    config = build_config(key)
    match head, model_type(key):
        case "none", _:
            model = AutoModel.from_config(config)
        case "mlm", family if family in WHOLE_FAMILIES:
            model = AutoModelForSeq2SeqLM.from_config(config)
        case "mlm", family if family in (*CAUSAL_FAMILIES, *WITHOUT_MASKED_LM):
            model = AutoModelForCausalLM.from_config(config)
        case _:
            model = AutoModelForMaskedLM.from_config(config)
    return _finish(model, folder, seed)


def save_decoder(key: str, folder: Path, seed: int = 0) -> Any:
    """Save a random causal LM without cross-attention; autoencoding families are made causal."""
    changes = {"is_decoder": True} if model_type(key) in MADE_CAUSAL_FAMILIES else {}
    return _finish(AutoModelForCausalLM.from_config(build_config(key, **changes)), folder, seed)


def save_whole(key: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """Save a random BART, mBART, T5 or mT5 with its language-model head.

    Args:
        changes: fields of the config, over the key's.
    """
    return _finish(AutoModelForSeq2SeqLM.from_config(build_config(key, **changes)), folder, seed)


def save_pair(enc_key: str, dec_key: str, folder: Path, seed: int = 0, **parent: Any) -> Any:
    """Save a random EncoderDecoderModel with the start and special ids that the decoder's config tells.

    Args:
        parent: fields of the parent config, over those set here.
    """
    model = EncoderDecoderModel(config=_pair_config(enc_key, dec_key, **parent))
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, name, getattr(model.config, name))
    return _finish(model, folder, seed)


def _pair_config(enc_key: str, dec_key: str, **parent: Any) -> EncoderDecoderConfig:
    encoder = build_config(enc_key)
    decoder = build_config(dec_key, is_decoder=True, add_cross_attention=True)
    specials = {name: TINY[dec_key][name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    fields = {"decoder_start_token_id": START_ID, **specials, **parent}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **fields)
    for part in (config, config.encoder, config.decoder):
        part._attn_implementation = "eager"
    return config


def save_config_of(family: str, fields: dict[str, Any], folder: Path, seed: int = 0) -> Any:
    """Save a random causal LM of a config of its own."""
    config = AutoConfig.for_model(family, **fields)
    config._attn_implementation = _attention_of(config)
    return _finish(AutoModelForCausalLM.from_config(config), folder, seed)


def reload_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def greedy_of_prompt(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest tokens behind a prompt, without an end."""
    whole = list(ids)
    for _ in range(count):
        logits = decoder_logits(model, torch.tensor([whole]))[0, -1].clone()
        logits[model.config.eos_token_id] = float("-inf")
        whole.append(int(logits.argmax()))
    return whole[len(ids) :]


def encoder_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, *, every_layer: bool = False, **kw: Any
) -> Any:
    """Run the encoder, or the encoder half, or the encoder under a head; return what a decoder would read.

    Args:
        every_layer: return the tuple of all layers' states, embeddings first, instead of the last one.
    """
    encoder = _encoder_of(model)
    with torch.no_grad():
        outputs = encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=every_layer, **kw)
    return outputs.hidden_states if every_layer else outputs.last_hidden_state


def as_read(states: Tensor) -> Any:
    """Encoder outputs in the form that every whole model takes as `encoder_outputs`."""
    return BaseModelOutput(last_hidden_state=states)


def _encoder_of(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def decoder_logits(model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, **kw: Any) -> Tensor:
    """Run a causal LM on its own, without cache; cross-attention, where it has some, reads nothing."""
    with torch.no_grad():
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **kw).logits


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOutputs:
    """What one forward and backward of a pair gave. Tuples of states have the embeddings first."""

    logits: Tensor
    loss: Tensor
    grads: dict[str, Tensor]
    encoder_last_hidden_state: Tensor
    encoder_hidden_states: tuple[Tensor, ...]
    decoder_hidden_states: tuple[Tensor, ...]
    encoder_attentions: tuple[Tensor, ...]
    decoder_attentions: tuple[Tensor, ...]
    cross_attentions: tuple[Tensor, ...]


def pair_outputs(model: Any, batch: Batch, labels: Tensor | None = None) -> PairOutputs:
    """Run a pair or a whole seq2seq model forward and backward.

    Args:
        labels: what to predict instead of `batch["labels"]`.
    """
    inputs = {**batch, "labels": batch["labels"] if labels is None else labels}
    model.zero_grad()
    with _quiet():
        outputs = model(**inputs, use_cache=False, output_hidden_states=True, output_attentions=True)
    outputs.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return PairOutputs(
        logits=outputs.logits.detach(),
        loss=outputs.loss.detach(),
        grads=grads,
        encoder_last_hidden_state=outputs.encoder_last_hidden_state.detach(),
        encoder_hidden_states=_detached(outputs.encoder_hidden_states),
        decoder_hidden_states=_detached(outputs.decoder_hidden_states),
        encoder_attentions=_detached(outputs.encoder_attentions),
        decoder_attentions=_detached(outputs.decoder_attentions),
        cross_attentions=_detached(outputs.cross_attentions),
    )


def _detached(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach() for tensor in tensors)


def greedy(model: Any, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int = 12, **kw: Any) -> Any:
    """Generate by taking the likeliest token each time."""
    return beams(model, input_ids, attention_mask, max_new_tokens, num_beams=1, **kw)


def beams(
    model: Any, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int = 12, num_beams: int = 4, **kw: Any
) -> Any:
    """Generate by beam search; further settings of transformers' `generate` go through."""
    with torch.no_grad(), _quiet():
        return model.generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
            **kw,
        )


class KeyMismatch(AssertionError):
    """What was saved is not what transformers expects to read."""


def reload_encoder(folder: Path, *, allow: Iterable[str] = (), **config: Any) -> Any:
    """Load a folder as transformers' base model."""
    return _reload(AutoModel, folder, allow, **config)


def reload_decoder(folder: Path, *, allow: Iterable[str] = (), **config: Any) -> Any:
    """Load a folder as a causal LM; `is_decoder=True` turns a saved autoencoder causal."""
    return _reload(AutoModelForCausalLM, folder, allow, **config)


def reload_whole(folder: Path, *, allow: Iterable[str] = ()) -> Any:
    """Load a folder as BART, mBART, T5 or mT5."""
    return _reload(AutoModelForSeq2SeqLM, folder, allow)


def reload_pair(folder: Path, *, allow: Iterable[str] = ()) -> Any:
    """Load a folder as transformers' EncoderDecoderModel."""
    return _reload(EncoderDecoderModel, folder, allow)


def _reload(kind: Any, folder: Path, allow: Iterable[str], **config: Any) -> Any:
    """Load with transformers.

    Args:
        allow: beginnings of parameter names that may be missing or left over.
    Raises:
        KeyMismatch: a parameter was missing, left over or of another shape.
    """
    with _quiet():
        how = _attention_of(AutoConfig.from_pretrained(folder))
        model, told = kind.from_pretrained(folder, attn_implementation=how, output_loading_info=True, **config)
    allowed = (*allow, *VISION)
    wrong = {
        kind: sorted(str(key) for key in told[kind] if not (allowed and str(key).startswith(allowed)))
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    if any(wrong.values()):
        raise KeyMismatch(f"{folder}: transformers reports {wrong}")
    return model.eval()


def batch(
    enc_vocab: int = 61,
    dec_vocab: int = 53,
    seed: int = 0,
    *,
    B: int = 2,
    S: int = 7,
    T: int = 11,
    padded: bool = True,
    enc_pad: int = 4,
    dec_pad: int = 3,
) -> Batch:
    """Draw one batch of ordinary ids; all rows but the first are padded on the right, each by one more.

    Returns:
        input_ids, attention_mask (B, S); labels, decoder_input_ids, decoder_attention_mask (B, T).
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(B) if padded else torch.zeros(B, dtype=torch.long)
    source = torch.arange(S) < (S - 2 * lengths)[:, None]
    target = torch.arange(T) < (T - 3 * lengths)[:, None]
    input_ids = torch.randint(FIRST_ORDINARY_ID, enc_vocab, (B, S), generator=generator)
    labels = torch.randint(FIRST_ORDINARY_ID, dec_vocab, (B, T), generator=generator)
    labels = labels.masked_fill(~target, IGNORED)
    shifted = torch.cat([torch.full((B, 1), START_ID), labels[:, :-1]], dim=1)
    return {
        "input_ids": input_ids.masked_fill(~source, enc_pad),
        "attention_mask": source.long(),
        "labels": labels,
        "decoder_input_ids": shifted.masked_fill(shifted == IGNORED, dec_pad),
        "decoder_attention_mask": (shifted != IGNORED).long(),
    }


def batch_for(enc_key: str, dec_key: str | None = None, seed: int = 0, **kw: Any) -> Batch:
    """Draw a batch whose vocabularies and pad ids are those of two TINY keys; one key is a whole seq2seq model."""
    encoder, decoder = TINY[enc_key], TINY[dec_key or enc_key]
    pads = {"enc_pad": encoder["pad_token_id"], "dec_pad": decoder["pad_token_id"]}
    return batch(encoder["vocab_size"], target_words(dec_key or enc_key), seed, **pads, **kw)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' own warnings: the tests turn warnings into errors, and these are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
