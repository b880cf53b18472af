"""Why a request is not answered, and the HTTP status that says so."""

from enum import Enum

from conjoin.errors import ConjoinError


class Kind(Enum):
    """Kinds of refusals: a name for metrics and logs, and the HTTP status."""

    INVALID = ("invalid", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    NOT_FOUND = ("not_found", 404)
    NOT_ALLOWED = ("not_allowed", 405)
    SLOW = ("slow", 408)
    TOO_LARGE = ("too_large", 413)
    UNPROCESSABLE = ("unprocessable", 422)
    OVERLOADED = ("overloaded", 429)
    INTERNAL = ("internal", 500)
    UNAVAILABLE = ("unavailable", 503)
    TIMEOUT = ("timeout", 504)

    def __init__(self, label: str, status: int) -> None:
        self.label = label
        self.status = status

    @classmethod
    def of_status(cls, status: int) -> "Kind":
        """Return the kind of an HTTP status; INVALID or INTERNAL for one without a kind of its own."""
        return next((kind for kind in cls if kind.status == status), cls.INVALID if status < 500 else cls.INTERNAL)


class Refusal(ConjoinError):
    """A request that is not answered.

    Args:
        field: The field of the request that is wrong, as "parameters.num_beams".
        unknown: Names of fields that nobody knows, in the request's own words.
        retry_after_s: Seconds after which a new try may succeed.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        field: str | None = None,
        unknown: tuple[str, ...] = (),
        retry_after_s: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.field = field
        self.unknown = unknown
        self.retry_after_s = retry_after_s


def invalid(message: str, field: str | None = None) -> Refusal:
    """Return a refusal of a wrong request."""
    return Refusal(Kind.INVALID, message, field=field)
