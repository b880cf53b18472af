"""Prompts around sources: a text with {source} in it, or the tokenizer's chat template, with the source as user's turn.

The text around the source is fixed, so a source that is too long is cut and its template is not.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, cast

from conjoin.errors import MissingBackend, TokenizerError
from conjoin.tokenizer.files.save import chat_templates

SLOT = "{source}"
CHAT = "chat"
_PLACEHOLDER = "conjoin-source-7f3a"
"""Stands for the source while a chat template is rendered; no template has it."""


@dataclass(frozen=True, slots=True)
class SourceTemplate:
    """The text before and after every source.

    Args:
        add_special_tokens: False if the template itself has the special tokens, as chat templates do.
        strips: The template removes white space around the source.
        date: The day that a chat template writes as today's (ISO 8601); None if it writes none.
    """

    before: str
    after: str
    add_special_tokens: bool = True
    strips: bool = False
    date: str | None = None

    @classmethod
    def of(cls, template: str, tokenizer: Any, date: str | None = None) -> Self:
        """Return the template that a setting describes.

        Args:
            template: Text with {source} once; or "chat", or "chat: " and such a text, which is the user's turn in the
                chat template of the tokenizer.
            date: The day that is today for a chat template: a model must read tomorrow what it was trained on. The day
                of the call by default.

        Raises:
            TokenizerError: the date is none, the text has no {source}, or several, or the tokenizer has no usable chat
                template.
            MissingBackend: jinja2, which reads chat templates, is not installed.
        """
        if template == CHAT or template.startswith(f"{CHAT}:"):
            turn = template.removeprefix(CHAT).removeprefix(":").removeprefix(" ") or SLOT
            before, after = _parts(turn, template)
            clock = _Clock(date)
            text = _chat(f"{before} {_PLACEHOLDER} {after}", tokenizer, clock)
            strips = f" {_PLACEHOLDER} " not in text and not (before or after)
            if not strips:
                text = _chat(f"{before}{_PLACEHOLDER}{after}", tokenizer, clock)
            if text.count(_PLACEHOLDER) != 1:
                raise TokenizerError(
                    f"source_template = {template!r}: the chat template writes the user's turn "
                    f"{text.count(_PLACEHOLDER)} times; expected once."
                )
            first, _, last = text.partition(_PLACEHOLDER)
            return cls(first, last, add_special_tokens=False, strips=strips, date=clock.read)
        return cls(*_parts(template, template))

    def render(self, source: str) -> str:
        """Return the text of a source in its template."""
        return f"{self.before}{source.strip() if self.strips else source}{self.after}"

    def place(self, source: str, begin: int, end: int) -> tuple[int, int]:
        """Return where characters of a rendered text stand in the source itself; (0, 0) outside of it."""
        skipped = len(source) - len(source.lstrip()) if self.strips else 0
        size = len(source.strip() if self.strips else source)
        begin, end = (min(max(at - len(self.before), 0), size) for at in (begin, end))
        return (begin + skipped, end + skipped) if end > begin else (0, 0)


def _parts(text: str, template: str) -> tuple[str, str]:
    """Return what stands before and after {source}."""
    if text.count(SLOT) != 1:
        raise TokenizerError(
            f"source_template = {template!r} has {SLOT} {text.count(SLOT)} times; expected once.",
            hint='for example --source-template "{source}\\nSummary:", or chat for the tokenizer\'s chat template.',
        )
    before, _, after = text.partition(SLOT)
    return before, after


class _Clock:
    """The `strftime_now` of chat templates, which stands still.

    Attributes:
        read: Its day, once a template has asked.
    """

    def __init__(self, date: str | None) -> None:
        try:
            day = datetime.now().date().isoformat() if date is None else date
            self._now = datetime.fromisoformat(day)  # its midnight, whenever it is asked
        except ValueError:
            raise TokenizerError(f"template_date = {date!r}; expected a day such as 2026-01-31.") from None
        self.read: str | None = None

    def __call__(self, text: str) -> str:
        self.read = self._now.date().isoformat()
        return self._now.strftime(text)


def _chat(turn: str, tokenizer: Any, clock: _Clock) -> str:
    """Return the tokenizer's chat template, rendered with a user's turn and the beginning of the answer."""
    named = chat_templates(tokenizer.init_kwargs.get("chat_template"))
    if "default" not in named:
        raise TokenizerError(
            "source_template = 'chat', but the source's tokenizer has no chat template.",
            hint='write the prompt out, with {source} in it: --source-template "{source}\\nSummary:"',
        )
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingBackend("jinja2, which reads chat templates, is missing.", hint="pip install jinja2") from error

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    class Generation(Extension):
        """A block around what the assistant says, which marks it for training in transformers."""

        tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    extensions: list[Any] = [loopcontrols, Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    functions = cast("dict[str, Any]", environment.globals)
    functions |= {"raise_exception": raise_exception, "strftime_now": clock}
    messages = [{"role": "user", "content": turn}]
    tokens = {f"{name}_token": getattr(tokenizer, f"{name}_token", None) or "" for name in ("bos", "eos", "pad", "unk")}
    try:
        return environment.from_string(named["default"]).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, **tokens
        )
    except Exception as error:  # a template is a program, which may raise anything
        raise TokenizerError(f"The tokenizer's chat template cannot be used: {error}") from error
