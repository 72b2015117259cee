"""A tiny random Qwen3-VL with its own processor, which needs no torchvision: pictures through Pillow, no videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl import processing_qwen3_vl
from transformers.processing_utils import ProcessorMixin

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_CONTENT = (
    "{%- macro write(content) -%}{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}<|vision_start|><|image_pad|><|vision_end|>{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
INSTRUCT = _CONTENT + (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' + write(message['content']) + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
THINKING = _CONTENT + (  # as Qwen's: the prompt opens the thought, the history has none of earlier messages
    "{%- for message in messages -%}{%- set text = write(message['content']) -%}"
    "{%- if message['role'] == 'assistant' and not loop.last -%}{%- set text = text.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif -%}"
)


class Qwen3VLProcessor(processing_qwen3_vl.Qwen3VLProcessor):
    """The family's processor; its own constructor wants one for videos, which needs torchvision. verl goes by the name."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen3VLConfig, Qwen3VLProcessor, exist_ok=True)  # of checkpoints that `save` wrote


def qwen_processor(template: str = INSTRUCT) -> Qwen3VLProcessor:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    images = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    )
    return Qwen3VLProcessor(images, tokenizer, chat_template=template)


def qwen_model(processor: Qwen3VLProcessor) -> Qwen3VLForConditionalGeneration:
    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "head_dim": 16, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2,
            "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    return model


def save(folder: Path) -> Qwen3VLProcessor:
    """A checkpoint whose processor AutoProcessor finds where this module is imported."""
    processor = qwen_processor()
    qwen_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("processor_config.json", "tokenizer_config.json"):  # it would name the family's own
        told = json.loads((folder / name).read_text())
        told.pop("processor_class", None)
        (folder / name).write_text(json.dumps(told))
    return processor
