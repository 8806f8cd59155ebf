#!/usr/bin/env bash
# Installs missing programs that pictor uses: Blender, ffmpeg, the sandbox for both (Bubblewrap), python3, pip
# (which fetches networks), and a linker for Rust. With the argument `servers` it also installs what the tests need: Postgres, RabbitMQ, tools for network
# namespaces, libraries of newer Blenders, and the API fuzzer into target/schemathesis.
# Supports Debian and its derivatives; on other systems it reports what is missing.
set -euo pipefail

# A program (by name or path) or a library, and the package that contains it.
wanted=(blender:blender bwrap:bubblewrap ffmpeg:ffmpeg ffprobe:ffmpeg python3:python3 pip3:python3-pip cc:build-essential)
if [ "${1-}" = servers ]; then
    # Debian does not put these into PATH.
    wanted+=('/usr/lib/postgresql/*/bin/initdb:postgresql' '/usr/lib/postgresql/*/bin/psql:postgresql-client'
        /usr/lib/rabbitmq/bin/rabbitmq-server:rabbitmq-server
        curl:curl ip:iproute2 setpriv:util-linux setsid:util-linux flock:util-linux)
    # Libraries that PyPI's Blenders load, for `make blenders`.
    wanted+=(libXfixes.so.3:libxfixes3 libXi.so.6:libxi6 libxkbcommon.so.0:libxkbcommon0 libSM.so.6:libsm6
        libXrender.so.1:libxrender1 libGL.so.1:libgl1 libEGL.so.1:libegl1 libXxf86vm.so.1:libxxf86vm1)
fi
fuzzer=schemathesis==4.32.5

# Whether a program or library is installed.
is_there() {
    local PATH=$PATH:/usr/sbin:/sbin
    case $1 in
        lib*.so.*) [[ $(ldconfig -p) == *"$1 "* ]] ;;
        *) command -v "$@" > /dev/null ;;
    esac
}

# Collects the packages of missing programs and libraries.
look() {
    missing=()
    for entry in "${wanted[@]}"; do
        # Unquoted, because a path may contain a wildcard.
        # shellcheck disable=SC2086
        if ! is_there ${entry%:*}; then
            missing+=("${entry#*:}")
        fi
    done
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u | grep .)
}

# Installs the API fuzzer into its own virtual environment, in a folder that git ignores.
install_fuzzer() {
    local place
    place=$(dirname "$0")/../target/schemathesis
    if [ "${1-}" != servers ] || [ "$(cat "$place/installed" 2> /dev/null)" = "$fuzzer" ]; then
        return
    fi
    echo "Installing with pip, into target/schemathesis: $fuzzer"
    rm -rf "$place"
    if ! python3 -m venv "$place"; then
        echo "error: python3 cannot make environments: please install python3-venv" >&2
        exit 1
    fi
    "$place/bin/pip" install --quiet --disable-pip-version-check "$fuzzer"
    echo "$fuzzer" > "$place/installed"
}

if ! command -v cargo > /dev/null; then
    echo "error: Rust is not installed (https://rustup.rs)" >&2
    exit 1
fi
look
if [ ${#missing[@]} -eq 0 ]; then
    install_fuzzer "$@"
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "error: please install: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
        echo "error: please install, as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
    echo "sudo may ask for your password: it is for apt-get alone."
fi
installed=${missing[*]}
echo "Installing with apt-get: $installed"
# Waits for another apt-get that may be running.
patient=(-o DPkg::Lock::Timeout=300)
"${as_root[@]}" apt-get "${patient[@]}" update -qq < /dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${patient[@]}" install -y -qq \
    --no-install-recommends "${missing[@]}" < /dev/null > /dev/null
look
if [ ${#missing[@]} -ne 0 ]; then
    echo "error: apt-get has installed them, but still there are programs missing of: ${missing[*]}" >&2
    exit 1
fi
echo "Installed: $installed"
case " $installed " in *' postgresql '* | *' rabbitmq-server '*)
    echo "The system may have started services of these packages on their usual ports. pictor leaves them"
    echo "alone: its tests start servers of their own."
    ;;
esac
install_fuzzer "$@"
