"""Join two checkpoints, train the model on a file of pairs, score it and generate with it.

    python examples/finetune.py ENCODER DECODER train.jsonl validation.jsonl out/model

Each line of the files: {"source": "...", "target": "..."}.
"""

import sys

from conjoin import EncoderDecoderModel
from conjoin.evaluation import evaluate, generate_texts
from conjoin.texts.pairs import Columns
from conjoin.training import TrainingArguments, read_pairs
from conjoin.training.torch import Seq2SeqTrainer


def main(encoder: str, decoder: str, train: str, validation: str, out: str, steps: str = "500") -> None:
    """Join, train, evaluate and generate."""
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder, cross_attention_init="self_attention")
    print(model.join_report)

    arguments = TrainingArguments(
        output_dir=out,
        overwrite_output_dir=True,
        max_steps=int(steps),
        learning_rate=3e-4,
        warmup_steps=0.1,
        eval_strategy="steps",
        eval_steps=max(1, int(steps) // 5),
    )
    Seq2SeqTrainer(model, args=arguments, train_dataset=train, eval_dataset=validation).train()

    model = EncoderDecoderModel.from_pretrained(out)
    pairs = read_pairs(validation, Columns())
    scores = evaluate(model, pairs.sources, pairs.targets, metrics="chrf,exact_match")
    for score in scores.estimates():
        print(f"{score.name:<16}{score.value:8.2f}   [{score.low:.2f}, {score.high:.2f}]")
    print(generate_texts(model, pairs.sources[:3]))


if __name__ == "__main__":
    main(*sys.argv[1:])
