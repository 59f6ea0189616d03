"""What devices there are, and what is predicted and kept of models' needs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from app.core.device import GIB, Device, Need
from app.core.model import Capability, Model
from app.engine.memory.host import read_host
from app.engine.memory.lora import Room, room, room_bytes
from app.engine.memory.measured import Measured
from app.engine.memory.memory import GpuMemory, HostMemory
from app.engine.memory.need import (
    Terms,
    cache_bytes_per_token,
    need_on_gpu,
    need_on_host,
    weights_bytes,
)
from app.engine.memory.readings import Readings
from app.engine.vllm.gpus import Gpus
from app.engine.vllm.process.work import computing_on
from harness.fake_model import fake_model

MIB = 1 << 20
TERMS = Terms(kv_cache_bytes=GIB, default_context=4096)

LLAMA_8B = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.embedding_length": 4096,
}


def model(
    parameters: int = 8_030_000_000,
    kind: str = "BF16",
    capability: Capability = "completion",
    *,
    file_format: str = "safetensors",
    size: int = 16 * GIB,
    **engine: Any,
) -> Model:
    made = fake_model("m", capability)
    facts = replace(
        made.facts,
        parameter_count=parameters,
        quantization=kind,
        format=file_format,
        size_bytes=size,
        info=LLAMA_8B,
    )
    return replace(made, facts=facts, spec=replace(made.spec, engine=engine))


@pytest.mark.parametrize(
    ("wanted", "dtype", "width"),
    [
        (model(1000), "bfloat16", 2),
        (model(1000, "F32"), "bfloat16", 2),
        (model(1000, "F32"), "auto", 4),
        (model(1000, "F32", dtype="bfloat16"), "auto", 2),
        (model(1000, dtype="float32"), "bfloat16", 4),
        (model(1000, dtype="auto"), "bfloat16", 2),
        (model(1000, "Q4_K_M", file_format="gguf", size=600), "auto", 2),
        (model(1000, quantization="fp8"), "auto", 1),
        (model(1000, "FP8", size=2000, quantization="fp8_per_tensor"), "auto", 1),
        (model(1000, "F16", file_format="gguf", size=2000), "auto", 2),
        (model(1000, "AWQ", size=600), "auto", 0.6),
    ],
)
def test_weights_take_what_they_are_loaded_as(wanted: Model, dtype: str, width: float) -> None:
    assert weights_bytes(wanted, dtype) == 1000 * width


def test_packed_weights_of_a_gguf_file_are_8_bit_ones_where_the_device_has_them() -> None:
    """As `engine/vllm/weights.py` has it, so that the ledger refuses nothing that would fit so."""
    packed = model(1000, "Q4_K_M", file_format="gguf", size=600)
    assert weights_bytes(packed, "auto", has_fp8=True) == 1000
    whole = model(1000, "F16", file_format="gguf", size=2000)
    assert weights_bytes(whole, "auto", has_fp8=True) == 2000


def test_a_token_of_llama_8b_takes_128_kib_of_cache() -> None:
    assert cache_bytes_per_token(LLAMA_8B) == 128 * 1024
    assert cache_bytes_per_token({}) == 0


def test_on_the_host_the_cache_counts_and_what_was_measured_does() -> None:
    small = model(100 * MIB)
    weights = int(200 * MIB * 1.05)
    predicted, known = weights + GIB + GIB // 2, weights + GIB + GIB // 4
    assert need_on_host(small, TERMS) == Need(predicted, predicted, in_processes=True)
    assert need_on_host(small, TERMS, 700 * MIB) == Need(known, known, in_processes=True)
    assert need_on_host(small, TERMS, 3 * GIB).least == 3 * GIB
    given = model(100 * MIB, kv_cache_memory_bytes=64 * MIB, tensor_parallel_size=2)
    assert need_on_host(given, TERMS).least == weights + 64 * MIB + GIB
    assert need_on_host(model(100 * MIB, capability="embedding"), TERMS).least < GIB + GIB // 8


@pytest.mark.parametrize(("cache", "had"), [(64, 549), (64, 469), (512, 897)])
def test_an_engine_of_a_tiny_model_has_no_more_than_was_predicted(cache: int, had: int) -> None:
    """MiB of its core and worker, pages that they share counted in part; all but the cache is their base."""
    tiny = model(107_000, "F32", dtype="float32", kv_cache_memory_bytes=cache * MIB)
    need = need_on_host(tiny, TERMS)
    assert had * MIB <= need.least <= (had + 140) * MIB


@pytest.mark.parametrize(("cache", "back"), [(64, 287), (512, 729)])
def test_a_measurement_that_is_too_low_does_not_count(cache: int, back: int) -> None:
    """Of pages that it shares it had a small part; `back` is what an unload gave back."""
    tiny = model(107_000, "F32", dtype="float32", kv_cache_memory_bytes=cache * MIB)
    assert need_on_host(tiny, TERMS, 50 * MIB).least >= back * MIB


def test_a_model_alone_on_a_gpu_has_nearly_all_of_it_and_one_of_several_what_it_can_use() -> None:
    total = 80 * GIB
    alone = need_on_gpu(model(), TERMS, total)
    assert (alone.count, alone.most) == (1, int(total * 0.92))
    assert 19 * GIB < alone.least < 21 * GIB  # 15.7 of weights, 2.5 around them and four contexts of 0.5
    shared = need_on_gpu(model(), TERMS, total, shared=True)
    assert shared.least == alone.least
    assert shared.most == alone.least + 60 * 4096 * 128 * 1024


def test_what_an_operator_gives_holds() -> None:
    total = 80 * GIB
    assert need_on_gpu(model(gpu_memory_utilization=0.45, device_ids=[1]), TERMS, total) == Need(
        int(total * 0.45), int(total * 0.45), 1, (1,)
    )
    cache = need_on_gpu(model(kv_cache_memory_bytes=GIB), TERMS, total)
    assert cache.least == cache.most
    wide = need_on_gpu(model(tensor_parallel_size=4, data_parallel_size=2), TERMS, total)
    assert wide.count == 8
    assert wide.least < 8 * GIB
    over_nodes = model(nnodes=2, tensor_parallel_size=8, pipeline_parallel_size=2)
    spanning = need_on_gpu(over_nodes, TERMS, total, shared=True)
    assert spanning == Need(int(total * 0.92), int(total * 0.92), 8), "devices of this node"
    tiny = need_on_gpu(model(137_000_000, capability="embedding"), TERMS, total)
    assert tiny.least == tiny.most < 2 * GIB
    assert need_on_gpu(model(1, capability="embedding"), TERMS, total, 5 * GIB).least == 5 * GIB


def test_room_for_adapters_counts_whether_or_not_there_are_any() -> None:
    """vLLM reserves it when an engine starts: of a model of 8B, 2.9 GiB for four adapters of rank 64."""
    info = LLAMA_8B | {"llama.feed_forward_length": 14336, "llama.vocab_size": 128256}
    whole = replace(model(), facts=replace(model().facts, info=info))
    per_rank = 32 * (2 * 8192 + 2 * 5120 + 3 * 18432) + 2 * (4096 + 128256)
    assert room_bytes(info, Room(4, 64), 2) == 4 * 64 * 2 * per_rank
    assert room_bytes({}, Room(4, 64), 2) == 0
    with_room = need_on_gpu(whole, TERMS, 80 * GIB, shared=True, reserved=Room(4, 64))
    assert with_room.least - need_on_gpu(whole, TERMS, 80 * GIB, shared=True).least == 4 * 64 * 2 * per_rank
    host = need_on_host(whole, TERMS, reserved=Room(5, 16))
    assert host.least - need_on_host(whole, TERMS).least == 5 * 16 * 2 * per_rank


def test_experts_have_adapters_each() -> None:
    info = LLAMA_8B | {"llama.expert_count": 8, "llama.expert_feed_forward_length": 1024}
    dense = LLAMA_8B | {"llama.feed_forward_length": 1024}
    assert room_bytes(info, Room(1, 1), 1) - room_bytes(dense, Room(1, 1), 1) == 7 * 32 * 3 * (4096 + 1024)


@pytest.mark.parametrize(
    ("given", "rank", "reserved"),
    [
        ({}, 0, Room()),
        ({}, 17, Room(4, 32)),
        ({"enable_lora": True}, 0, Room(4, 16)),
        ({"enable_lora": False}, 17, Room()),
        ({"max_loras": 2, "max_lora_rank": 64}, 8, Room(2, 64)),
    ],
)
def test_the_room_is_what_the_engine_is_started_with(
    given: dict[str, Any], rank: int, reserved: Room
) -> None:
    assert room(given, 4, rank, on_cpu=False) == reserved


def test_what_was_measured_with_room_for_adapters_is_kept_apart(tmp_path: Path) -> None:
    """One that was loaded without it, since it could not be loaded with it, takes less."""
    ranks = {"rank": 8}
    memory = HostMemory(TERMS, Measured(tmp_path / "m.json", "cpu"), rank_of=lambda _: ranks["rank"])
    wanted = model(100 * MIB)
    memory.measured(wanted, 5 * GIB, 16)
    memory.measured(wanted, 3 * GIB, 0)
    assert memory.need(wanted).least == 5 * GIB
    ranks["rank"] = 0
    assert memory.need(wanted).least == 3 * GIB
    ranks["rank"] = 17
    assert memory.need(wanted).least < 3 * GIB, "of this nothing is known"


def test_a_chat_model_leaves_room_for_an_embedder_only_where_several_are_served() -> None:
    read = [Device(0, 24 * GIB, 24 * GIB)]
    memory = GpuMemory(TERMS, Measured(Path("/nowhere/m.json"), "x"), Readings(lambda: read), lambda: True)
    assert list(memory.devices()) == read
    assert memory.need(model(3_000_000_000)).most < 60 * GIB
    assert memory.settles_s == 60


# What was measured.


def test_what_was_measured_is_there_after_a_restart_and_for_its_own_kind_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "memory.json"
    host = HostMemory(TERMS, Measured(file, "cpu"))
    wanted = model(100 * MIB)
    host.measured(wanted, 3 * GIB, 0)
    assert HostMemory(TERMS, Measured(file, "cpu")).need(wanted).least == 3 * GIB
    assert Measured(file, "H200").get(wanted.engine_key) is None
    assert [each.name for each in file.parent.iterdir()] == ["memory.json"]


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps({f"cpu/{number}": number for number in range(1000)}))
    Measured(tmp_path / "m.json", "cpu").put("new", 1)
    again = Measured(tmp_path / "m.json", "cpu")
    assert again.get("new") == 1
    assert again.get("0") is None
    assert again.get("1") == 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"cpu/a": "x"}', '{"cpu/a": -1}', '{"cpu/a": true}'])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    measured = Measured(tmp_path / "m.json", "cpu")
    assert measured.get("a") is None
    measured.put("a", 5)
    assert Measured(tmp_path / "m.json", "cpu").get("a") == 5


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    measured = Measured(tmp_path / "file" / "m.json", "cpu")
    measured.put("a", 5)
    assert measured.get("a") == 5


# Devices.


def test_the_host_is_a_device_of_which_some_is_left_to_others(tmp_path: Path) -> None:
    host = psutil.virtual_memory()
    device = read_host(tmp_path)
    assert device.index == 0
    assert device.total == host.total - 3 * GIB // 2
    assert 0 <= device.free <= device.total


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path: Path, version: int) -> None:
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    limit, used, cache = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    (folder / limit).write_text(f"{4 * GIB}\n")
    (folder / used).write_text(f"{1600 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon {1400 * MIB}\n{cache} {200 * MIB}\n")
    assert read_host(tmp_path) == Device(0, 5 * GIB // 2, 7 * GIB // 2 - 1400 * MIB)


def test_what_the_server_is_about_to_take_is_no_engines(tmp_path: Path) -> None:
    """The first engine is chosen before vLLM is imported: a container with a limit was ended for it."""
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    (tmp_path / "memory.current").write_text(f"{170 * MIB}\n")
    assert read_host(tmp_path) == Device(0, 5 * GIB // 2, 5 * GIB // 2)
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert read_host(tmp_path) == Device(0, 5 * GIB // 2, 5 * GIB // 2), "and no less afterwards"


@pytest.mark.parametrize("limit", ["max\n", f"{1 << 62}\n", ""])
def test_a_container_without_a_limit_has_the_host(tmp_path: Path, limit: str) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("1\n")
    (tmp_path / "memory.stat").write_text("inactive_file 1\n")
    assert read_host(tmp_path).total == psutil.virtual_memory().total - 3 * GIB // 2


class Nvml:
    """NVIDIA's library as this code calls it, over a list of devices."""

    names = ("GPU-a", "GPU-b", "GPU-c")
    NVMLError = ValueError
    driver = b"580.65.06"
    capabilities: Sequence[tuple[int, int]] = ((9, 0),) * 3

    def __init__(self, busy: Sequence[int | None] = (0, 0, 0)) -> None:
        self._busy = busy

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return self.names.index(name)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=100 + handle, free=50 + handle)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        percent = self._busy[handle]
        if percent is None:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=percent, memory=0)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return self.capabilities[handle]

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA H200"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return self.driver


@pytest.mark.parametrize(
    ("visible", "totals"),
    [
        ("2,0", [102, 100]),
        ("GPU-c, GPU-a", [102, 100]),
        ("1,-1,0", [101]),
        ("1,7,0", [101]),
        ("", []),
    ],
)
def test_an_index_is_the_place_among_the_visible_devices(visible: str, totals: list[int]) -> None:
    found = Gpus(Nvml(), visible).read()
    assert [device.total for device in found] == totals
    assert [device.index for device in found] == list(range(len(totals)))


@pytest.mark.parametrize(
    ("capabilities", "has_fp8"),
    [([(9, 0)] * 3, True), ([(8, 9)] * 3, True), ([(9, 0), (8, 0), (9, 0)], False)],
)
def test_devices_have_fp8_if_all_of_them_do(capabilities: list[tuple[int, int]], has_fp8: bool) -> None:
    nvml = Nvml()
    nvml.capabilities = capabilities
    assert Gpus(nvml, "0,1,2").has_fp8 is has_fp8
    assert Gpus(nvml, "").has_fp8 is False


def test_all_devices_are_visible_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = Gpus(Nvml())
    assert gpus.read()[1] == Device(1, 101, 51)
    assert gpus.kind == "NVIDIA H200"


def engine_on(devices: list[int] | None, count: int = 1) -> Any:
    """vLLM's `ParallelConfig`, as far as it tells of devices."""
    return SimpleNamespace(
        local_world_size=count, data_parallel_size_local=1, assigned_physical_gpu_ids=devices
    )


@pytest.mark.parametrize(
    ("busy", "devices", "count", "computes"),
    [
        ((0, 99, 99), None, 1, False),
        ((0, 99, 99), None, 2, True),
        ((99, 0, 0), [1, 2], 2, False),
        ((0, 0, 5), [1, 2], 2, True),
        ((4, 0, 0), None, 3, False),
        ((None, 99, 0), None, 1, False),
        ((None, 99, 0), None, 2, True),
    ],
)
def test_an_engine_computes_where_one_of_its_own_devices_does(
    monkeypatch: pytest.MonkeyPatch,
    busy: Sequence[int | None],
    devices: list[int] | None,
    count: int,
    computes: bool,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert computing_on(engine_on(devices, count), Nvml(busy))() is computes


def test_without_a_driver_nothing_is_known_of_devices() -> None:
    assert not computing_on(engine_on(None))()
    assert not computing_on(engine_on(None), object())()


@pytest.mark.parametrize(
    ("driver", "is_old"), [(b"580.65.06", False), (b"610.1", False), (b"575.57.08", True), (b"odd", False)]
)
def test_a_driver_that_is_too_old_for_cuda_13_is_known(driver: bytes, is_old: bool) -> None:
    nvml = Nvml()
    nvml.driver = driver
    assert (Gpus(nvml, "").driver_is_old, Gpus(nvml, "").driver) == (is_old, driver.decode())
