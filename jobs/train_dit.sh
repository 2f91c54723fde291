#!/usr/bin/env bash
#SBATCH --job-name=train_dit
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# Trains one diffusion transformer. From the checkout, with what your site wants (docs/slurm.md):
#   eval "$(momu cluster-env NAME)"; sbatch -N2 jobs/train_dit.sh [--config configs/paper/aistpp/dit_m2a.yaml] [section.key=value ...]
# Without --config it is configs/paper/aistpp/dit_a2m.yaml. A job of the same run name goes on at its last checkpoint.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
[[ "${1:-}" == --config ]] || set -- --config configs/paper/aistpp/dit_a2m.yaml "$@"
exec .venv/bin/python -m momu_dist.launch train "$@"
