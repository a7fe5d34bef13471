#!/bin/sh
# Gather what a GPU machine without a network lacks into one folder of at most 60 MB, to be carried there with the tree.
#   sh benchmarks/gpu_wheels.sh [FOLDER]        # on a machine with a network; FOLDER: ./gpu_wheels
# Presumed on the GPU machine: Linux x86-64, Python 3.11, and a CUDA build of torch, which brings numpy and triton with it (torch
# alone is 3 GB and cannot be carried). Carried: the libraries that tfser needs beside torch, those of its tests, and of mamba-ssm
# its Triton sources only, which is all that tfser imports of it (`tfser.heads.models.ssd_kernel`): no nvcc, no compiled extension.
# benchmarks/gpu_check.sh takes the folder as it lies there: nothing is installed but what the machine lacks.
set -e
cd "$(dirname "$0")/.."
folder=${1:-gpu_wheels}
python=${PYTHON:-python3}
mkdir -p "$folder"
here="--only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64
 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any"
pins=$("$python" - <<'END'
import re
from pathlib import Path
wanted = """duckdb einops filelock h5py hypothesis huggingface-hub packaging platformdirs pytest pytest-timeout pytz pyyaml regex rich
safetensors shellingham soundfile soxr tokenizers tqdm transformers typer iniconfig pluggy pygments sortedcontainers cffi pycparser
markdown-it-py mdurl httpx httpcore h11 anyio idna certifi sniffio typing-extensions annotated-doc click threadpoolctl""".split()
pins = dict(re.findall(r"^([\w.-]+)==(\S+)", Path("constraints.txt").read_text(), re.M))
pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
print(*(f"{name}=={pins[name]}" if name in pins else name for name in wanted))
END
)
# No dependencies: numpy and torch are there. pyarrow (47 MB) and scipy with scikit-learn (45 MB) would fill the folder alone; the
# checks leave out what needs them, and say so, unless the machine has them.
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
