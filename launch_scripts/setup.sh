# Sourced by the other scripts: a virtual environment with the given requirement files, and `launch`.
#
#   source launch_scripts/setup.sh requirements.txt [requirements-test.txt]
#   launch train.py ...        starts `deepspeed` on all GPUs, or on RANKS (2) CPU processes, on a free port;
#                              at Ctrl-C its ranks say one line, and the launcher nothing
#
# PYTHON: interpreter of the environment (python3); VENV: its folder (.venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
RANKS=${RANKS:-2}

stop() { echo "error: $1" >&2; exit 1; }
command -v "$PYTHON" >/dev/null || stop "'$PYTHON' is not installed; run: apt-get install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "Python 3.11 or newer is needed; '$PYTHON' is older"

# One script at a time installs (the jobs of an array start together), where the file system has locks.
if { exec 9> "$VENV.lock"; } 2>/dev/null && command -v flock >/dev/null; then
  flock -n 9 2>/dev/null || { echo "another script may be installing into $VENV; this one waits"; flock 9 2>/dev/null || true; }
fi
if [ ! -x "$VENV/bin/pip" ]; then
  echo "making the virtual environment $VENV"
  "$PYTHON" -m venv "$VENV" || stop "'$PYTHON -m venv' failed; run: apt-get install python3-venv"
fi
source "$VENV/bin/activate"
wanted=$(sha256sum "$@")  # a line for each file
if [ ! -e "$VENV/installed" ] && [ -e "$VENV/bin/deepspeed" ]; then
  echo "$VENV was not made by this script and is used as it is (to have it changed: touch $VENV/installed)"
elif [ -n "$(grep -vxFf <(cat "$VENV/installed" 2>/dev/null) <<< "$wanted")" ]; then
  echo "installing $* (some minutes the first time)"
  touch "$VENV/installed"  # the files that were installed, with their sums; without it the environment is the user's
  arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
  others=$(grep -vFf <(printf '  %s\n' "$@") "$VENV/installed" 2>/dev/null || true)
  echo "$others${others:+$'\n'}$wanted" > "$VENV/installed"
fi
exec 9>&-

# beside FOLDER FILE ...: enter a further environment that sees the packages of this one, less those of the files.
beside() {
  local packages wanted folder=$1 arguments=() pip file
  shift
  for file in "$@"; do arguments+=(-r "$file"); done
  packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  wanted=$(cat "$@" | sha256sum)
  if [ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $* into $folder"
    python -m venv "$folder" || stop "'python -m venv $folder' failed"
    echo "$packages" > "$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
    pip=("$folder/bin/pip" --quiet --disable-pip-version-check install)
    "${pip[@]}" 'setuptools>=70.1'  # which builds wheels; older ones of a new environment do not
    DS_BUILD_OPS=0 "${pip[@]}" --no-deps --no-build-isolation "${arguments[@]}"
    echo "$wanted" > "$folder/installed"
  fi
  source "$folder/bin/activate"
}

# find_gpus: the numbers of this machine's GPUs, or of those of them that CUDA_VISIBLE_DEVICES names, into `gpus`.
find_gpus() {
  local count
  gpus=()
  count=$(nvidia-smi -L 2>/dev/null | grep -c ^GPU || true)
  [ "$count" -gt 0 ] || return 0
  if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then mapfile -t gpus < <(seq 0 $(( count - 1 ))); return 0; fi
  [[ $CUDA_VISIBLE_DEVICES =~ ^[0-9,\ ]*$ ]] \
    || stop "CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES': give the numbers of the GPUs, as nvidia-smi -L shows them"
  IFS=', ' read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
}

quietly() {  # the launcher passes Ctrl-C on itself; SIGTERM to this script, which would end it alone, is passed on
  local child
  ( trap '' INT; exec env -u CUDA_VISIBLE_DEVICES deepspeed --log_level error "$@" ) &
  child=$!
  trap : INT
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
  trap - INT TERM
  wait "$child"
}

launch() {
  local gpus threads port ranks=1
  find_gpus
  ROBUST_COMPRESSION_ENDED=$(mktemp -u)
  export ROBUST_COMPRESSION_ENDED
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  if [ ${#gpus[@]} -gt 0 ]; then
    while [ $((ranks * 2)) -le ${#gpus[@]} ]; do ranks=$((ranks * 2)); done  # a power of 2 divides the batch
    quietly --include "localhost:$(IFS=,; echo "${gpus[*]:0:ranks}")" --master_port "$port" "$@"
  else
    ranks=$RANKS threads=$(( $(nproc) / RANKS ))
    DS_ACCELERATOR=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( threads > 0 ? threads : 1 ))} \
      quietly --num_accelerators "$ranks" --master_port "$port" "$@"
  fi
  figures_of "$ranks" "$@"
  rm -f "$ROBUST_COMPRESSION_ENDED"
}

# figures_of RANKS train.py ...: fail unless the run is finished. `deepspeed` ends with 0 if its launcher was killed.
# A stage without figures is finished if its ranks came to their end.
figures_of() {
  local ranks=$1
  shift 2
  case " $* " in
    *" -h "* | *" --help "*) return 0 ;;
    *" --stage "[ptds]* | *" --stage="[ptds]* | *" --dry_run "*) [ -e "$ROBUST_COMPRESSION_ENDED" ] ;;
    *) python -m compress.finished "$@" --ranks "$ranks" >/dev/null ;;
  esac || stop "the run is not finished; the same command continues"
}
