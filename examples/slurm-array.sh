#!/usr/bin/env bash
# Many objects on a Slurm cluster: an array of independent jobs that share one list and one folder. Each job begins with
# its own part of the list, then takes what nobody has begun; one that is killed is gone on with by whoever comes next.
#
#   sbatch --array=0-7 examples/slurm-array.sh prompts.txt /shared/objects
#
#SBATCH --job-name=sjc-fast
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail
list=$1 output=$2
# SIGTERM, two minutes before the time is over, saves what is under way; submitting the same array goes on with it.
exec sjc-fast batch "$list" --output "$output" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
