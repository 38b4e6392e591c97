"""Completion of ``sdpn-k2`` in bash, zsh and fish: ``eval "$(_SDPN_K2_COMPLETE=bash_source sdpn-k2)"``.

Click finds the values: commands, options, choices, tools of Kaldi, configuration keys. The scripts here differ from
click's in that files are completed, as without completion, wherever there are no values: after ``ark:`` and ``--mean=``
too, and if ``sdpn-k2`` itself fails.
"""

import os
from typing import Any, List, Tuple

from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, split_arg_string

# In bash, completion sees parts of words, which COMP_WORDBREAKS separates; "=" and ":" are the ones in our arguments.
BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion
    COMPREPLY=()
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2> /dev/null)
    for completion in $response; do
        case $completion in
            plain,*) COMPREPLY+=("${completion#plain,}") ;;
            dir,*) compopt -o dirnames 2> /dev/null ;;
        esac
    done
    case ${COMPREPLY[*]} in *=) compopt -o nospace 2> /dev/null ;; esac
}
complete -o nosort -o bashdefault -o default -F %(complete_func)s %(prog_name)s 2> /dev/null ||
    complete -o bashdefault -o default -F %(complete_func)s %(prog_name)s
"""

ZSH = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a lines values keys
    local line
    lines=("${(@f)$(env COMP_WORDS="${words[1,CURRENT]}" COMP_CWORD=$((CURRENT - 1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2> /dev/null)}")
    for line in $lines; do
        case $line in
            plain,*=) keys+=("${line#plain,}") ;;
            plain,*) values+=("${line#plain,}") ;;
        esac
    done
    if (( $#values + $#keys )); then
        compadd -- $values
        compadd -S '' -- $keys
    else
        compset -P '*[:=]'
        _files
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

FISH = """\
function %(complete_func)s
    set -g %(complete_func)s_values (env COMP_WORDS=(commandline -cp | string collect) COMP_CWORD=(commandline -ct) \\
        %(complete_var)s=fish_complete %(prog_name)s 2> /dev/null | string replace -rf '^plain,' '')
    test -n "$%(complete_func)s_values"
end
complete --command %(prog_name)s --condition %(complete_func)s --no-files \\
    --arguments '(string join -- \\n $%(complete_func)s_values)'
"""


class Completion(ShellComplete):
    """What the three shells share: whole words in, ``type,value`` lines out."""

    def get_completion_args(self) -> Tuple[List[str], str]:
        """Return the complete words after the name of the program, and the one to complete."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        place = int(os.environ["COMP_CWORD"])
        return words[1:place], words[place] if place < len(words) else ""

    def get_completions(self, args: List[str], incomplete: str) -> List[CompletionItem]:
        """Return the values that the word to complete may have; none means files."""
        try:
            items = super().get_completions(list(args), incomplete)
        except Exception:  # a line that is not finished may be wrong in any way
            return []
        if incomplete.startswith("-") and "=" in incomplete:
            for item in items:
                item.value = f"{incomplete.partition('=')[0]}={item.value}"
        return items

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line of an item."""
        return f"{item.type},{item.value}"


@add_completion_class
class BashCompletion(Completion):
    """Completion for bash."""

    name = "bash"
    source_template = BASH

    def get_completion_args(self) -> Tuple[List[str], str]:
        """Return the words of the line, which bash would split at ``:`` and ``=``."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        return (words[1:], "") if line[-1:].isspace() else (words[1:-1], words[-1])

    def get_completions(self, args: List[str], incomplete: str) -> List[CompletionItem]:
        """Return the values without the parts that bash keeps."""
        breaks = [mark for mark in "=:" if mark in os.environ.get("COMP_WORDBREAKS", "")]
        kept = max((incomplete.rfind(mark) + 1 for mark in breaks), default=0)
        items = super().get_completions(args, incomplete)
        for item in items:
            item.value = item.value[kept:]
        return items


@add_completion_class
class ZshCompletion(Completion):
    """Completion for zsh."""

    name = "zsh"
    source_template = ZSH


@add_completion_class
class FishCompletion(Completion):
    """Completion for fish."""

    name = "fish"
    source_template = FISH

    def get_completion_args(self) -> Tuple[List[str], str]:
        """Return the words before the cursor, of which the last may be the one to complete."""
        words = split_arg_string(os.environ["COMP_WORDS"])[1:]
        incomplete = "".join(split_arg_string(os.environ["COMP_CWORD"])[:1])
        return words[: len(words) - 1] if incomplete and words else words, incomplete


def config_keys(_context: Any, _parameter: Any, incomplete: str) -> List[str]:
    """Complete the keys of ``--set``."""
    from sdpn_k2.config import config_keys as keys

    return [f"{key}=" for key in keys() if key.startswith(incomplete)]


def kaldi_tools(context: Any, _parameter: Any, incomplete: str) -> List[str]:
    """Complete the name of a tool; what follows it are files."""
    from sdpn_k2.kaldi import tools

    return [] if context.params.get("arguments") else [name for name in tools.names() if name.startswith(incomplete)]


def devices(_context: Any, _parameter: Any, incomplete: str) -> List[str]:
    """Complete ``--device``."""
    return [name for name in ("auto", "cpu", "cuda") if name.startswith(incomplete)]
