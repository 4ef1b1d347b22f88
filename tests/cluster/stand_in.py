"""In place of train.py, for launch_scripts/slurm.sbatch: a run in two parts, without any training.

    stand_in.py [--local_rank N] --deepspeed_config FILE --output_dir DIR

Ranks meet through gloo. MODE (environment): "parts": the first time, save at USR1 and end with exit
code 75; the next time finish. "fails": end with exit code 7. "quits": end with 0, not finished.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from compress.configuration import config
from compress.files import ownership

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int)
parser.add_argument("--deepspeed_config", nargs="+", required=True)
parser.add_argument("--output_dir", type=Path, required=True)
options = parser.parse_args()
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
dist.init_process_group("gloo")
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
place, main = options.output_dir, dist.get_rank() == 0
if main:
    place.mkdir(parents=True, exist_ok=True)
mode, saved = os.environ["MODE"], place / "saved.json"
resumed = saved.exists()
dist.barrier()
if mode == "fails":
    os._exit(7)
if mode == "parts" and not resumed:
    if main:
        (place / "training").touch()
    for _ in range(600):
        if asked:
            break
        time.sleep(0.1)
    dist.barrier()
    if main:
        saved.write_text(json.dumps({"ranks": dist.get_world_size(), "sum": int(total)}))
    dist.barrier()
    os._exit(75)
if mode == "parts" and main:
    settings = config.load(options.deepspeed_config, (), dist.get_world_size())
    (place / "hits.npz").touch()
    keys = {"evaluate": ownership.figures_key(settings)}
    (place / "metrics.json").write_text(json.dumps({"keys": keys, "stamp": ownership.stamp(settings)}))
dist.barrier()
sys.stdout.write(f"rank {dist.get_rank()} has ended\n")
