"""What a process does to a store in tests: `python -m tests.unit.store_worker KIND ROOT SEED [ARGUMENT]`.

It prints a line when it begins, and one of JSON when it ends.
"""

import hashlib
import json
import random
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from app.core.errors import ModelNotFound, StoreBusy, StoreFull
from app.core.model import ModelName
from app.store import manifest as media
from app.store.manifest import Layer, Manifest
from app.store.store import Store

SHARED = 6
"""How many names all processes use."""

PULLED_BYTES = 1 << 20


def pulled(seed: int) -> bytes:
    return random.Random(seed).randbytes(PULLED_BYTES)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def create(store: Store, name: str, texts: list[str]) -> None:
    with store.hold() as hold:
        layers = tuple(
            Layer(media.LICENSE, store.blobs.put(text.encode(), hold), len(text.encode())) for text in texts
        )
        store.manifests.write(ModelName(name), Manifest(None, layers))


def mixed(store: Store, seed: int, operations: int) -> dict[str, Any]:
    """Create, copy and delete models of a few names, and keep some of its own: these are returned."""
    chance, own = random.Random(seed), dict[str, list[str]]()
    for number in range(operations):
        name = f"m{chance.randrange(SHARED)}"
        match chance.randrange(4):
            case 0 | 1:
                create(store, name, [f"text {chance.randrange(4)}", f"text {chance.randrange(20)}"])
            case 2:
                with suppress(ModelNotFound):
                    store.manifests.copy(ModelName(name), ModelName(f"M{chance.randrange(SHARED)}"))
            case _:
                store.delete(ModelName(name))
        if number % 4 == 0:
            texts = [f"text {chance.randrange(20)}", f"own {seed} {number}"]
            create(store, f"own-{seed}-{number}", texts)
            own[f"own-{seed}-{number}"] = texts
        if number % 7 == 0 and own:
            gone = chance.choice(sorted(own))
            assert store.delete(ModelName(gone))
            del own[gone]
        if number % 11 == 0:
            store.prune(grace_s=0)
    return own


def endless(store: Store, seed: int, _argument: int) -> None:
    """Create, copy, delete, prune and fetch, until it is killed."""
    chance = random.Random(seed)
    for number in count():
        mixed(store, seed * 1000 + number, 3)
        fetch(store, chance.randrange(3), chance)


def fetch(store: Store, which: int, chance: random.Random) -> None:
    data = pulled(which)
    with suppress(StoreBusy):
        with store.hold() as hold:
            hold.add(digest_of(data))
            with store.blobs.begin(digest_of(data), len(data)) as partial:
                for start, end in partial.missing():
                    for at in range(start, end, 64 << 10):
                        partial.write_at(at, data[at : min(end, at + (64 << 10))])
                        if chance.random() < 0.3:
                            partial.save()
                partial.commit()
            layer = Layer(media.MODEL, digest_of(data), len(data))
            store.manifests.write(ModelName(f"pulled{which}"), Manifest(None, (layer,)))
        if chance.random() < 0.5:
            store.delete(ModelName(f"pulled{which}"))


def large(store: Store, _seed: int, size_mb: int) -> dict[str, Any]:
    """Write a blob of that size twice, by ranges and as a layer; the most memory that took, in MiB."""
    block = random.Random(1).randbytes(1 << 20)

    def blocks() -> Iterator[bytes]:
        for number in range(size_mb):
            yield number.to_bytes(8, "big") + block[8:]

    digest = hashlib.sha256()
    for part in blocks():
        digest.update(part)
    name = f"sha256:{digest.hexdigest()}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with store.blobs.begin(name, size_mb << 20) as partial:
        for number, part in enumerate(blocks()):
            partial.write_at(number << 20, part)
        partial.commit()
    store.blobs.verify(name)
    assert store.blobs.put(blocks()) == name
    return {"more_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def full(store: Store, _seed: int, size_bytes: int) -> dict[str, Any]:
    """Write where no file may be longer than that; what each way of it answers."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    data, answers = bytes(2 * size_bytes), dict[str, str]()
    try:
        store.blobs.put(data)
    except StoreFull as error:
        answers["put"] = str(error)
    try:
        with store.blobs.begin(digest_of(data), len(data)) as partial:
            partial.write_at(0, data)
    except StoreFull as error:
        answers["write_at"] = str(error)
    try:
        store.manifests.write(ModelName("m"), b'{"layers":[]}' + b" " * (2 * size_bytes))
    except StoreFull as error:
        answers["write"] = str(error)
    return answers


if __name__ == "__main__":
    kind, root, seed, *argument = sys.argv[1:]
    work = {"mixed": mixed, "endless": endless, "large": large, "full": full}[kind]
    print("begins", flush=True)
    print(json.dumps(work(Store(Path(root)), int(seed), int(argument[0]) if argument else 0)), flush=True)
