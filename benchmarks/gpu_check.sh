#!/bin/sh
# All that wants a GPU, in one call of under eight minutes: which claims are proven, which failed, which were not reached.
#   sh benchmarks/gpu_check.sh            # or with the interpreter to take: sh benchmarks/gpu_check.sh .venv/bin/python
#   sh benchmarks/gpu_check.sh python3 --only tests,ssd
# Presumed: Linux and Python 3.11 or later with a CUDA build of torch (which brings numpy and triton). Nothing is fetched: what else
# is missing comes from the folder gpu_wheels (benchmarks/gpu_wheels.sh fills it where there is a network; carry it along), and is
# unpacked beside the tree, not installed. Without a GPU all sections run at toy size on the CPU.
# Results come in $OUT (else ./gpu_check_out): results.jsonl as they come, summary.txt, and a log a section.
cd "$(dirname "$0")/.." || exit 1
python=${1:-python3}
[ $# -gt 0 ] && shift
site=${TFSER_GPU_SITE:-/tmp/tfser_gpu_site}
mkdir -p "$site" || exit 1
ln -sfn "$PWD" "$site/tfser" # the tree is the package
"$python" - "$site" gpu_wheels <<'END' || exit 1
import importlib.metadata as known
import sys
import zipfile
from pathlib import Path

try:
    import torch  # noqa: F401
except ImportError:
    sys.exit("gpu_check: this interpreter has no torch, which is too large to be carried: name one that has (gpu_check.sh PYTHON)")
site, wheels = Path(sys.argv[1]), Path(sys.argv[2])
have = {of.metadata["Name"].lower().replace("_", "-") for of in known.distributions() if of.metadata["Name"]}
for wheel in sorted(wheels.glob("*.whl")) if wheels.is_dir() else []:
    if wheel.name.split("-")[0].lower().replace("_", "-") not in have:
        zipfile.ZipFile(wheel).extractall(site)
sources = wheels / "mamba_ssm"
if sources.is_dir() and not (site / "mamba_ssm").exists():
    (site / "mamba_ssm").symlink_to(sources.resolve())
END
PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 exec "$python" benchmarks/gpu_check.py "$@"
