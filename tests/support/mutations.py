"""Planted faults, each with the tests that must fail of it: what shows that the tests see."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAMILIES = "tests/families/test_families.py"
LONG = "tests/families/test_long_passes.py"
WHOLE = "tests/families/test_whole.py"
JAX = "tests/jax/test_jax_families.py"
PROCESSORS = "tests/generation/test_processors.py"
WARPERS = "functional/processors_warpers.py"
POINTWISE = "tests/torch/test_pointwise.py"
EXACT = "tests/generation/test_generate_exact.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of one file of `src/conjoin`.

    Args:
        old: Text that stands in the file exactly once.
        tests: A file of tests, and the expression for `pytest -k` that selects those that must fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, str]


FAULTS: dict[str, Fault] = {
    # spec
    "a table of positions lacks its last row": Fault(
        "spec/stack.py",
        "else skipped.padding_position + 1",
        "else skipped.padding_position",
        (FAMILIES, "encoder_gives and roberta and none"),
    ),
    "keys have as many heads as queries": Fault(
        "spec/parameters.py",
        "keys = attention.num_kv_heads * attention.head_size",
        "keys = attention.num_heads * attention.head_size",
        (FAMILIES, "decoder_without and llama/biases"),
    ),
    "the first norm of ModernBERT stays": Fault(
        "spec/bricks.py",
        'replaced = self.self_attn_norms if branch == "self_attn" else None',
        "replaced = None",
        (FAMILIES, "encoder_gives and modernbert and none"),
    ),
    "a gemma's norms start at 1": Fault(
        "spec/parameters.py",
        "start = 1.0 - norm.offset if",
        "start = 1.0 if",
        ("tests/families/test_start_values.py", "norm"),
    ),
    "heads past a power of two get the slopes of the others": Fault(
        "spec/bricks.py",
        "2.0 ** (-4 * (2 * i + 1) / whole)",
        "2.0 ** (-8 * (i + 1) / whole)",
        ("tests/families/test_alibi.py", "slopes"),
    ),
    "the MLP of a block with one norm reads what is not normalised": Fault(
        "spec/bricks.py",
        'pre = self.norms_of("self_attn")[0]',
        "pre = pre[0], None",
        (FAMILIES, "decoder_without and gptj"),
    ),
    "rotated dimensions stay in pairs": Fault(
        "checkpoint/layouts.py",
        "[*range(0, turning, 2), *range(1, turning, 2)]",
        "[*range(turning)]",
        (FAMILIES, "decoder_without and gptj"),
    ),
    "fresh queries of T5 are as large as its keys": Fault(
        "spec/parameters.py",
        "head_size ** -0.5 if unscaled_query else std",
        "head_size ** 0 if unscaled_query else std",
        ("tests/families/test_start_values.py", "queries"),
    ),
    "a head keeps its size when words are added": Fault(
        "spec/stack.py",
        "head = replace(self.head, vocab_size=vocab_size) if self.head else None",
        "head = self.head",
        ("tests/torch/test_resize.py", ""),
    ),
    "the last frequency of M2M100 is not reached": Fault(
        "join/sinusoids.py",
        "max(1, size // 2 - 1)",
        "max(1, size // 2)",
        (WHOLE, "logits_loss and m2m_100 and not scaled"),
    ),
    "sines and cosines of Marian stand in pairs": Fault(
        "join/sinusoids.py",
        'if waves.layout == "pairs":',
        "if waves.layout:",
        (WHOLE, "logits_loss and marian and not two"),
    ),
    "the row of padding has sines": Fault(
        "join/sinusoids.py",
        "if waves.zero_row is not None:",
        "if False:",
        (FAMILIES, "decoder_without and xglm and not unscaled"),
    ),
    "a table that can be computed is written": Fault(
        "checkpoint/names.py",
        "for name in canonical if name not in self.computed",
        "for name in canonical",
        (WHOLE, "transformers_reads_what_we_save and marian and not two"),
    ),
    "words of Blenderbot Small's decoder are normalised with positions": Fault(
        "torch/model/embedding.py",
        'self.norm is not None and kind.norm_of == "sum"',
        "self.norm is not None",
        (FAMILIES, "decoder_without and blenderbot-small"),
    ),
    "a window's sides change places": Fault(
        "spec/bricks.py",
        "(away < self.before) & (away > -self.ahead)",
        "(away < self.ahead) & (away > -self.before)",
        (JAX, "an_encoder_computes and t5gemma2"),  # on a CPU, PyTorch's passes are C++, which has its own windows
    ),
    "a projection has the decoder's width": Fault(
        "spec/parameters.py",
        "spec.encoder.hidden_size, spec.decoder.source_size",
        "spec.encoder.hidden_size, spec.decoder.hidden_size",
        (WHOLE, "another_encoder and t5gemma and small"),
    ),
    "the window of T5Gemma's encoder counts a query's own key": Fault(
        "families/t5gemma.py",
        "window=window and window + 1",
        "window=window",
        (FAMILIES, "encoder_gives and t5gemma and none"),
    ),
    "the halves of a T5Gemma share their words": Fault(
        "families/t5gemma.py", 'words="own"', 'words="tied"', (WHOLE, "every_gradient and t5gemma")
    ),
    "a T5Gemma's labels have no end": Fault(
        "join/tokenizers.py",
        "return TokenizerPair(tokenizer, tokenizer)",
        "return tokenizer",
        (WHOLE, "labels_end"),
    ),
    # functional, on JAX
    "a replaced token is scaled": Fault(
        "functional/embedding.py",
        'here["replacement"], embeds)',
        'here["replacement"] * kind.scale, embeds)',
        (JAX, "encoder and t5gemma2"),
    ),
    "a position reads the ones before it only": Fault(
        "functional/attention.py", "(keys <= queries)", "(keys < queries)", (JAX, "decoder and t5/gated")
    ),
    "a window is one wider": Fault(
        "functional/attention.py",
        "window.hold(query_places[:, :, None]",
        "window.hold(query_places[:, :, None] - 1",
        (JAX, "decoder and gemma2"),
    ),
    "capped scores are not scaled back": Fault(
        "functional/attention.py",
        "scores = ops.tanh(scores / kind.softcap) * kind.softcap",
        "scores = ops.tanh(scores / kind.softcap)",
        (JAX, "decoder and gemma2"),
    ),
    "rotation goes the other way": Fault(
        "functional/positions.py",
        "ops.concat((-second, first), -1)",
        "ops.concat((second, -first), -1)",
        (JAX, "decoder and gpt_neox and not tied and not sequential"),
    ),
    "branches of a Granite are added whole where programs are compiled": Fault(
        "functional/block.py",
        "return x if kind.residual_scale == 1.0 else",
        "return x if kind.residual_scale else",
        (JAX, "decoder and granite/grouped"),
    ),
    "a token stands after itself": Fault(
        "functional/positions.py",
        'ops.cast(distance > 0, "int32")',
        'ops.cast(distance >= 0, "int32")',
        (JAX, "encoder and t5/gated and not decoder"),
    ),
    "one distance more has a bucket of its own": Fault(
        "functional/positions.py", "exact = buckets // 2\n", "exact = buckets // 2 + 1\n", (JAX, "decoder and t5/gated")
    ),
    "positions begin anew at every step": Fault(
        "functional/positions.py",
        "place = place + before if starts is None",
        "place = place if starts is None",
        (JAX, "decoder and opt/bare"),
    ),
    "a gemma's norms forget to add 1": Fault(
        "functional/layers.py",
        '(ops.cast(weight, "float32") + kind.offset)',
        'ops.cast(weight, "float32")',
        (JAX, "decoder and gemma2"),
    ),
    "llama3 stretches the fast rotations": Fault(
        "functional/positions.py",
        "((1 - share) * frequencies / scaling.factor + share * frequencies)",
        "(share * frequencies / scaling.factor + (1 - share) * frequencies)",
        ("tests/functional/test_rotary_frequencies.py", "llama3"),
    ),
    "yarn stretches the fast rotations": Fault(
        "functional/positions.py",
        "(frequencies / scaling.factor * ramp + frequencies * (1 - ramp))",
        "(frequencies / scaling.factor * (1 - ramp) + frequencies * ramp)",
        ("tests/functional/test_rotary_frequencies.py", "yarn"),
    ),
    "smoothing lowers the loss": Fault(
        "functional/loss.py",
        "losses - label_smoothing * ops.mean",
        "losses + label_smoothing * ops.mean",
        ("tests/jax/test_jax_model.py", "smoothed"),
    ),
    "the table of distances is read from its other side": Fault(
        "functional/positions.py",
        "distance = (queries[:, :, None] - keys[:, None, :])[:, None]",
        "distance = (keys[:, None, :] - queries[:, :, None])[:, None]",
        (JAX, "encoder and deberta-v2"),
    ),
    # PyTorch's model
    "a token of an encoder stands after itself": Fault(
        "torch/model/positions.py",
        "(distance > 0).long() * buckets",
        "(distance >= 0).long() * buckets",
        (LONG, "encoder and t5/gated"),
    ),
    "a decoder has buckets for what comes later": Fault(
        "torch/model/positions.py", "if self.kind.bidirectional:", "if self.kind:", (LONG, "whole and t5/gated")
    ),
    "the last bucket of distances is never used": Fault(
        "torch/model/positions.py", ".clamp(max=buckets - 1)", ".clamp(max=buckets - 2)", (LONG, "whole and t5/gated")
    ),
    "a masked position does not read itself": Fault(
        "torch/cpu/masks.py",
        "allowed = key <= query if causal",
        "allowed = key < query if causal",
        (FAMILIES, "decoder_without and gpt2/wide"),
    ),
    "a window of PyTorch is one wider": Fault(
        "torch/cpu/masks.py",
        "window.hold(query - key)",
        "window.hold(query - key - 1)",
        (FAMILIES, "decoder_without and mistral"),
    ),
    "roberta's first token stands on the row of padding": Fault(
        "torch/model/positions.py",
        "row = place + skipped.padding_position + 1",
        "row = place + skipped.padding_position",
        (FAMILIES, "decoder_without and roberta"),
    ),
    "padding takes a position": Fault(
        "torch/model/positions.py",
        "return count.cumsum(1) - count +",
        "return behind - 1 + 0 * count +",
        ("tests/torch/test_padding.py", "encoder_reads and opt/bare"),
    ),
    "rotation of PyTorch goes the other way": Fault(
        "torch/model/positions.py",
        "torch.cat((-second, first), -1)",
        "torch.cat((second, -first), -1)",
        (POINTWISE, "rotary"),  # in training the kernels rotate
    ),
    "yarn of PyTorch stretches the fast rotations": Fault(
        "torch/model/positions.py",
        "return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)",
        "return frequencies / scaling.factor * (1 - ramp) + frequencies * ramp",
        (FAMILIES, "decoder_without and llama/yarn"),
    ),
    "gate and up change places": Fault(
        "torch/model/mlp.py",
        "gate, up = self.gate(x), self.up(x)",
        "gate, up = self.up(x), self.gate(x)",
        (FAMILIES, "decoder_without and llama/tied"),
    ),
    "parallel branches read the sum": Fault(
        "torch/model/block.py",
        "block_input if self.kind.parallel else x",
        "x",
        (FAMILIES, "decoder_without and gpt_neox/tied"),
    ),
    "query heads read each other's keys where weights are wanted": Fault(
        "torch/cpu/attention.py",
        "grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])",
        "grouped = q.unflatten(1, (-1, k.shape[1])).transpose(1, 2).reshape(len(q), k.shape[1], -1, q.shape[-1])",
        (LONG, "weights_of_grouped and mistral"),
    ),
    "windows reach as far into the source as if the target stood at its start": Fault(
        "torch/model/stack.py",
        "near = prefix.near(queries, window)",
        "near = prefix.near(queries - prefix.offset, window)",
        ("tests/join/test_layerwise.py", "is_that_lm and gemma2"),
    ),
    "the source's padding moves the target": Fault(
        "torch/model/prefix.py",
        "return cls(places, mask.sum(1, keepdim=True).repeat_interleave(beams, 0), size, beams)",
        "return cls(places, torch.full((1, 1), size, device=device), size, beams)",
        ("tests/join/test_layerwise.py", "is_that_lm and gpt_neox"),
    ),
    "in packed rows the source comes behind its target": Fault(
        "torch/cpu/packing.py",
        "return torch.where(at < read[sequence], in_source, in_target)",
        "return torch.where(at < read[sequence], in_source, in_target).flip(0)",
        ("tests/join/test_layerwise.py", "packed_rows and gemma2"),
    ),
    "branches of a Granite are added whole": Fault(
        "torch/model/block.py",
        "return x if self.kind.residual_scale == 1.0 else",
        "return x if self.kind.residual_scale else",
        (FAMILIES, "decoder_without and granite/grouped"),
    ),
    "a closed gate lets all through": Fault(
        "torch/model/block.py",
        "x = x * self.cross_attn.gate",
        "x = x * 1.0",
        ("tests/join/test_graft.py", "closed_gate and llama"),
    ),
    "mbart begins with what follows the last label": Fault(
        "torch/model/loss.py",
        "(real != pad).sum(1, keepdim=True) - 1",
        "(real != pad).sum(1, keepdim=True) - 2",
        ("tests/families/test_whole.py", "labels_alone and mbart"),
    ),
    "a token that has a vector of its own keeps its row": Fault(
        "torch/model/embedding.py",
        "(input_ids == self.kind.replaced)[..., None]",
        "(input_ids < 0)[..., None]",
        (FAMILIES, "encoder_gives and t5gemma2 and none"),
    ),
    "keys meet the distance from the query, not to it": Fault(
        "torch/model/attention.py",
        "(queries @ k.mT).gather(-2, places)",
        "(queries @ k.mT).gather(-2, places.mT)",
        (FAMILIES, "encoder_gives and deberta-v2 and none"),
    ),
    # PyTorch on a CPU
    "packed sequences forget their window": Fault(
        "torch/cpu/packing.py",
        "PackedMask(self.sequences, self.sequences, causal, window)",
        "PackedMask(self.sequences, self.sequences, causal, None)",
        ("tests/torch/test_packing.py", "every_family and gemma2"),
    ),
    "packed tokens go back to another sequence": Fault(
        "torch/cpu/packing.py",
        "order[indices // length] * length",
        "indices // length * length",
        ("tests/torch/test_packing.py", "every_family and gemma2"),
    ),
    "a smoothed loss has the gradient of a plain one": Fault(
        "torch/cpu/cross_entropy.py",
        "        grad -= spread",
        "        grad -= 0 * spread",
        ("tests/torch/test_cross_entropy.py", ""),
    ),
    "a cap on logits has no gradient": Fault(
        "torch/cpu/cross_entropy.py",
        "(scores / projection.softcap).square()",
        "0 * scores",
        ("tests/torch/test_cross_entropy.py", ""),
    ),
    # generate
    "rows go on behind their end": Fault(
        "torch/generation/rows.py",
        "torch.where(self.ended, self.limits.pad, tokens)",
        "tokens",
        (EXACT, "one_by_one"),
    ),
    "beams divide by the length of the prompt too": Fault(
        "torch/generation/loops/beams.py",
        "max((length - self.rules.prompt) ** self.rules.length_penalty",
        "max(length ** self.rules.length_penalty",
        (EXACT, "tokens_are_transformers and (bert-gpt2 or bart)"),
    ),
    "a search ends when the best hypothesis cannot be beaten": Fault(
        "torch/generation/loops/beams.py",
        "self.finished_scores.min(1",
        "self.finished_scores.max(1",
        (EXACT, "tokens_are_transformers"),
    ),
    "top-p keeps the unlikely": Fault(WARPERS, "<= 1.0 - p)", "<= p)", (PROCESSORS, "TopP")),
    "min-p forgets the best token": Fault(
        WARPERS, "p * ops.max(probabilities, -1, keepdims=True)", "p", (PROCESSORS, "MinP")
    ),
    "typical-p drops the token that reaches its mass": Fault(
        WARPERS, "distance > ops.gather(distance", "distance >= ops.gather(distance", (PROCESSORS, "Typical")
    ),
    "eta takes epsilon for its root": Fault(WARPERS, "math.sqrt(cutoff) *", "cutoff *", (PROCESSORS, "Eta")),
    "what the source holds is written less": Fault(
        "functional/processors_repetition.py",
        "counted, 1.0 / penalty)",
        "counted, penalty)",
        (PROCESSORS, "EncoderRepetition"),
    ),
    # C++
    "the kernel of attention reads what is masked": Fault(
        "native/attention.h",
        "if (!m[j * c.mask_key]) s[j]",
        "if (m[j * c.mask_key] > 1) s[j]",
        ("tests/torch/test_native.py", "atten"),
    ),
    "the kernel of attention mixes up groups of heads": Fault(
        "native/attention.h",
        "*head = kv * group + i % group;",
        "*head = i % group * c.kv_heads + kv;",
        ("tests/torch/test_native.py", "atten"),
    ),
    "steps forget that a gemma's norms add 1": Fault(
        "native/stack.h", "norm.weight[i] + norm.offset", "norm.weight[i]", ("tests/torch/test_native_steps.py", "")
    ),
    "steps add branches of a Granite whole": Fault(
        "native/pass.h",
        "static_cast<float>(layer.residual_scale) * (gate",
        "(gate",
        ("tests/torch/test_native_steps.py", "bricks_do and granite"),
    ),
    "steps forget the gate": Fault(
        "native/pass.h",
        "sum[i] += y[i] * factor",
        "sum[i] += y[i]",
        ("tests/functional/test_branch_norms.py", "step_kernels"),
    ),
    "kernels skip soft caps of attention": Fault(
        "native/attention.h",
        "if (c.softcap)",
        "if (false)",
        ("tests/torch/test_native_steps.py", "bricks_do and gemma2"),
    ),
    "biases of kernels are those of the next distance": Fault(
        "native/pass.h",
        "bias.reach - r.own,",
        "bias.reach - r.own + 1,",
        ("tests/torch/test_native_steps.py", "bricks_do and t5"),
    ),
    "hypotheses do not take over what the one that they continue holds": Fault(
        "native/decode.h",
        "if (same < r.past) copies_",
        "if (false) copies_",
        ("tests/generation/test_engine.py", "scores_of_beams_are_the_models_own"),
    ),
    "a request that joins begins with the hypotheses of another slot": Fault(
        "native/pass.h",
        ": source.first_slot + row;",
        ": row;",
        ("tests/generation/test_engine.py", "gets_what_it_gets_alone"),
    ),
    "beams in kernels divide by the length of the prompt too": Fault(
        "native/beams.h",
        "static_cast<double>(length - prompt)",
        "static_cast<double>(length)",
        (EXACT, "tokens_are_transformers and (bert-gpt2 or bart)"),
    ),
    "a kernel's repetition penalty raises negative scores": Fault(
        "native/rules.h", "own < 0 ? own * penalty", "own < 0 ? own / penalty", (PROCESSORS, "RepetitionPenalty")
    ),
    "a window of kernels reaches ahead as far as back": Fault(
        "native/attention.h", "own + c.ahead", "own + c.window", (LONG, "encoder_gives and t5gemma2")
    ),
    "a window of training reaches ahead as far as back": Fault(
        "native/training.h", "own + ahead : span", "own + window : span", ("tests/torch/test_packing.py", "t5gemma2")
    ),
    "kernels read the row of a token that has a vector of its own": Fault(
        "native/pass.h", "if (e.replacement && id == e.replaced)", "if (false)", (LONG, "encoder_gives and t5gemma2")
    ),
    "a window of training is one wider": Fault(
        "native/training.h", "own - window + 1", "own - window", ("tests/torch/test_training_kernel.py", "")
    ),
    "the gradient of a norm keeps what lies along its input": Fault(
        "native/pointwise.h", "(d * scale - own * along) * inverse", "d * scale * inverse", (POINTWISE, "rms_norm")
    ),
    "a gate's activation has the derivative of another": Fault(
        "native/pointwise.h", "share * (1.0f + x * (1.0f - share))", "share * (1.0f + x)", (POINTWISE, "gates and silu")
    ),
    "the gradient of a rotation turns as the rotation does": Fault(
        "torch/cpu/pointwise.py",
        "*ctx.saved_tensors, not ctx.back",
        "*ctx.saved_tensors, ctx.back",
        (POINTWISE, "rotary"),
    ),
    "dropped weights have a gradient in training": Fault(
        "native/softmax.h",
        "larger(Floats{}, weight) * growth",
        "size_of(weight) * growth",
        ("tests/torch/test_training_attention.py", "gradients_are_those_of_plain and 0.3"),
    ),
}


def plant(fault: Fault, folder: Path) -> Path:
    """Copy the sources and change one; returns the copy.

    Raises:
        AssertionError: The text is not there exactly once: the list has to follow the sources.
    """
    text = (ROOT / "src" / "conjoin" / fault.file).read_text()
    count = text.count(fault.old)
    assert count == 1, (
        f"{fault.file} has {count} times {fault.old!r}: change the list of faults as the file was changed"
    )
    shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conjoin" / fault.file).write_text(text.replace(fault.old, fault.new))
    return folder


def arguments(fault: Fault, source: Path) -> list[str]:
    """Arguments of pytest that run the fault's tests over changed sources, up to the first that fails."""
    where, which = fault.tests
    paths = f"pythonpath={source} {ROOT / 'tests' / 'support'}"
    return ["-q", "-x", "-p", "no:cacheprovider", "-n", "0", "-o", paths, where, *(["-k", which] if which else [])]


def is_caught(fault: Fault, folder: Path) -> tuple[bool, str]:
    """Plant a fault and run its tests: whether one of them failed, and what pytest printed."""
    source = plant(fault, folder)
    command = [sys.executable, "-m", "pytest", *arguments(fault, source)]
    environment = {**os.environ, "PYTHONPATH": str(source), "CONJOIN_NATIVE_FLAGS": "-O0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)
    return done.returncode == 1 and " failed" in done.stdout, done.stdout + done.stderr
