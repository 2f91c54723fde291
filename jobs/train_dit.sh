#!/usr/bin/env bash
#SBATCH --job-name=momu-dit
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=runs/slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# Trains one diffusion transformer on ONE node (several nodes are not supported yet). From the checkout:
#   mkdir -p runs && sbatch jobs/train_dit.sh [--config configs/paper/aistpp/dit_m2a.yaml] [section.key=value ...]
# Without --config it is configs/paper/aistpp/dit_a2m.yaml. Options before the script override the header:
#   sbatch --gpus-per-node=8 jobs/train_dit.sh train.workers=8
# A requeued or repeated job with the same run name goes on at its last checkpoint.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
[[ "${1:-}" == --config ]] || set -- --config configs/paper/aistpp/dit_a2m.yaml "$@"
[[ -f .venv/bin/activate ]] || { echo "no .venv in $PWD: submit from the checkout, after make setup" >&2; exit 2; }

# DeepSpeed compiles a small part: node-local, so that nodes with other processors never share it. Without RAY_ADDRESS
# training starts a Ray of its own and joins no other that it finds on the node.
scratch="$(mktemp -d /tmp/momu-XXXXXX)"
trap 'rm -rf "$scratch"' EXIT
export TORCH_EXTENSIONS_DIR="$scratch" RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true

source .venv/bin/activate
python -m momu_dist.train "${@:1:2}" train.workers="${SLURM_GPUS_ON_NODE:-1}" "${@:3}"
