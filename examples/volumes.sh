#!/bin/sh
#PBS -N volumes -l nodes=1:ppn=1,mem=1gb,walltime=00:10:00
#DOCKER --volume $HOME/input:/data:ro --workdir /data debian:12-slim
#DOCKER --env OMP_NUM_THREADS=1 --shm-size 256mb
ls -l /data
