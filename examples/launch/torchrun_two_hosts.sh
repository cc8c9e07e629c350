#!/usr/bin/env bash
# Two hosts with torchrun. Run the same line on both, with the first host's name or address:
#   ./torchrun_two_hosts.sh FIRST_HOST
# After a failure torchrun starts all ranks again, and they go on from the last checkpoint. With one host left it goes
# on alone after a while; the global batch stays what it was.
set -euo pipefail
first_host=${1:?give the name or address of the first host, the same on both}

# torchrun kills its ranks 30 s after SIGTERM, be they saving or not; --shutdown-timeout gives them longer.
exec torchrun \
    --nnodes 1:2 --nproc-per-node "${RANKS_PER_HOST:-2}" \
    --rdzv-backend c10d --rdzv-endpoint "$first_host:29400" --rdzv-id "${RUN_NAME:-neuralchat}" \
    --max-restarts 3 --shutdown-timeout 600 \
    -m neuralchat.cli finetune \
    --model_name_or_path "${MODEL:?set MODEL to a directory that both hosts have, or a hub id}" \
    --train_file "${TRAIN_FILE:?set TRAIN_FILE to a file that both hosts have}" \
    --output_dir "${OUTPUT_DIR:-runs/two_hosts}" \
    --save_strategy steps --save_steps 200 --save_total_limit 2 \
    --resume_from_checkpoint auto \
    --ddp_backend gloo --preflight_timeout 600 --peer_timeout 120
