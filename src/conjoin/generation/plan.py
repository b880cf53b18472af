"""Which logits processors a request needs, in which order."""

from collections.abc import Iterator

from conjoin.generation.facts import ProcessorFacts
from conjoin.generation.setting import Phase, ProcessorSpec
from conjoin.generation.settings import SETTINGS

CALLERS = ProcessorSpec("logits_processor")
"""Stands where the caller's own processors run."""
_RULES = [(name, row, row.processor) for name, row in SETTINGS.items() if row.processor is not None]


def processor_plan(facts: ProcessorFacts) -> tuple[ProcessorSpec, ...]:
    """Return the processors in the order in which they run; `CALLERS` is always among them."""
    specs = [(Phase.CALLER, CALLERS), *_of_settings(facts)]
    if facts.call.prefix_allowed_tokens_fn:
        rows = facts.get("num_beams") // facts.get("num_beam_groups")
        specs.append((Phase.PREFIX, ProcessorSpec("prefix_allowed_tokens_fn", (rows,))))
    return tuple(spec for _, spec in sorted(specs, key=lambda each: each[0]))


def _of_settings(facts: ProcessorFacts) -> Iterator[tuple[Phase, ProcessorSpec]]:
    lengths = facts.lengths
    # Lengths are what the settings come to: the model's least may have given way to the call's most.
    resolved = {
        "min_length": 0 if lengths.min_new_tokens else lengths.shortest,
        "min_new_tokens": lengths.min_new_tokens,
    }
    for name, row, rule in _RULES:
        value = resolved[name] if name in resolved else facts.get(name)
        if rule.is_off(value) or (row.needs is not None and not row.needs.holds(facts)):
            continue
        if rule.phase == Phase.WARP and not facts.get("do_sample"):  # contrastive search reads top_k itself
            continue
        if (arguments := rule.arguments(value, facts)) is not None:
            yield rule.phase, ProcessorSpec(name, arguments)
