"""Text as it leaves the engine: always UTF-8, whatever the action made of it."""

import codecs

MAX_LOG_CHARACTERS = 8000
TRUNCATED = " …[truncated]"
REPLACE = "codeactions-replace"  # the error handler's name: what UTF-8 can't hold, a lone surrogate, becomes U+FFFD


_REPLACEMENT = "\ufffd".encode()


def _replace(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Bytes: the encoder for UTF-8 takes nothing but ASCII as text.
    replacement = _REPLACEMENT if error.encoding == "utf-8" else b"?"
    return replacement * (error.end - error.start), error.end


codecs.register_error(REPLACE, _replace)


def encode(text: str) -> bytes:
    # A subclass of str may have an encode() of its own.
    return str.encode(text, "utf-8", REPLACE)


def cut(content: str) -> str:
    """A log entry's content within the limit; the mark shows that there was more."""
    if len(content) <= MAX_LOG_CHARACTERS:
        return content
    return content[: MAX_LOG_CHARACTERS - len(TRUNCATED)] + TRUNCATED


def cut_middle(content: str, head: int = 2000) -> str:
    """For a traceback, whose last lines say most."""
    if len(content) <= MAX_LOG_CHARACTERS:
        return content
    tail = MAX_LOG_CHARACTERS - head - len(TRUNCATED) - 2
    return f"{content[:head]}\n{TRUNCATED}\n{content[-tail:]}"
