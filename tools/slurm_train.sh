#!/usr/bin/env bash
# Train under Slurm. The environment variables GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are optional:
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,3s/^# *//p' "$0" >&2; exit 2; fi

source "$(dirname "$0")/_slurm.sh"
run_under_slurm "$1" "$2" train.py "$3" --work-dir "$4" --launcher slurm "${@:5}"
