"""The fused kernel of the mamba-ssm package: its values and gradients where it is installed, plain reasons where it is not.

Run as a script, this file compares the kernel with the chunked form in Triton's interpreter, on the processor, and prints
the errors as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tfser.heads.models import ssd_kernel
from tfser.heads.models.ssd import ssd, unavailable
from tfser.heads.models.ssd_tuning import KeptChoices, keep_choices
from tfser.manifests.errors import UsageError

CASES = {  # b, L, g groups of r heads, p, n
    "one chunk and a bit": (1, 70, 1, 2, 16, 16),
    "odd widths, groups": (2, 65, 2, 2, 10, 20),
    "few frames": (2, 3, 1, 2, 12, 64),
    "the paper's widths": (1, 130, 1, 2, 128, 32),
}


def compare(b: int, L: int, g: int, r: int, p: int, n: int) -> dict[str, float]:
    """Return the largest differences between the kernel and the chunked form, as shares of the largest number of each.

    x, B and C are parts of one tensor, as in the head: their frames are not beside each other in memory.
    """
    torch.manual_seed(0)
    h = g * r
    joint = torch.randn(b, L, h * p + 2 * g * n).requires_grad_()
    dt = functional.softplus(torch.randn(b, L, h) - 2).requires_grad_()
    A = (-torch.rand(h) * 8 - 0.5).requires_grad_()
    weights = torch.randn(b, L, h, p)
    found: list[list[Tensor]] = []
    for fused in (True, False):
        x, B, C = joint.split_with_sizes((h * p, g * n, g * n), dim=-1)
        inputs = (x.unflatten(-1, (h, p)), dt, A, B.unflatten(-1, (g, n)), C.unflatten(-1, (g, n)))
        y = ssd_kernel.fused_scan(*inputs, chunk=64) if fused else ssd(*inputs)
        found.append([y, *torch.autograd.grad(y, (joint, dt, A), weights)])
    return {
        name: ((mine - theirs).abs().max() / theirs.abs().max()).item()
        for name, mine, theirs in zip(("y", "xBC", "dt", "A"), *found, strict=True)
    }


def interpret() -> None:
    """Compare all cases in Triton's interpreter: without a GPU there is none to ask, and nothing to tune."""
    torch.set_num_threads(1)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]
    properties = types.SimpleNamespace(multi_processor_count=1, max_threads_per_multi_processor=1024)
    torch.cuda.get_device_properties = lambda *_: properties  # type: ignore[assignment]
    if (reason := ssd_kernel.missing()) is not None:
        raise SystemExit(reason)
    from triton.runtime.autotuner import Autotuner

    modules = [module for name, module in sys.modules.items() if name.startswith("mamba_ssm.ops.triton")]
    for kernel in [value for module in modules for value in vars(module).values() if isinstance(value, Autotuner)]:
        kernel.configs = kernel.configs[:1]
    print(json.dumps({name: compare(*case) for name, case in CASES.items()}))


def test_the_kernel_agrees_in_tritons_interpreter() -> None:
    absent = [name for name in ("mamba_ssm", "triton", "einops") if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(
            f"{', '.join(absent)} cannot be imported; to run this without a GPU: pip install triton einops ninja wheel, then "
            "MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip install --no-deps --no-build-isolation mamba-ssm==2.3.1"
        )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert set(errors) == set(CASES)
    for name, found in errors.items():
        assert all(error <= 1e-4 for error in found.values()), f"{name}: {found}"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that come first: empty ones of what the kernel needs; nothing is remembered from before or kept."""
    for name in ("triton", "einops"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    package = tmp_path / "mamba_ssm" / "ops" / "triton"
    package.mkdir(parents=True)
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("raise OSError('no compiled extension')")
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield package / "ssd_combined.py"
    forget()
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


def forget() -> None:
    ssd_kernel.missing.cache_clear()
    ssd_kernel._kernel.cache_clear()


def test_without_its_compiled_extension_the_kernel_is_still_found(fakes: Path) -> None:
    fakes.write_text("def mamba_chunk_scan_combined(x, dt, A, B, C, chunk):\n    return x + chunk")
    assert ssd_kernel.missing() is None
    assert unavailable("mamba_ssm", "cuda") is None
    x = torch.zeros(1, 2, 3, 4)
    assert (ssd_kernel.fused_scan(x, x[..., 0], x[0, 0, :, 0], x, x, 64) == 64).all()
    assert "mamba_ssm" not in sys.modules
    with pytest.raises(OSError, match="no compiled extension"):  # the package itself is as it was
        importlib.import_module("mamba_ssm")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("import surely_not_installed", "ModuleNotFoundError: No module named 'surely_not_installed'"),
        ("raise ValueError", "ValueError"),
        ("nothing = 0", "ImportError: cannot import name 'mamba_chunk_scan_combined'"),
        (None, "ModuleNotFoundError: No module named 'mamba_ssm.ops.triton.ssd_combined'"),
    ],
)
def test_half_an_installation_gives_a_reason(fakes: Path, source: str | None, reason: str) -> None:
    if source is not None:
        fakes.write_text(source)
    found = ssd_kernel.missing()
    assert found is not None
    assert found.startswith(f"mamba-ssm is installed but does not load ({reason}")
    assert "\n" not in found
    assert unavailable("mamba_ssm", "cuda") == found
    assert "mamba_ssm" not in sys.modules


def test_a_module_of_that_name_is_no_package(fakes: Path) -> None:
    folder = fakes.parents[2]
    folder.rename(folder.with_name("put_away"))
    folder.with_suffix(".py").write_text("")
    assert ssd_kernel.missing() == "mamba-ssm is installed but does not load (ImportError: mamba_ssm is not a package)"


@pytest.mark.parametrize("name", ["mamba_ssm", "triton", "einops"])
def test_what_is_not_installed_is_named(name: str, fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    found = ssd_kernel.missing()
    assert found is not None
    assert found.startswith(f"the package {name.replace('_', '-')} is not installed (pip install '.[cuda]'")


def test_what_lies_along_time_is_laid_out_once_and_the_tuning_is_kept(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CACHE_AUTOTUNING", raising=False)
    fakes.write_text(
        "import os\nkept = os.environ.get('TRITON_CACHE_AUTOTUNING')\nseen = []\n"
        "def mamba_chunk_scan_combined(x, dt, A, B, C, chunk):\n"
        "    seen.extend(t.stride(-1) for t in (x, B, C))\n    seen.append(kept)\n    return x\n"
        "mamba_chunk_scan_combined.seen = seen"
    )
    x = torch.zeros(1, 4, 5, 3).permute(0, 3, 1, 2)  # (1, 3, 4, 5) with time as the fastest axis
    assert x.stride(-1) != 1
    ssd_kernel.fused_scan(x, x[..., 0], x[0, 0, :, 0], x, x, 64)
    assert ssd_kernel._kernel().seen == [1, 1, 1, "1"]  # type: ignore[attr-defined]
    assert "TRITON_CACHE_AUTOTUNING" not in os.environ


# What the tuning chose.


class Choice:
    """As Triton's Config: settings, and a hook that is no part of its words."""

    def __init__(self, size: int, hook: object = print) -> None:
        self.size, self.pre_hook = size, hook

    def __str__(self) -> str:
        return f"BLOCK: {self.size}"


class Kernel:
    """As Triton's Autotuner: looks into its cache, tries what is not there, and notes what it tried."""

    def __init__(self, sizes: tuple[int, ...] = (16, 32, 64), hook: object = print) -> None:
        self.configs, self.cache, self.base_fn = [Choice(size, hook) for size in sizes], dict[object, Choice](), compare
        self.tried: list[object] = []

    def run(self, key: object) -> int:
        if key not in self.cache:
            self.tried.append(key)
            self.cache[key] = self.configs[1]
        return self.cache[key].size


def test_a_choice_is_made_once_and_not_by_every_process(tmp_path: Path) -> None:
    keys = [(32, 128, "torch.bfloat16"), (32, 128, "torch.float32")]
    for number in range(2):  # two processes
        kernel = Kernel()
        assert keep_choices([kernel, "no kernel", None], tmp_path / "choices", lambda: "H100, triton 3.5") == 1
        assert [kernel.run(key) for key in keys] == [32, 32]
        assert kernel.tried == ([] if number else keys)
        assert keep_choices([kernel], tmp_path / "choices", lambda: "H100, triton 3.5") == 0  # it is done


@pytest.mark.parametrize(
    ("machine", "sizes"), [("H200, triton 3.5", (16, 32, 64)), ("H100, triton 3.6", (16, 32, 64)), ("H100, triton 3.5", (16, 48))]
)
def test_a_choice_of_another_machine_version_or_kernel_is_not_taken(machine: str, sizes: tuple[int, ...], tmp_path: Path) -> None:
    first = Kernel()
    keep_choices([first], tmp_path, lambda: "H100, triton 3.5")
    first.run("key")
    other = Kernel(sizes)
    keep_choices([other], tmp_path, lambda: machine)
    assert other.run("key") == sizes[1] and other.tried == ["key"]


def test_what_triton_keeps_itself_and_what_has_nothing_to_choose_is_left_alone(tmp_path: Path) -> None:
    kernels = [Kernel(hook=None), Kernel((16,))]
    assert keep_choices(kernels, tmp_path, lambda: "H100") == 0
    assert all(type(kernel.cache) is dict for kernel in kernels)


@pytest.mark.parametrize("content", [None, b"half a fi", b"[]", b'{"config": "BLOCK: 1024"}'])
def test_a_folder_or_file_that_is_no_good_costs_a_trial_and_no_more(content: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / "choices"
    if content is None:
        folder.write_bytes(b"in the way")
    else:
        first = Kernel()
        keep_choices([first], folder, lambda: "H100")
        first.run("key")
        (file,) = folder.glob("*.json")
        file.write_bytes(content)
    kernel = Kernel()
    keep_choices([kernel], folder, lambda: "H100")
    assert kernel.run("key") == 32 and kernel.tried == ["key"]


def test_the_kernels_of_the_scan_keep_their_choices(fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    fakes.write_text(
        "import types\nhook = lambda arguments: None\n"
        "of = types.SimpleNamespace\nbackward = of(cache={}, base_fn=of, configs=[of(pre_hook=hook)] * 2)\n"
        "def mamba_chunk_scan_combined(*given):\n    return backward.cache"
    )
    for interpreted, kind in (("1", dict), ("0", KeptChoices)):
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        forget()
        for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
            del sys.modules[name]
        assert type(ssd_kernel._kernel()()) is kind


def test_double_precision_is_refused(fakes: Path) -> None:
    x = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    with pytest.raises(UsageError, match=r"^scan=mamba_ssm knows no float64; take scan=chunked$"):
        ssd_kernel.fused_scan(x, x[..., 0], x[0, 0, :, 0], x, x, 64)


if __name__ == "__main__":
    interpret()
