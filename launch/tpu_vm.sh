#!/usr/bin/env bash
# One memjax command line on a Cloud TPU VM or slice: create or reuse it, install, run on all
# workers, fetch the run folder, delete. --help says more; --dry_run prints every command.
set -euo pipefail

usage() {
  cat <<'TEXT'
launch/tpu_vm.sh up|run|fetch|down|all [options] [-- python -m memjax.main --config=... --workdir=...]

  up     create the TPU (a queued resource) unless it is there, wait for it, install memjax on all workers
  run    run the command on all workers at once; JAX makes one run of them
  fetch  copy the command's --workdir to this machine
  down   delete the TPU and its queue entry
  all    up, run, fetch, down; fetch and down also when the run fails or is interrupted

  --name=NAME          of the TPU; default memjax
  --zone=ZONE          for example us-west4-a; default gcloud's compute/zone
  --project=PROJECT    default gcloud's project
  --accelerator=TYPE   default v5litepod-8; v6e-8, v5p-8, v4-8, and larger slices such as v5litepod-16
  --runtime=VERSION    default the one that goes with the accelerator
  --spot               cheaper, may be taken away at any time; asks for a gs:// workdir with --restarts
  --restarts=N         start again up to N times when the TPU is taken away or a process is lost; default 0;
                       with --overwrite in the command, only the first start deletes what is there
  --fetch_to=DIR       default runs
  --wait_s=SECONDS     how long to wait in the queue; default 86400
  --poll_s=SECONDS     how often to look; default 30
  --dry_run            print the exact commands (but for the look-ups between them), run none

The exit code is that of the run: 0 done, 2 bad input (also: gcloud missing, not logged in, quota), 3 not
finite, 143 stopped with all saved; 75 when something was lost that a later try may find (capacity, a process).
TEXT
}

fail() { # fail CODE MESSAGE: one line
  printf 'tpu_vm.sh: %s\n' "$2" >&2
  exit "$1"
}

say() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }

quote() { # prints words as a shell reads them back
  local word separator=''
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    printf '%s%s' "$separator" "$word"
    separator=' '
  done
}

# ---- what the flags say

name=memjax zone='' project='' accelerator=v5litepod-8 runtime='' spot='' restarts=0
fetch_to=runs wait_s=86400 poll_s=30 dry_run='' action='' started='' job=''
command=()

number() { # number FLAG VALUE
  case "$2" in '' | *[!0-9]*) fail 2 "$1=$2: must be a whole number, 0 or more" ;; esac
  printf '%s' "$2"
}

parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      up | run | fetch | down | all) action="$1" ;;
      --name=?*) name="${1#*=}" ;;
      --zone=?*) zone="${1#*=}" ;;
      --project=?*) project="${1#*=}" ;;
      --accelerator=?*) accelerator="${1#*=}" ;;
      --runtime=?*) runtime="${1#*=}" ;;
      --spot) spot=yes ;;
      --restarts=*) restarts="$(number --restarts "${1#*=}")" ;;
      --fetch_to=?*) fetch_to="${1#*=}" ;;
      --wait_s=*) wait_s="$(number --wait_s "${1#*=}")" ;;
      --poll_s=*) poll_s="$(number --poll_s "${1#*=}")" ;;
      --dry_run) dry_run=yes ;;
      --help | -h) usage && exit 0 ;;
      --)
        shift
        command=("$@")
        break
        ;;
      *) fail 2 "$1: not understood; see launch/tpu_vm.sh --help" ;;
    esac
    shift
  done
}

workdir() { # the command's --workdir
  local word
  for word in ${command[@]+"${command[@]}"}; do
    case "$word" in --workdir=?*) printf '%s' "${word#*=}" && return ;; esac
  done
}

check() {
  [ -n "$action" ] || fail 2 'say what to do: up, run, fetch, down or all; see --help'
  case "$action" in
    run | all) [ ${#command[@]} -gt 0 ] || fail 2 'the command is missing: -- python -m memjax.main --config=... --workdir=...' ;;
  esac
  case "$action" in
    run | fetch | all) [ -n "$(workdir)" ] || fail 2 '--workdir=... is missing in the command after --' ;;
  esac
  if [ "$restarts" -gt 0 ] && [ "$action" != up ] && [ "$action" != down ]; then
    case "$(workdir)" in
      gs://*) ;;
      *) fail 2 "--restarts=$restarts: a TPU that is taken away takes its disk with it; --workdir must be on gs://" ;;
    esac
  fi
  if [ -z "$runtime" ]; then
    case "$accelerator" in
      v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      *) fail 2 "--accelerator=$accelerator: give its --runtime too; known are v2, v3, v4, v5litepod, v5p, v6e" ;;
    esac
  fi
  if [ -z "$dry_run" ] && ! command -v gcloud >/dev/null; then
    fail 2 'gcloud is not on PATH; install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install'
  fi
}

# ---- gcloud, with its errors in one line

place=() # --zone and --project, where given

explain() { # explain CODE OUTPUT: exits with one line for a failed gcloud
  local line
  line="$(grep -m1 '^ERROR' <<<"$2" || tail -n1 <<<"$2")"
  case "$2" in
    *'gcloud auth login'* | *'Reauthentication'* | *'application-default login'*)
      fail 2 'gcloud is not logged in; run: gcloud auth login' ;;
    *'[project]'*'not currently set'* | *'property [core/project]'* | *'core/project'*)
      fail 2 'no project; give --project=PROJECT, or run: gcloud config set project PROJECT' ;;
    *'compute/zone'*) fail 2 'no zone; give --zone=ZONE, or run: gcloud config set compute/zone ZONE' ;;
    *SERVICE_DISABLED* | *'it is disabled'*)
      fail 2 'the TPU API is off in this project; run: gcloud services enable tpu.googleapis.com' ;;
    *[Qq]uota*) fail 2 "quota refused for $accelerator${spot:+ (spot)}; ask for more, or try another --zone: $line" ;;
    *[Cc]apacity* | *RESOURCE_EXHAUSTED* | *stockout*)
      fail 75 "no $accelerator free${spot:+ (spot)} there now; try later or another --zone: $line" ;;
    *PERMISSION_DENIED* | *'does not have permission'*) fail 2 "this account may not do that: $line" ;;
  esac
  fail "$1" "gcloud failed: $line"
}

is_absent() { case "$1" in *NOT_FOUND* | *'was not found'* | *'could not be found'*) true ;; *) false ;; esac }

show() { printf '%s\n' "$(quote "$@")"; }

ask() { # ask COMMAND...: prints what gcloud answers; nothing where the thing is not there
  local answer errors said code=0
  # gcloud warns and asks for updates on stderr: what it answers is on stdout alone.
  errors="$(mktemp)"
  answer="$("$@" 2>"$errors")" || code=$?
  said="$(cat "$errors")"
  rm -f "$errors"
  if [ "$code" -eq 0 ]; then
    tail -n1 <<<"$answer"
  elif ! is_absent "$said"; then
    explain "$code" "$said"
  fi
}

do_it() { # do_it COMMAND...: its errors in one line
  local answer code=0
  if [ -n "$dry_run" ]; then show "$@" && return; fi
  answer="$("$@" 2>&1)" || code=$?
  [ "$code" -eq 0 ] || explain "$code" "$answer"
}

on_workers() { # on_workers WHICH SHELL_COMMAND: its output is shown; returns its exit code
  local line=(gcloud compute tpus tpu-vm ssh "$name" ${place[@]+"${place[@]}"} "--worker=$1" "--command=$2")
  if [ -n "$dry_run" ]; then show "${line[@]}" && return; fi
  "${line[@]}"
}

# Called as state="$(queue_state)" || exit: a failure inside $() ends the subshell alone.
queue_state() {
  ask gcloud compute tpus queued-resources describe "$name" ${place[@]+"${place[@]}"} '--format=value(state.state)'
}

node_state() {
  ask gcloud compute tpus tpu-vm describe "$name" ${place[@]+"${place[@]}"} '--format=value(state)'
}

is_up() {
  local queue node
  queue="$(queue_state)" || exit
  node="$(node_state)" || exit
  case "$queue $node" in 'ACTIVE READY' | ' READY') true ;; *) false ;; esac # one made by hand has no queue entry
}

# ---- the actions

request() {
  do_it gcloud compute tpus queued-resources create "$name" "--node-id=$name" ${place[@]+"${place[@]}"} \
    "--accelerator-type=$accelerator" "--runtime-version=$runtime" ${spot:+--spot} --quiet
}

create() {
  local state node
  [ -z "$dry_run" ] || { request && return; }
  state="$(queue_state)" || exit
  node="$(node_state)" || exit
  case "$state $node" in
    SUSPEND* | FAILED* | *PREEMPTED | *TERMINATED)
      say "$name is ${node:-$state}; deleting it and asking again"
      delete
      state='' node=''
      ;;
  esac
  if [ -n "$state$node" ]; then
    say "$name is there already (${state:-$node})"
  else
    request
  fi
  wait_until_active
}

wait_until_active() {
  local state waited=0
  while ! is_up; do
    state="$(queue_state)" || exit
    case "$state" in
      FAILED | SUSPEND*) fail 75 "the request for $accelerator ended as $state; try later or another --zone" ;;
    esac
    [ "$waited" -lt "$wait_s" ] || fail 75 "$name is still ${state:-unknown} after --wait_s=$wait_s"
    [ $((waited % 600)) -ne 0 ] || say "$name is ${state:-unknown}; waiting"
    sleep "$poll_s"
    waited=$((waited + (poll_s > 0 ? poll_s : 1)))
  done
}

build_wheel() { # build_wheel ROOT
  local line=(python3 -m pip wheel --quiet --no-deps "--wheel-dir=$1/dist" "$1") said
  if [ -n "$dry_run" ]; then show "${line[@]}" && return; fi
  said="$("${line[@]}" 2>&1)" ||
    fail 2 "the wheel of $1 could not be built: $(grep -m1 '^ *ERROR' <<<"$said" || tail -n1 <<<"$said")"
}

install() {
  local root version wheel tries=0
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/memjax/version.py")"
  wheel="memjax-$version-py3-none-any.whl"
  build_wheel "$root"
  # A TPU VM that has just become active may refuse ssh for a while.
  until on_workers all 'python3 -m pip install --quiet --user uv'; do
    tries=$((tries + 1))
    [ "$tries" -lt 5 ] || fail 75 "$name does not answer to ssh"
    sleep "$poll_s"
  done
  do_it gcloud compute tpus tpu-vm scp "$root/dist/$wheel" "$name:" ${place[@]+"${place[@]}"} --worker=all
  # The images have Python 3.10; uv brings a newer one. gcsfs reads and writes gs:// as the VM's own account.
  on_workers all "uv=\$HOME/.local/bin/uv; \$uv venv --quiet --allow-existing --python=3.12 memjax && \
\$uv pip install --quiet --python=memjax/bin/python --reinstall-package=memjax ./$wheel 'jax[tpu]' gcsfs" ||
    fail $? "memjax could not be installed on $name"
}

up() {
  create
  install
}

run_once() {
  # What is left of an earlier start (a broken connection) would hold the TPU: it saves and ends first. .memjax.pid
  # says which process that was: its number, when it began, and under which boot of the machine, for numbers are
  # given again, and then mean somebody else's process.
  # shellcheck disable=SC2016 # expanded by the worker's shell
  on_workers all 'who() {
  [ -r "/proc/$1/stat" ] || return 1
  sed "s/.*) //" "/proc/$1/stat" | { read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ began _
  echo "$1 $began $(cat /proc/sys/kernel/random/boot_id)"; }
}
earlier="$(cat .memjax.pid 2>/dev/null)"
is_left() { [ -n "$earlier" ] && [ "$(who "${earlier%% *}")" = "$earlier" ]; }
if is_left && kill -TERM "${earlier%% *}"; then
  for _ in $(seq 60); do is_left || break; sleep 1; done
fi
export PATH="$HOME/memjax/bin:$PATH" MEMJAX_JOB='"$(quote "$job")"'
'"$(quote "${command[@]}")"' & who $! > .memjax.pid
wait $!; code=$?; rm -f .memjax.pid; exit $code'
}

run() {
  local code restart=0
  job="tpu_vm-$name-$(date +%s)-$$" # the same at every restart: memjax overwrites once for each job
  while true; do
    code=0
    run_once || code=$?
    case "$code" in
      0 | 2 | 3) return "$code" ;;
      75 | 134 | 137 | 143 | 255) ;;          # saved and stopped, a process lost, the connection lost
      *) if is_up; then return "$code"; fi ;; # an error of the program; or of gcloud, for want of a TPU
    esac
    [ "$restart" -lt "$restarts" ] || return "$code"
    restart=$((restart + 1))
    say "exit code $code; restart $restart of $restarts"
    if ! is_up; then
      delete
      up
    fi
  done
}

fetch() {
  local from target
  from="$(workdir)"
  target="$fetch_to/$(basename "$from")"
  [ -n "$dry_run" ] || mkdir -p "$target"
  case "$from" in
    gs://*) do_it gcloud storage rsync --recursive "$from" "$target" ;;
    *) do_it gcloud compute tpus tpu-vm scp "$name:$from/*" "$target" ${place[@]+"${place[@]}"} --recurse --worker=0 ;;
  esac
  [ -n "$dry_run" ] || say "the run folder is in $target"
}

delete() {
  local state node
  if [ -z "$dry_run" ]; then
    state="$(queue_state)" || exit
    node="$(node_state)" || exit
    if [ -z "$state" ] && [ -n "$node" ]; then
      do_it gcloud compute tpus tpu-vm delete "$name" ${place[@]+"${place[@]}"} --quiet
      return
    elif [ -z "$state" ]; then
      say "$name is not there"
      return
    fi
  fi
  do_it gcloud compute tpus queued-resources delete "$name" ${place[@]+"${place[@]}"} --force --quiet
}

all() {
  local code=0
  trap 'finish $?' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  up
  started=yes
  run || code=$?
  exit "$code"
}

has_nothing() { # whether the run left no folder, as with bad input: not when worker 0 does not answer
  local code=0
  case "$(workdir)" in gs://*) return 1 ;; esac
  on_workers 0 "test -e $(quote "$(workdir)") || exit 44" || code=$?
  [ "$code" -eq 44 ]
}

finish() { # finish CODE: what is worth keeping comes home, then the TPU goes
  local code="$1"
  trap - EXIT INT TERM
  # 2 is bad input, with nothing written; and a full disk, or no memory, after hours.
  if [ -n "$started" ] && ! { [ "$code" -eq 2 ] && has_nothing; } && ! (fetch); then
    [ "$code" -ne 0 ] || code=1
    case "$(workdir)" in
      gs://*) ;;
      *)
        say "$name is kept, with the run folder on it: tpu_vm.sh fetch, then tpu_vm.sh down"
        exit "$code"
        ;;
    esac
  fi
  delete
  exit "$code"
}

main() {
  parse "$@"
  check
  [ -z "$zone" ] || place+=("--zone=$zone")
  [ -z "$project" ] || place+=("--project=$project")
  case "$action" in
    up) up ;;
    run) run ;;
    fetch) fetch ;;
    down) delete ;;
    all) all ;;
  esac
}

main "$@"
