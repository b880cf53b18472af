"""The tiny pair that the kinds of weights and settings damage, and what is done with it."""

from pathlib import Path

import torch

from conjoin import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config

SOURCE = BertConfig(
    vocab_size=13,
    hidden_size=8,
    num_attention_heads=2,
    num_hidden_layers=1,
    intermediate_size=6,
    max_position_embeddings=16,
)
TARGET = GPT2Config(vocab_size=11, n_embd=6, n_layer=1, n_head=3, n_positions=16, bos_token_id=1, eos_token_id=2)


def write_pair(folder: Path) -> None:
    """Save a fresh pair."""
    torch.manual_seed(0)
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE, TARGET, **ids)
    model = EncoderDecoderModel(config=config)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(folder)


def use_pair(folder: Path) -> None:
    """Load it, compute a loss, generate as its files say, save it."""
    model = EncoderDecoderModel.from_pretrained(folder).eval()
    source, labels = torch.tensor([[5, 6, 7], [4, 3, 2]]), torch.tensor([[3, 4, 2], [5, 2, -100]])
    with torch.no_grad():
        model(input_ids=source, labels=labels)
    model.generate(source)
    model.save_pretrained(folder / "again")


def use_weights(folder: Path) -> None:
    """Load it, compute a loss, generate greedily and by beams."""
    model = EncoderDecoderModel.from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), f"{name} has numbers that are not finite"
    source, labels = torch.tensor([[5, 6, 7]]), torch.tensor([[3, 4, 2]])
    with torch.no_grad():
        model(input_ids=source, labels=labels)
    model.generate(source, max_new_tokens=3)
    model.generate(source, max_new_tokens=3, num_beams=2)
