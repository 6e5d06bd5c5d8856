"""The processes of a run: what each has, and what they do together. Only this file talks to other processes."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.amp import GradScaler

from distgan import exit_status
from distgan.compiling import compile_or_fall_back
from distgan.config import Config, flatten, process_conflicts, raise_mistakes
from distgan.errors import ConfigError
from distgan.launcher import check_launch, meet_after_restart, numbered
from distgan.networks.norms import batch_norms
from distgan.reduction import Reduction, sent_bytes
from distgan.watchdog import Idle, Watchdog, listen, this_process

T = TypeVar("T")

_OWN = (
    *("data.shards", "data.threads", "data.tier", "data.cache", "data.cache_size", "data.stage"),
    *("train.micro_batch", "train.device", "train.compile", "train.cuda_graphs"),
    "evaluate.inception",
)
"""Keys that may differ between the machines of a run: where the same pictures are, and how the same is computed."""

_PATIENCE = timedelta(minutes=30)
"""Least time-out of a collective, for what the watchdog cannot see: it ends what is stuck long before."""

_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Runtime:
    """Device, rank and world size of this process, and the collective operations of the trainer."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError, on all processes alike, when they were given different configs."""
        check_launch()
        cuda = torch.cuda.is_available() and config.train.device != "cpu" and not _cpu_asked_for()
        if config.train.device == "cuda" and not cuda:
            raise ConfigError("train.device: cuda, and torch sees no CUDA device here; use auto or cpu")
        raise_mistakes(process_conflicts(config, launched_processes()))
        self.timeout = max(_PATIENCE, timedelta(seconds=config.train.stuck_after.seconds, minutes=5))
        meet_after_restart("nccl" if cuda else "gloo", self.timeout)
        self.accelerator = Accelerator(
            cpu=not cuda,
            mixed_precision="no",  # ours: accelerate has one scaler for both networks, and none on a CPU
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=self.timeout),
            ],
        )
        self.device = numbered(self.accelerator.device)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.local_rank = self.accelerator.local_process_index
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.cores = cores_of_a_process(self.world_size)
        self.is_main = self.accelerator.is_main_process
        self.watchdog = self._watch(config)
        self.dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
        self._mixed = _MIXED.get(config.train.precision)
        self._reduce_in, self._reductions = config.train.reduce, dict[nn.Module, Reduction]()
        automatic = cuda and not config.train.checkpoint_activations
        self.compiles = config.train.compile is True or (config.train.compile == "auto" and automatic)
        self._graphs = config.train.cuda_graphs and cuda
        self._patient: dist.ProcessGroup | None = None
        if cuda:
            # Both by their old names, which torch 2.9 to 2.15 takes; its compiler still reads them (pytorch 166387).
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
            torch.backends.cudnn.deterministic = True  # the same step gives the same bits
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)  # train.tf32 was asked
        else:
            torch.set_num_threads(self.cores)
        self._require_one(config)

    def _watch(self, config: Config) -> Watchdog | Idle:
        """From here on a process that is lost ends all."""
        if self.world_size == 1:
            return Idle()
        server, meeting = listen(alone=self.local_size == self.world_size) if self.is_main else (None, None)
        found: list = [None] * self.world_size
        dist.all_gather_object(found, (this_process(self.rank), meeting))
        members, meeting = [member for member, _ in found], found[0][1]
        watchdog = Watchdog(members, self.rank, meeting, server, config.train.stuck_after.seconds).start()
        exit_status.peers = watchdog
        return watchdog

    def _require_one(self, config: Config) -> None:
        if self.world_size == 1:
            return
        all_values: list[dict] = [{}] * self.world_size
        dist.all_gather_object(all_values, {k: v for k, v in flatten(config).items() if k not in _OWN})
        first = all_values[0]
        mistakes = {}
        for rank, values in enumerate(all_values):
            for key in sorted(first.keys() | values.keys()):
                one, other = first.get(key, "(not there)"), values.get(key, "(not there)")
                if one != other:
                    mistakes.setdefault(key, f"{key}: {one} on process 0, {other} on process {rank}")
        if mistakes:
            raise ConfigError(
                "\n".join(["the processes have different configs; start all with the same one", *mistakes.values()])
            )

    def place(self, module: nn.Module) -> nn.Module:
        """The module on this process's device, in its dtype and memory format, its batch norms made global."""
        module = module.to(device=self.device, dtype=self.dtype)
        module = module.to(memory_format=torch.channels_last)
        for norm in batch_norms(module):
            norm.processes = self.world_size
            if self.world_size > 1:
                norm.average = average_over_processes
        return module

    def images(self, pixels: Tensor) -> Tensor:
        """Pictures [N, C, H, W] uint8 on the host as numbers in [-1, 1] on the device."""
        moved = pixels.to(self.device, non_blocking=True).to(self.dtype, memory_format=torch.channels_last)
        return moved / 127.5 - 1

    def compiled(self, function: Callable) -> Callable:
        """The function compiled, if asked."""
        return compile_or_fall_back(function, graphs=self._graphs) if self.compiles else function

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The objective under DDP (with several processes), compiled if asked."""
        objective.in_stages = self.world_size > 1
        if self.compiles:
            objective.use_compiler(self.compiled)
        # A weight of one input channel has strides of both formats at once: nothing to be warned of.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():  # newer torch names the option anew; accelerate knows only the old name
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
            wrapped = self.accelerator.prepare(objective)
        if self.world_size > 1 and self._reduce_in != "fp32":
            self._reductions[wrapped] = Reduction(wrapped, self._reduce_in)
        return wrapped

    def unwrap(self) -> None:
        """Lets go of all that `wrap` and `compiled` made, which nobody may hold any more: others take their place."""
        self._reductions.clear()
        self.accelerator.free_memory()  # DDP's hooks stay on the parameters until it is gone
        torch.compiler.reset()  # else a function is compiled for a few shapes only

    def count_reductions(self, objective: nn.Module) -> list[int]:
        """From now on the bytes of every bucket that DDP sends for the objective; stays empty on one process."""
        if self.world_size == 1:
            return []
        if objective not in self._reductions:
            self._reductions[objective] = Reduction(objective, self._reduce_in)
        return self._reductions[objective].count()

    def reduced_bytes(self, parameters: Iterable[nn.Parameter]) -> int:
        """What this process gives to the reduction of their gradients, once; 0 alone."""
        whole = sum(parameter.nbytes for parameter in parameters)
        return sent_bytes(whole, self._reduce_in) if self.world_size > 1 else 0

    def autocast(self) -> contextlib.AbstractContextManager:
        """Around forwards; with fp32 and fp64 it does nothing."""
        return torch.autocast(self.device.type, dtype=self._mixed, enabled=self._mixed is not None)

    def make_scaler(self) -> GradScaler:
        """Scales a whole loss with fp16; in other precisions its methods do nothing."""
        return GradScaler(self.device.type, enabled=self._mixed == torch.float16)

    def without_reduction(self, objective: nn.Module, unreduced: bool) -> contextlib.AbstractContextManager:
        """Around forward AND backward of every micro-batch but the last: gradients stay on this process."""
        return self.accelerator.no_sync(objective) if unreduced else contextlib.nullcontext()

    def reduce(self, values: Tensor, maximum: Tensor) -> Tensor:
        """Values added up over all processes, or their maximum where `maximum`, of the same shape, says so."""
        if self.world_size == 1:
            return values
        sums, maxima = values.clone(), values.clone()
        dist.all_reduce(sums)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return torch.where(maximum, maxima, sums)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows [n, ...] of all processes in the order of their ranks: [world_size * n, ...]."""
        if self.world_size == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def spread(self, values: Tensor) -> float:
        """The largest difference between what two processes hold at the same place; NaN if one holds a NaN."""
        if self.world_size == 1:
            return 0.0
        values = values.flatten()
        missing = values.isnan().any().to(values.dtype)[None]  # a maximum over processes may pass a NaN over
        largest, least = torch.cat([values, missing]).nan_to_num(), torch.cat([-values, missing]).nan_to_num()
        for bound in (largest, least):
            dist.all_reduce(bound, op=dist.ReduceOp.MAX)
        return math.nan if largest[-1] else (largest + least)[:-1].abs().max().item()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of what the processes hold."""
        return values if self.world_size == 1 else _mean(values)

    def union(self, names: frozenset[str]) -> frozenset[str]:
        """What any process holds; waits for all."""
        if self.world_size == 1:
            return names
        found: list = [None] * self.world_size
        dist.all_gather_object(found, names)
        return frozenset().union(*found)

    def share_on_machine(self, text: str) -> str:
        """The text of the first process of this machine."""
        if self.world_size == 1:
            return text
        texts: list = [None] * self.world_size
        dist.all_gather_object(texts, text)
        return texts[self.rank - self.local_rank]

    def agree(self, values: list[float]) -> bool:
        """Whether all processes hold the same values; every one of them gets the same answer."""
        if self.world_size == 1:
            return True
        bounds = torch.tensor([*values, *(-value for value in values)], dtype=torch.float64, device=self.device)
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        largest, smallest = bounds.chunk(2)
        return torch.equal(largest, -smallest)

    def from_main(self, find: Callable[[], T]) -> T:
        """What `find` returns on the main process, which alone calls it, on all; the others wait, for as long as a day.

        Over gloo with a time-out of its own: NCCL would keep the devices busy, and take minutes for a failure. What is
        found is pickled; tensors are on the host."""
        if self.world_size == 1:
            return find()
        if self._patient is None:
            self._patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        found = [find() if self.is_main else None]
        dist.broadcast_object_list(found, src=0, group=self._patient, device=torch.device("cpu"))
        return found[0]

    def close(self) -> None:
        """The orderly end. Not for failures: it waits for the others, who may be waiting for this process."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self.watchdog.close()


class Vote:
    """A few flags on which all processes agree at the same step, without stopping for each other.

    The flags are all-reduced on the host (gloo) from `cast` on, while the last update of the step runs, and are read at
    its end, so that neither the device nor the host waits. Alone, a process says what it wants when it is asked.
    """

    def __init__(
        self, world_size: int, wishes: Callable[[], tuple[bool, ...]], timeout: timedelta | None = None
    ) -> None:
        """`wishes` gives this process's flags; `timeout`: of a wait for the others' flags, as a group of its own does
        not take over that of all."""
        self._wishes = wishes
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world_size > 1 else None
        self._pending: tuple[Tensor, dist.Work] | None = None

    def cast(self) -> None:
        """Begins a vote."""
        if self._group is not None:
            tensor = torch.tensor(self._wishes(), dtype=torch.int32)
            self._pending = tensor, dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def result(self) -> list[bool]:
        """The flags that any process had when it cast its vote."""
        if self._group is None:
            return list(self._wishes())
        tensor, work = self._pending
        work.wait()
        return [bool(flag) for flag in tensor.tolist()]


class Exchange:
    """Texts between all processes, whatever their devices and other threads are doing: over gloo, in a group of its
    own that is patient for a day."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if world_size > 1 else None

    def gather(self, text: str) -> list[str]:
        """The texts of all processes in the order of their ranks; waits for all."""
        if self._group is None:
            return [text]
        found = [""] * self._world_size
        dist.all_gather_object(found, text, group=self._group)
        return found


def _mean(values: Tensor) -> Tensor:
    result = values.contiguous().clone()
    dist.all_reduce(result)
    return result / dist.get_world_size()


@torch.library.custom_op("distgan::average_over_processes", mutates_args=())
def _average(values: Tensor) -> Tensor:
    """An operator of its own, so that it has a place in a compiled graph."""
    return _mean(values)


@_average.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


_average.register_autograd(lambda _, gradient: _average(gradient))


def average_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over all processes, differentiable (for the statistics of a batch norm).

    Its gradient is the mean of the processes' gradients, as the loss is the mean of their losses."""
    return _average(values)


def launched_processes() -> int:
    """The number of processes that the launcher says it started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _cpu_asked_for() -> bool:
    """Whether accelerate was told to leave the GPUs alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "t", "on")


def cores_of_a_process(world_size: int) -> int:
    """CPU cores for each process of this machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return max(1, len(os.sched_getaffinity(0)) // here)


def parameters(modules: Iterable[nn.Module]) -> int:
    """The number of parameters of the modules."""
    return sum(p.numel() for module in modules for p in module.parameters())
