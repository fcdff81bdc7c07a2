#!/usr/bin/env bash
# Train on several GPUs of one machine, on several machines (NNODES, NODE_RANK, MASTER_ADDR, PORT), or on CPUs if there is no GPU:
#   bash tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,3s/^# *//p' "$0" >&2; exit 2; fi

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
