"""What Slurm calls things. Pure."""

from __future__ import annotations

from pbsdock.rm.base import Words

WORDS = Words(
    name="Slurm",
    request="sbatch",
    ask_memory="sbatch --mem=SIZE",
    ask_cpus="sbatch --cpus-per-task=N",
    ask_gpus="sbatch --gres=gpu:N",
    ask_room="sbatch --cpus-per-task=N or --mem=SIZE",
    ask_walltime="sbatch --time=HH:MM:SS",
    end_command="scancel",
    choose_shell="the script's #! line",
    choose_name="sbatch --job-name",
    give_variable="sbatch --export",
    rerun="sbatch --requeue",
    signal_commands="scancel and scancel --batch --signal",
    adopter="a move into the job step's cgroups",
    impossible_size="no limit of a Slurm job can be so large",
    job_id_variable="SLURM_JOB_ID",
    work_dir_variable="SLURM_SUBMIT_DIR",
    node_file_variable="SLURM_NODEFILE",  # which Slurm itself does not set: it lists the hosts in a variable
    submit="sbatch",
    start_variables=("SLURM_SUBMIT_DIR", "PWD"),
    own_variables=("SLURM_*", "SLURMD_*"),
)
