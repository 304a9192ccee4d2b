#!/bin/bash
# Install pbsdock into a Torque execution host, check an installation, go back to the version before, or take it out again.
# This finds a Python and hands over: the rest is lib/pbsdock/admin/setup, which needs nothing but the standard library.
set -euo pipefail

die() { echo "install.sh: $*" >&2; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=/usr/bin/python3
given=''
for argument; do
  [ "$given" != --python ] || python=$argument
  given=$argument
done
[ "$given" != --python ] || die "--python needs a value"
case $python in /*) ;; *) die "$python is not an absolute path" ;; esac
[ -x "$python" ] || die "$python does not exist; name an interpreter with --python"
"$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is too old; Python 3.11 or newer is needed"

# -B: root leaves nothing compiled in the checkout.
exec "$python" -I -B -c 'import sys
sys.path.insert(0, sys.argv[1] + "/lib")
from pbsdock.admin.setup.command import main
sys.exit(main(sys.argv[1:]))' "$here" "$@"
