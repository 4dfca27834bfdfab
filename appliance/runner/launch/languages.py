"""The parkings of all languages that this host can run, and why it can't run the others."""

from collections.abc import Iterator, Mapping
from functools import partial

import trio

from appliance.entities import Language, Network
from appliance.runner.launch.parking import Garage, Kind, Parking, Reserve
from appliance.runner.outcome import Purpose
from engines.spec import TOOLCHAIN_CACHE, Found, Lacking, LanguageSpec, Stage
from engines.table import spec_of

_NEEDED = (Purpose.RUN, Purpose.BUILD)  # without these a language can't be run


class Languages:
    """`programs` are the host's programs by language, for those that need one; `toolchain_cache` is mounted for builds."""

    def __init__(
        self,
        garage: Garage,
        programs: Mapping[Language, str],
        keep: int,
        memory_bytes: int,
        network: Network,
        toolchain_cache: str,
    ) -> None:
        self._garage = garage
        self._keep = keep
        self._memory_bytes = memory_bytes
        self._network = network
        self._cache = toolchain_cache
        self._parkings: dict[tuple[Language, Purpose], Parking] = {}
        self._missing: dict[Language, str] = {}
        for language in Language:
            try:
                self._add(language, spec_of(language), programs.get(language, ""))
            except Lacking as lacking:
                self._missing[language] = str(lacking)

    def _add(self, language: Language, spec: LanguageSpec, program: str) -> None:
        if spec.program is not None and not program:
            raise Lacking(f"there is no {spec.program} on PATH: {spec.install}")
        found = {purpose: stage.find(program) for purpose, stage in _stages(spec)}
        for purpose, stage in _stages(spec):
            self._parkings[language, purpose] = self._parking(spec, purpose, stage, found[purpose])

    def _parking(self, spec: LanguageSpec, purpose: Purpose, stage: Stage, found: Found) -> Parking:
        if purpose is Purpose.BUILD:
            if self._cache:
                found = found._replace(mounts=(*found.mounts, (self._cache, TOOLCHAIN_CACHE)))
            return Parking(self._garage, stage, found, keep=1, default=Kind(Network.NONE, 0), for_program=True)
        default = Kind(self._network, spec.room(self._memory_bytes))
        if purpose is Purpose.RUN_MORE:
            return Reserve(self._garage, stage, found, keep=self._keep, default=default)
        return Parking(self._garage, stage, found, keep=self._keep, default=default, for_program=spec.build is not None)

    async def start(self) -> None:
        """Until each has parked its first sandbox, or has said why it can't."""
        async with trio.open_nursery() as starting:
            for parking in self._parkings.values():
                starting.start_soon(partial(self._garage.nursery.start, parking.run))

    def parking(self, language: Language, purpose: Purpose) -> Parking | None:
        parking = self._parkings.get((language, purpose))
        if isinstance(parking, Reserve) and not parking.ask():
            return self._parkings[language, Purpose.RUN]
        return parking

    def versions(self) -> dict[Language, str]:
        """Of the languages that can be run; a compiled one's is its compiler's."""
        return {
            language: parkings[-1].version or "" for language, parkings in self._all() if all(one.version for one in parkings)
        }

    def lacking(self) -> dict[Language, str]:
        """Why the others can't be run, and what to install or to set; first those whose program is there."""
        troubles = {language: [one.trouble for one in parkings if not one.version] for language, parkings in self._all()}
        return {language: reasons[0] for language, reasons in troubles.items() if reasons} | self._missing

    def walls_lacking(self) -> tuple[str, ...]:
        """What the kernel has not, by name: alike for all."""
        return max((parking.lacking for parking in self._parkings.values()), key=len, default=())

    def _all(self) -> Iterator[tuple[Language, list[Parking]]]:
        for language in Language:
            if parkings := [self._parkings[language, purpose] for purpose in _NEEDED if (language, purpose) in self._parkings]:
                yield language, parkings


def _stages(spec: LanguageSpec) -> Iterator[tuple[Purpose, Stage]]:
    yield Purpose.RUN, spec.run
    if spec.more is not None:
        yield Purpose.RUN_MORE, spec.more
    if spec.build is not None:
        yield Purpose.BUILD, spec.build
