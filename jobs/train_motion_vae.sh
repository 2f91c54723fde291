#!/usr/bin/env bash
#SBATCH --job-name=train_motion_vae
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# Trains a motion vae on the nodes of this job. From the checkout, with one worker a GPU:
#   sbatch -N2 --gpus-per-node=8 jobs/train_motion_vae.sh --config configs/paper/aistpp/motion_vae.yaml [section.key=value ...]
# Without --config it is configs/demo/motion_vae.yaml, which trains on CPUs after jobs/train_music_vae.sh. After `make demo` that run
# is finished: name=another trains one more.
# Options before the script overrule the header; what a site always wants: eval "$(momu cluster-env <site>)". See docs/slurm.md.
cd "${SLURM_SUBMIT_DIR:-$PWD}" && [[ -x .venv/bin/python && -d jobs ]] || {
    echo "momu: no checkout with a .venv in $PWD: submit from the checkout, after make setup" >&2; exit 2; }
unset PYTHONPATH PYTHONHOME # what they name could shadow the installed packages
exec .venv/bin/python -m momu_dist.launch train --config configs/demo/motion_vae.yaml "$@"
