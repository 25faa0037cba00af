#!/usr/bin/env bash
# Sets up what `cargo build --features cuda` needs on a machine without CUDA: nvcc and its headers, out of NVIDIA's
# wheels on the Python package index, 44 MB. Nothing of a GPU is needed, and no library is linked: the program looks for
# the driver and for cuBLASLt when it runs.
#
#   eval "$(kernels/toolchain.sh)" && cargo build --release --features cuda
#
# Prints what to export. Given a folder it installs there, else under target/. Does nothing where that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
)
folder="${1:-${CARGO_TARGET_DIR:-target}/cuda-toolchain}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
home="$folder/nvidia/cu13"
stamp="$folder/packages"

if [[ "$(cat "$stamp" 2>/dev/null)" != "${PACKAGES[*]}" ]]; then
  python3 -m pip --version >/dev/null 2>&1 || {
    echo "toolchain.sh: needs python3 with pip (Debian: apt-get install python3-pip)" >&2
    exit 1
  }
  rm -rf "$folder/nvidia"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --upgrade \
    --root-user-action=ignore --target "$folder" "${PACKAGES[@]}" >&2
  # a wheel does not always keep the right to execute
  chmod +x "$home"/bin/* "$home"/nvvm/bin/*
  echo "${PACKAGES[*]}" >"$stamp"
fi
"$home/bin/nvcc" --version >/dev/null
echo "export CUDA_HOME='$home'"
