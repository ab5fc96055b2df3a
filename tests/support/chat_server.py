"""Serve a chat model by `transformers serve`: a tiny one, made here, that always asks the same question."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.support.server import free_port, wait_until

QUESTION = "What would you like to remember of today?"
_WORDS = [*["What", " would", " you", " like", " to", " remember", " of", " today", "?", " I", " say", " more"]]
_SPECIAL = ["<s>", "</s>", "<assistant>"]
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}<assistant>"


def write_model(folder: Path) -> None:
    """Write a Llama whose layers add nothing: the next token depends on the last one only, by the head's weights."""
    folder.mkdir()
    words = [word.replace(" ", "Ġ") for word in _WORDS]
    names = [*_SPECIAL, *words, *sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(words))]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    _write_json(folder / "tokenizer_config.json", {**special, "chat_template": _TEMPLATE})

    size = 4 * -(-len(names) // 4)  # two heads of even size
    sizes = {"vocab_size": size, "hidden_size": size, "intermediate_size": 4}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8192}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32"}
    _write_json(folder / "config.json", {**kind, **sizes, **layers, "bos_token_id": 0, "eos_token_id": 1})
    head = np.zeros((size, size), np.float32)
    chain = [*map(names.index, ("<assistant>", *words, "</s>"))]
    head[chain[1:], chain[:-1]] = 10
    weights = {"model.embed_tokens.weight": np.eye(size, dtype=np.float32), "lm_head.weight": head}
    weights["model.norm.weight"] = np.ones(size, np.float32)
    for layer in ("model.layers.0", "model.layers.1"):
        for name in "qkvo":
            weights[f"{layer}.self_attn.{name}_proj.weight"] = np.zeros((size, size), np.float32)
        for name, shape in {"gate": (4, size), "up": (4, size), "down": (size, 4)}.items():
            weights[f"{layer}.mlp.{name}_proj.weight"] = np.zeros(shape, np.float32)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{name}.weight"] = np.ones(size, np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content))


@contextmanager
def chat_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run the server during a `with` block. Yields the settings of a service that uses it."""
    model = folder / "model"
    write_model(model)
    port = free_port()
    command = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        (folder / "output.txt").open("wb") as output,
        subprocess.Popen(
            [command, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as process,
    ):
        try:
            wait_until(lambda: _answers(port) or process.poll() is not None, (folder / "output.txt").read_text)
            yield {"LLM_BASE_URL": f"http://127.0.0.1:{port}/v1", "LLM_MODEL": str(model)}
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
