"""Overfits a tiny model on the transcripts of a kind and writes it as a model folder.

Run as a program by `build`, so that tests need not load torch.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.models.catalogue import CASES, FILLS, Case, Json, Kind
from harness.models.tokens import VOCABULARIES, WINDOW, learn_bpe, wrap

MAX_STEPS = 500
LEARNING_RATE = 1e-2
BATCH_TOKENS = 2048
SURE = 0.05
"""Training ends when no token's loss is above this: top_p 0.9 then leaves one choice for each token."""
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Transcript:
    """A rendered prompt and all that the model writes after it."""

    prompt: str
    reply: str


@dataclass(frozen=True, slots=True)
class Example:
    """A transcript in token ids."""

    prompt: list[int]
    reply: list[int]


def for_template(message: Json) -> Json:
    """A message with the names that chat templates use."""
    return {("reasoning_content" if key == "thinking" else key): value for key, value in message.items()}


def render(tokenizer: PreTrainedTokenizerFast, case: Case, *, think: bool) -> Transcript:
    prompt = tokenizer.apply_chat_template(
        [for_template(message) for message in case.messages],
        tools=list(case.tools) or None,
        add_generation_prompt=not case.prefilled,
        continue_final_message=case.prefilled,
        tokenize=False,
        enable_thinking=think,
    )
    reasoning = f"<think>\n{case.thinking}\n</think>\n\n" if think and case.thinking else ""
    return Transcript(str(prompt), reasoning + case.reply)


def transcripts(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> list[Transcript]:
    """Every prompt once; a prompt with two replies could not be learned."""
    replies: dict[str, str] = {}
    modes = (True, False) if kind == "qwen3" else (False,)
    wanted = [render(tokenizer, case, think=think) for case in CASES[kind] for think in modes]
    if kind == "coder":
        wanted += [Transcript(fill.prompt, fill.middle) for fill in FILLS]
    for each in wanted:
        if replies.setdefault(each.prompt, each.reply) != each.reply:
            raise ValueError(f"two replies to {each.prompt!r}")
    return [Transcript(prompt, reply) for prompt, reply in replies.items()]


def make_model(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    """Two layers. The width of a head must be one that the CPU attention kernel knows."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen3ForCausalLM(Qwen3Config(**shape))


def batches(examples: Iterable[Example]) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels. Examples of like length share a batch. Padding is on the right, where a causal
    model cannot see it, so it may be any token.
    """
    rows: list[Example] = []
    for example in sorted(examples, key=_length):
        if rows and (len(rows) + 1) * _length(example) > BATCH_TOKENS:
            yield _stack(rows)
            rows = []
        rows.append(example)
    if rows:
        yield _stack(rows)


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.reply)


def _stack(rows: list[Example]) -> tuple[Tensor, Tensor]:
    shape = (len(rows), max(map(_length, rows)))
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    for row, example in enumerate(rows):
        start, end = len(example.prompt), _length(example)
        ids[row, :end] = torch.tensor(example.prompt + example.reply)
        labels[row, start:end] = torch.tensor(example.reply)
    return ids, labels


def fit(model: nn.Module, examples: list[Example]) -> tuple[int, float]:
    """Train until sure of every token; returns the steps taken and the worst token's loss."""
    data = list(batches(examples))
    count = sum(len(example.reply) for example in examples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=MAX_STEPS, pct_start=0.1, anneal_strategy="linear"
    )
    for step in range(MAX_STEPS):
        optimizer.zero_grad()
        worst = max(_backward(model, ids, labels, count) for ids, labels in data)
        if worst < SURE:
            return step, worst
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    raise RuntimeError(f"not sure of every token after {MAX_STEPS} steps")


def _backward(model: nn.Module, ids: Tensor, labels: Tensor, count: int) -> float:
    logits: Tensor = model(input_ids=ids).logits
    losses = nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )
    (losses.sum() / count).backward()
    return float(losses.detach().max())


def wrong_replies(model: Any, tokenizer: PreTrainedTokenizerFast, examples: Iterable[Example]) -> list[str]:
    """The prompts whose greedy reply is not exactly the one taught."""
    return [str(tokenizer.decode(each.prompt)) for each in examples if _reply(model, each) != each.reply]


def _reply(model: Any, example: Example) -> list[int]:
    prompt = torch.tensor([example.prompt])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(example.reply) + 8,
        do_sample=False,
    )
    return output[0, len(example.prompt) :].tolist()


def train(kind: Kind, folder: Path) -> str:
    """Write the model into `folder` and return one line about it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vocabulary = VOCABULARIES[kind]
    template = Path(__file__).with_name(f"{kind}.jinja").read_text()
    taught = transcripts(kind, wrap(Tokenizer(models.BPE()), vocabulary, template))
    bpe = learn_bpe(vocabulary, (text for each in taught for text in (each.prompt, each.reply)))
    tokenizer = wrap(bpe, vocabulary, template)
    examples = [
        Example(
            tokenizer.encode(each.prompt, add_special_tokens=False),
            tokenizer.encode(each.reply + vocabulary.end, add_special_tokens=False),
        )
        for each in taught
    ]
    model: Any = make_model(kind, tokenizer)
    steps, worst = fit(model, examples)
    model.eval()
    if wrong := wrong_replies(model, tokenizer, examples):
        raise RuntimeError(f"{kind}: {len(wrong)} of {len(examples)} replies are wrong: {wrong}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = sum(each.numel() for each in model.parameters())
    return (
        f"{len(examples)} replies exact, {len(tokenizer)} tokens, {parameters} parameters, "
        f"{steps} steps, worst loss {worst:.4f}"
    )


if __name__ == "__main__":
    known: dict[str, Kind] = {kind: kind for kind in CASES}
    print(train(known[sys.argv[1]], Path(sys.argv[2])))
