#!/bin/sh
#PBS -N align -l nodes=1:ppn=4,mem=8gb,walltime=02:00:00
#DOCKER biocontainers/bwa:v0.7.17_cv1
bwa mem -t 4 ref.fa reads.fq > out.sam
