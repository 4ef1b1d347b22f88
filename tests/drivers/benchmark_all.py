"""Started by test_benchmark_families.py: `steps` and `train` of many models, in one process group.

    python tests/drivers/benchmark_all.py JOBS

JOBS is a JSON list of command lines of `python -m compress.benchmark`. The group is joined before the
first and left after the last, because DeepSpeed joins one only once in a process. One step is profiled,
and a small product tells the speed of the device, to save time.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.benchmark import __main__ as command
from compress.benchmark import demand, training
from compress.training import distributed


def main() -> None:
    device, stop = distributed.start(), distributed.stop
    distributed.start = lambda **_: device
    distributed.stop = lambda: None
    demand.STEPS = 1
    training.PEAK["cpu"] = 64
    for words in json.loads(sys.argv[1]):
        try:
            command.main(words)
        except Exception as error:
            raise RuntimeError(" ".join(words)) from error
    stop()


if __name__ == "__main__":
    main()
