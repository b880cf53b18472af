"""Pipelines of texts, as transformers 4 had them: a task and a model -> an object that is called with texts."""

from conjoin._lazy import public_dir
from conjoin.pipelines.factory import pipeline
from conjoin.pipelines.text2text import SummarizationPipeline, Text2TextGenerationPipeline, TranslationPipeline

__all__ = ["SummarizationPipeline", "Text2TextGenerationPipeline", "TranslationPipeline", "pipeline"]

__dir__ = public_dir(__all__)
