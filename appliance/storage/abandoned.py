"""Whose a run is, and what is kept of one whose owner went away in the middle: the same in every backend."""

from typing import Any

MESSAGE = "the appliance went away in the middle of the run"


def owner_of(extra: dict[str, Any]) -> str | None:
    """The instance that a run belongs to; None for a run that has none (the old version's)."""
    owner = extra.get("instance")
    return owner if isinstance(owner, str) else None


def interrupted(extra: dict[str, Any]) -> dict[str, Any]:
    """What it had cost nobody knows any more."""
    return extra | {"outcome": "interrupted", "message": MESSAGE, "status_code": 503, "content_type": "json", "usage": {}}
