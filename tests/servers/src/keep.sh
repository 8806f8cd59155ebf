# Keeps one server for as long as anyone uses it, then ends it and removes its folder.
#
# Arguments: the folder of the instance, the seconds to linger after the last user, the server's command.
# A user holds a shared lock on `lease`; the kernel gives it back however the user ends. Every process of
# the instance holds `alive` (descriptor 8, inherited): whoever can lock it knows that all are gone.
folder=$1 linger=$2
shift 2
exec 8>>"$folder/alive"
flock --nonblock --exclusive 8 || exit 1

# If this shell is killed, the kernel kills what it started.
epmd=
if [ -n "${ERL_EPMD_PORT-}" ]; then
    setpriv --pdeathsig KILL epmd &
    epmd=$!
fi
setpriv --pdeathsig KILL "$@" &
server=$!
echo "$server" > "$folder/pid.new"
mv "$folder/pid.new" "$folder/pid"

# Kills a process and all below it, frozen ones too. Stopped first, none of them can start another.
end() {
    [ -n "$1" ] || return
    kill -STOP "$1"
    for child in $(cat "/proc/$1/task/"*/children); do
        end "$child"
    done
    kill -KILL "$1"
}

exec 9>>"$folder/lease"
while flock --exclusive 9; do
    [ "$linger" -eq 0 ] && break
    flock --unlock 9
    sleep "$linger"
    flock --nonblock --exclusive 9 && break
done
end "$server" 2> /dev/null
end "$epmd" 2> /dev/null
wait
# Postgres' children see that it is gone a moment later.
exec 8>&-
flock --exclusive "$folder/alive" rm -rf "$folder"
