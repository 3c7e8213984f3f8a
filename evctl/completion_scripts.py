"""The scripts that hand a TAB to `evctl __complete`, one a shell."""

from __future__ import annotations

BASH = """# evctl completion for bash: source <(evctl completion bash)
_evctl() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\\t'*}")
    done < <(evctl __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _evctl evctl
"""
ZSH = """#compdef evctl
# evctl completion for zsh: source <(evctl completion zsh)
_evctl() {
    local -a offers
    local line
    while IFS= read -r line; do
        offers+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done < <(evctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#offers} )) && _describe evctl offers || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _evctl evctl
"""
FISH = """# evctl completion for fish: evctl completion fish | source
function __evctl_complete
    set -l words (commandline -opc) (commandline -ct)
    evctl __complete $words[2..-1] 2>/dev/null
end
complete -c evctl -f -a '(__evctl_complete)'
complete -c evctl -n '__fish_seen_subcommand_from predict compile report secrets' -F
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
