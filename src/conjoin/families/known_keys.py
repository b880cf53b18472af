"""Keys of Hugging Face's config.json files that are fields of no family, and are kept."""

from conjoin.families.config import PretrainedConfig

_GENERATION = """
max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams use_mtp
use_cache cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p
epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size
bad_words_ids renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values
exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias token_healing guidance_scale
watermarking_config num_return_sequences output_attentions output_hidden_states output_scores output_logits
return_dict_in_generate pad_token_id bos_token_id eos_token_id encoder_no_repeat_ngram_size decoder_start_token_id
is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind
assistant_ensemble_weight speculation_type compile_config disable_compile continuous_batching_config
prefill_chunk_size penalty_alpha diversity_penalty num_beam_groups constraints force_words_ids low_memory
dola_layers copy_speculation truncation
"""

GENERATION_KEYS = tuple(_GENERATION.split())
"""Settings of `generate`, the fields of `GenerationConfig`, which stands higher up the ladder; a test compares them."""

_FREE = """
_name_or_path chunk_size_feed_forward finetuning_task id2label label2id name_or_path num_labels prefix problem_type
pruned_heads task_specific_params tf_legacy_loss tokenizer_class torchscript transformers_version use_bfloat16
"""
FREE_KEYS = tuple(_FREE.split())
"""Keys that transformers' base class writes and that say nothing here."""


def known_keys(kind: type[PretrainedConfig]) -> set[str]:
    """Keys that a config takes, or that Hugging Face's files hold beside its fields."""
    fields = {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
    return {*fields, *kind.attribute_map, "conjoin", "tie_encoder_decoder", *GENERATION_KEYS, *FREE_KEYS}
