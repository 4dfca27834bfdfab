"""How a setting's text becomes a value and back: what each kind takes is said once, and is the end of its error message."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from appliance import openings


@dataclass(frozen=True)
class Kind:
    """`read` raises ValueError for what can't be taken; `takes` completes "takes …"; what `show` gives reads back the same."""

    takes: str
    read: Callable[[str], Any]
    show: Callable[[Any], str] = str


SIZE_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# What the existing installations' configuration says, in the words of its logging library.
LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "fatal": "critical",
    "panic": "critical",
    "critical": "critical",
}


def _items(text: str) -> tuple[str, ...]:
    return tuple(item for item in (part.strip() for part in text.split(",")) if item)


def _show_list(value: tuple[str, ...]) -> str:
    return ",".join(value)


def _read_boolean(text: str) -> bool:
    word = text.lower()
    if word in {"true", "t", "1", "yes", "on"}:
        return True
    if word in {"false", "f", "0", "no", "off"}:
        return False
    raise ValueError(text)


def _show_boolean(value: bool | None) -> str:
    return "" if value is None else str(value).lower()


def _read_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * SIZE_UNITS[match[2].upper()]


def _show_size(value: int) -> str:
    for unit in "TGMK":
        if value and value % SIZE_UNITS[unit] == 0:
            return f"{value // SIZE_UNITS[unit]}{unit}"
    return str(value)


def _read_duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * TIME_UNITS[match[2] or "s"]


def _show_duration(value: float) -> str:
    return f"{value:g}s"


def _read_days(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*d?", text, re.ASCII)
    if match is None or int(match[1]) < 1:
        raise ValueError(text)
    return int(match[1])


def _read_clock(text: str) -> str:
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return f"{int(match[1]):02}:{match[2]}"


def _read_percent(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*%?", text, re.ASCII)
    if match is None or int(match[1]) < 1:
        raise ValueError(text)
    return int(match[1])


def _read_host(text: str) -> str:
    """The address that the existing installations write before `:PORT`, so it may be `:`, and may end in one."""
    host = text.strip("[]") if text.startswith("[") else text
    if host in {":", "*"}:
        return "0.0.0.0"
    if host != "::" and host.endswith(":"):
        host = host.removesuffix(":")
    if not re.fullmatch(r"[0-9A-Za-z.:_%-]+", host):
        raise ValueError(text)
    return host


def _read_level(text: str) -> str:
    return LEVELS[text.lower()]


def _read_origins(text: str) -> tuple[str, ...]:
    return tuple(_origin(item) for item in _items(text))


def _origin(text: str) -> str:
    if text == "*":
        return text
    parts = urlsplit(text.rstrip("/"))
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path or parts.query or parts.username:
        raise ValueError(text)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _read_networks(text: str) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(item, strict=False)) for item in _items(text))


def _read_openings(text: str) -> tuple[str, ...]:
    items = _items(text)
    for item in items:
        openings.parse(item)
    return items


def _lower_items(text: str) -> tuple[str, ...]:
    return tuple(item.lower() for item in _items(text))


def _read_path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _read_token(text: str) -> str:
    """A token travels in a header: what a header can't carry would never match."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError(text)
    return text


TEXT = Kind("text", str)
TOKEN = Kind("printable ASCII without spaces", _read_token)
BOOLEAN = Kind("true or false (also 1, 0, yes, no)", _read_boolean, _show_boolean)
SIZE = Kind("a number of bytes, also like 64M or 1GiB", _read_size, _show_size)
DURATION = Kind("a number of seconds, also like 500ms, 30s or 5m", _read_duration, _show_duration)
DAYS = Kind("a number of days, from 1", _read_days)
CLOCK = Kind("a time of day as HH:MM", _read_clock)
PERCENT = Kind("percent of one processor, from 1, like 100%", _read_percent, lambda value: f"{value}%")
HOST = Kind("an address or a host name; `:` is all IPv4 addresses, `::` all", _read_host)
LEVEL = Kind("debug, info, warning or error", _read_level)
TERMS = Kind("a comma-separated list", _items, _show_list)
HEADER_NAMES = Kind("a comma-separated list of header names", _lower_items, _show_list)
ORIGINS = Kind("a comma-separated list of origins like https://example.org, or *", _read_origins, _show_list)
NETWORKS = Kind("a comma-separated list of addresses and ranges like 10.0.0.0/8", _read_networks, _show_list)
OPENINGS = Kind(f"{openings.TAKES}; no loopback, multicast or IPv6 link-local address", _read_openings, _show_list)
PATH = Kind("a path", _read_path)


def whole(least: int, most: int) -> Kind:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d+", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return Kind(f"a whole number from {least} to {most}", read)


def at_least(kind: Kind, least: float) -> Kind:
    """The same kind with a floor: below it the program could not work at all."""

    def read(text: str) -> Any:
        value = kind.read(text)
        if value < least:
            raise ValueError(text)
        return value

    return Kind(f"{kind.takes}, at least {kind.show(least)}", read, kind.show)


def choice(*words: str) -> Kind:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return Kind(" or ".join(words), read)
