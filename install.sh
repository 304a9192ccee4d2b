#!/bin/bash
# Install pbsdock into a Torque execution host, check an installation, or take it out again.
# shellcheck disable=SC2016 # the names of mom settings begin with a dollar sign
set -euo pipefail
# shellcheck disable=SC2016 # "$job_starter" and the like are mom's own words

usage() {
  cat <<'TEXT'
usage: install.sh --mom-priv DIR [--prefix DIR] [--root DIR] [--python PATH] [--wheels DIR]
                  [--dry-run | --check | --uninstall]
       install.sh --fetch DIR [--python PATH]

  --mom-priv DIR  mom's private directory, for example /var/spool/torque/mom_priv
  --prefix DIR    where the program goes (default: /opt/pbsdock, below --root if that is given)
  --root DIR      a relocated instance: configuration, state, sockets and logs below DIR
  --python PATH   interpreter for pbsdock's own virtual environment (default: /usr/bin/python3)
  --wheels DIR    take what pbsdock needs from DIR (filled by --fetch) and from nowhere else
  --dry-run       say what would be done, change nothing
  --check         verify an installation; exit 1 and a sentence for everything that is wrong
  --fetch DIR     only fill DIR with what pbsdock needs, for hosts without a package index; needs no root
  --uninstall     undo: site hooks and mom's config come back; configuration, state and logs stay
TEXT
}

die() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "$*"; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mom_priv='' prefix='' root='' wheels='' fetch='' python=/usr/bin/python3 mode=install
while [ $# -gt 0 ]; do
  case $1 in
    --mom-priv | --prefix | --root | --python | --wheels | --fetch)
      [ $# -ge 2 ] || die "$1 needs a value"
      case $1 in
        --mom-priv) mom_priv=$2 ;; --prefix) prefix=$2 ;; --root) root=$2 ;;
        --wheels) wheels=$2 ;; --fetch) fetch=$2 mode=fetch ;; *) python=$2 ;;
      esac
      shift 2 ;;
    --dry-run) mode=dry-run; shift ;;
    --check) mode=check; shift ;;
    --uninstall) mode=uninstall; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument $1" ;;
  esac
done
[ -n "$mom_priv$fetch" ] || { usage >&2; die "--mom-priv is missing"; }
for path in "${mom_priv:-/}" "${prefix:-/}" "${root:-/}" "${wheels:-/}" "${fetch:-/}" "$python"; do
  case $path in
    /*) ;;
    *) die "$path is not an absolute path" ;;
  esac
  case $path in
    *[!A-Za-z0-9/._+-]*) die "$path holds characters other than letters, digits and / . _ + -" ;;
  esac
done
[ -z "$wheels" ] || [ -d "$wheels" ] || die "--wheels $wheels is not a directory"
[ "$mode" = fetch ] || [ -d "$mom_priv" ] || die "--mom-priv $mom_priv is not a directory"
[ "$mode" = fetch ] || [ "$(id -u)" = 0 ] || die "must be run as root"

mom_priv=${mom_priv%/}
root=${root%/}
prefix=${prefix:-$root/opt/pbsdock}
etc=$root/etc/pbsdock
run_dir=$root/run/pbsdock
state_dir=$root/var/lib/pbsdock
log_dir=$root/var/log/pbsdock
paths=$prefix/paths.json
config=$mom_priv/config
units=/etc/systemd/system
hooks='prologue epilogue prologue.parallel epilogue.parallel'
helpers='run node-check ask'
ours='# pbsdock hook:'
block_begin='# begin pbsdock (written by install.sh, removed by install.sh --uninstall)'
block_begin_pattern='# begin pbsdock .*'
block_end='# end pbsdock'

site_packages() { echo "$prefix"/venv/lib/python3*/site-packages; }
is_ours() { [ -f "$1" ] && [ "$(sed -n 2p "$1" | cut -c1-${#ours})" = "$ours" ]; }
version() { sed -n 's/^version = //p' "$here/setup.cfg"; }
stamp() { (cd "$here" && find lib hooks etc lock install.sh setup.cfg pyproject.toml -type f ! -name '*.pyc' ! -path '*.egg-info*' -print0 | sort -z | xargs -0 sha256sum; echo "$python $mom_priv $prefix $root") | sha256sum | cut -c1-64; }

# What makes a path untrustworthy: it, or a directory above it, can be changed by somebody who is not root.
untrusted() {
  local one=$1
  while :; do
    if [ -e "$one" ]; then
      local facts
      facts=$(stat -Lc '%u %a' "$one")
      [ "${facts%% *}" = 0 ] || { echo "$one belongs to uid ${facts%% *}; it must belong to root"; return; }
      local bits=$((0${facts##* }))
      # A sticky directory such as /tmp protects what root has in it, but not a directory that is searched for hooks.
      if [ $((bits & 022)) -ne 0 ] && { [ $((bits & 01000)) -eq 0 ] || [ "$one" = "$1" ]; }; then
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

# The values of one parameter in mom's configuration, comments and blanks taken off.
mom_values() {
  [ ! -f "$config" ] || sed -n "s/^[[:space:]]*\\\$$1[[:space:]]\{1,\}\([^#]*\).*/\1/p" "$config" | sed 's/[[:space:]]*$//'
}

# Mom takes every value that begins like this for true (setbool in its parse_config.c).
says_true() { grep -Eiq '^(t|y|1|on$)'; }

# Refuse what would make root run the user's environment, two job starters, and lines mom would cut in two.
check_mom_config() {
  local other line
  if mom_values job_starter_run_privileged | says_true; then
    die "$config has \$job_starter_run_privileged true: every user would run code as root (LD_PRELOAD through qsub -v); remove that line"
  fi
  other=$(mom_values job_starter | grep -vxF "$prefix/hooks/run" | head -n 1 || true)
  [ -z "$other" ] || die "$config has another \$job_starter ($other); pbsdock's run hook must be the job starter: remove that line, or have the other one start $prefix/hooks/run"
  other=$(mom_values node_check_script | grep -vxF "$prefix/hooks/node-check" | head -n 1 || true)
  [ -z "$other" ] || die "$config has another \$node_check_script ($other); call $prefix/hooks/node-check from it and remove the line, then run this again"
  while IFS= read -r line; do
    # mom reads its configuration in pieces of 118 characters (read_config in its parse_config.c).
    [ "${#line}" -lt 118 ] || die "the line '$line' is longer than the 117 characters mom reads; choose a shorter --prefix"
  done < <(mom_lines)
}

# qsub -T x makes mom run prologue.x instead of prologue if there is such a name.
warn_strays() {
  local stray kind
  for kind in prologue epilogue; do
    for stray in "$mom_priv/$kind".*; do
      case ${stray##*/} in
        "$kind.*" | "$kind.parallel" | "$kind.user" | "$kind.user.parallel" | epilogue.precancel) ;;
        *)
          if [ -d "$stray" ]; then
            say "warning: $stray is a directory: with qsub -T ${stray##*/"$kind".} mom takes it for a $kind that fails, and the node for a sick one; move it away"
          else
            say "warning: $stray exists: qsub -T ${stray##*/"$kind".} runs it instead of pbsdock's $kind; a #DOCKER line in such a job is refused"
          fi
          ;;
      esac
    done
  done
  if mom_values down_on_error | grep -q . && ! mom_values down_on_error | says_true; then
    say "warning: $config says \$down_on_error $(mom_values down_on_error | head -n 1): a faulty node goes on taking jobs and returning them"
  fi
}

instance_name() {
  if [ -s "$etc/instance" ]; then cat "$etc/instance"
  elif [ -z "$root" ]; then echo pbsdock
  else echo "pbsdock-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')"; fi
}

bake() { # bake SOURCE TARGET
  local temporary="$2.new.$$"
  sed -e "s|@PYTHON@|$prefix/venv/bin/python3|g" -e "s|@LIB@|$(site_packages)|g" -e "s|@RUN_DIR@|$run_dir|g" \
    -e "s|@STATE_DIR@|$state_dir|g" -e "s|@MOM_PRIV@|$mom_priv|g" -e "s|@PATHS@|$paths|g" -e "s|@PREFIX@|$prefix|g" "$1" >"$temporary"
  chown root:root "$temporary"
  chmod 0755 "$temporary"
  mv -f "$temporary" "$2"
}

stop_agent() {
  [ -s "$run_dir/agent.pid" ] || return 0
  local pid
  pid=$(cat "$run_dir/agent.pid")
  case $pid in '' | *[!0-9]*) return 0 ;; esac
  if grep -aqF -- "$paths" "/proc/$pid/cmdline" 2>/dev/null; then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
  fi
}

# Says in one sentence what pip's log means.
pip_says() { # pip_says LOG
  local odd lacking
  # As pip words it: NAME==VERSION from ADDRESS (from -r FILE (line N)):
  odd=$(sed -n 's|^ *[A-Za-z0-9._-]*==[^ ]* from [^ ]*/\([^ #/]*\)[# ].*|\1|p' "$1" | head -n 1)
  lacking=$(sed -n 's/^ERROR: No matching distribution found for \([^ ]*\).*/\1/p' "$1" | head -n 1)
  if grep -q 'DO NOT MATCH THE HASHES' "$1" && [ -n "$odd" ]; then
    echo "$odd is not the file whose sha256 is in lock/run.txt or lock/build.txt; it was exchanged or damaged, nothing was installed"
  elif [ -n "$lacking" ] && [ -n "$wheels" ]; then
    echo "$wheels has no $lacking for this Python; fill it with install.sh --fetch, nothing was installed"
  else
    grep '^ERROR' "$1" >&2 || tail -n 3 "$1" >&2
    echo "pip could not fetch what pbsdock needs; without a package index use --wheels; nothing was installed"
  fi
}

# Fetches all that the lock names, and only that. What has to be built is built later, with the tools that come first.
fetch_program() { # fetch_program DIR: into DIR/files, the tools into DIR/tools; or a sentence
  local get=(download --require-hashes --no-build-isolation -d "$1/files")
  local tools=(install --require-hashes --no-index --no-deps --find-links "$1/files" --target "$1/tools")
  [ -z "$wheels" ] || get+=(--no-index --find-links "$wheels")
  "${pip[@]}" "${get[@]}" -r "$here/lock/build.txt" >"$1/log" 2>&1 &&
    "${pip[@]}" "${tools[@]}" -r "$here/lock/build.txt" >"$1/log" 2>&1 &&
    PYTHONPATH=$1/tools "${pip[@]}" "${get[@]}" -r "$here/lock/run.txt" >"$1/log" 2>&1 && return
  pip_says "$1/log"
  return 1
}

# What is installed and in no lock: an older version's, and what the interpreter brought to build with.
strays() {
  "${pip[@]}" list --format=freeze | sed 's/==.*//' | tr 'A-Z_.' 'a-z--' |
    grep -vxF -e pip -e pbsdock -f <(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' "$here/lock/run.txt") || true
}

make_work() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
}

use_pip_of() { # use_pip_of VENV
  export PIP_USE_PEP517=1 # not as an option: newer ones know nothing else, and may not know the option
  pip=("$1/bin/python3" -m pip --no-input --disable-pip-version-check)
}

# What is there stays until everything that is to take its place is here and has been compared with the lock.
write_program() {
  local pip problem fresh=''
  mkdir -p "$prefix"
  make_work
  if ! "$prefix/venv/bin/python3" -m pip --version >/dev/null 2>&1; then
    [ -e "$prefix/venv" ] || fresh=yes
    "$python" -m venv "$prefix/venv" || die "$python cannot make a virtual environment; apt-get install python3-venv"
  fi
  use_pip_of "$prefix/venv"
  if ! problem=$(fetch_program "$work"); then
    [ -z "$fresh" ] || rm -rf "$prefix/venv"
    die "$problem"
  fi
  # A copy: pip would leave a build directory in the checkout. What builds is used once, and not left on the node.
  mkdir "$work/build"
  cp -r "$here/lib" "$here/setup.cfg" "$here/pyproject.toml" "$here/README.md" "$here/LICENSE" "$work/build/"
  export PYTHONPATH=$work/tools
  local put=(install --no-index --no-deps --no-build-isolation) force=()
  # Only what differs is exchanged, so that hooks find the rest meanwhile; unless what is there is not what it was.
  [ -n "$fresh" ] || "$prefix/bin/pbsdock" doctor packages >/dev/null 2>&1 || force=(--force-reinstall)
  if ! { "${pip[@]}" "${put[@]}" "${force[@]}" --require-hashes --find-links "$work/files" -r "$here/lock/run.txt" &&
    "${pip[@]}" "${put[@]}" --force-reinstall "$work/build"; } >"$work/log" 2>&1; then
    cat "$work/log" >&2
    die "pip could not install pbsdock into $prefix/venv; run install.sh again"
  fi
  unset PYTHONPATH
  # shellcheck disable=SC2046 # a list of names
  "${pip[@]}" uninstall --yes $(strays) >"$work/log" 2>&1 || true # what stays, doctor names
  install -m 0644 "$here/lock/run.txt" "$prefix/lock.txt"
  "$prefix/venv/bin/python3" -m compileall -q "$(site_packages)" || true
  chmod -R go-w "$prefix/venv"
}

do_fetch() {
  local pip problem
  make_work
  "$python" -m venv "$work/venv" || die "$python cannot make a virtual environment; apt-get install python3-venv"
  use_pip_of "$work/venv"
  problem=$(fetch_program "$work") || die "$problem"
  mkdir -p "$fetch"
  cp "$work/files"/* "$fetch/"
  say "fetched $(find "$work/files" -type f | wc -l) packages into $fetch; install with --wheels $fetch"
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
from pbsdock.admin.cli import main
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

# The site's hooks must not live in prologue.d: qsub -T d would have mom run that name, fail, and report the node.
install_hooks() {
  local hook
  for hook in $hooks; do
    if [ -e "$mom_priv/$hook" ] && ! is_ours "$mom_priv/$hook"; then
      [ -f "$mom_priv/$hook" ] || die "$mom_priv/$hook is not a regular file; mom would not run it, move it away"
      install -d -m 0755 "$mom_priv/site-$hook.d"
      [ ! -e "$mom_priv/site-$hook.d/50-site" ] || die "both $mom_priv/$hook and $mom_priv/site-$hook.d/50-site are the site's; rename one of them"
      mv "$mom_priv/$hook" "$mom_priv/site-$hook.d/50-site"
      say "kept the site's own $hook as $mom_priv/site-$hook.d/50-site"
    fi
    bake "$here/hooks/$hook" "$mom_priv/$hook"
  done
  mkdir -p "$prefix/hooks"
  for hook in $helpers; do bake "$here/hooks/$hook" "$prefix/hooks/$hook"; done
}

without_block() { sed "/^$block_begin_pattern\$/,/^$block_end\$/d" "$config"; }

# What uninstall leaves: also lines of ours that an admin moved out of the block, since they name files that go.
without_lines() { without_block | grep -vxF -e "\$job_starter $prefix/hooks/run" -e "\$node_check_script $prefix/hooks/node-check" || true; }

replace_config() { # replace_config: mom's configuration becomes what is on stdin, mode and owner kept
  local temporary="$config.new.$$"
  cp -p "$config" "$temporary"
  cat >"$temporary"
  mv -f "$temporary" "$config"
}

configure_mom() {
  local line missing='' rest=''
  if [ ! -e "$config" ]; then
    : >"$config"
    chmod 0644 "$config"
  fi
  rest=$(without_block; echo .)
  rest=${rest%.}
  while IFS= read -r line; do
    # A value of the site's own stays; check_mom_config has refused the two that must be ours.
    grep -Eq "^[[:space:]]*\\${line%% *}[[:space:]]" <<<"$rest" || missing="$missing$line"$'\n'
  done < <(mom_lines)
  [ -z "$rest" ] || [ "${rest: -1}" = $'\n' ] || rest="$rest"$'\n'
  [ -z "$missing" ] || rest="$rest$block_begin"$'\n'"$missing$block_end"$'\n'
  if printf '%s' "$rest" | cmp -s - "$config"; then return 0; fi
  [ -e "$config.before-pbsdock" ] || cp -p "$config" "$config.before-pbsdock"
  printf '%s' "$rest" | replace_config
  say "added to $config (the old one is $config.before-pbsdock):"
  printf '%s' "$missing" | sed 's/^/    /'
  say "restart pbs_mom, or send it SIGHUP, to let these lines count"
}

cgroup_parent() { sed -n 's|^parent = "\(/[^"]*\)".*|\1|p' "$etc/pbsdock.toml" 2>/dev/null | head -n 1 || true; }

# What this host runs jobs on: found out, as the agent does it itself, and told.
describe_host() {
  local version=1 driver init='no systemd' name parent
  name=$(cat "$etc/instance" 2>/dev/null || echo INSTANCE)
  parent=$(cgroup_parent)
  [ ! -e /sys/fs/cgroup/cgroup.controllers ] || version=2
  [ ! -d /run/systemd/system ] || init=systemd
  driver=$(timeout 60 docker info --format '{{.CgroupDriver}}' 2>/dev/null) || driver=''
  case $version:$driver in
    *:) say "this host: cgroup v$version, $init; the engine does not answer: its cgroup driver is found out when it does" ;;
    1:cgroupfs | 2:cgroupfs) say "this host: cgroup v$version, $init, engine driver cgroupfs: jobs go below $parent/$name in the cgroup tree" ;;
    2:systemd) say "this host: cgroup v2, $init, engine driver systemd: each job gets a slice below $name.slice" ;;
    *) say "warning: this host: cgroup v$version with engine driver $driver is not supported; set native.cgroupdriver=cgroupfs" ;;
  esac
}

# What the host's own services need; an instance below --root has none of it.
install_services() {
  local one
  [ -z "$root" ] || { say "an instance below $root: the first hook that needs the agent starts it"; return 0; }
  [ ! -d /etc/logrotate.d ] || install -m 0644 "$here/etc/logrotate.d/pbsdock" /etc/logrotate.d/pbsdock
  if [ ! -d /run/systemd/system ]; then
    say "no systemd here: the first hook that needs the agent starts it"
    return 0
  fi
  install -m 0644 "$here/etc/tmpfiles.d/pbsdock.conf" /etc/tmpfiles.d/pbsdock.conf
  for one in socket service; do sed "s|@PREFIX@|$prefix|g" "$here/etc/systemd/pbsdock-agent.$one" >"$units/pbsdock-agent.$one"; done
  systemctl daemon-reload
  systemctl --quiet enable pbsdock-agent.socket pbsdock-agent.service
  # The socket first: an agent that a hook has started may have put its own in that place.
  systemctl stop pbsdock-agent.service pbsdock-agent.socket
  systemctl start pbsdock-agent.socket pbsdock-agent.service
  say "the agent is a systemd service: pbsdock-agent.service behind pbsdock-agent.socket"
}

remove_services() {
  [ -z "$root" ] || return 0
  if [ -e "$units/pbsdock-agent.service" ]; then
    systemctl --quiet disable --now pbsdock-agent.socket pbsdock-agent.service 2>/dev/null || true
    rm -f "$units/pbsdock-agent.service" "$units/pbsdock-agent.socket"
    systemctl daemon-reload 2>/dev/null || true
  fi
  rm -f /etc/logrotate.d/pbsdock /etc/tmpfiles.d/pbsdock.conf
}

wrong=0 changed=0
complain() { say "wrong: $*"; wrong=1; }

check_file() { # check_file PATH [MODE]: root's alone, and of that mode
  local problem mode
  [ -e "$1" ] || { complain "$1 is missing; run install.sh again"; return 0; }
  problem=$(untrusted "$1")
  [ -z "$problem" ] || complain "$problem"
  mode=$(stat -Lc %a "$1")
  [ "${2:-$mode}" = "$mode" ] || complain "$1 has mode $mode; it must be $2"
}

check_hooks() {
  local hook site
  for hook in $hooks; do
    check_file "$mom_priv/$hook" 755
    [ ! -e "$mom_priv/$hook" ] || is_ours "$mom_priv/$hook" || complain "$mom_priv/$hook is not pbsdock's hook; run install.sh again"
    [ ! -d "$mom_priv/site-$hook.d" ] || check_file "$mom_priv/site-$hook.d"
    for site in "$mom_priv/site-$hook.d"/*; do
      [ ! -f "$site" ] || check_file "$site"
    done
  done
  for hook in $helpers; do check_file "$prefix/hooks/$hook" 755; done
}

check_lines() {
  local line
  if mom_values job_starter_run_privileged | says_true; then
    complain "$config has \$job_starter_run_privileged true: every user can run code as root; remove that line"
  fi
  while IFS= read -r line; do
    case $line in
      \$job_starter* | \$node_check_script*)
        [ "$(mom_values "$(cut -c2- <<<"${line%% *}")" | tail -n 1)" = "${line#* }" ] || complain "$config lacks the line $line" ;;
      *) mom_values "$(cut -c2- <<<"${line%% *}")" | grep -q . || complain "$config lacks the line $line" ;;
    esac
  done < <(mom_lines)
}

program_works() {
  "$prefix/venv/bin/python3" -I -c 'import cgroupspy, docker, jeepney, psutil, structlog, pbsdock.agent.server' 2>/dev/null
}

check_program() {
  local problem line
  problem=$(find "$prefix/venv" "$prefix/bin/pbsdock" "$prefix/bin/pbsdock-agent" ! -type l \( ! -uid 0 -o -perm /022 \) -print -quit 2>/dev/null)
  [ -z "$problem" ] || complain "$problem can be changed by others than root; run install.sh again"
  if ! program_works; then
    complain "the virtual environment in $prefix/venv does not work; run install.sh again"
  elif ! problem=$("$prefix/bin/pbsdock" config 2>&1 >/dev/null); then
    complain "$problem"
  elif ! problem=$("$prefix/bin/pbsdock" doctor packages 2>&1); then
    changed=1
    while IFS= read -r line; do complain "${line#NOT }"; done < <(grep -v '^ok ' <<<"$problem")
  fi
}

check_services() {
  local one
  [ -z "$root" ] && [ -d /run/systemd/system ] || return 0
  for one in pbsdock-agent.socket pbsdock-agent.service; do
    check_file "$units/$one" 644
    systemctl --quiet is-enabled "$one" 2>/dev/null || complain "$one is not enabled; run: systemctl enable --now $one"
    systemctl --quiet is-active "$one" 2>/dev/null || complain "$one is not running; run: systemctl start $one"
  done
}

do_check() {
  wrong=0
  check_hooks
  check_file "$paths"
  check_file "$prefix/lock.txt" 644
  check_file "$etc/pbsdock.toml"
  check_file "$etc/instance"
  check_file "$state_dir" 700
  check_file "$log_dir"
  [ ! -e "$run_dir" ] || check_file "$run_dir"
  check_services
  check_lines
  [ "$wrong$mode" = 1install ] || check_program # costs a second, and something is to be done already
  [ "$wrong" = 0 ] && say "pbsdock is installed correctly in $mom_priv"
  return "$wrong"
}

do_uninstall() {
  local hook marker
  for marker in "$run_dir"/jobs/*; do
    [ ! -e "$marker" ] || say "warning: job ${marker##*/} has a container here; it loses its epilogue's cleaning up"
  done
  for hook in $hooks; do
    is_ours "$mom_priv/$hook" || continue
    rm -f "$mom_priv/$hook"
    if [ -e "$mom_priv/site-$hook.d/50-site" ]; then
      mv "$mom_priv/site-$hook.d/50-site" "$mom_priv/$hook"
      say "put the site's own $hook back"
    fi
    [ ! -d "$mom_priv/site-$hook.d" ] || rmdir "$mom_priv/site-$hook.d" 2>/dev/null || say "left: $mom_priv/site-$hook.d holds other hooks, which nobody calls now"
  done
  if [ -f "$config" ] && ! without_lines | cmp -s - "$config"; then
    if [ -f "$config.before-pbsdock" ] && [ "$(without_lines)" = "$(cat "$config.before-pbsdock")" ]; then
      mv -f "$config.before-pbsdock" "$config" # differs at most in a missing last newline
    else
      without_lines | replace_config
      rm -f "$config.before-pbsdock"
    fi
    say "took pbsdock's lines out of $config; restart pbs_mom: until then it calls hooks that are gone"
  fi
  remove_services
  stop_agent
  local name hook
  name=$(cat "$etc/instance" 2>/dev/null || true)
  # The instance's own cgroups, once they are empty.
  [ -z "$name" ] || [ ! -d "/sys/fs/cgroup/$name.slice" ] || systemctl --quiet stop "$name.slice" 2>/dev/null || true
  [ -z "$name" ] || rmdir "/sys/fs/cgroup$(cgroup_parent)/$name" /sys/fs/cgroup/*/"$name" 2>/dev/null || true
  # Pins of jobs that lose their container: whoever removes the directory later must not go through them.
  local pin
  for pin in "$run_dir"/pins/*/*; do [ ! -e "$pin" ] || umount -l "$pin" 2>/dev/null || true; done
  # Only what is ours by name: the prefix may be shared, /usr/local for example.
  rm -rf "${prefix:?}/venv"
  for hook in $helpers; do rm -f "$prefix/hooks/$hook"; done
  rm -f "$prefix/bin/pbsdock" "$prefix/bin/pbsdock-agent" "$paths" "$prefix/lock.txt" "$prefix/stamp"
  rmdir "$prefix/hooks" "$prefix/bin" "$prefix" 2>/dev/null || true
  say "pbsdock is taken out of $mom_priv; $etc, $state_dir and $log_dir stay"
}

case $mode in
  fetch) do_fetch; exit ;;
  check) do_check; exit ;;
  uninstall) do_uninstall; exit ;;
esac

check_mom_config
[ -x "$python" ] || die "$python does not exist; name an interpreter with --python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is too old; Python 3.11 or newer is needed"
for path in "$mom_priv" "$prefix" "$etc" "$run_dir" "$state_dir" "$log_dir"; do
  problem=$(untrusted "$path")
  [ -z "$problem" ] || die "$problem"
done
wanted=$(stamp)
if [ "$(cat "$prefix/stamp" 2>/dev/null || true)" = "$wanted" ] && do_check >/dev/null 2>&1; then
  warn_strays
  say "nothing to do: this version is installed in $mom_priv already"
  exit 0
fi
if [ "$mode" = dry-run ]; then
  say "would install the program into $prefix, hooks into $mom_priv, configuration into $etc/pbsdock.toml"
  for hook in $hooks; do
    if [ -e "$mom_priv/$hook" ] && ! is_ours "$mom_priv/$hook"; then say "would keep the site's own $hook as $mom_priv/site-$hook.d/50-site"; fi
  done
  describe_host
  say "would make sure that $config has:"
  mom_lines | sed 's/^/    /'
  warn_strays
  exit 0
fi

umask 022
mkdir -p "$etc" "$run_dir" "$log_dir" "$prefix"
install -d -m 0700 "$state_dir"
for path in "$prefix" "$etc" "$run_dir" "$state_dir" "$log_dir"; do
  # Again, now that they exist: somebody may have been quicker in a shared directory.
  problem=$(untrusted "$path")
  [ -z "$problem" ] || die "$problem"
done
[ -s "$etc/instance" ] || { name=$(instance_name) && echo "$name" >"$etc/instance"; }
describe_host
# With the program itself in place, only what is around it is mended.
if [ "$(cat "$prefix/stamp" 2>/dev/null || true)" != "$wanted" ] || ! program_works || [ "$changed" = 1 ]; then
  rm -f "$prefix/stamp"
  write_program
fi
write_paths
write_commands
if [ ! -e "$etc/pbsdock.toml" ]; then
  install -m 0644 "$here/etc/pbsdock.toml" "$etc/pbsdock.toml"
  say "wrote the commented configuration $etc/pbsdock.toml"
  if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    sed -i 's/^#journald = false$/journald = true/' "$etc/pbsdock.toml"
    say "events go to $log_dir/events.jsonl and to the journal: journalctl -t pbsdock JOB=ID"
  fi
fi
stop_agent
install_hooks
configure_mom
install_services
warn_strays
echo "$wanted" >"$prefix/stamp"
say "installed pbsdock $(version) into $mom_priv"
