#!/usr/bin/env bash
# Test under Slurm. The environment variables GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are optional:
#   bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [flags of tools/test.py]
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,3s/^# *//p' "$0" >&2; exit 2; fi

source "$(dirname "$0")/_slurm.sh"
run_under_slurm "$1" "$2" test.py "$3" "$4" --launcher slurm "${@:5}"
