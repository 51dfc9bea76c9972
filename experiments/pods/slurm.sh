#!/bin/bash
# tlx on a SLURM cluster of 8-GPU nodes:  sbatch experiments/pods/slurm.sh CONFIG WORKDIR [--config.key=value ...]
# in the clone's root, which all nodes see, as they do WORKDIR and $TFDS_DATA_DIR. See README.md beside this file.
#SBATCH --job-name=tlx
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
# SIGTERM to every task five minutes before the time is up: tlx saves, ends with 143, and the last lines requeue it.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

config=${1:?usage: sbatch slurm.sh CONFIG WORKDIR [--config.key=value ...]}
workdir=${2:?usage: sbatch slurm.sh CONFIG WORKDIR [--config.key=value ...]}
shift 2
: "${TFDS_DATA_DIR:?set it to the folder of the prepared data, which all nodes see}"
export TFDS_DATA_DIR
source "${VENV:-.venv}/bin/activate"

# One process a node drives all of its GPUs. Under SLURM jax gives a process only the GPU of its own local number, with
# explicit addresses too, unless this says otherwise. (So no --gpus-per-task, which would number them anew.)
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS

# A task that has saved and ended must not have the others killed while they still save.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=300 \
  python -m tlx.main --distributed --config="$config" --workdir="$workdir" "$@"
code=$?

if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
