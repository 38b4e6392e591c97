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
# the .done files). A stamp records the settings and the inputs of a stage: size, time, and a checksum of those up to
# 64 MB. A stage is complete if its stamp has the same settings, its inputs are in the same state, and its outputs exist.
# It is then skipped, unless its number is in the variable repeat_stage; in that case, the variable repeats is true while
# it runs. If it runs again for another reason, the first change is named.

# Describe the state of an input in one line: path, size, time and checksum (- for a large file).
input_state() { # path
  local size time sum=-
  if [ -d "$1" ]; then # a folder: the names in it
    printf '%s folder - %s\n' "$1" "$(cd "$1" && printf '%s\n' * | cksum | tr ' ' :)"
    return
  fi
  read -r size time <<< "$(stat -L -c '%s %.9Y' "$1")"
  if [ "$size" -le $((1 << 26)) ]; then sum=$(cksum < "$1"); fi
  printf '%s %s %s %s\n' "$1" "$size" "$time" "${sum// /:}"
}

# Print which input of a stamp changed, or nothing. Stamps of earlier versions have no states: there, times decide.
changed_input() { # stamp input…
  local stamp=$1 path old new
  shift
  for path in "$@"; do
    old=$(grep -F "state: $path " "$stamp" | head -n 1) || true
    if [ -z "$old" ]; then
      if [ "$path" -nt "$stamp" ]; then echo "$path is newer"; return; fi
      continue
    fi
    new="state: $(input_state "$path")"
    if [ "$new" != "$old" ]; then echo "$path changed"; return; fi
  done
}

# shellcheck disable=SC2034,SC2154  # run.sh reads repeats, and sets stage, stop_stage and stamps
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
  current_stamp_inputs=(${inputs[@]+"${inputs[@]#[0-9]:}"})
  if [ -f "$current_stamp" ]; then
    if [ "$(grep -v '^state: ' "$current_stamp")" = "$current_stamp_text" ]; then
      outdated=$(changed_input "$current_stamp" ${current_stamp_inputs[@]+"${current_stamp_inputs[@]}"})
      for path in ${outputs[@]+"${outputs[@]}"}; do
        [ -e "$path" ] || outdated="$path is missing"
      done
    elif [ "$(head -n 1 "$current_stamp")" != "settings: $settings" ]; then
      outdated="its settings changed"
    else
      outdated="it reads other files"
    fi
    if [ -z "$outdated" ] && [ "${repeat_stage:-}" = "$number" ]; then
      repeats=true
    elif [ -z "$outdated" ]; then
      echo "Stage $number: $title: complete, nothing to do (--stage $number repeats it)"
      return 1
    fi
  fi
  echo "Stage $number: $title"
  if [ "$outdated" ]; then echo "  again, since $outdated"; fi
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
  local new=$current_stamp.$HOSTNAME.$$ path
  {
    printf '%s\n' "$current_stamp_text"
    for path in ${current_stamp_inputs[@]+"${current_stamp_inputs[@]}"}; do
      printf 'state: '
      input_state "$path"
    done
  } > "$new" && mv "$new" "$current_stamp"
  echo "  done in $((SECONDS - current_stage_started)) s"
}
