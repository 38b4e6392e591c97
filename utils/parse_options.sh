#!/usr/bin/env bash
# Turns each shell variable that a script has set into an option of that script, which sources this file.
#
# Example, at the head of a script:
#     nj=4            # number of jobs
#     use_gpu=false
#     . utils/parse_options.sh
# Now `script.sh --nj 8 --use-gpu true data/train` sets nj and use_gpu, and leaves data/train as $1.
#
#   --some-name VALUE  set some_name, which must exist; if its default is true or false, VALUE must be true or false
#   --config FILE      source FILE first, so that options on the command line win, wherever they stand; an ordinary
#                      option in scripts that have set the variable config
#   --help, -h         print $help_message, or else the script's opening comment and its options with their defaults
# Options end at the first argument that does not begin with two dashes.

# Print the opening comment of script $1 and the variables that it sets before it sources this file.
_print_script_help() {
  local line in_comment=true assignment='^([A-Za-z_][A-Za-z0-9_]*)=(.*)$' script=$1
  [ -r "$script" ] || script=$OLDPWD/$1 # the script has changed its folder
  while IFS= read -r line; do
    case $line in
      '#!'*) continue ;;
      '#'*) if $in_comment; then line=${line#\#}; printf '%s\n' "${line# }"; fi; continue ;;
    esac
    $in_comment && printf '\nOptions and their defaults:\n'
    in_comment=false
    [[ $line == *parse_options.sh* ]] && break
    [[ $line =~ $assignment ]] && printf '  --%s %s\n' "${BASH_REMATCH[1]//_/-}" "${BASH_REMATCH[2]}"
  done < "$script"
  return 0
}

_option_error() { printf '%s: %s\n' "${0##*/}" "$1" >&2; exit 1; }

_own_config=${config+set}
for ((_arg = 1; _arg <= $#; _arg += 2)); do
  [[ ${!_arg} == --* ]] || break
  if [ "${!_arg}" = --config ] && [ -z "$_own_config" ]; then
    _next=$((_arg + 1))
    config=${!_next:-}
    [ -n "$config" ] || _option_error "option --config needs a file"
    [[ -r $config && ! -d $config ]] || _option_error "--config $config: no such file, or not readable"
    # Without a slash, bash would search PATH for the file.
    case $config in */*) ;; *) config=./$config ;; esac
    # shellcheck disable=SC1090
    . "$config"
  fi
done

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      if [ -n "${help_message:-}" ]; then printf '%b\n' "$help_message"; else _print_script_help "$0"; fi
      exit 0 ;;
    --*=*) _option_error "expected --name value, got '$1'" ;;
    --*)
      _name=${1#--}
      _name=${_name//-/_}
      [[ $_name =~ ^[A-Za-z][A-Za-z0-9_]*$ && -n ${!_name+set} ]] \
        || _option_error "invalid option $1 (--help lists the options)"
      [ $# -ge 2 ] || _option_error "option $1 needs a value"
      case ${!_name} in
        true | false)
          case $2 in true | false) ;; *) _option_error "option $1 must be true or false, got '$2'" ;; esac ;;
      esac
      printf -v "$_name" '%s' "$2"
      shift 2 ;;
    *) break ;;
  esac
done

# A recipe that did not source cmd.sh passes an empty --cmd "$train_cmd".
if [ -n "${cmd+set}" ] && [ -z "$cmd" ]; then
  _option_error "option --cmd is empty; source cmd.sh first"
fi

unset _arg _next _name _own_config
true
