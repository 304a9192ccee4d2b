"""What Torque calls things. Pure."""

from __future__ import annotations

from pbsdock.rm.base import Words

WORDS = Words(
    name="Torque",
    request="qsub -l",
    ask_memory="qsub -l mem=SIZE",
    ask_cpus="qsub -l nodes=1:ppn=N",
    ask_gpus="qsub -l nodes=1:gpus=N",
    ask_room="qsub -l nodes=1:ppn=N or mem=SIZE",
    ask_walltime="qsub -l walltime=HH:MM:SS",
    end_command="qdel",
    choose_shell="qsub -S",
    choose_name="qsub -N",
    give_variable="qsub -v",
    rerun="qsub -r y",
    signal_commands="qdel and qsig",
    adopter="pbs_track",
    impossible_size="what Torque makes of a negative size or one it cannot hold",
    job_id_variable="PBS_JOBID",
    work_dir_variable="PBS_O_WORKDIR",
    node_file_variable="PBS_NODEFILE",
    submit="qsub",
    start_variables=("PBS_O_INITDIR", "PBS_O_WORKDIR"),
    own_variables=("PBS_*",),
)
