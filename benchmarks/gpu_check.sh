#!/bin/sh
# All that wants a GPU, in one call: what there is, whether scans, encoders and stacked folds agree there, and how fast they and a
# training step are.
#   sh benchmarks/gpu_check.sh            # or with the interpreter to take: sh benchmarks/gpu_check.sh .venv/bin/python
# Needs tfser with its tests' libraries and a CUDA build of torch; without mamba-ssm, the fused kernel is left out and said so.
cd "$(dirname "$0")/.." || exit 1
python=${1:-python3}
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no NVIDIA GPU here")' || exit 1
failed=0
"$python" -m tfser.cli doctor || failed=1
"$python" -m pytest -q -rs tests/heads/test_ssd.py tests/heads/test_ssd_kernel.py tests/heads/test_stacked.py || failed=1
"$python" -m pytest -q -rs tests/pipeline/test_encoders.py || failed=1
"$python" benchmarks/ssd.py || failed=1
"$python" benchmarks/head_step.py || failed=1
"$python" benchmarks/sweep_speed.py || failed=1
"$python" benchmarks/sweep_speed.py --precision float32 --variants "ours,stacked vmap,stacked streams" || failed=1
# With a folder of speech in $AUDIO, also how fast a full-size encoder is extracted, and an epoch from the cache against in the loop.
if [ -n "$AUDIO" ]; then "$python" benchmarks/extract.py --audio "$AUDIO" || failed=1; fi
exit $failed
