"""What users put their hosts in before they run them: data parallelism, sharding, offloading, compilation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

CPU = torch.device("cpu")

Wrap = Callable[[nn.Module, Path], nn.Module]


def _vision_blocks(host: nn.Module) -> list[nn.Module]:
    return [module for module in host.modules() if type(module).__name__ == "CLIPEncoderLayer"]


def data_parallel(host: nn.Module, _folder: Path) -> nn.Module:
    if torch.cuda.is_available():
        pytest.skip("DataParallel only nests where there is no GPU, and moves the host to one where there is")
    return nn.DataParallel(host)


def ddp(host: nn.Module, _folder: Path) -> nn.Module:
    return DistributedDataParallel(host)


def fsdp1(host: nn.Module, _folder: Path) -> nn.Module:
    policy = ModuleWrapPolicy({type(_vision_blocks(host)[0])})
    return FullyShardedDataParallel(host, auto_wrap_policy=policy, device_id=CPU)


def fsdp1_named(host: nn.Module, _folder: Path) -> nn.Module:
    policy = ModuleWrapPolicy({type(_vision_blocks(host)[0])})
    return FullyShardedDataParallel(host, auto_wrap_policy=policy, device_id=CPU, use_orig_params=True)


def fsdp2(host: nn.Module, _folder: Path) -> nn.Module:
    fsdp = torch.distributed.fsdp
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("torch before 2.6 has no torch.distributed.fsdp.fully_shard")
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("fully_shard of torch 2.6 runs on accelerators alone: its streams of a CPU record no events")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*_vision_blocks(host), host):
        fsdp.fully_shard(part, mesh=mesh)
    return host


def offloaded_to_cpu(host: nn.Module, _folder: Path) -> nn.Module:
    cpu_offload(host, execution_device=CPU)
    return host


def offloaded_to_disk(host: nn.Module, folder: Path) -> nn.Module:
    disk_offload(host, str(folder), execution_device=CPU)
    return host


def dispatched(host: nn.Module, _folder: Path) -> nn.Module:
    return dispatch_model(host, device_map={"": "cpu"}, main_device="cpu", force_hooks=True)


DISTRIBUTED: dict[str, Wrap] = {"ddp": ddp, "fsdp1": fsdp1, "fsdp1-named": fsdp1_named, "fsdp2": fsdp2}
OFFLOADED: dict[str, Wrap] = {"cpu-offload": offloaded_to_cpu, "disk-offload": offloaded_to_disk}
WRAPPERS: dict[str, Wrap] = {"data-parallel": data_parallel, **DISTRIBUTED, **OFFLOADED, "dispatched": dispatched}
