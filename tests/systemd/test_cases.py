"""The cases in the full cage: on a real systemd, each run in a scope of its own."""

import pytest

from engines.table import Language
from tests.cases import Case, CaseLimits
from tests.systemd.box import BoxedAppliance
from tests.test_cases import CASES, check

# In a scope the kernel ends a Python that takes too much before it can say so itself: test_scopes.py has these.
IN_SCOPES = [(language, case) for language, case in CASES if language is not Language.PYTHON or case.limits == CaseLimits()]


@pytest.mark.parametrize(("language", "case"), IN_SCOPES, ids=[f"{language}: {case.name}" for language, case in IN_SCOPES])
def test_it_behaves_as_the_case_says(appliance: BoxedAppliance, language: Language, case: Case) -> None:
    check(appliance, language, case)
