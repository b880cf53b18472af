"""Generation without a framework: settings, checked requests, and which processors they need."""

from conjoin._lazy import public_dir
from conjoin.generation.asked import Asked, Tokens, collect, resolve_tokens
from conjoin.generation.config import DEFAULTS, GENERATION_WORDS, IDS, GenerationConfig, WatermarkingConfig
from conjoin.generation.dead_ends import DeadEnd, dead_end_error
from conjoin.generation.facts import CallFacts, ModelFacts
from conjoin.generation.forbidden import FORBIDDEN
from conjoin.generation.lengths import Lengths
from conjoin.generation.modes import (
    AnyOf,
    Assisted,
    BeamMode,
    Beams,
    BeamSampling,
    BeamSearch,
    ConstrainedBeams,
    Constraint,
    Contrastive,
    CopySpeculation,
    DiverseBeams,
    Greedy,
    Mode,
    Phrase,
    Sampling,
    Warpers,
)
from conjoin.generation.plan import ProcessorSpec, processor_plan
from conjoin.generation.request import Outputs, Request, Rules, resolve, resolve_asked
from conjoin.generation.results import tell_fewer
from conjoin.generation.streams import Stream

__all__ = [
    "DEFAULTS",
    "FORBIDDEN",
    "GENERATION_WORDS",
    "IDS",
    "AnyOf",
    "Asked",
    "Assisted",
    "BeamMode",
    "BeamSampling",
    "BeamSearch",
    "Beams",
    "CallFacts",
    "ConstrainedBeams",
    "Constraint",
    "Contrastive",
    "CopySpeculation",
    "DeadEnd",
    "DiverseBeams",
    "GenerationConfig",
    "Greedy",
    "Lengths",
    "Mode",
    "ModelFacts",
    "Outputs",
    "Phrase",
    "ProcessorSpec",
    "Request",
    "Rules",
    "Sampling",
    "Stream",
    "Tokens",
    "Warpers",
    "WatermarkingConfig",
    "collect",
    "dead_end_error",
    "processor_plan",
    "resolve",
    "resolve_asked",
    "resolve_tokens",
    "tell_fewer",
]

__dir__ = public_dir(__all__)
