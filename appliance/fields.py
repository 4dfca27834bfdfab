"""Text that a person sent, as typed values: what can't be read is `Invalid`, with the field's name and what it takes.

What a field takes is the `description` of its type, so that the message, the check and the API's document are one thing.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from appliance.errors import Invalid

T = TypeVar("T")

ID_PATTERN = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{24}"

_ID = re.compile(ID_PATTERN)
_FAILED_AT = re.compile(r"`\$\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)`")
# An unescaped + in a query is a space by the time that it is read.
_ZONE_AFTER_SPACE = re.compile(r" (\d{2}:?\d{2})$")


def read(values: Mapping[str, str], into: type[T]) -> T:
    """The struct's fields out of what was sent; names it doesn't know are left alone, as older clients expect."""
    for name, value in values.items():
        if "\0" in value:
            raise Invalid(name, "takes no U+0000")
    try:
        return msgspec.convert(values, into, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), into) from None


def entity_id(field: str, value: str) -> str:
    """An id in the form that stores compare: a UUID, or an ObjectID of 24 hex digits, in lower case."""
    if not _ID.fullmatch(value):
        raise Invalid(field, "takes a UUID, or an ObjectID of 24 hex digits")
    return value.lower()


def time(field: str, value: str) -> datetime:
    """A date, or a date and time; without a zone it is UTC."""
    try:
        parsed = datetime.fromisoformat(_ZONE_AFTER_SPACE.sub(r"+\1", value).upper())
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid(field, "takes a date, or a time such as 2024-12-10T00:00:00, with or without a zone") from None


def _invalid(message: str, into: type[Any]) -> Invalid:
    if missing := _MISSING.search(message):
        return Invalid(missing[1], f"is required; takes {_takes(into, missing[1])}")
    if failed := _FAILED_AT.search(message):
        return Invalid(failed[1], f"takes {_takes(into, failed[1])}")
    return Invalid("", message)


def _takes(into: type[Any], field: str) -> str:
    return _description(get_type_hints(into, include_extras=True)[field]) or "another value"


def _description(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return next((meta.description for meta in hint.__metadata__ if meta.description), "")
    return next(filter(None, map(_description, get_args(hint))), "")
