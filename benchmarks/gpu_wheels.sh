#!/bin/sh
# Gather what a GPU machine without a network lacks into one folder of at most 60 MB, to be carried there with the tree.
#   PYTHON=.venv/bin/python sh benchmarks/gpu_wheels.sh [FOLDER]        # on a machine with a network; FOLDER: ./gpu_wheels
#   GPU_PYTHON=3.12 HAS="transformers rich pytest" ...                  # for another Python there, without what it has already
# Presumed on the GPU machine: Linux x86-64, Python 3.11, and a CUDA build of torch, which brings numpy and triton with it (torch
# alone is 3 GB and cannot be carried). Carried: the libraries that tfser needs beside torch, those of its tests, and of mamba-ssm
# its Triton sources only, which is all that tfser imports of it (`tfser.heads.models.ssd_kernel`): no nvcc, no compiled extension.
# benchmarks/gpu_check.sh takes the folder as it lies there: nothing is installed but what the machine lacks.
set -e
cd "$(dirname "$0")/.."
folder=${1:-gpu_wheels}
python=${PYTHON:-python3}
mkdir -p "$folder"
version=${GPU_PYTHON:-3.11}
here="--only-binary=:all: --python-version $version --implementation cp --abi cp$(echo "$version" | tr -d .) --abi abi3 --abi none
 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64
 --platform any"
# shellcheck disable=SC2086
pins=$("$python" benchmarks/gpu_carried.py ${HAS:-})
# No dependencies: the list has them. pyarrow (47 MB) and scipy with scikit-learn (45 MB) would fill the folder alone, and no CUDA
# test touches them (benchmarks/gpu_standins.py).
# shellcheck disable=SC2086
"$python" -m pip download --no-deps -q -d "$folder" $here $pins
MAMBA_SKIP_CUDA_BUILD=TRUE "$python" -m pip download --no-deps --no-binary=:all: --no-build-isolation -q -d "$folder" 'mamba-ssm==2.3.1' ||
    echo "mamba-ssm's sources could not be had: the fused kernel will be left out, and named as not reached"
for archive in "$folder"/mamba_ssm-*.tar.gz; do
    [ -e "$archive" ] || continue
    tar -xzf "$archive" -C "$folder" --wildcards --strip-components=1 '*/mamba_ssm/*.py'
    rm "$archive"
done
du -sh "$folder"
