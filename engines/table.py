"""The languages that there are. Nothing else outside a language's own folder names one."""

from enum import StrEnum
from importlib import import_module

from engines.spec import LanguageSpec


class Language(StrEnum):
    """The contract's names. A member's value is the name of its folder."""

    PYTHON = "python"
    JAVASCRIPT = "javascript"
    GO = "go"


def spec_of(language: Language) -> LanguageSpec:
    spec = import_module(f"engines.{language.value}.language").LANGUAGE
    assert isinstance(spec, LanguageSpec)
    return spec
