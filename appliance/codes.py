"""The rules of creating and changing a code: size → type → language → limits → blacklist. The caller has seen to permission."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from appliance.entities import Code, CodeLimits, CodeType, Language, Network, new_id, now
from appliance.errors import Conflict, Invalid
from appliance.runner.outcome import LEAST_CPU_PERCENT
from engines.table import spec_of

MIB = 1024 * 1024
SOURCE_LIMIT = MIB  # a source is under it
TOO_BIG = "source code is too big"
DEFAULT = "default"  # as a limit's value: back to the installation's

E = TypeVar("E", bound=StrEnum)

_NO_NUL = r"^[^\x00]*$"
_LIMIT_MEMORY = r"^([0-9]{1,99}M|default)$"
_LIMIT_CPU = r"^([0-9]{1,99}%|default)$"
_LIMIT_TASKS = r"^([0-9]{1,99}|default)$"


def _one_of(values: type[CodeType] | type[Language] | type[Network], *more: str) -> Meta:
    names = [*(str(value) for value in values), *more]
    return Meta(description=_spelled(names), extra_json_schema={"enum": names})


def _spelled(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=_NO_NUL, description="a text of 1 to 255 characters")]
Url = Annotated[str, Meta(max_length=512, pattern=_NO_NUL, description="a text of at most 512 characters")]
Timeout = Annotated[int, Meta(ge=5, le=300, description="a whole number of seconds from 5 to 300")]
# Checked after the source's size, by the contract's order; so their types here take any text.
TypeName = Annotated[str, _one_of(CodeType)]
LanguageName = Annotated[str, _one_of(Language)]
Memory = Annotated[str, Meta(pattern=_LIMIT_MEMORY, description="a number of MiB such as 64M, or default")]
Cpu = Annotated[str, Meta(pattern=_LIMIT_CPU, description="a percentage of one processor such as 50%, or default")]
Tasks = Annotated[str, Meta(pattern=_LIMIT_TASKS, description="a number of processes and threads, or default")]
NetworkName = Annotated[str, _one_of(Network, DEFAULT)]


class NewLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A code's own limits as an author writes them; what isn't set stays as it is."""

    memory: Memory | UnsetType = UNSET
    cpu: Cpu | UnsetType = UNSET
    tasks: Tasks | UnsetType = UNSET
    network: NetworkName | UnsetType = UNSET


class NewCode(NewLimits, frozen=True, kw_only=True):
    name: Name
    project_uuid: Name
    language: LanguageName
    type: TypeName
    timeout: Timeout = 60
    url: Url = ""


class Change(NewLimits, frozen=True, kw_only=True):
    name: Name | UnsetType = UNSET
    language: LanguageName | UnsetType = UNSET
    type: TypeName | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    url: Url | UnsetType = UNSET


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What this installation allows. `lacking`: the languages that it can't run, and why."""

    blacklist: tuple[str, ...]
    max_memory_bytes: int
    max_cpu_percent: int
    max_tasks: int
    lacking: Mapping[Language, str]

    def created(self, new: NewCode, source: bytes) -> Code:
        """The code to store; `Invalid` or `Conflict` where the rules forbid it."""
        text = _text(source)
        code_type = _member("type", CodeType, new.type)
        language = self._language(new.language)
        limits = self._limits(CodeLimits(), new, language)
        self._refuse_blacklisted(text)
        at = now()
        return Code(
            id=new_id(),
            name=new.name,
            type=code_type,
            source=text,
            language=language,
            url=new.url,
            project_uuid=new.project_uuid,
            timeout=new.timeout,
            limits=limits,
            created_at=at,
            updated_at=at,
        )

    def changed(self, code: Code, change: Change, source: bytes) -> Code:
        """The code with what was sent; an empty source is no change of it."""
        text = _text(source) if source else code.source
        code_type = code.type if change.type is UNSET else _member("type", CodeType, change.type)
        language = code.language if change.language is UNSET else self._language(change.language)
        limits = self._limits(code.limits, change, language)
        self._refuse_blacklisted(text)
        return msgspec.structs.replace(
            code,
            name=_or(change.name, code.name),
            type=code_type,
            source=text,
            language=language,
            url=_or(change.url, code.url),
            timeout=_or(change.timeout, code.timeout),
            limits=limits,
            updated_at=now(),
        )

    def _language(self, name: str) -> Language:
        language = _member("language", Language, name)
        if language in self.lacking:
            raise Conflict(f"language: {language} can't be run on this host: {self.lacking[language]}")
        return language

    def _refuse_blacklisted(self, source: str) -> None:
        if any(term in source for term in self.blacklist if term):
            raise Invalid("", "source code contains blacklisted term")

    def _limits(self, old: CodeLimits, new: NewLimits, language: Language) -> CodeLimits:
        limits = CodeLimits(
            memory_bytes=_number(new.memory, old.memory_bytes, "M", MIB),
            cpu_percent=_number(new.cpu, old.cpu_percent, "%", 1),
            tasks=_number(new.tasks, old.tasks, "", 1),
            network=_network(new.network, old.network),
        )
        self._check(limits, new, language)
        return limits

    def _check(self, limits: CodeLimits, new: NewLimits, language: Language) -> None:
        """The least follows from the language, so it is checked with a new one too; the maximum binds what is asked for now."""
        spec = spec_of(language)
        bounds = (
            ("memory", limits.memory_bytes, spec.least_memory_bytes, self.max_memory_bytes, "M", MIB),
            ("cpu", limits.cpu_percent, LEAST_CPU_PERCENT, self.max_cpu_percent, "%", 1),
            ("tasks", limits.tasks, spec.least_tasks, self.max_tasks, "", 1),
        )
        for field, value, least, most, unit, size in bounds:
            if value is not None and value < least:
                raise Invalid(field, f"takes at least {least // size}{unit} for {language}")
            if value is not None and value > most and getattr(new, field) is not UNSET:
                raise Invalid(field, f"takes at most {most // size}{unit} on this installation")


T = TypeVar("T")


def _or(new: T | UnsetType, old: T) -> T:
    return old if isinstance(new, UnsetType) else new


def _number(new: str | UnsetType, old: int | None, unit: str, size: int) -> int | None:
    if isinstance(new, UnsetType):
        return old
    return None if new == DEFAULT else int(new.removesuffix(unit)) * size


def _network(new: str | UnsetType, old: Network | None) -> Network | None:
    if isinstance(new, UnsetType):
        return old
    return None if new == DEFAULT else _member("network", Network, new, DEFAULT)


def _member(field: str, kind: type[E], value: str, *more: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise Invalid(field, f"takes {_spelled([*(str(member) for member in kind), *more])}") from None


def _text(source: bytes) -> str:
    if len(source) >= SOURCE_LIMIT:
        raise Invalid("", TOO_BIG)
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        raise Invalid("source", f"takes UTF-8 text; byte {error.start} isn't") from None
    if "\0" in text:
        raise Invalid("source", "takes no U+0000")
    return text
