#!/usr/bin/env bash
# `deepspeed train.py` with the given arguments, on all GPUs or on RANKS (2) CPU processes of this machine,
# the threads set and a free port taken. At Ctrl-C it ends in one line.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" requirements.txt
launch train.py "$@"
