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
# Without arguments it makes the demo's set at runs/demo/data, which the scripts of trainings read without --config: first this one, then
# train_music_vae.sh, train_motion_vae.sh, train_dit.sh, each after the one before. What `make demo` made already is not made again.
# Options before the script overrule the header; what a site always wants: eval "$(momu cluster-env <site>)". See docs/slurm.md.
cd "${SLURM_SUBMIT_DIR:-$PWD}" && [[ -x .venv/bin/python && -d jobs ]] || {
    echo "momu: no checkout with a .venv in $PWD: submit from the checkout, after make setup" >&2; exit 2; }
unset PYTHONPATH PYTHONHOME # what they name could shadow the installed packages
(($#)) || set -- --recipe datasets/synthetic/recipe.yaml --out runs/demo/data shard_mb=16
exec .venv/bin/python -m momu_dist.launch prepare "$@"
