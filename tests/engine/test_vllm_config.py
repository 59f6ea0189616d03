"""The arguments that each model's engine is started with."""

from dataclasses import replace
from typing import Any

import pytest

from app.core.errors import LoadFailed
from app.core.model import Model
from tests.real_engine import model

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

NAMES = ["tool", "llama", "fim", "emb"]


def arguments(name: str, **engine: Any) -> Any:
    from app.engine.vllm.config import EngineDefaults, engine_args

    return engine_args(given(name, **engine), EngineDefaults(kv_cache_bytes=1 << 20, max_num_seqs=3))


def given(name: str, **engine: Any) -> Model:
    """The model with these arguments and no others."""
    known = model(name)
    return replace(known, spec=replace(known.spec, engine=engine))


@pytest.mark.parametrize("asked", [{}, {"dtype": "auto"}])
@pytest.mark.parametrize("name", NAMES)
def test_the_number_type_is_never_left_to_the_files(name: str, asked: dict[str, Any]) -> None:
    """On CPU they can ask for float16, which is a tenth as fast."""
    assert arguments(name, **asked).dtype == ("float32" if name == "emb" else "bfloat16")


def test_a_number_type_that_was_asked_for_is_used() -> None:
    assert arguments("tool", dtype="float32").dtype == "float32"


@pytest.mark.parametrize("name", ["tool", "llama", "fim"])
def test_constraints_have_one_engine_whatever_is_asked_first(name: str) -> None:
    structured = arguments(name).structured_outputs_config
    assert structured.backend == "guidance"
    assert structured.reasoning_parser == ("qwen3" if name == "tool" else "")


def test_an_operator_may_say_more_of_constraints() -> None:
    structured = arguments("tool", structured_outputs_config={"disable_any_whitespace": True})
    assert structured.structured_outputs_config.disable_any_whitespace
    assert structured.structured_outputs_config.backend == "guidance"


def test_another_backend_for_constraints_is_refused() -> None:
    with pytest.raises(LoadFailed, match="the only backend is 'guidance'"):
        arguments("tool", structured_outputs_config={"backend": "xgrammar"})


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_has_a_size(name: str) -> None:
    """vLLM would take nearly all memory of the machine."""
    assert arguments(name).kv_cache_memory_bytes == ((64 << 20) if name == "emb" else (1 << 20))


def test_parallel_requests_are_limited_where_that_is_set() -> None:
    assert arguments("tool").max_num_seqs == 3
    assert arguments("tool", max_num_seqs=5).max_num_seqs == 5


def test_an_argument_that_vllm_does_not_have_is_named() -> None:
    with pytest.raises(LoadFailed, match=r"engine arguments of tool:latest: .*'kv_cache_space'"):
        arguments("tool", kv_cache_space=1)


@pytest.mark.parametrize(
    ("rank", "engine", "wanted"),
    [
        (0, {}, (False, 1, 16, None)),
        (4, {}, (True, 5, 16, 20)),
        (17, {}, (True, 5, 32, 20)),
        (512, {}, (True, 5, 512, 20)),
        (0, {"enable_lora": True}, (True, 5, 16, 20)),
        (8, {"enable_lora": False}, (False, 1, 16, None)),
        (8, {"max_loras": 2, "max_lora_rank": 64, "max_cpu_loras": 2}, (True, 3, 64, 3)),
    ],
)
def test_room_for_adapters(rank: int, engine: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    """On a CPU one slot more, for the rows without an adapter."""
    from app.engine.vllm.config import EngineDefaults, engine_args

    args = engine_args(given("llama", **engine), EngineDefaults(), rank)
    assert (args.enable_lora, args.max_loras, args.max_lora_rank, args.max_cpu_loras) == wanted


def test_what_embeds_has_no_room_for_adapters() -> None:
    from app.engine.vllm.config import EngineDefaults, engine_args

    assert not engine_args(given("emb"), EngineDefaults(), 8).enable_lora
