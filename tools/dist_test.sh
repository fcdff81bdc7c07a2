#!/usr/bin/env bash
# Test on several GPUs of one machine, on several machines (NNODES, NODE_RANK, MASTER_ADDR, PORT), or on CPUs if there is no GPU:
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,3s/^# *//p' "$0" >&2; exit 2; fi

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$3" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$1" "$2" --launcher pytorch "${@:4}"
