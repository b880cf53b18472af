"""What transformers' Flax class has besides, and what does it here."""

ELSEWHERE = {
    "encoder": "model.encode(...) runs it; model.params['encoder'] are its parameters.",
    "decoder": "model.decode(...) runs it; model.params['decoder'] are its parameters.",
    "get_encoder": "model.encode(...) runs it.",
    "get_decoder": "model.decode(...) runs it.",
    "module": "the functions are in conjoin.jax.programs; conjoin.jax.flax.EncoderDecoder(model) is a module of nnx.",
    "init": "FlaxEncoderDecoderModel(config, seed=...), or model.init_weights(key).",
    "enable_gradient_checkpointing": "model(..., gradient_checkpointing=True), or make_train_step's of that name.",
    "params_shape_tree": "jax.eval_shape(lambda: model.params)",
    "required_params": "set(model.flat_params)",
    "resize_token_embeddings": "EncoderDecoderModel, PyTorch's, resizes; save it and load the folder here.",
    "push_to_hub": "model.save_pretrained(folder), then huggingface_hub.upload_folder(folder_path=folder, ...).",
}
