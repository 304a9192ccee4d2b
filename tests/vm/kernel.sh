#!/bin/bash
# mmdebstrap's hook: fetch the kernel of its suite, which is not installed, into a directory: kernel.sh DIRECTORY ROOT
set -euo pipefail
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$1"
name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n 1)
apt-get download -qq -o APT::Sandbox::User=root "$name"
