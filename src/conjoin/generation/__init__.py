"""Generation without a framework: settings, checked requests, and which processors they need."""

from conjoin._lazy import public_dir
from conjoin.generation.config import GENERATION_WORDS, GenerationConfig
from conjoin.generation.dead_ends import DeadEnd, dead_end_error
from conjoin.generation.facts import CallFacts, Lengths, ModelFacts
from conjoin.generation.forbidden import FORBIDDEN
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
)
from conjoin.generation.plan import CALLERS
from conjoin.generation.request import Outputs, Request, resolve, resolve_settings
from conjoin.generation.results import tell_fewer
from conjoin.generation.setting import ProcessorSpec
from conjoin.generation.settings import DEFAULTS, IDS, SETTINGS
from conjoin.generation.streams import Stream
from conjoin.generation.user_settings import Tokens, UserSettings, collect, resolve_tokens
from conjoin.generation.watermarking import WatermarkingConfig

__all__ = [
    "CALLERS",
    "DEFAULTS",
    "FORBIDDEN",
    "GENERATION_WORDS",
    "IDS",
    "SETTINGS",
    "AnyOf",
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
    "Sampling",
    "Stream",
    "Tokens",
    "UserSettings",
    "WatermarkingConfig",
    "collect",
    "dead_end_error",
    "resolve",
    "resolve_settings",
    "resolve_tokens",
    "tell_fewer",
]

__dir__ = public_dir(__all__)
