"""Attacks in the cage."""

from tests.appliance import Appliance
from tests.attacks.table import payloads


def comes_to(appliance: Appliance, language: str, name: str) -> str:
    """The word that the payload prints, or the outcome of a run that hasn't completed."""
    answer = appliance.run(payloads(language).PAYLOADS[name], language=language, timeout=30)
    outcome = str(appliance.run_of(answer)["extra"]["outcome"])
    return answer.body.decode().strip() if outcome == "completed" else outcome


def is_unhurt(appliance: Appliance) -> bool:
    return appliance.process.poll() is None and appliance.run("print('still here')").body == b"still here\n"
