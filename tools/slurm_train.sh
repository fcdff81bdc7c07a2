#!/usr/bin/env bash
# Train under Slurm. The environment variables GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS are optional:
#   bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,3s/^# *//p' "$0" >&2; exit 2; fi

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS holds several arguments, so it is not quoted
exec srun --partition="$1" --job-name="$2" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --gres="gpu:$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}"
