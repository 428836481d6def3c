"""A tiny language model and tokenizer made on this machine: demos and tests need no download.

Qwen2 architecture with random weights. Random weights alone make a poor test object: at the usual scale attention is
nearly uniform, and greedy output hardly depends on the KV cache, so a scheduler that corrupts it would go unnoticed.
The attention projections are therefore scaled up until the output depends on the context (tests/engine proves it).
In float32: a CPU without bfloat16 instructions is ten times slower in bfloat16.

The tokenizer is byte-level BPE, trained on Python's own documentation strings and this package's sources, so any text
round-trips. The result is a function of `TinyModel` alone and is cached under its parameters.
"""

import hashlib
import inspect
import os
import pydoc_data.topics
import shutil
import tempfile
from pathlib import Path

import msgspec

URI_SCHEME = "generated://"
FORMAT = 2
"""Part of the cache key: raise it when the generator changes."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class TinyModel(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of a generated model."""

    hidden_size: int = 128
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    vocabulary: int = 1024
    max_length: int = 8192
    attention_scale: float = 10.0
    """Factor on the attention projections; at 1 the output ignores the KV cache."""
    seed: int = 0

    @property
    def key(self) -> str:
        return hashlib.sha256(msgspec.json.encode((FORMAT, self))).hexdigest()[:12]


MODELS = {
    "tiny": TinyModel(),
    "small": TinyModel(hidden_size=512, layers=6, heads=8, kv_heads=4),
    "deep": TinyModel(hidden_size=256, layers=32, heads=4, kv_heads=2),
}
"""Names for `generated://NAME`: 0.4, 15 and 25 million parameters."""


class ModelError(ValueError):
    """No generated model has this name."""


def resolve_model(uri: str) -> str:
    """What to hand to vLLM for `uri`: a folder for `generated://NAME`, made if need be, else `uri` itself.

    Raises:
        ModelError: there is no such generated model.
    """
    if not uri.startswith(URI_SCHEME):
        return uri
    name = uri.removeprefix(URI_SCHEME)
    if name not in MODELS:
        raise ModelError(f"{uri}: there is no such generated model: use {', '.join(URI_SCHEME + n for n in MODELS)}")
    return str(make_model(MODELS[name], cache_folder() / f"{name}-{MODELS[name].key}"))


def cache_folder() -> Path:
    """Where generated models are kept: `$PROSERVE_CACHE/models`, by default ~/.cache/proserve/models."""
    if root := os.environ.get("PROSERVE_CACHE"):
        return Path(root) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proserve" / "models"


def make_model(model: TinyModel, folder: Path) -> Path:
    """Make `model` in `folder` unless it is there. Needs torch and transformers (the engine environment)."""
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved as a whole: two engines may start at once.
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        end, padding = _write_tokenizer(model, work)
        _write_weights(model, work, end=end, padding=padding)
        try:
            work.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _corpus() -> list[str]:
    """Text that comes with Python and with this package."""
    texts = list(pydoc_data.topics.topics.values())
    texts += [inspect.getdoc(module) or "" for module in (inspect, os, shutil, tempfile, hashlib)]
    return texts


def _write_tokenizer(model: TinyModel, folder: Path) -> tuple[int, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=model.vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=model.max_length,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return int(fast.eos_token_id), int(fast.pad_token_id)


def _write_weights(model: TinyModel, folder: Path, *, end: int, padding: int) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden_size,
        intermediate_size=2 * model.hidden_size,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=padding,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        network = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")):
                weight.mul_(model.attention_scale)
    network.save_pretrained(folder)
