"""What the machine can do: the device and number type to take, the peak that MFU divides by."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import logging
import os
import platform
import time
from pathlib import Path
from typing import Literal

import torch

from pygpt.planning import gpu_timing
from pygpt.planning.cards import Card, find_card
from pygpt.utils.errors import InputError, check_device
from pygpt.utils.machine import Memory, available_memory, n_cores

logger = logging.getLogger(__name__)

DType = Literal["float32", "bfloat16", "float16"]

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""There is one on a Linux machine with NVIDIA's driver, whatever PyTorch makes of it."""

BF16_WIDTH = 64
"""n_embd from which a step on a CPU with bf16 instructions is not slower in bf16 than in fp32.

Times as fast on one core with AMX, with 384 ids: 0.7 at 32 wide, 1.1 at 64, 1.5 at 128, 2.6 at 384;
with GPT-2's ids 2.5 at 64 and at 128.
"""


@dataclasses.dataclass(frozen=True)
class Peak:
    """A rate and where it comes from."""

    flops: float
    """Operations per second."""
    source: str

    def __str__(self) -> str:
        return f"{self.flops / 1e12:.3g} TFLOP/s ({self.source})"


def start_device(name: str) -> torch.device:
    """`pick_device` for a command that computes on it; a CPU gets a thread on each core."""
    device = pick_device(name)
    if device.type == "cpu":
        use_physical_cores()
    else:
        use_expandable_segments()
    return device


def pick_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is a GPU if there is one.

    A GPU that is picked becomes the current one: events, streams and memory figures that name no
    device are then those of the GPU at work, with "cuda:1" too.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and (why_not := _why_no_gpu()):
            logger.warning("this machine has an NVIDIA GPU and it can't be used: %s", why_not)
    check_device(name)
    device = torch.device(name)
    try:
        torch.empty(0, device=device).tolist()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # a dispatcher lists what it has
        raise InputError(
            f"device {name!r} can't be used here ({reason}); try auto or cpu"
        ) from error
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _why_no_gpu() -> str:
    """Why PyTorch can't use an NVIDIA GPU that the system has; "" where there is none."""
    if not NVIDIA_DRIVER.exists():
        return ""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA; install a build with it"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # an old driver, by its number
        return str(error).strip().splitlines()[0]
    return f"CUDA {torch.version.cuda} finds no device; is CUDA_VISIBLE_DEVICES set?"


def use_expandable_segments() -> None:
    """Have the allocator of a GPU grow its segments, so that sizes that change leave no gaps.

    Before the first tensor of a size. The user's own PYTORCH_ALLOC_CONF has the last word. Linux
    only, and not in Windows' subsystem, whose driver lacks what they need.
    """
    named = any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    if platform.system() == "Linux" and "microsoft" not in platform.release() and not named:
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def pick_dtype(name: DType | Literal["auto"], device: torch.device, width: int) -> DType:
    """The type of GEMM inputs; "auto" takes bfloat16 where the device has instructions for it.

    It asks the device and measures nothing: the same command on the same machine always gives the
    same run.

    Args:
        name: "auto", "float32", "bfloat16" or "float16".
        device: where the model runs.
        width: n_embd. On a CPU "auto" takes float32 below BF16_WIDTH.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and width >= BF16_WIDTH and cpu_has_bf16()
    return "bfloat16" if has_bf16 else "float32"


def cpu_has_bf16() -> bool:
    """Whether bf16 GEMMs are faster than fp32 here: elsewhere they are emulated, many times slower.

    Not where PyTorch is held to AVX2 (ATEN_CPU_CAPABILITY=avx2). On ARM, where it depends on the
    build of PyTorch, no gain is known, and the answer is no.
    """
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(instructions, False) for instructions in ("amx_bf16", "avx512_bf16"))


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> Peak:
    """The rate that MFU divides by: the GPU's data sheet, or a GEMM measured once."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        card = card_of(device)
        if card:
            return Peak(card.flops, f"{card.name}, bf16, data sheet")
    short, size = {
        torch.float32: ("fp32", 4096),
        torch.bfloat16: ("bf16", 8192),
        torch.float16: ("fp16", 8192),
    }[dtype]
    if device.type != "cuda":
        size = 1024
    rate = gemm_rate(device, dtype, size)
    return Peak(rate, f"{short} GEMM of {size}³ measured on this machine")


def card_of(device: torch.device) -> Card | None:
    """The entry of CARDS for a CUDA device; None for one that is not listed."""
    return find_card(torch.cuda.get_device_name(device))


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def free_memory(device: torch.device) -> Memory:
    """What this process can still take: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return Memory(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def gemm_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations per second of a product of two (size, size) matrices.

    The best of at least 10: whatever else runs on the machine only ever makes it slower.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    if device.type == "cuda":
        seconds = min(gpu_timing.milliseconds(lambda: a @ b)) / 1e3
        del a, b
        torch.cuda.empty_cache()  # `free_memory` asks the driver, which counts the cache as taken
    else:
        seconds = min(_seconds_of_product(a, b) for _ in range(15))
    return 2 * size**3 / seconds


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    (a @ b)[0, 0].item()  # reading one number waits for a device that isn't the CPU
    return time.perf_counter() - start


def use_physical_cores() -> int:
    """Have PyTorch and the native ops run one thread on each core; the number of threads.

    Cores are those this process may use, by its affinity and its cgroups' quotas, which PyTorch
    does not look at; a core's second hyper-thread would only share its arithmetic units. The
    sampler's thread needs no core of its own: it works for microseconds a step. The environment
    variable OMP_NUM_THREADS has the last word.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(n_cores())
    return torch.get_num_threads()


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next step; False where it isn't glibc.

    glibc gives each block of more than 32 MB back at once and asks for it again in the next step,
    and the system clears every page again: a cast of 19 M numbers to bf16 takes 62 ms into such
    memory and 4 ms into memory used before (2 virtual cores). Once called it holds for the life of
    the process, whose resident size stays at its peak.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 << 20))
    return all(libc.mallopt(option, value) == 1 for option, value in settings)
