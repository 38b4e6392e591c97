# shellcheck shell=bash
# Sourced by scripts that give commands to run.pl, slurm.pl or queue.pl.
#
# These launchers join their arguments to one command for bash. An argument without white space goes there as it is;
# one with white space is put into double quotes, or into single quotes if it contains double quotes.

# Print argument $1 so that the command sees it unchanged, whatever characters it has.
quoted() {
  local word=$1
  case $word in
    *[$' \t\n\v\f\r']*)
      case $word in
        *\"*) ;;
        *) word=${word//\\/\\\\} word=${word//\$/\\\$} word=${word//\`/\\\`} ;;
      esac
      printf '%s' "$word" ;;
    *) printf '%q' "$word" ;;
  esac
}

# Set the array quoted_words to the arguments, each as quoted prints it.
quote_words() {
  local word
  quoted_words=()
  for word in "$@"; do quoted_words+=("$(quoted "$word")"); done
}
