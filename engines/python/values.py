"""What `result.set` makes of a value: the bytes of the answer."""

import json
import math

from engines.python.text import encode


def to_bytes(value: object, *, as_json: bool) -> bytes:
    """A string or bytes as they are, anything else as JSON.

    What JSON can't hold becomes its str(): inside a dict or list as a JSON string, so that the JSON stays valid;
    on its own as plain text, or as a JSON string when the content type is JSON (`as_json`).
    """
    if isinstance(value, str):
        return encode(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if _is_json_value(value):
        try:
            return encode(_dump(value))
        except _CircleError:
            pass
    text = str(value)
    return encode(json.dumps(text, ensure_ascii=False) if as_json else text)


class _CircleError(Exception):
    """A container that holds itself."""


def _is_json_value(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | dict | list | tuple)


def _dump(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except (ValueError, TypeError):  # NaN or infinity, a circle; a key that JSON has not
        return json.dumps(_plain(value, ()), ensure_ascii=False, allow_nan=False)


def _plain(value: object, above: tuple[int, ...]) -> object:
    """The value with all that JSON can't hold as its str(). `above`: the containers that hold it."""
    if not isinstance(value, dict | list | tuple):
        return value if _is_json_value(value) else str(value)
    if id(value) in above:
        raise _CircleError
    above += (id(value),)
    if isinstance(value, dict):
        return {_key(key): _plain(item, above) for key, item in value.items()}
    return [_plain(item, above) for item in value]


def _key(key: object) -> object:
    is_container = isinstance(key, tuple)
    return key if _is_json_value(key) and not is_container else str(key)
