"""Attacks in the cage."""

import pytest

from tests.appliance import Appliance
from tests.attacks.table import payloads


def comes_to(appliance: Appliance, language: str, name: str) -> str:
    """The word that the payload prints, or the outcome of a run that hasn't completed."""
    skip_if_lacking(appliance, language)
    answer = appliance.run(payloads(language).PAYLOADS[name], language=language, timeout=30)
    outcome = str(appliance.run_of(answer)["extra"]["outcome"])
    return answer.body.decode().strip() if outcome == "completed" else outcome


def skip_if_lacking(appliance: Appliance, language: str) -> None:
    message = appliance.request("GET", "/health").json()["services"][f"engine_{language}"]["message"]
    if message.startswith("not configured"):
        pytest.skip(f"NOT TESTED: {language}: {message}")


def is_unhurt(appliance: Appliance) -> bool:
    return appliance.process.poll() is None and appliance.run("print('still here')").body == b"still here\n"
