#!/usr/bin/env bash
#SBATCH --job-name=prepare
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# Prepares raw motion and music on the nodes of this job. From the checkout:
#   sbatch -N4 jobs/prepare.sh --recipe datasets/dance_with_melody/recipe.yaml --root /shared/raw --out data/dances
# Without arguments it makes the synthetic set at data/synthetic.
# Options before the script overrule the header; what a site always wants: eval "$(momu cluster-env <site>)". See docs/slurm.md.
cd "${SLURM_SUBMIT_DIR:-$PWD}" && [[ -x .venv/bin/python && -d jobs ]] || {
    echo "momu: no checkout with a .venv in $PWD: submit from the checkout, after make setup" >&2; exit 2; }
(($#)) || set -- --recipe datasets/synthetic/recipe.yaml --out data/synthetic
exec .venv/bin/python -m momu_dist.launch prepare "$@"
