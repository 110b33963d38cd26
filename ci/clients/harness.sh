# The check protocol of `cargo ci clients` for bash programs; sourced by them.
# check NAME FUNCTION: runs FUNCTION in a subshell under `set -e`; its last words are the reason.
set -u
_behind=${DEJAQ_AFTER:-}

check() {
    local name=$1; shift
    if [ -n "$_behind" ]; then
        [ "$name" = "$_behind" ] && _behind=
        return
    fi
    case "$name" in *"${DEJAQ_ONLY:-}"*) ;; *) return ;; esac
    echo "start $name"
    ( set -euo pipefail; "$@" ) >"$DEJAQ_TMP/out" 2>&1 </dev/null
    local status=$?
    if [ $status -eq 0 ]; then
        echo "ok $name"
    else
        echo "not ok $name: status $status: $(tail -n 3 "$DEJAQ_TMP/out" | tr '\n' ' ' | cut -c1-400)"
    fi
}

# same WANTED-FILE GOT-FILE: byte for byte, or says where they part.
same() { cmp "$1" "$2" || { echo "sizes $(stat -c %s "$1" "$2" | xargs)"; return 1; }; }

# equal GOT WANTED WHAT
equal() { [ "$1" = "$2" ] || { echo "$3: got [$1], wanted [$2]"; return 1; }; }

# fails COMMAND…: that it does not succeed (`!` before a command does not end a script under `set -e`).
fails() { if "$@"; then echo "succeeded: $*"; return 1; fi; }
