#!/usr/bin/env bash
# Several hosts with the mpirun of MPICH or Intel MPI (Hydra). Run on the first host of the file:
#   ./mpirun_hydra.sh hostfile.example
# Needs ssh from here to every host without a password, and the same paths on all of them.
# After a failure the same line goes on from the last checkpoint.
set -euo pipefail
hostfile=${1:?give a file with one host a line}
ranks_per_host=${RANKS_PER_HOST:-2}

hosts=$(grep -v '^[[:space:]]*\(#\|$\)' "$hostfile")
count=$(wc -l <<<"$hosts")
# Rank 0 is on the first host. mpirun does not tell the ranks its address.
export MASTER_ADDR=${MASTER_ADDR:-$(sed -n '1s/[:[:space:]].*//;1p' <<<"$hosts")}
# A second run on these hosts at the same time needs another port.
export MASTER_PORT=${MASTER_PORT:-29500}

exec mpirun -f "$hostfile" -n $((count * ranks_per_host)) -ppn "$ranks_per_host" \
    -genv MASTER_ADDR "$MASTER_ADDR" -genv MASTER_PORT "$MASTER_PORT" \
    neuralchat finetune \
    --model_name_or_path "${MODEL:?set MODEL to a directory that all hosts have, or a hub id}" \
    --train_file "${TRAIN_FILE:?set TRAIN_FILE to a file that all hosts have}" \
    --output_dir "${OUTPUT_DIR:-runs/mpirun}" \
    --save_strategy steps --save_steps 200 --save_total_limit 2 \
    --resume_from_checkpoint auto \
    --ddp_backend gloo --preflight_timeout 600 --peer_timeout 120
