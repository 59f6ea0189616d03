"""A program for `core/processes.py`: its name on a line, then a line for each line that it gets."""

import json
import sys
import time


def main() -> None:
    print(sys.argv[1], flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        time.sleep(job.pop("sleep_s", 0))
        if "exit" in job:
            sys.exit(job["exit"])
        print(json.dumps({"is_spent": False, **job}), flush=True)


if __name__ == "__main__":
    main()
