# What the scripts beside this file share: a Python that is new enough, a private environment, Debian's packages.
# Sourced by bash, from the root of the clone. Nothing outside of the clone is changed, except that Debian's own
# packages are installed where one is missing and we may.

# A caller's settings of these would reach into the private environment.
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX
export PIP_DISABLE_PIP_VERSION_CHECK=1

venv=$PWD/.venv

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Print the first Python on the PATH that is 3.11 or newer.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        # A name on the PATH may be a shim with no Python behind it, so ask it.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "tenure needs Python 3.11 or newer, and none was found as python3, python3.13, python3.12 or python3.11."
    say "On Debian 12 and newer:  apt-get install python3 python3-venv"
    say "On Ubuntu 22.04:         apt-get install python3.11 python3.11-venv"
    return 1
}

# Run a command as root; fails without asking anything if we may not.
as_root() {
    # dpkg wants the system's own directories, which a bare PATH leaves out.
    local path=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    if [ "$(id -u)" = 0 ]; then
        PATH=$path "$@"
    elif command -v sudo >/dev/null; then
        sudo -n env PATH="$path" "$@"
    else
        return 1
    fi
}

# Install Debian packages; those that are there already cost nothing.
debian_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with apt-get: ${missing[*]}"
    if ! {
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
    } >&2 </dev/null; then
        say "could not install it; as root, run:"
        say "    apt-get update && apt-get install ${missing[*]}"
        return 1
    fi
}

# Make the private environment, if it is not there, was moved here, or its Python has gone.
make_venv() {
    # The stamp is written last, so that an environment whose making was interrupted is made anew.
    if [ "$(cat "$venv/.made" 2>/dev/null)" = "$venv" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    local python
    python=$(find_python) || exit 1
    # Debian leaves these two out of its python3 package.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        debian_packages "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" || exit 1
    fi
    say "making .venv with $("$python" --version) ($python)"
    "$python" -m venv --clear "$venv"
    printf '%s\n' "$venv" >"$venv/.made"
}

# install_locked FILE: install what a lock file lists, and tenure itself from this tree.
install_locked() {
    local lock=requirements/$1.txt
    make_venv
    # An unchanged lock costs nothing; the stamp holds what was installed from it.
    if ! cmp -s "$lock" "$venv/.installed-$1"; then
        say "installing what $lock lists"
        "$venv/bin/python" -m pip install --quiet --require-hashes -r "$lock" || exit 1
        cp "$lock" "$venv/.installed-$1"
    fi
    if ! cmp -s pyproject.toml "$venv/.installed-project"; then
        # The build's own tools come from the lock as well, so nothing is fetched here.
        "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable . || exit 1
        cp pyproject.toml "$venv/.installed-project"
    fi
    export PATH="$venv/bin:$PATH"
}
