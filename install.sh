#!/bin/bash
# Install pbsdock into a Torque execution host, check an installation, or take it out again.
# shellcheck disable=SC2016 # the names of mom settings begin with a dollar sign
set -euo pipefail
# shellcheck disable=SC2016 # "$job_starter" and the like are mom's own words

usage() {
  cat <<'TEXT'
usage: install.sh --mom-priv DIR [--prefix DIR] [--root DIR] [--python PATH] [--dry-run | --check | --uninstall]

  --mom-priv DIR  mom's private directory, for example /var/spool/torque/mom_priv
  --prefix DIR    where the program goes (default: /opt/pbsdock, below --root if that is given)
  --root DIR      a relocated instance: configuration, state, sockets and logs below DIR
  --python PATH   interpreter for pbsdock's own virtual environment (default: /usr/bin/python3)
  --dry-run       say what would be done, change nothing
  --check         verify an installation; exit 1 and a sentence for everything that is wrong
  --uninstall     undo: site hooks and mom's config come back; configuration, state and logs stay
TEXT
}

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "$*"; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mom_priv='' prefix='' root='' python=/usr/bin/python3 mode=install
while [ $# -gt 0 ]; do
  case $1 in
    --mom-priv | --prefix | --root | --python)
      [ $# -ge 2 ] || die "$1 needs a value"
      case $1 in
        --mom-priv) mom_priv=$2 ;; --prefix) prefix=$2 ;; --root) root=$2 ;; *) python=$2 ;;
      esac
      shift 2 ;;
    --dry-run) mode=dry-run; shift ;;
    --check) mode=check; shift ;;
    --uninstall) mode=uninstall; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument $1" ;;
  esac
done
[ -n "$mom_priv" ] || { usage >&2; die "--mom-priv is missing"; }
for path in "$mom_priv" "${prefix:-/}" "${root:-/}"; do
  case $path in
    /*) ;;
    *) die "$path is not an absolute path" ;;
  esac
  case $path in
    *[!A-Za-z0-9/._+-]*) die "$path holds characters other than letters, digits and / . _ + -" ;;
  esac
done
[ -d "$mom_priv" ] || die "--mom-priv $mom_priv is not a directory"
[ "$(id -u)" = 0 ] || die "must be run as root"

root=${root%/}
prefix=${prefix:-$root/opt/pbsdock}
etc=$root/etc/pbsdock
run_dir=$root/run/pbsdock
state_dir=$root/var/lib/pbsdock
log_dir=$root/var/log/pbsdock
paths=$prefix/paths.json
config=$mom_priv/config
hooks='prologue epilogue prologue.parallel epilogue.parallel'
ours='# pbsdock hook:'

site_packages() { echo "$prefix"/venv/lib/python3*/site-packages; }
is_ours() { [ -f "$1" ] && [ "$(sed -n 2p "$1" | cut -c1-${#ours})" = "$ours" ]; }
stamp() { (cd "$here" && find lib hooks install.sh setup.cfg -type f ! -name '*.pyc' ! -path '*.egg-info*' -print0 | sort -z | xargs -0 sha256sum; echo "$python $mom_priv $prefix $root") | sha256sum | cut -c1-64; }

# What makes a path untrustworthy: it, or a directory above it, can be changed by somebody who is not root.
untrusted() {
  local one=$1
  while :; do
    if [ -e "$one" ]; then
      local facts
      facts=$(stat -Lc '%u %a' "$one")
      [ "${facts%% *}" = 0 ] || { echo "$one belongs to uid ${facts%% *}; it must belong to root"; return; }
      local bits=$((0${facts##* }))
      if [ $((bits & 022)) -ne 0 ] && [ $((bits & 01000)) -eq 0 ]; then
        echo "$one is writable by others (mode ${facts##* }); use chmod go-w"; return
      fi
    fi
    [ "$one" = / ] && return
    one=$(dirname "$one")
  done
}

mom_lines() {
  printf '%s\n' "\$job_starter $prefix/hooks/run" "\$node_check_script $prefix/hooks/node-check" \
    "\$node_check_interval 1,jobstart,jobend" "\$down_on_error true"
}

# Refuse what would make root run the user's environment, or two job starters.
check_mom_config() {
  [ -f "$config" ] || return 0
  if grep -Eiq '^[[:space:]]*\$job_starter_run_privileged[[:space:]]+(true|1|y|yes|on)' "$config"; then
    die "$config has \$job_starter_run_privileged true: every user would run code as root (LD_PRELOAD through qsub -v); remove that line"
  fi
  local other
  other=$(sed -n 's/^[[:space:]]*\$job_starter[[:space:]]\{1,\}//p' "$config" | grep -vx "$prefix/hooks/run" | head -n 1 || true)
  [ -z "$other" ] || die "$config has another \$job_starter ($other); pbsdock's run hook must be the job starter, chain the other one behind it"
  other=$(sed -n 's/^[[:space:]]*\$node_check_script[[:space:]]\{1,\}//p' "$config" | grep -vx "$prefix/hooks/node-check" | head -n 1 || true)
  [ -z "$other" ] || die "$config has another \$node_check_script ($other); call $prefix/hooks/node-check from it and remove the line, then run this again"
}

warn_strays() {
  local stray
  for stray in "$mom_priv"/prologue.*; do
    case ${stray##*/} in
      'prologue.*' | prologue.parallel | prologue.user | prologue.user.parallel | prologue.d) ;;
      *) say "warning: $stray exists: qsub -T ${stray##*.} runs it instead of pbsdock's prologue; such jobs' #DOCKER lines are refused" ;;
    esac
  done
}

instance_name() {
  if [ -s "$etc/instance" ]; then cat "$etc/instance"
  elif [ -z "$root" ]; then echo pbsdock
  else echo "pbsdock-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')"; fi
}

bake() { # bake SOURCE TARGET
  local temporary="$2.new.$$"
  sed -e "s|@PYTHON@|$prefix/venv/bin/python3|g" -e "s|@LIB@|$(site_packages)|g" -e "s|@RUN_DIR@|$run_dir|g" \
    -e "s|@STATE_DIR@|$state_dir|g" -e "s|@MOM_PRIV@|$mom_priv|g" -e "s|@PATHS@|$paths|g" "$1" >"$temporary"
  chown root:root "$temporary"
  chmod 0755 "$temporary"
  mv -f "$temporary" "$2"
}

stop_agent() {
  [ -s "$run_dir/agent.pid" ] || return 0
  local pid
  pid=$(cat "$run_dir/agent.pid")
  if ! flock -n "$state_dir/agent.lock" true 2>/dev/null && grep -aq pbsdock "/proc/$pid/cmdline" 2>/dev/null; then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
  fi
}

write_program() {
  local build
  mkdir -p "$prefix"
  [ -x "$prefix/venv/bin/python3" ] || "$python" -m venv "$prefix/venv" || die "$python cannot make a virtual environment; apt-get install python3-venv"
  build=$(mktemp -d)
  cp -r "$here/lib" "$here/setup.cfg" "$here/pyproject.toml" "$here/README.md" "$here/LICENSE" "$build/"
  "$prefix/venv/bin/python3" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$build" || { rm -rf "$build"; die "pip could not install pbsdock"; }
  "$prefix/venv/bin/python3" -m pip install --quiet --disable-pip-version-check "$build" || { rm -rf "$build"; die "pip could not install pbsdock's dependencies"; }
  rm -rf "$build"
  "$prefix/venv/bin/python3" -m compileall -q "$(site_packages)" || true
  chmod -R go-w "$prefix"
}

write_paths() {
  cat >"$paths.new" <<TEXT
{"python": "$prefix/venv/bin/python3", "lib": "$(site_packages)", "run_dir": "$run_dir", "state_dir": "$state_dir",
 "log_dir": "$log_dir", "config": "$etc/pbsdock.toml", "mom_priv": "$mom_priv", "instance": "$(cat "$etc/instance")",
 "prefix": "$prefix"}
TEXT
  mv -f "$paths.new" "$paths"
}

write_commands() {
  mkdir -p "$prefix/bin"
  cat >"$prefix/bin/pbsdock" <<TEXT
#!/bin/sh
exec "$prefix/venv/bin/python3" -I -c 'import sys
from pbsdock.cli import main
sys.exit(main())' --paths "$paths" "\$@"
TEXT
  cat >"$prefix/bin/pbsdock-agent" <<TEXT
#!/bin/sh
exec "$prefix/venv/bin/python3" -I -S -c 'import sys; sys.path.insert(0, "$(site_packages)")
from pbsdock.agent.daemon import main
sys.exit(main())' --paths "$paths" "\$@"
TEXT
  chmod 0755 "$prefix/bin/pbsdock" "$prefix/bin/pbsdock-agent"
}

install_hooks() {
  local hook
  for hook in $hooks; do
    if [ -e "$mom_priv/$hook" ] && ! is_ours "$mom_priv/$hook"; then
      case $hook in
        *.parallel) die "$mom_priv/$hook exists already; merge it with $here/hooks/$hook by hand" ;;
      esac
      mkdir -p "$mom_priv/$hook.d"
      mv "$mom_priv/$hook" "$mom_priv/$hook.d/50-site"
      say "kept the site's own $hook as $mom_priv/$hook.d/50-site"
    fi
    bake "$here/hooks/$hook" "$mom_priv/$hook"
  done
  mkdir -p "$prefix/hooks"
  bake "$here/hooks/run" "$prefix/hooks/run"
  bake "$here/hooks/node-check" "$prefix/hooks/node-check"
}

configure_mom() {
  local line missing=''
  while IFS= read -r line; do
    if ! grep -qxF "$line" "$config" 2>/dev/null; then
      case $line in
        \$node_check_interval* | \$down_on_error*)
          grep -Eq "^[[:space:]]*\\${line%% *}([[:space:]]|\$)" "$config" 2>/dev/null && continue ;;
      esac
      missing="$missing$line
"
    fi
  done < <(mom_lines)
  [ -n "$missing" ] || return 0
  if [ -f "$config" ]; then
    cp -p "$config" "$config.before-pbsdock"
    [ -z "$(tail -c 1 "$config")" ] || echo >>"$config"
  fi
  printf '%s' "$missing" >>"$config"
  say "added to $config (restart pbs_mom, or momctl -r, to let it count):"
  printf '%s' "$missing" | sed 's/^/    /'
}

do_check() {
  local wrong=0 file problem
  complain() { say "wrong: $*"; wrong=1; }
  for file in prologue epilogue prologue.parallel epilogue.parallel; do
    if ! is_ours "$mom_priv/$file"; then complain "$mom_priv/$file is not pbsdock's hook; run install.sh again"; fi
  done
  for file in "$mom_priv/prologue" "$mom_priv/epilogue" "$mom_priv/prologue.parallel" "$mom_priv/epilogue.parallel" \
    "$prefix/hooks/run" "$prefix/hooks/node-check" "$prefix/venv/bin" "$paths" "$etc/pbsdock.toml"; do
    [ -e "$file" ] || { complain "$file is missing; run install.sh again"; continue; }
    problem=$(untrusted "$file")
    [ -z "$problem" ] || complain "$problem"
    case $file in
      */hooks/* | "$mom_priv"/*) [ "$(stat -c %a "$file")" = 755 ] || complain "$file has mode $(stat -c %a "$file"); it must be 755" ;;
    esac
  done
  while IFS= read -r line; do
    case $line in
      \$job_starter* | \$node_check_script*) grep -qxF "$line" "$config" 2>/dev/null || complain "$config lacks the line $line" ;;
    esac
  done < <(mom_lines)
  if ! "$prefix/venv/bin/python3" -I -c 'import pbsdock.agent.server' 2>/dev/null; then
    complain "the virtual environment in $prefix/venv does not work; run install.sh again"
  elif ! problem=$("$prefix/bin/pbsdock" config 2>&1 >/dev/null); then
    complain "$problem"
  fi
  [ "$wrong" = 0 ] && say "pbsdock is installed correctly in $mom_priv"
  return "$wrong"
}

do_uninstall() {
  local hook line
  stop_agent
  for hook in $hooks; do
    if is_ours "$mom_priv/$hook"; then
      rm -f "$mom_priv/$hook"
      if [ -e "$mom_priv/$hook.d/50-site" ]; then
        mv "$mom_priv/$hook.d/50-site" "$mom_priv/$hook"
        rmdir "$mom_priv/$hook.d" 2>/dev/null || say "left: $mom_priv/$hook.d holds other hooks"
      fi
    fi
  done
  if [ -f "$config" ]; then
    while IFS= read -r line; do
      grep -vxF "$line" "$config" >"$config.new.$$" || true
      cat "$config.new.$$" >"$config"
      rm -f "$config.new.$$"
    done < <(mom_lines)
  fi
  rm -rf "${prefix:?}/venv" "${prefix:?}/hooks" "${prefix:?}/bin" "$paths" "${prefix:?}/stamp"
  rmdir "$prefix" 2>/dev/null || true
  say "pbsdock is taken out of $mom_priv; $etc, $state_dir and $log_dir stay"
}

case $mode in
  check) do_check; exit ;;
  uninstall) do_uninstall; exit ;;
esac

check_mom_config
[ -x "$python" ] || die "$python does not exist; name an interpreter with --python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is too old; Python 3.11 or newer is needed"
for path in "$mom_priv" "$prefix" "$etc"; do
  problem=$(untrusted "$path")
  [ -z "$problem" ] || die "$problem"
done
if [ "$mode" = dry-run ]; then
  say "would install the program into $prefix, hooks into $mom_priv, configuration into $etc/pbsdock.toml"
  for hook in $hooks; do
    if [ -e "$mom_priv/$hook" ] && ! is_ours "$mom_priv/$hook"; then say "would keep the site's own $hook as $mom_priv/$hook.d/50-site"; fi
  done
  say "would make sure that $config has:"
  mom_lines | sed 's/^/    /'
  exit 0
fi

wanted=$(stamp)
if [ "$(cat "$prefix/stamp" 2>/dev/null || true)" = "$wanted" ] && do_check >/dev/null 2>&1; then
  warn_strays
  say "nothing to do: this version is installed in $mom_priv already"
  exit 0
fi
umask 022
mkdir -p "$etc" "$run_dir" "$log_dir"
mkdir -p "$state_dir"
chmod 0700 "$state_dir"
[ -s "$etc/instance" ] || instance_name >"$etc/instance"
write_program
write_paths
write_commands
if [ ! -e "$etc/pbsdock.toml" ]; then
  cp "$here/etc/pbsdock.toml" "$etc/pbsdock.toml"
  chmod 0644 "$etc/pbsdock.toml"
  say "wrote the commented configuration $etc/pbsdock.toml"
fi
stop_agent
install_hooks
configure_mom
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
  sed "s|@PREFIX@|$prefix|g" "$here/etc/systemd/pbsdock-agent.service" >/etc/systemd/system/pbsdock-agent.service
  systemctl daemon-reload && systemctl enable --now pbsdock-agent.service
  say "the agent is a systemd service: pbsdock-agent.service"
else
  say "no systemd here: the first hook that needs the agent starts it"
fi
warn_strays
echo "$wanted" >"$prefix/stamp"
say "installed pbsdock into $mom_priv"
