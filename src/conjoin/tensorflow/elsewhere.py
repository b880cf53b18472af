"""What transformers' TensorFlow class has besides, and what does it here."""

_VARIABLES = (
    "its variables have names that start with '{0}.': to freeze it, "
    "for v in model.variables: v.trainable = v.trainable and not v.name.startswith('{0}.')"
)
_RESIZE = "EncoderDecoderModel, PyTorch's, does it; save it and load the folder here."
_TABLE = "model.all_params()['{}'] holds its numbers; the variable of that name is among model.variables."
ELSEWHERE = {
    "encoder": "model.encode(...) runs it; " + _VARIABLES.format("encoder"),
    "decoder": "model(...) runs it; " + _VARIABLES.format("decoder"),
    "get_decoder": "model(encoder_outputs=model.encode(...), decoder_input_ids=...) runs it.",
    "prepare_tf_dataset": "tf.data.Dataset.from_tensor_slices({**tokenizer(texts, return_tensors='np', padding=True), "
    "'labels': labels}).batch(8)",
    "get_input_embeddings": _TABLE.format("encoder.embed.words.weight"),
    "get_output_embeddings": _TABLE.format("decoder.embed.words.weight"),
    "set_input_embeddings": _RESIZE,
    "set_output_embeddings": _RESIZE,
    "resize_token_embeddings": _RESIZE,
    "dummy_inputs": "{'input_ids': tf.constant([[5, 6]]), 'decoder_input_ids': tf.constant([[5, 6]])} will do.",
    "serving": "model.save_pretrained(folder, saved_model=True) writes the signature serving_default.",
    "push_to_hub": "model.save_pretrained(folder), then huggingface_hub.upload_folder(folder_path=folder, ...).",
}
