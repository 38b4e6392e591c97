# shellcheck shell=bash
# Sourced by run.sh: stages that know their inputs and outputs, and are skipped when they are complete.
#
#   if begin_stage 3 "train" "$config" \
#       reads 2:"$data/cuts.jsonl.gz" conf/train.yaml \
#       writes "$exp/final.pt"; then
#     …
#     end_stage
#   fi
#
# "2:" means that stage 2 makes that input. begin_stage needs the variables stage, stop_stage and stamps (the folder of
# the .done files). A stamp records the settings and the inputs of a stage. A stage is complete if its stamp has the
# same settings and inputs, is newer than the inputs, and the outputs exist. It is then skipped, unless its number is in
# the variable repeat_stage; in that case, the variable repeats is true while it runs.

# shellcheck disable=SC2154  # run.sh sets stage, stop_stage and stamps
begin_stage() { # number title settings reads input… writes output…
  local number=$1 title=$2 settings=$3 input maker path outdated=""
  local -a inputs=() outputs=()
  repeats=false
  [ "$stage" -le "$number" ] && [ "$stop_stage" -ge "$number" ] || return 1
  shift 4
  while [ "$1" != writes ]; do inputs+=("$1"); shift; done
  shift
  outputs=("$@")

  for input in ${inputs[@]+"${inputs[@]}"}; do
    path=${input#[0-9]:}
    maker=${input%%:*}
    if [ ! -e "$path" ]; then
      if [ "$maker" = "$input" ]; then
        echo "$0: stage $number ($title) needs $path, which does not exist" >&2
      else
        echo "$0: stage $number ($title) needs $path, which stage $maker makes: run with --stage $maker" >&2
      fi
      exit 1
    fi
  done

  current_stamp=$stamps/stage$number.done
  current_stamp_text=$(printf 'settings: %s\n' "$settings"; printf 'read: %s\n' ${inputs[@]+"${inputs[@]#[0-9]:}"})
  if [ -f "$current_stamp" ] && [ "$(cat "$current_stamp")" = "$current_stamp_text" ]; then
    for path in ${inputs[@]+"${inputs[@]#[0-9]:}"}; do
      [ "$path" -nt "$current_stamp" ] && outdated=$path
    done
    for path in ${outputs[@]+"${outputs[@]}"}; do
      [ -e "$path" ] || outdated=$path
    done
    if [ -z "$outdated" ] && [ "${repeat_stage:-}" = "$number" ]; then
      repeats=true
    elif [ -z "$outdated" ]; then
      echo "Stage $number: $title: complete, nothing to do (--stage $number repeats it)"
      return 1
    fi
  fi
  echo "Stage $number: $title"
  if [ ${#inputs[@]} -gt 0 ]; then echo "  reads  ${inputs[*]#[0-9]:}"; fi
  echo "  writes ${outputs[*]}"
  rm -f "$current_stamp"
  current_stage_started=$SECONDS
}

# Run a command that saves and exits with 75 on SIGTERM: pass the script's signals on to it, and wait for it.
run_until_saved() { # command argument…
  local child status stopped=yes passed_on=
  "$@" &
  child=$!
  trap 'stopped=yes passed_on=yes; kill -TERM "$child" 2> /dev/null || true' TERM USR1 INT
  while [ "$stopped" ]; do # a signal ends the wait, not the command
    stopped="" status=0
    wait "$child" || status=$?
  done
  trap - TERM USR1 INT
  # torchrun turns every status into 1.
  if [ "$passed_on" ] && [ "$status" -ne 0 ] && [ "$1" = torchrun ]; then status=75; fi
  return "$status"
}

end_stage() {
  mkdir -p "$(dirname "$current_stamp")"
  # Several nodes may end a stage at the same time.
  local new=$current_stamp.$HOSTNAME.$$
  printf '%s\n' "$current_stamp_text" > "$new" && mv "$new" "$current_stamp"
  echo "  done in $((SECONDS - current_stage_started)) s"
}
