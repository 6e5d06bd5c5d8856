#!/bin/bash
# launch.sh ARGUMENTS...      trains on all nodes of a Slurm job; ARGUMENTS are those of distgan/train.py
#
# A batch script ends with `exec bash launch.sh ...` (exec: a signal to the script is then one to this). It starts itself
# again on each node, in one srun task, which starts `accelerate launch`, which starts the processes of the node.
#
#   RUN_DIR             the run folder, on a file system that all nodes share
#   PYTHON              Python of the environment that distgan is installed in; default: the first on PATH
#   PROCESSES           processes on each node; default: one for each of its GPUs
#   DISTGAN_CPU=1       no GPUs
#   DISTGAN_INTERFACE   network interface of NCCL and gloo, such as ib0; default: they choose
#   DISTGAN_SCRATCH     folder on each node's own disk for copies of shards (data.cache); removed when the job ends
set -uo pipefail
trap 'asked=1' USR1 TERM INT     # on a node, first thing: it would end at once (the job: see there)
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
say() { echo "$(date +%T) $(hostname -s): $*" >&2; }

# What is missing on this machine, if anything.
missing() {
  local shared="must lie on a file system that all nodes share"
  if [ ! -d "$RUN_DIR" ]; then echo "run_dir $RUN_DIR is not here: it $shared"
  elif [ ! -x "$(command -v "$PYTHON")" ]; then echo "PYTHON=$PYTHON is not here: the environment $shared"
  elif ! "$PYTHON" -c 'import importlib.util as i, sys; sys.exit(not all(map(i.find_spec, ("torch", "accelerate"))))'; then
    echo "PYTHON=$PYTHON has no torch or no accelerate: not the environment that distgan is installed in"
  fi
}

# ---- the job: once, on its first node ----------------------------------------------------------------------------

job() {
  trap - USR1 TERM INT           # scancel ends this script, so that nothing is requeued; the nodes save and leave
  : "${SLURM_JOB_ID:?launch.sh: not in a Slurm job; submit a batch script that calls it}" "${RUN_DIR:?}"
  export PYTHON=${PYTHON:-python3} RUN_DIR MASTER_ADDR MASTER_PORT ENDED
  local word lack
  for word in "$@"; do           # what is decided here is read from the folder that is trained in
    case $word in run_dir="$RUN_DIR") ;; run_dir=*) say "$word: RUN_DIR is $RUN_DIR; change it in the script"; exit 2 ;; esac
  done
  mkdir -p "$RUN_DIR/slurm"
  lack=$(missing)
  [ -z "$lack" ] || { say "$lack"; exit 2; }
  "$PYTHON" "$here/job.py" begin || exit
  # Read here, from the job's own nodes. No fallback to localhost: each node would then train alone.
  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  [ -n "$MASTER_ADDR" ] || { say "no host name in the node list $SLURM_JOB_NODELIST"; exit 1; }
  # Two jobs on a node differ; below the ports that a system gives to outgoing connections. A taken one is passed over.
  MASTER_PORT=$((20000 + (SLURM_JOB_ID * 97 + ${SLURM_RESTART_COUNT:-0} * 31) % 10000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
  ENDED=$RUN_DIR/slurm/.ended-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
  local log=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
  log=$RUN_DIR/slurm/${log:-$SLURM_JOB_ID}
  export SLURM_EXPORT_ENV=ALL    # also where the batch script began with --export=NONE
  srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} \
    --kill-on-bad-exit=1 --open-mode=append --output="${log//%/%%}-%N.out" bash "$here/launch.sh" --on-a-node "$@" &
  await $!
  "$PYTHON" "$here/job.py" end "$code" "$ENDED" ${silent:+--silent}
}

# The end of srun, in `code`. A node that is dead never answers, and srun would wait until Slurm has given it up; and at
# the time limit Slurm ends this script as scancel does, so that nothing would be requeued.
await() {
  local srun=$1 patience=20 limit
  limit=$(time_limit)
  while kill -0 "$srun" 2>/dev/null; do
    if [ -e "$ENDED" ] && ((patience-- <= 0)); then
      silent=1; say "a node does not answer; ending without it"
      kill -KILL "$srun"; break
    elif ((limit - $(date +%s) < 10)) && limit=$(time_limit) && ((limit - $(date +%s) < 10)); then
      silent=1; say "the time limit comes before the training has left; ending it"
      kill -KILL "$srun"; break
    fi
    sleep 1
  done
  wait "$srun" 2>/dev/null; code=$?       # its own "Killed" is said above
}

# When Slurm will end the job, in seconds since 1970; far away where there is no limit.
time_limit() {
  local end
  end=$(scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null | grep -o ' EndTime=[^ ]*')
  { [ -n "$end" ] && date -d "${end#*=}" +%s 2>/dev/null; } || echo 99999999999     # of nothing, date makes midnight
}

# ---- a node: the task that Slurm signals (with proctrack/cgroup nothing else on the node hears of it) ------------

node() {
  local lack launcher status
  lack=$(missing); [ -z "$lack" ] || give_up "$lack"
  : "${PROCESSES:=${SLURM_GPUS_ON_NODE:-}}"
  [ -n "$PROCESSES" ] || give_up "Slurm gave no GPUs; ask for some (--gpus-per-node), or set PROCESSES and DISTGAN_CPU=1"
  [ "${DISTGAN_CPU:-}" != 1 ] || export ACCELERATE_USE_CPU=true
  [ -z "${DISTGAN_INTERFACE:-}" ] ||
    export NCCL_SOCKET_IFNAME=$DISTGAN_INTERFACE GLOO_SOCKET_IFNAME=$DISTGAN_INTERFACE
  [ -z "${DISTGAN_SCRATCH:-}" ] || scratch
  # USR1 is ignored until the training listens to it: one that comes while it loads ends nothing.
  (trap '' USR1; exec "$PYTHON" -m accelerate.commands.launch --config_file "$here/accelerate.yaml" \
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * PROCESSES)) --machine_rank "$SLURM_PROCID" \
    --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" --dynamo_backend no \
    "$here/../train.py" "$@") &
  launcher=$!
  while kill -0 "$launcher" 2>/dev/null; do
    if [ -n "${asked:-}" ]; then hand_on "$launcher"; else wait "$launcher"; fi
  done
  wait "$launcher"; status=$?
  [ "$status" = 0 ] || touch "$ENDED"
  exit "$status"
}

give_up() { say "$1"; echo "$(hostname -s): $1" >>"$ENDED"; exit 2; }

# The wish to stop, to the processes and not to their launcher, which is to tell how they end. Again every 2 s, for one
# that was not listening yet; a launcher that has no processes 20 s later waits for other nodes, and is ended.
hand_on() {
  [ -n "${told:-}" ] || { say "asked to stop; saving"; [ -e "$ENDED" ] || touch "$ENDED.asked"; told=1; alone=10; }
  if pkill -USR1 -P "$1"; then alone=10; elif ((alone-- <= 0)); then kill -TERM "$1"; fi
  sleep 2 & wait $!
}

scratch() {
  local old queue host; host=$(hostname -s)      # in the name: the disk may be one of several nodes after all
  export DISTGAN_CACHE=$DISTGAN_SCRATCH/.distgan-$SLURM_JOB_ID-$host
  mkdir -p "$DISTGAN_CACHE" || give_up "DISTGAN_SCRATCH=$DISTGAN_SCRATCH: cannot be written"
  trap 'rm -rf "$DISTGAN_CACHE"' EXIT
  # What jobs left that were killed. An answer of squeue without this job is no answer.
  queue=$(unset "${!SQUEUE_@}"; squeue --noheader --me --format=%A 2>/dev/null)
  grep -qx "$SLURM_JOB_ID" <<<"$queue" || return
  for old in "$DISTGAN_SCRATCH"/.distgan-*-"$host"; do
    [[ ${old##*/} =~ ^\.distgan-([0-9]+)- ]] && [ -O "$old" ] && ! grep -qx "${BASH_REMATCH[1]}" <<<"$queue" && rm -rf "$old"
  done
}

if [ "${1:-}" = --on-a-node ]; then shift; node "$@"; else job "$@"; fi
