# Sourced by slurm_train.sh and slurm_test.sh.

# run_under_slurm PARTITION JOB_NAME SCRIPT [arguments]: run a script of this folder in one process a GPU.
run_under_slurm() {
    local gpus=${GPUS:-8}
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    # shellcheck disable=SC2086  # SRUN_ARGS holds several arguments, so it is not quoted
    exec srun --partition="$1" --job-name="$2" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
        --gres="gpu:$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$(dirname "$0")/$3" "${@:4}"
}
