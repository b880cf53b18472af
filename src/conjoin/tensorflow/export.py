"""SavedModels: the forward pass and generate, as programs that run without conjoin."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from conjoin.errors import GenerationError
from conjoin.functional.programs import ForwardOptions, forward
from conjoin.functional.programs import generate as run_generate
from conjoin.functional.requests import decode_settings
from conjoin.generation.prompt import ModelInputs, numpy_prompt, read_request
from conjoin.tensorflow.decoding import TARGET_BUCKET, fields_of, random_state, traced_output
from conjoin.tensorflow.variables import VariableModel

SOURCE = ("input_ids", "attention_mask")
BOTH = (*SOURCE, "decoder_input_ids", "decoder_attention_mask")


def save_program(model: VariableModel, folder: Path, settings: dict[str, Any]) -> None:
    """Write a SavedModel; every signature takes any batch and any lengths.

    Args:
        settings: Of generate.
    """
    generate = _generate(model, settings)

    def scores(given: dict[str, Any]) -> dict[str, Any]:
        batch = {name: tf.cast(x, tf.int32) for name, x in given.items()}
        output = forward(model.key, ForwardOptions(), model.scope(), batch)
        return {name: output[name] for name in ("logits", "encoder_last_hidden_state")}

    module: Any = tf.Module()
    module.parameters = [variable.value for variable in model.variables_by_name.table.values()]
    module.serving_default = _traced(scores, BOTH, tf.int32)
    module.int64_serving = _traced(scores, BOTH, tf.int64)
    module.generate = _traced(generate, SOURCE, tf.int32)
    module.int64_generate = _traced(generate, SOURCE, tf.int64)
    names = ("serving_default", "int64_serving", "generate", "int64_generate")
    tf.saved_model.save(module, str(folder), signatures={name: getattr(module, name) for name in names})


def _traced(function: Any, names: tuple[str, ...], dtype: Any) -> Any:
    specs = {name: tf.TensorSpec((None, None), dtype, name=name) for name in names}
    return tf.function(function, input_signature=[specs], autograph=False)


def _generate(model: VariableModel, settings: dict[str, Any]) -> Any:
    """generate with settings that are fixed; ids are cut to the longest."""
    inputs, decoder = ModelInputs(ids=np.zeros((1, 1), np.int32)), model.spec.decoder
    request, start = read_request(inputs, decoder, model.config, model.generation_config, dict(settings), None)
    prompt, _ = numpy_prompt(inputs, start)
    if any(spec.name == "encoder_no_repeat_ngram_size" for spec in request.plan):
        raise GenerationError("encoder_no_repeat_ngram_size: not possible in a SavedModel, which takes any length.")
    decoding = decode_settings(request, decoder, TARGET_BUCKET, (), "TensorFlow")
    longest, returned = request.lengths.longest, request.num_return_sequences

    def generate(given: dict[str, Any]) -> dict[str, Any]:
        batch = {name: tf.cast(x, tf.int32) for name, x in given.items()}
        rows = tf.shape(batch["input_ids"])[0]
        batch |= {"prompt": tf.broadcast_to(prompt, (rows, 1)), "max_length": tf.constant(longest)}
        written = run_generate(model.key, decoding, model.scope(), batch, random_state(None))
        output = fields_of(traced_output(written, decoding, returned))
        lengths = written.lengths if written.scores is None else tf.reduce_max(written.lengths[:, :returned])
        output["sequences"] = output["sequences"][:, :lengths]
        return output

    return generate
