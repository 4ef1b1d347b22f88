"""Started by tests of given teachers: whole runs one after another in one process, to spare the starts.

    python tests/drivers/given_models.py SPECS

SPECS is a JSON list of {"files", "set", "output", "stage"}, and "export" for an ONNX file.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress import run
from compress.configuration import config
from compress.errors import UserError
from compress.training import distributed


def main() -> None:
    device = distributed.start()
    for spec in json.loads(sys.argv[1]):
        sys.stdout.write(f"-- {spec['output']}\n")
        settings = config.load(spec["files"], spec["set"])
        try:
            context = run.prepare(settings, Path(spec["output"]), device, spec["stage"])
            run.execute(context, spec["stage"], spec.get("export"))
        except UserError as error:
            sys.stdout.write(f"error: {error}\n")
        sys.stdout.flush()
    distributed.stop()


if __name__ == "__main__":
    main()
