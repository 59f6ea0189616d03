"""Asks the hub for everything that `app/registry/library.yaml` names: `python -m scripts.library_check`.

It needs a hub that can be reached (HF_ENDPOINT, HF_TOKEN for gated repositories). For each repository it asks
whether it is there, at the revision where one is given, and holds safetensors; for each source whether its
page is there.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import yaml

from app.registry.hub import ENDPOINT
from app.registry.library import Entry, read

LIBRARY = Path("app/registry/library.yaml")


def faults(entry: Entry, hub: httpx.Client, pages: httpx.Client, endpoint: str) -> Iterator[str]:
    """What is wrong with an entry, a sentence each. Only `hub` has the token."""
    revision = entry.revision or "main"
    try:
        answer = hub.get(f"{endpoint}/api/models/{entry.repo}/revision/{revision}")
        if answer.status_code != 200:
            yield f"{entry.repo}: the hub answers {answer.status_code} for revision {revision}"
        else:
            files = [sibling["rfilename"] for sibling in answer.json().get("siblings", [])]
            if not any(file.endswith(".safetensors") for file in files):
                yield f"{entry.repo}: it has no safetensors"
        page = pages.head(entry.source)
        # Gated cards are there all the same.
        if page.status_code not in (200, 401, 403):
            yield f"{entry.repo}: its source {entry.source} answers {page.status_code}"
    except httpx.HTTPError as error:
        yield f"{entry.repo}: {error or type(error).__name__}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts.library_check", description=__doc__)
    parser.add_argument("--endpoint", default=os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/"))
    parser.add_argument("--file", type=Path, default=LIBRARY)
    asked = parser.parse_args(arguments)
    entries = list({entry.repo: entry for entry in read(asked.file.read_text()).values()}.values())
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with (
        httpx.Client(headers=headers, timeout=30) as hub,
        httpx.Client(timeout=30, follow_redirects=True) as pages,
        ThreadPoolExecutor(4) as pool,
    ):
        told = pool.map(lambda entry: list(faults(entry, hub, pages, asked.endpoint)), entries)
        found = [fault for each in told for fault in each]
    for fault in found:
        print(fault)
    print(f"{len(entries)} repositories, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, yaml.YAMLError, ValueError) as error:
        sys.exit(str(error))
