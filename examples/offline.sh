#!/bin/sh
#PBS -N offline -l nodes=1:ppn=2,mem=2gb,walltime=00:20:00
# No network, an image that cannot be written to, a scratch space in the job's memory.
#DOCKER --network none --read-only --pull missing
#DOCKER --tmpfs /scratch:size=512m --env 'TITLE=two words' --workdir $PBS_O_WORKDIR
#DOCKER alpine:3.20
echo "$TITLE" > /scratch/title && cat /scratch/title
