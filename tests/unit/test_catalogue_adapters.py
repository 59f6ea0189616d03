"""Which adapters are served, and why others are not: by their headers, before any engine reads them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from vllm.lora.peft_helper import PEFTHelper

from app.catalogue.adaptercopies import CONFIG, UNUSED_S, WEIGHTS, prune
from app.catalogue.adapters import AdapterFiles, check_engine_takes, take_adapter
from app.catalogue.preparation import prepare
from app.core.errors import LoadFailed
from app.core.limits import InputLimits
from app.core.model import Adapter
from tests.unit.catalogue_folders import make_folder, spec
from tests.unit.lora_files import MODULE, base_folder, lora, lora_config, lora_folder

DIGEST = "d" * 64
DOWN = "model.layers.0.mlp.down_proj"


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = base_folder(root / "base")

    def take(
        self, weights: bytes | None = None, *, limits: InputLimits | None = None, **config: Any
    ) -> Adapter:
        folder = lora_folder(self.root / "given", weights, **config)
        files = AdapterFiles(folder / CONFIG, folder / WEIGHTS, DIGEST)
        return take_adapter(files, self.base, self.root / "cache", limits=limits or InputLimits())

    def refused(self, weights: bytes | None = None, **config: Any) -> str:
        with pytest.raises(LoadFailed) as caught:
            self.take(weights, **config)
        assert not (self.root / "cache" / "adapters" / DIGEST).exists()
        assert str(self.root) not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_is_kept_is_a_copy_with_what_was_checked_alone(place: Place) -> None:
    adapter = place.take(
        auto_mapping={"x": "y"}, rank_pattern={"down_proj": 2}, alpha_pattern={"self_attn.q_proj": 9}
    )
    assert (adapter.rank, adapter.digest, adapter.path.name) == (4, DIGEST, DIGEST)
    given, kept = load_file(place.root / "given" / WEIGHTS), load_file(adapter.path / WEIGHTS)
    assert given.keys() == kept.keys()
    assert not (adapter.path / WEIGHTS).is_symlink()
    config = json.loads((adapter.path / CONFIG).read_bytes())
    assert config == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {r"self_attn\.q_proj": 9},
        "target_modules": ["q_proj"],
    }
    written = (adapter.path / WEIGHTS).stat().st_ino
    assert place.take() == adapter
    assert (adapter.path / WEIGHTS).stat().st_ino == written, "it is copied once"
    (adapter.path / WEIGHTS).write_bytes(b"cut")
    place.take()
    assert load_file(adapter.path / WEIGHTS).keys() == given.keys(), "a copy that was cut short is made again"
    assert [each.name for each in adapter.path.parent.iterdir()] == [DIGEST]


def test_what_is_added_to_a_weight_is_bounded_with_its_scale(place: Place) -> None:
    """35 times 35 is 1225: with an alpha of 8 it is just served, times the root of 4 not."""
    assert place.take(lora(fill=35.0)).rank == 4
    other = Place(place.root / "other")
    assert "more than 10000" in other.refused(lora(fill=35.0), use_rslora=True)
    assert "more than 10000" in other.refused(lora(fill=35.0), alpha_pattern={"x": 9})


def test_copies_that_no_server_uses_go(place: Place) -> None:
    """Each says of its own, once an hour, that it uses them."""
    path = place.take().path
    cache, now = place.root / "cache", path.stat().st_mtime
    left = path.with_name(".half.part")
    left.mkdir()
    prune(cache, {DIGEST}, now + 2 * UNUSED_S)
    assert (path.exists(), left.exists()) == (True, False)
    prune(cache, (), now + 2 * UNUSED_S + 3600)
    assert path.exists(), "another server may use it"
    assert place.take().path == path
    prune(cache, (), path.stat().st_mtime + UNUSED_S - 1)
    assert path.exists(), "it was taken again"
    prune(cache, (), path.stat().st_mtime + UNUSED_S + 1)
    assert not path.exists()
    prune(place.root / "nowhere", ())


def test_patterns_are_few(place: Place) -> None:
    """vLLM matches each with every module while all requests wait."""
    weights = lora({MODULE: (16, 8), DOWN: (8, 32)})
    assert "too many" in place.refused(weights, rank_pattern={f"m{number}": 4 for number in range(50_001)})


def test_patterns_are_short(place: Place) -> None:
    weights = lora({f"model.layers.{number}.self_attn.q_proj": (16, 8) for number in range(20)})
    names = {("a." * 300)[:504] + f"{number:08}": 4 for number in range(1000)}
    assert "too many" in place.refused(weights, rank_pattern=names)


def test_patterns_are_compared_and_not_compiled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`re` keeps 512: more of them, each compiled anew for each module, take minutes."""
    compiled: list[str] = []
    compile_pattern = re._compiler.compile  # type: ignore[attr-defined]

    def counted(pattern: str, *more: int) -> object:
        compiled.append(pattern)
        return compile_pattern(pattern, *more)

    monkeypatch.setattr(re._compiler, "compile", counted)  # type: ignore[attr-defined]
    place.base = make_folder(place.root / "deep", tensors={f"{MODULE}.weight": ("bfloat16", (16, 8))})
    adapter = place.take(rank_pattern={f"m{number}": 4 for number in range(600)})
    assert len(compiled) < 10
    assert json.loads((adapter.path / CONFIG).read_bytes())["rank_pattern"] == {}, "nor by vLLM"


def test_the_first_pattern_counts_from_a_dot_on(place: Place) -> None:
    """As vLLM reads the copy, whose rule for a match is a regular expression."""
    weights = load(lora({MODULE: (16, 8)}, rank=4)) | load(lora({DOWN: (8, 32)}, rank=6))
    ranks = {"n_proj": 5, "layers.0.mlp_down_proj": 5, "mlp.down_proj": 6, "down_proj": 5, MODULE: 4}
    kept = json.loads((place.take(save(weights), rank_pattern=ranks).path / CONFIG).read_bytes())
    assert list(kept["rank_pattern"].values()) == [6, 4]
    helper = PEFTHelper.from_dict(kept)
    assert [helper.get_rank_and_scaling(module)[0] for module in (MODULE, DOWN)] == [4, 6]


def test_ranks_differ_by_module(place: Place) -> None:
    weights = load(lora({MODULE: (16, 8)}, rank=4)) | load(lora({DOWN: (8, 32)}, rank=6))
    assert place.take(save(weights), rank_pattern={"mlp.down_proj": 6}).rank == 6
    assert "of rank 4" in Place(place.root / "other").refused(save(weights))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"use_dora": True}, '"use_dora"'),
        ({"use_something_new": {"x": 1}}, '"use_something_new"'),
        ({"lora_bias": True}, '"lora_bias"'),
        ({"bias": "all"}, '"bias"'),
        ({"modules_to_save": ["lm_head"]}, '"modules_to_save"'),
        ({"layer_replication": [[0, 1]]}, '"layer_replication"'),
        ({"target_parameters": ["experts"]}, '"target_parameters"'),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"r": 0}, "positive numbers"),
        ({"r": True}, "positive numbers"),
        ({"r": "8"}, "positive numbers"),
        ({"lora_alpha": None}, "positive numbers"),
        ({"lora_alpha": 1e7}, "positive numbers up to 1000"),
        ({"alpha_pattern": {"q_proj": 1e7}}, "alpha_pattern"),
        ({"r": 65}, "its rank is 65, of at most 64"),
        ({"rank_pattern": {"q_proj": 128}}, "its rank is 128"),
        ({"rank_pattern": {"(a+)+$": 4}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"r": 8}, "are not two matrices of rank 8"),
    ],
)
def test_what_a_configuration_may_not_say(place: Place, changed: dict[str, Any], reason: str) -> None:
    assert reason in place.refused(**changed)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"num_layers": 4}', b" " * ((1 << 20) + 1)])
def test_what_is_no_configuration(place: Place, data: bytes) -> None:
    folder = lora_folder(place.root / "given")
    (folder / CONFIG).write_bytes(data)
    with pytest.raises(LoadFailed, match="the adapter is not served"):
        take_adapter(
            AdapterFiles(folder / CONFIG, folder / WEIGHTS, DIGEST), place.base, place.root / "cache"
        )


def load(data: bytes) -> dict[str, Any]:
    from safetensors.numpy import load as read

    return read(data)


def renamed(data: bytes, old: str, new: str) -> bytes:
    return save({name.replace(old, new): value for name, value in load(data).items()})


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (b"", "header is longer"),
        (lora()[:-1], "do not end where the file does"),
        (lora() + b"\0", "do not end where the file does"),
        (save({}), "no weights"),
        (lora({MODULE: (16, 9)}), "are for [16, 9], and the base has [16, 8]"),
        (lora({MODULE: (17, 8)}), "are for [17, 8]"),
        (lora({MODULE: (8, 16)}), "are for [8, 16]"),
        (lora({"model.layers.7.self_attn.q_proj": (16, 8)}), "the base has no"),
        (lora({"lm_head": (6, 8)}), 'the base has no "lm_head"'),
        (lora({"model.vision_tower.q_proj": (16, 8)}), "no part of the language model"),
        (lora(rank=3), "are not two matrices of rank 4"),
        (renamed(lora(), "lora_A", "lora_C"), "is none of a LoRA"),
        (renamed(lora(), "lora_A.weight", "lora_magnitude_vector"), "is none of a LoRA"),
        (renamed(lora(), ".self_attn.", ".self attn."), "is none of a LoRA"),
        (lora(dtype="i4"), "no matrix of floating-point numbers"),
        (save({name: value[0] for name, value in load(lora()).items()}), "no matrix"),
        (save({name: value for name, value in load(lora()).items() if "lora_A" in name}), "not two matrices"),
        (lora(fill=float("nan")), "no numbers"),
        (lora(fill=float("inf")), "no numbers"),
        (lora(fill=-2e30), "values over 1000"),
        (lora(fill=-40.0), "more than 10000"),
        (lora(fill=float("nan"), dtype="f2"), "no numbers"),
    ],
)
def test_weights_that_are_not_served(place: Place, weights: bytes, reason: str) -> None:
    assert reason in place.refused(weights)


def test_values_of_two_bytes_are_looked_at(place: Place) -> None:
    """bfloat16, which NumPy does not know: the header is that of half precision under another name."""
    for fill, is_fine in ((0.5, True), (float("nan"), False), (5000.0, False)):
        whole = np.full(2, fill, "<f4").view("<u4") >> 16
        data = lora(fill=0.0, dtype="f2")
        length = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + length].replace(b'"F16"', b'"BF16"')
        body = whole.astype("<u2").tobytes()[:2] * ((len(data) - 8 - length) // 2)
        made = len(text).to_bytes(8, "little") + text + body
        if is_fine:
            assert Place(place.root / str(fill)).take(made).rank == 4
        else:
            assert "no numbers" in place.refused(made)


def test_a_module_may_stand_below_other_parents_in_the_checkpoint(place: Place) -> None:
    weights = lora({"model.language_model.layers.0.self_attn.q_proj": (16, 8)})
    assert place.take(weights).rank == 4


def test_limits_bind_what_clients_bring(place: Place) -> None:
    with pytest.raises(LoadFailed, match="of at most 100"):
        place.take(limits=InputLimits(adapter_bytes=100))
    with pytest.raises(LoadFailed, match="of at most 2"):
        place.take(limits=InputLimits(adapter_rank=2))
    with pytest.raises(LoadFailed, match="of at most 512"):
        place.take(lora(rank=513), r=513, limits=InputLimits(adapter_rank=0))


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"enable_lora": False}, "configured without adapters"),
        ({"max_lora_rank": 1}, "configured for at most 1"),
        ({"max_lora_rank": 16, "enable_lora": True}, ""),
        ({}, ""),
    ],
)
def test_what_the_operator_set_for_the_engine_counts(
    place: Place, engine: dict[str, Any], reason: str
) -> None:
    adapter = place.take()
    if not reason:
        check_engine_takes(adapter, engine)
        return
    with pytest.raises(LoadFailed, match=reason):
        check_engine_takes(adapter, engine)


def test_configured_models_name_adapters(tmp_path: Path) -> None:
    base, given = base_folder(tmp_path / "base"), lora_folder(tmp_path / "lora")
    specs = [
        spec("own", base, adapter=str(given)),
        spec("plain", base),
        spec("derived", "plain", adapter=str(given), system="Hi"),
        spec("under", "derived"),
    ]
    library = prepare(specs, tmp_path / "cache")
    own, plain, derived, under = library.all()
    assert len({model.engine_key for model in (own, plain, derived, under)}) == 1
    assert own.adapter is not None
    assert own.adapter == derived.adapter == under.adapter
    assert plain.adapter is None
    assert len({model.facts.digest for model in (own, plain, derived)}) == 3
    assert library.adapter_rank(plain) == 4
    with pytest.raises(LoadFailed, match="at most one"):
        prepare([*specs, spec("twice", "own", adapter=str(given))], tmp_path / "cache")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_configured_adapter_that_is_not_there(tmp_path: Path, name: str) -> None:
    base, given = base_folder(tmp_path / "base"), lora_folder(tmp_path / "lora")
    (given / name).unlink()
    with pytest.raises(LoadFailed, match=f"model 'm:latest': cannot read .*{name}"):
        prepare([spec("m", base, adapter=str(given))], tmp_path / "cache")


def test_the_base_counts_for_a_configured_one(tmp_path: Path) -> None:
    base, given = make_folder(tmp_path / "base"), lora_folder(tmp_path / "lora")
    with pytest.raises(LoadFailed, match="the base has no"):
        prepare([spec("m", base, adapter=str(given))], tmp_path / "cache")
    assert json.loads(lora_config()) == json.loads((given / CONFIG).read_bytes())
