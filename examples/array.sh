#!/bin/sh
#PBS -N sweep -t 0-7 -l nodes=1:ppn=1,mem=512mb,walltime=00:30:00
#DOCKER python:3.12-slim
# Eight jobs, one container each; every one finds its own number as without a container.
exec python3 -c 'import os; print("part", os.environ["PBS_ARRAYID"], "of 8")'
