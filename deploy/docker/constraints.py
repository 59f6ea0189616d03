"""Prints pip's constraints for putting Caravan into vLLM's image: `constraints.py LOCK WHEEL`.

What the image has stays as it is, so that vLLM runs on what it was released with. What it lacks, or has in a
version that Caravan cannot use, is taken at the lock's; pip refuses to go on where vLLM cannot use that one.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from email.parser import Parser
from importlib.metadata import distributions
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

EXTRA = {"extra": "gpu"}


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(
    locked: Iterable[str], installed: Mapping[str, str], needs: Iterable[Requirement]
) -> Iterator[str]:
    """Lines `name==version`; `locked` are those of the lock, `needs` what Caravan's wheel asks for."""
    installed = {name: version for name, version in installed.items() if _is_version(version)}
    unusable = {
        name
        for need in needs
        if (name := plain(need.name)) in installed
        and not need.specifier.contains(installed[name], prereleases=True)
    }
    for line in locked:
        name, is_pinned, _ = line.partition("==")
        if is_pinned and (plain(name) not in installed or plain(name) in unusable):
            yield line.strip()
    yield from (f"{name}=={version}" for name, version in sorted(installed.items()) if name not in unusable)


def _is_version(text: str) -> bool:
    """Packages of the distribution have versions of its own, which pip cannot read."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def needs_of(wheel: str) -> list[Requirement]:
    """What a wheel asks for on a GPU, here."""
    with ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(name).decode())
    every = map(Requirement, fields.get_all("Requires-Dist", ()))
    return [each for each in every if each.marker is None or each.marker.evaluate(EXTRA)]


if __name__ == "__main__":
    lock, wheel = sys.argv[1:]
    with open(lock) as file:
        lines = file.readlines()
    there = {plain(each.name): each.version for each in distributions()}
    print(*constraints(lines, there, needs_of(wheel)), sep="\n")
