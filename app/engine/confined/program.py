"""The process behind `processes.py`: reads jobs from its standard input until that ends, and limits itself.

A job is two lengths (`HEAD`), a JSON object and nothing or, at first, a tokenizer; a reply is one of each.
"""

import json
import os
import signal
import struct
import sys
import time
from typing import IO, Any

from app.core.confinement import bind, end_with_parent
from app.engine.confined.jinja import Refused, render, takes_parts_of

HEAD = struct.Struct(">I")
READY = b"\n"
_JOBS = 2_000
"""After which a process ends, and its time with it: what a template keeps in caches goes too."""

_PROCESSOR_S = 6_000
"""When the kernel ends a process, whatever job it has."""


def main(parent: int, memory_bytes: int, start_s: float) -> None:
    end_with_parent(parent)
    # What a library prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from tokenizers import Tokenizer  # maps what does not count as memory that a job takes

    bind(memory_bytes=memory_bytes, file_bytes=0, processor_s=_PROCESSOR_S)
    jobs = sys.stdin.buffer
    _allow(start_s)
    file = _read(jobs)
    tokenizer = Tokenizer.from_str(file.decode()) if file else None
    if tokenizer is not None:
        tokenizer.no_padding()  # which transformers too leaves to whoever asks for it
    del file
    replies.write(READY)
    replies.flush()
    for count in range(1, _JOBS + 1):
        _allow(0)
        if not (data := _read(jobs)):
            return
        job = json.loads(data)
        del data
        _allow(job["time_s"])
        reply = _done(job, tokenizer)
        reply["is_spent"] = reply.get("is_spent", False) or is_worn(count, time.process_time())
        told = json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace")
        replies.write(HEAD.pack(len(told)) + told)
        replies.flush()


def is_worn(jobs: int, processor_s: float) -> bool:
    """Whether a process is to get no other job, long before the kernel would end it in the middle of one."""
    return jobs >= _JOBS or processor_s > _PROCESSOR_S / 2


def _done(job: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    try:
        return _do(job, tokenizer)
    except Refused as error:
        return {"refusal": str(error)}
    except MemoryError:
        return {"refusal": "it takes too much memory", "is_spent": True}
    except RecursionError:
        return {"refusal": "it calls itself too often"}
    except Exception as error:  # the outermost edge of this process: templates raise what they like
        return {"refusal": " ".join(str(error)[:500].split()) or type(error).__name__}
    except BaseException:  # how the tokenizer's library panics, when a pattern takes too many steps
        return {"refusal": "its tokenizer gave up on the text", "is_spent": True}


def _do(job: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    match job["do"]:
        case "format":
            return {"takes_parts": takes_parts_of(job["template"])}
        case "render":
            text = render(job["template"], job["variables"], continues=job["continues"])
            _check(len(text.encode()), job)
            ids = _encoded(tokenizer, [text], job, special=False)[0] if job["encodes"] else None
            return {"text": text, "ids": ids}
        case _:
            return {"ids": _encoded(tokenizer, job["texts"], job, special=job["special"])}


def _encoded(tokenizer: Any, texts: list[str], job: dict[str, Any], *, special: bool) -> list[list[int]]:
    if cut := job.get("cut_to"):
        tokenizer.enable_truncation(cut, direction=job["side"])
    else:
        tokenizer.no_truncation()
    left, found = job["most_tokens"], list[list[int]]()
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=special).ids
        left -= len(ids)
        if left < 0:
            raise Refused(f"its tokenizer makes more than {job['most_tokens']} tokens of the text")
        found.append(ids)
    return found


def _check(size_bytes: int, job: dict[str, Any]) -> None:
    if size_bytes > job["most_bytes"]:
        raise Refused(f"it makes a prompt of {size_bytes} bytes, and may make one of {job['most_bytes']}")


def _read(jobs: IO[bytes]) -> bytes:
    head = jobs.read(HEAD.size)
    return jobs.read(HEAD.unpack(head)[0]) if len(head) == HEAD.size else b""


def _allow(seconds: float) -> None:
    """So much processor time from now on: the kernel ends this process over it; 0 is without end."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
