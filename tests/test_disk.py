import base64
from pathlib import Path

import pytest

from appliance.disk import KEPT_BYTES, MARK, fit_for_disk, free_bytes

LONG = "é🦜" * KEPT_BYTES


def test_text_is_kept_whole_while_there_is_space() -> None:
    kept = fit_for_disk(LONG, low=False)
    assert (kept.text, kept.cut) == (LONG, False)


@pytest.mark.parametrize("text", ["", "short", "x" * KEPT_BYTES, "é" * (KEPT_BYTES // 2)])
def test_text_of_up_to_64_kib_is_kept_whole_when_space_is_low(text: str) -> None:
    kept = fit_for_disk(text, low=True)
    assert (kept.text, kept.cut) == (text, False)


@pytest.mark.parametrize("shift", range(6))
def test_longer_text_is_cut_to_64_kib_with_a_mark_and_between_characters(shift: int) -> None:
    text = "x" * shift + LONG
    kept = fit_for_disk(text, low=True)
    assert kept.cut
    assert text.startswith(kept.text.removesuffix(MARK))
    assert KEPT_BYTES - 4 < len(kept.text.encode()) <= KEPT_BYTES


def test_longer_base64_is_cut_to_the_first_bytes_and_stays_base64() -> None:
    data = bytes(range(256)) * 1024
    kept = fit_for_disk(base64.b64encode(data).decode(), low=True, is_base64=True)
    assert kept.cut
    assert len(kept.text) == KEPT_BYTES
    assert data.startswith(base64.b64decode(kept.text, validate=True))


def test_free_bytes_are_those_of_the_file_system_of_the_path(tmp_path: Path) -> None:
    assert 0 < free_bytes(tmp_path) < 2**60
