#!/bin/sh
# Install what the demo, the tests and the benchmarks need on a bare Debian 12 and see to it that an engine answers.
# With "vm" also what the virtual machine is built and run with, with "store" also a Ceph RADOS gateway and the clients of object stores that are tried
# against it, what reads metrics and relays events, and what makes images with MPI.
set -eu
export DEBIAN_FRONTEND=noninteractive

need=
pairs='dockerd:docker.io docker-registry:docker-registry shellcheck:shellcheck busybox:busybox-static
  crun:crun munged:munge ip:iproute2 flock:util-linux useradd:passwd cc:gcc musl-gcc:musl-tools cppcheck:cppcheck
  slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client'
[ "${1-}" != vm ] || pairs="$pairs qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap cpio:cpio lz4:lz4 mke2fs:e2fsprogs clush:clustershell"
[ "${1-}" != store ] || pairs="$pairs ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw radosgw-admin:ceph-common
  mpicc:libopenmpi-dev mpirun:openmpi-bin
  s3cmd:s3cmd rclone:rclone openssl:openssl mmdebstrap:mmdebstrap
  prometheus:prometheus prometheus-node-exporter:prometheus-node-exporter rsyslogd:rsyslog"
for pair in $pairs; do
  PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null 2>&1 || need="$need ${pair##*:}"
done
ls /usr/lib/*/slurm-wlm/jobacct_gather_cgroup.so >/dev/null 2>&1 || need="$need slurm-wlm-basic-plugins"
[ -e /usr/include/slurm/spank.h ] || need="$need libslurm-dev"
[ -e /usr/include/stdio.h ] || need="$need libc6-dev"
[ "${1-}" != store ] || ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 || need="$need rsyslog-gnutls"
[ -x /usr/bin/python3 ] || need="$need python3"
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || need="$need python3-venv"
if [ -n "$need" ]; then
  echo "installing:$need" >&2
  apt-get update -qq >&2
  # shellcheck disable=SC2086 # a list of names
  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $need >&2
fi

if [ "${1-}" = vm ] && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
  apt-get update -qq >&2 # package lists were cleaned away
fi

answers() { PATH=/usr/bin:/usr/local/bin:$PATH docker version >/dev/null 2>&1; }
if ! answers; then
  echo "starting dockerd" >&2
  rm -f /var/run/docker.pid
  setsid /usr/sbin/dockerd </dev/null >/var/log/dockerd-pbsdock.log 2>&1 &
  for _ in $(seq 300); do
    answers && break
    sleep 0.1
  done
  answers || { echo "no Docker engine answers; see /var/log/dockerd-pbsdock.log" >&2; exit 1; }
fi
