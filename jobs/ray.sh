#!/usr/bin/env bash
#SBATCH --job-name=ray
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR2@180
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
# Holds a Ray on the nodes of this job, for `momu ray-job JOB -- python -m momu_dist.train ...`. From the checkout:
#   sbatch -N2 jobs/ray.sh
# Options before the script overrule the header; what a site always wants: eval "$(momu cluster-env <site>)". See docs/slurm.md.
cd "${SLURM_SUBMIT_DIR:-$PWD}" && [[ -x .venv/bin/python && -d jobs ]] || {
    echo "momu: no checkout with a .venv in $PWD: submit from the checkout, after make setup" >&2; exit 2; }
unset PYTHONPATH PYTHONHOME # what they name could shadow the installed packages
exec .venv/bin/python -m momu_dist.launch hold "$@"
