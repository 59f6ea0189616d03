"""llama.cpp's own HTTP server on a GGUF file, by the package `xllamacpp`: run by a Python that has it, and
stopped by SIGTERM. Imports nothing of this project.
"""

import argparse
import signal
import threading
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="requests worked on at once")
    parser.add_argument("--context", type=int, required=True, help="tokens of prompt and answer in each slot")
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()

    import xllamacpp  # pyright: ignore[reportMissingImports]

    given: Any = xllamacpp.CommonParams()
    given.model.path = asked.model
    given.port = asked.port
    given.n_parallel = asked.slots
    given.n_ctx = asked.slots * asked.context
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = asked.threads
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server = xllamacpp.Server(given)
    print(server.listening_address, flush=True)
    stopped.wait()


if __name__ == "__main__":
    main()
