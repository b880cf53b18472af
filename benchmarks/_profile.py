"""Where the time of a run goes: conjoin's own profile, as shares."""

from collections.abc import Callable
from typing import Any


def phase_shares(model: Any, run: Callable[[], Any]) -> dict[str, float]:
    """Return the phases of a run that take a thousandth of it or more, and their shares."""
    with model.profile() as profile:
        run()
    phases = profile.phases
    spent = {
        "encode": phases["encode"],
        "first step": phases["first step"],
        **profile.step_phases,
        "rest": phases["rest"],
    }
    shares = {name: round(seconds / profile.seconds, 3) for name, seconds in spent.items()}
    return {name: share for name, share in shares.items() if share}
