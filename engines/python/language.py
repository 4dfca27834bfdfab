"""Python: zygotes that have imported the engine and the standard library, a little or most of it, fork a worker for each run."""

import re

from engines.spec import LanguageSpec, Stage

# What `more` imports beyond `preload`, by its first name: tests/engines compares.
MORE = (
    "argparse|ast|asyncio|calendar|concurrent|contextvars|csv|dataclasses|difflib|email|fractions|glob|gzip|"
    "hashlib|hmac|html|http|inspect|ipaddress|locale|logging|mimetypes|pathlib|pickle|pprint|queue|secrets|"
    "shutil|smtplib|sqlite3|ssl|statistics|subprocess|tempfile|unicodedata|urllib|uuid|xml|zipfile|zoneinfo"
)
_WANTS = re.compile(rf"^[ \t]*(?:import|from)\b.{{0,300}}\b(?:{MORE})\b|\basync[ \t]", re.MULTILINE)


def wants_more(source: str) -> bool:
    """Whether it imports one of those on a line's beginning, or is asynchronous. Said wrong, it costs the time of an import."""
    return _WANTS.search(source) is not None


LANGUAGE = LanguageSpec(
    label="Python",
    suffixes=(".py",),
    least_memory_bytes=32 << 20,
    least_tasks=4,
    run=Stage(preload="engines.python.preload"),
    more=Stage(preload="engines.python.more"),
    wants_more=wants_more,
)
