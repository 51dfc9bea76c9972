#!/bin/bash
# tlx on a slice of TPU v5e, from a machine with gcloud, in the clone's root. See README.md beside this file.
#
#   export NAME=tlx ZONE=europe-west4-b TYPE=v5litepod-256 SHARE=10.0.0.2:/share    # SPOT=1 for a Spot slice
#   experiments/pods/tpu.sh create
#   experiments/pods/tpu.sh setup        # mounts SHARE as /mnt/share on each host, installs tlx
#   experiments/pods/tpu.sh run CONFIG /mnt/share/runs/x [--config.key=value ...]
#   experiments/pods/tpu.sh watch | stop | state | delete
set -euo pipefail

: "${NAME:?set NAME, the name of the slice}" "${ZONE:?set ZONE, one that has TPU v5e}"
tpu() { gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
on() { tpu ssh --worker="$1" --command="$2"; } # on WORKER|all COMMAND

case ${1:-} in
create)
  tpu create --accelerator-type="${TYPE:?set TYPE, such as v5litepod-256}" --version=v2-alpha-tpuv5-lite ${SPOT:+--spot}
  ;;
setup)
  archive=$(mktemp --suffix=.tgz)
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$NAME:tlx.tgz" --zone="$ZONE" --worker=all
  rm "$archive"
  # uv brings a Python of its own: that of the image may be older than the 3.11 that tlx needs.
  on all "set -e
    sudo apt-get install -y nfs-common
    sudo mkdir -p /mnt/share
    mountpoint -q /mnt/share || sudo mount -t nfs ${SHARE:?set SHARE, as 10.0.0.2:/share} /mnt/share
    mkdir -p ~/tlx && tar -xzf ~/tlx.tgz -C ~/tlx
    python3 -m pip install --user uv
    ~/.local/bin/uv venv --allow-existing --python 3.12 ~/tlx-venv
    ~/.local/bin/uv pip install --python ~/tlx-venv/bin/python -r ~/tlx/requirements.txt 'jax[tpu]>=0.10,<0.12'"
  ;;
run)
  config=${2:?tpu.sh run CONFIG WORKDIR [--config.key=value ...]}
  workdir=${3:?tpu.sh run CONFIG WORKDIR [--config.key=value ...]}
  command=$(printf '%q ' python -m tlx.main --distributed --config="$config" --workdir="$workdir" "${@:4}")
  # Each host goes on when the connection ends; its process's number is what `stop` needs.
  on all "cd ~/tlx; export TFDS_DATA_DIR=${TFDS_DATA_DIR:-/mnt/share/tensorflow_datasets}
    nohup ~/tlx-venv/bin/$command > ~/tlx.log 2>&1 < /dev/null & echo \$! > ~/tlx.pid"
  ;;
watch) on "${2:-0}" "tail -n 50 -f ~/tlx.log" ;;
stop) on 0 'kill -TERM $(cat ~/tlx.pid); tail --pid=$(cat ~/tlx.pid) -f /dev/null; tail -n 3 ~/tlx.log' ;;
state) tpu describe --format="value(state)" ;;
delete) tpu delete --quiet ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
