"""`UPSTREAM.md` names what the engine uses of vLLM beyond its documented interface: all of it, as it is."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from vllm import envs
from vllm.config.quantization import resolve_quantization_config
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers import ToolParserManager
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.v1.engine import detokenizer, output_processor
from vllm.v1.engine import utils as engine_utils
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor import multiproc_executor
from vllm.v1.metrics import loggers
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor
from vllm.v1.sample.ops.logprobs import batched_count_greater_than

from app.catalogue.parsers import REASONING_RULES, TOOL_RULES
from app.catalogue.quantizing import quantized
from app.engine.vllm.input.logits import OllamaLogits
from app.engine.vllm.stream.client import StreamingLLM, TokenOutputs
from app.engine.vllm.stream.deltas import Deltas
from app.engine.vllm.stream.detokenizer import StoppingDetokenizer
from app.engine.vllm.stream.metrics import EngineMetrics
from harness.fake_model import fake_model

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "app" / "engine" / "vllm"
TEXT = (FOLDER / "UPSTREAM.md").read_text("utf-8")
USED, UPGRADE = TEXT.split("## What an upgrade", 1)
TABLES, DOCUMENTED = USED.split("## Documented", 1)
QUOTED = re.compile(r"`([^`]+)`")
THE_LIST = "the list"


def rows() -> list[list[str]]:
    """Number, symbols, users, reason, upstream and test of each row."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLES.splitlines()
        if re.match(r"\| [A-Z]\d+ \|", line)
    ]


def symbols(cell: str) -> Iterator[str]:
    """`owner`: `member`, `member`; `owner`."""
    for part in cell.split(";"):
        owner, *members = QUOTED.findall(part)
        yield owner
        yield from (f"{owner}.{member}" for member in members)


LISTED = [symbol for row in rows() for symbol in symbols(row[1])] + [
    name for name in QUOTED.findall(DOCUMENTED) if name.startswith("vllm.")
]


def owner_of(symbol: str) -> tuple[Any, list[str]]:
    """The innermost module of a dotted name and the names after it."""
    parts = symbol.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return importlib.import_module(".".join(parts[:length])), parts[length:]
        except ModuleNotFoundError:
            continue
    raise AssertionError(f"{symbol} is in no module")


def is_there(owner: Any, name: str) -> bool:
    """A member, or what the class or one of its bases assigns to itself or declares."""
    if hasattr(owner, name):
        return True
    bases = inspect.getmro(owner) if inspect.isclass(owner) else ()
    return any(
        name in vars(base).get("__annotations__", {}) or re.search(rf"self\.{name}\b.* = ", source(base))
        for base in bases
        if base.__module__.startswith("vllm")
    )


@cache
def source(owner: Any) -> str:
    return inspect.getsource(owner)


@pytest.mark.parametrize("symbol", sorted(set(LISTED)))
def test_what_is_listed_is_there(symbol: str) -> None:
    owner, names = owner_of(symbol)
    for name in names:
        assert is_there(owner, name), f"{name} of {symbol}"
        owner = getattr(owner, name, None)


def imported() -> Iterator[tuple[str, str]]:
    """Each name of vLLM that a file of the engine imports."""
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                yield from (
                    (str(path.relative_to(FOLDER)), f"{node.module}.{each.name}") for each in node.names
                )
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names if each.name.split(".")[0] == "vllm"]
                yield from ((str(path.relative_to(FOLDER)), name) for name in names)


def test_what_is_imported_is_listed() -> None:
    names = list(imported())
    assert len(names) > 40
    known = {symbol[:end] for symbol in LISTED for end in [*dots(symbol), len(symbol)]}
    assert [(path, name) for path, name in names if name not in known] == []


# What is used without an import of its name: by its object, by `getattr`, by inheritance, and by replacing it

TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(FOLDER.rglob("*.py"))}
MEMBERS = {symbol.rpartition(".")[2] for symbol in LISTED}
OTHERS = {
    **dict.fromkeys(
        ("is_fast", "get_added_vocab", "all_special_tokens", "added_tokens_decoder"), "transformers"
    ),
    **dict.fromkeys(("eos_token_id", "bos_token_id", "pad_token_id"), "transformers"),
    "_torchdynamo_orig_callable": "torch",
    "malloc_trim": "the C library",
    **dict.fromkeys(("marks", "looks_at"), "Caravan"),
}
"""What is reached in these ways and is not vLLM's, by whose it is."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(node: ast.expr) -> bool:
    """Whether a name behind it is one of a class and its bases: `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def of_vllm(tree: ast.Module) -> dict[str, str]:
    """The names in a file that stand for something of vLLM: imported, or another name for what was."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] == "vllm":
                names |= {each.asname or each.name: f"{module}.{each.name}" for each in node.names}
            case ast.Import():
                found = (each for each in node.names if each.name.split(".")[0] == "vllm")
                names |= {each.asname or "vllm": each.name if each.asname else "vllm" for each in found}
            case _:
                pass
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=known)) if known in names:
                names[name] = names[known]
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Name(id=known)) if known in names:
                names[name] = names[known]
            case _:
                pass
    return names


def made_here() -> set[str]:
    """The private names that some file of the engine defines."""
    names: set[str] = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(attr=name, value=value, ctx=ast.Store()) if is_own(value):
                names.add(name)
            case _:
                pass
    return set(filter(is_private, names))


def around(call: ast.Call, tree: ast.Module) -> Iterator[ast.comprehension]:
    for node in ast.walk(tree):
        is_one = isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp)
        if is_one and any(each is call for each in ast.walk(node)):
            yield from node.generators


def looked_up(call: ast.Call, tree: ast.Module) -> Iterator[str]:
    """The names that `getattr` and its like are called with, where they are written out."""
    match call.args[1:2]:
        case [ast.Constant(value=str(name))]:
            yield name
        case [ast.Name(id=variable)]:
            for node in around(call, tree):
                match node:
                    case ast.comprehension(target=ast.Name(id=name), iter=ast.Tuple(elts=values)):
                        if name == variable:
                            yield from (str(each.value) for each in values if isinstance(each, ast.Constant))
                    case _:
                        pass
        case _:
            pass


def reached() -> Iterator[tuple[str, str]]:
    """Each name that is another's, private or looked up by its text, with its file."""
    own = made_here()
    for path, tree in TREES.items():
        file = str(path.relative_to(FOLDER))
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name, value=value) if is_private(name) and not is_own(value):
                    if name not in own:
                        yield file, name
                case ast.keyword(arg=str(name)) if is_private(name):
                    yield file, name
                case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr")):
                    yield from ((file, name) for name in looked_up(node, tree) if name not in own)
                case _:
                    pass


def test_a_name_that_is_reached_by_its_object_is_listed() -> None:
    names = list(reached())
    assert {"_api_process_count", "_engine"} <= {name for _, name in names}
    assert sorted({each for each in names if each[1] not in {*MEMBERS, *OTHERS}}) == []


def replaced() -> Iterator[tuple[str, str]]:
    """Each name of vLLM that a file sets, with the file."""
    for path, tree in TREES.items():
        names = of_vllm(tree)
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name, value=ast.Name(id=owner), ctx=ast.Store()) if owner in names:
                    yield str(path.relative_to(FOLDER)), f"{names[owner]}.{name}"
                case ast.Call(
                    func=ast.Name(id="setattr"),
                    args=[ast.Name(id=owner), ast.Constant(value=str(name)), *_],
                ) if owner in names:
                    yield str(path.relative_to(FOLDER)), f"{names[owner]}.{name}"
                case _:
                    pass


def test_what_is_replaced_is_listed() -> None:
    symbols = list(replaced())
    assert len(symbols) > 5
    assert sorted({each for each in symbols if each[1] not in LISTED}) == []


def bases_of_vllm() -> Iterator[tuple[str, ast.ClassDef, list[Any]]]:
    """Each class that has classes of vLLM above it, with its file and those."""
    known: dict[str, list[Any]] = {}
    here = [
        (path, node) for path, tree in TREES.items() for node in tree.body if isinstance(node, ast.ClassDef)
    ]
    for _ in here:  # a base may stand in a file that comes later
        for path, node in here:
            names = of_vllm(TREES[path])
            above = [base.id for base in node.bases if isinstance(base, ast.Name)]
            bases = [each for base in above for each in known.get(base, [])]
            bases += [found(names[base]) for base in above if base in names]
            known |= {node.name: bases} if bases else {}
    for path, node in here:
        if node.name in known:
            yield str(path.relative_to(FOLDER)), node, known[node.name]


def inherited() -> Iterator[tuple[str, str]]:
    """Each name that a class has of a base of vLLM and uses, sets or overrides: with its class."""
    for file, node, bases in bases_of_vllm():
        names = functions(node.body)
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute) and is_own(each.value):
                names.add(each.attr)
        for name in sorted(each for each in names if not each.startswith("__")):
            if any(is_there(base, name) for base in bases):
                yield f"{file}: {node.name}", name


def test_what_a_class_has_of_its_base_is_listed() -> None:
    names = list(inherited())
    assert len(names) > 20
    assert [each for each in names if each[1] not in MEMBERS] == []


def dots(symbol: str) -> list[int]:
    return [at for at, character in enumerate(symbol) if character == "."]


def defined(path: Path) -> set[str]:
    """Functions, classes, and methods as `Class.method`, of a file."""
    body = ast.parse(path.read_text("utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    methods = {f"{each.name}.{name}" for each in classes for name in functions(each.body)}
    return {each.name for each in classes} | functions(body) | methods


def functions(body: list[ast.stmt]) -> set[str]:
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_files_functions_and_tests_of_a_row_are_there(row: list[str]) -> None:
    for part in row[2].split(";"):
        path, *names = QUOTED.findall(part)
        assert (FOLDER / path).is_file()
        assert set(names) <= defined(FOLDER / path)
    if row[5] != THE_LIST:
        path, _, test = row[5].strip("`").partition("::")
        assert test in defined(ROOT / path)


def test_an_upgrade_is_told_of_for_each_row() -> None:
    told = re.findall(r"^\| ([A-Z]\d+) \|", UPGRADE, re.MULTILINE)
    assert told == [row[0] for row in rows()]


def overridden() -> Iterator[tuple[type, type, str]]:
    for ours, theirs in (
        (TokenOutputs, output_processor.OutputProcessor),
        (Deltas, output_processor.RequestOutputCollector),
        (StoppingDetokenizer, detokenizer.IncrementalDetokenizer),
        (StreamingLLM, AsyncLLM),
        (EngineMetrics, loggers.PrometheusStatLogger),
        (OllamaLogits, AdapterLogitsProcessor),
    ):
        assert issubclass(ours, theirs)
        for name, member in vars(ours).items():
            if inspect.isfunction(member) and name in vars(theirs):
                yield ours, theirs, name


@pytest.mark.parametrize(
    ("ours", "theirs", "name"), list(overridden()), ids=lambda each: getattr(each, "__name__", each)
)
def test_an_override_takes_what_the_base_takes(ours: type, theirs: type, name: str) -> None:
    taken = inspect.signature(vars(ours)[name]).parameters
    variadic = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in taken.values())
    constructor = name == "__init__" and ours in (Deltas, StoppingDetokenizer)
    if not variadic and not constructor:
        assert list(taken) == list(inspect.signature(vars(theirs)[name]).parameters)


def test_the_binding_takes_what_its_base_takes() -> None:
    """Its module is for the fork server alone: it replaces a class as it is imported."""
    assert list(inspect.signature(OMPProcessManager.configure_omp_envs).parameters) == [
        "self",
        "rank",
        "local_rank",
    ]


CALLS: list[tuple[str, int, tuple[str, ...]]] = [
    ("vllm.v1.engine.utils.get_mp_context", 0, ()),
    ("vllm.v1.engine.async_llm.AsyncLLM._add_request", 6, ()),
    ("vllm.v1.engine.async_llm.AsyncLLM.abort", 2, ("internal",)),
    ("vllm.v1.engine.async_llm.AsyncLLM.from_vllm_config", 1, ("stat_loggers",)),
    ("vllm.v1.engine.async_llm.AsyncLLM.generate", 4, ("priority",)),
    ("vllm.v1.engine.async_llm.AsyncLLM.encode", 4, ("trace_headers", "priority")),
    ("vllm.v1.engine.input_processor.InputProcessor.process_inputs", 4, ("supported_tasks", "priority")),
    ("vllm.v1.engine.input_processor.InputProcessor.assign_request_id", 1, ()),
    (
        "vllm.v1.engine.output_processor.OutputProcessor.__init__",
        2,
        ("log_stats", "stream_interval", "tracing_enabled", "admission_stats"),
    ),
    ("vllm.v1.engine.output_processor.OutputProcessor.update_scheduler_stats", 2, ()),
    ("vllm.v1.engine.core_client._process_utility_output", 2, ()),
    ("vllm.v1.engine.core_client.AsyncMPClient._format_exception", 2, ()),
    ("vllm.v1.engine.core_client.AsyncMPClient.abort_requests_async", 2, ()),
    ("vllm.v1.engine.core_client.BackgroundResources.validate_alive", 2, ()),
    ("vllm.v1.metrics.loggers.StatLoggerManager.record", 3, ("mm_cache_stats", "engine_idx")),
    ("vllm.renderers.BaseRenderer.render_messages", 3, ()),
    ("vllm.renderers.BaseRenderer.tokenize_prompt", 3, ()),
    ("vllm.renderers.BaseRenderer.process_for_engine_async", 3, ()),
    ("vllm.renderers.BaseRenderer.render_cmpl_async", 3, ()),
    ("vllm.tracing.instrument_manual", 4, ("context", "kind")),
    (
        "vllm.parser.ParserManager.get_parser",
        0,
        ("tool_parser_name", "reasoning_parser_name", "enable_auto_tools", "tokenizer", "is_harmony"),
    ),
]
"""What is called, with how many arguments by position (`self` among them) and which by name."""


def found(symbol: str) -> Any:
    owner, names = owner_of(symbol)
    for name in names:
        owner = getattr(owner, name)
    return owner


@pytest.mark.parametrize(("symbol", "count", "names"), CALLS)
def test_a_call_fits(symbol: str, count: int, names: tuple[str, ...]) -> None:
    bound = inspect.signature(found(symbol)).bind(*range(count), **dict.fromkeys(names))
    assert len(bound.args) + len(bound.kwargs) == count + len(names)


@pytest.mark.parametrize(
    ("name", "used_by"),
    [
        ("get_mp_context", "vllm.v1.engine.utils.CoreEngineProcManager.__init__"),
        ("OMPProcessManager", "vllm.v1.executor.multiproc_executor.MultiprocExecutor._init_executor"),
        ("batched_count_greater_than", "vllm.v1.sample.sampler.Sampler.gather_logprobs"),
        ("instrument_manual", "vllm.v1.engine.output_processor.OutputProcessor.do_tracing"),
        ("validate_guidance_grammar", "vllm.sampling_params.SamplingParams._validate_structured_outputs"),
    ],
)
def test_a_name_that_is_replaced_is_looked_up_where_it_is_replaced(name: str, used_by: str) -> None:
    assert name in found(used_by).__code__.co_names


def test_a_function_that_torch_compiles_keeps_its_original() -> None:
    assert callable(getattr(batched_count_greater_than, "_torchdynamo_orig_callable", None))


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_LOGGING_LEVEL",
        "VLLM_NO_USAGE_STATS",
        "VLLM_WORKER_MULTIPROC_METHOD",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_CPU_OMP_THREADS_BIND",
    ],
)
def test_a_variable_of_the_environment_is_read(name: str) -> None:
    assert name in envs.environment_variables


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("See root cause above", engine_utils),
        ("Failed core proc(s): {", engine_utils),
        ("See stack trace for root cause", multiproc_executor),
        ('"vllm:num_requests_running"', loggers),
        ('"vllm:num_requests_waiting"', loggers),
    ],
)
def test_a_text_is_there(text: str, owner: Any) -> None:
    assert text in source(owner)


def test_an_id_that_is_made_up_can_be_told() -> None:
    assert make_tool_call_id().startswith("chatcmpl-tool-")


def test_parsers_have_the_names_that_models_are_given() -> None:
    assert {rule.parser for rule in TOOL_RULES} <= set(ToolParserManager.list_registered())
    assert {rule.parser for rule in REASONING_RULES} <= set(ReasoningParserManager.list_registered())


def test_vllm_makes_eight_bits_of_plain_weights_by_this_name() -> None:
    """Its `fp8` did so once, and now refuses weights that are no FP8 yet."""
    (name,) = quantized(fake_model("m"), is_configured=False).values()
    assert resolve_quantization_config(name, None) is not None
    assert resolve_quantization_config("fp8", None) is None
