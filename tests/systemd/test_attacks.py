"""The attacks of tests/attacks on runs with scopes, those among them that nothing but a scope counts."""

import pytest

from tests.attacks import inside
from tests.attacks.table import ATTACKS, LANGUAGES, payloads
from tests.systemd.box import BoxedAppliance

CASES = [(language, name) for language in LANGUAGES for name in payloads(language).PAYLOADS]


@pytest.mark.parametrize(("language", "name"), CASES)
def test_the_cage_with_scopes_holds_against(appliance: BoxedAppliance, language: str, name: str) -> None:
    assert inside.comes_to(appliance, language, name) in ATTACKS[name].inside
    assert inside.is_unhurt(appliance)
