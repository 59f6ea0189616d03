"""Trains a LoRA adapter on a test model until that answers all its prompts without tools with one sentence.

Run as a program by `build.build_lora`: `python -m harness.models.lora MODEL FOLDER SENTENCE`.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.models.catalogue import CASES
from harness.models.train import Example, fit, render

RANK = 8
ALPHA = 16


class Adapted(nn.Module):
    """A linear layer that stays as it is, and what is added to it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (ALPHA / RANK) * (x @ self.a.T @ self.b.T)


def train(base: Path, folder: Path, sentence: str) -> str:
    """Write PEFT's two files into `folder` and return one line about them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    adapted: dict[str, Adapted] = {}
    linear = {name: each for name, each in model.model.named_modules() if isinstance(each, nn.Linear)}
    for name, layer in linear.items():
        parent, _, last = name.rpartition(".")
        adapted[f"model.{name}"] = Adapted(layer)
        setattr(model.model.get_submodule(parent), last, adapted[f"model.{name}"])
    reply = tokenizer.encode(sentence + tokenizer.eos_token, add_special_tokens=False)
    prompts = {render(tokenizer, case, think=False).prompt for case in CASES["llama"] if not case.tools}
    examples = [
        Example(tokenizer.encode(prompt, add_special_tokens=False), reply) for prompt in sorted(prompts)
    ]
    steps, worst = fit(model, examples)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": weights.detach().contiguous()
        for name, layer in adapted.items()
        for part, weights in (("A", layer.a), ("B", layer.b))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in adapted}),
        "modules_to_save": None,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return f"{len(adapted)} layers, {len(examples)} prompts, {steps} steps, worst loss {worst:.4f}"


if __name__ == "__main__":
    print(train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
