#!/usr/bin/env bash
# Turns every shell variable set so far into an option of the script that sources this file.
#
# Example, at the head of a script:
#     nj=4            # number of jobs
#     use_gpu=false
#     . utils/parse_options.sh
# after which `script.sh --nj 8 --use-gpu true data/train` has set nj and use_gpu, and left data/train as $1.
#
#   --some-name VALUE  sets some_name, which must exist already; where it was true or false, VALUE must be one of them
#   --config FILE      sources FILE first; options on the command line win over it, wherever they stand. In a script
#                      that has set the variable config, it is an option as any other
#   --help, -h         prints $help_message, or the script's opening comment and its options with their defaults
# Options end at the first argument that does not begin with two dashes.

# Prints the opening comment of script $1 and the variables it sets before it comes here.
_print_script_help() {
  local line in_comment=true assignment='^([A-Za-z_][A-Za-z0-9_]*)=(.*)$'
  while IFS= read -r line; do
    case $line in
      '#!'*) continue ;;
      '#'*) if $in_comment; then line=${line#\#}; printf '%s\n' "${line# }"; fi; continue ;;
    esac
    $in_comment && printf '\nOptions and their defaults:\n'
    in_comment=false
    [[ $line == *parse_options.sh* ]] && break
    [[ $line =~ $assignment ]] && printf '  --%s %s\n' "${BASH_REMATCH[1]//_/-}" "${BASH_REMATCH[2]}"
  done < "$1"
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
    # Without a slash, bash would look for the file on PATH.
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
    --*=*) _option_error "options are written --name value, got '$1'" ;;
    --*)
      _name=${1#--}
      _name=${_name//-/_}
      [[ $_name =~ ^[A-Za-z][A-Za-z0-9_]*$ && -n ${!_name+set} ]] \
        || _option_error "invalid option $1 (--help lists the options)"
      [ $# -ge 2 ] || _option_error "option $1 needs a value"
      case ${!_name} in
        true | false)
          case $2 in true | false) ;; *) _option_error "option $1 takes true or false, got '$2'" ;; esac ;;
      esac
      printf -v "$_name" '%s' "$2"
      shift 2 ;;
    *) break ;;
  esac
done

# A recipe whose cmd.sh was not sourced passes --cmd "$train_cmd" with nothing in it.
if [ -n "${cmd+set}" ] && [ -z "$cmd" ]; then
  _option_error "empty argument to the option --cmd (was cmd.sh sourced?)"
fi

unset _arg _next _name _own_config
true
