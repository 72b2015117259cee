"""The embedded model's files: tokenizer, chat template, image processor and configuration.

Everything is of the Idefics3 family, so that transformers and vLLM load the folder as it is. The tokenizer
is a byte-level BPE trained on the teacher's messages without any splitting into words, so that a stretch of
code that is always the same becomes one token; coordinates are one token each and the characters of an
answer always stand alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from kernel_agent import prompts
from kernel_agent.tasks.strings import QUESTIONS
from kernel_agent.train.embedded import policy
from kernel_agent.train.embedded.eye import GRID, vision_config
from kernel_agent.train.embedded.views import STATES, VIEW

END, USER, ASSISTANT, PAD = "<end_of_utterance>", "<|user|>", "<|assistant|>", "<|pad|>"
IMAGE, FAKE, GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"
MERGE = 2
"""Patches joined along each side into one token of the language half."""
IMAGE_TOKENS = (GRID // MERGE) ** 2
VOCABULARY = 1536
EXPANDED = FAKE + GLOBAL + IMAGE * IMAGE_TOKENS + FAKE
"""What the processor writes in the place of one image."""

# The system prompt is left out: the model knows one tool by heart, and every token is time on a CPU.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{%- if message['role'] != 'system' -%}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- elif part['type'] in ('image', 'image_url') -%}"
    "{{ '<image>' }}{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<end_of_utterance>' }}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

_ALONE = (
    r"[A-Z0-9](?=[A-Z0-9]{0,7}</answer>)"  # characters of an answer
    r"|(?<=\*)[0-9]{1,2}(?=//64)"  # coordinates
    r"|[0-9](?=[0-9]{0,4}x[0-9])|(?<=[0-9]x)[0-9]|(?<=[0-9]x[0-9])[0-9]|(?<=[0-9]x[0-9]{2})[0-9]|(?<=[0-9]x[0-9]{3})[0-9]"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Trains the tokenizer; deterministic."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_ALONE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[PAD, USER, ASSISTANT, END, FAKE, GLOBAL, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[FAKE, IMAGE, END],
        extra_special_tokens={"user_token": USER, "assistant_token": ASSISTANT},
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a token that is in the vocabulary."""
    return int(tokenizer.get_vocab()[token])


def _corpus() -> list[str]:
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for round_ in range(400):
        box = tuple(int(v) for v in rng.integers(0, 65, 4))
        texts.append(policy.first_crop((box[0], box[1], box[2], box[3]), vertical=bool(round_ % 2)))
        texts += [policy.closer_crop((box[0], box[1], box[2], box[3]), lies, 1 + round_ % 5 % 3) for lies in STATES]
        texts += [policy.give_up(), policy.answer("A"), policy.guess("B")]
        texts += [f"image_{round_ % 6}: {rng.integers(20, 999)}x{rng.integers(20, 999)} px\n</tool_response>"] * 2
        texts += [
            f"image_{round_ % 6}: 30x20 px, shown at {rng.integers(20, 99)}x{rng.integers(20, 99)}\n</tool_response>"
        ]
        texts += [f"image_0: {rng.integers(99, 999)}x{rng.integers(99, 999)} px\n{question}" for question in QUESTIONS]
        texts += [
            "<tool_response>\n",
            prompts.LAST_MESSAGE + "</tool_response>",
            prompts.NO_NEW_IMAGE + "</tool_response>",
        ]
    return texts


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Idefics3Processor:
    """Squares every image to VIEW x VIEW px, whatever its shape: 16 tokens an image."""
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        do_resize=False,
        size={"longest_edge": VIEW},
        max_image_size={"longest_edge": VIEW},
        resample=2,
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int = 192, layers: int = 3
) -> Idefics3ForConditionalGeneration:
    """The whole model with fresh weights, in float32."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=token_id(tokenizer, PAD),
        bos_token_id=None,
        eos_token_id=token_id(tokenizer, END),
    )
    shape: Any = Idefics3Config  # takes more than its typed signature says
    config = shape(
        vision_config=vision_config().to_dict(),
        text_config=text.to_dict(),
        image_token_id=token_id(tokenizer, IMAGE),
        pad_token_id=token_id(tokenizer, PAD),
        scale_factor=MERGE,
        tie_word_embeddings=True,
        eos_token_id=token_id(tokenizer, END),
    )
    return Idefics3ForConditionalGeneration(config)


def save(model: Idefics3ForConditionalGeneration, processor: Idefics3Processor, folder: Path) -> None:
    """Writes the folder that ships: weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    text: Any = model.config.text_config
    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 256
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)


def pixels(pictures: Tensor) -> Tensor:
    """uint8 (n, V, V) or (n, V, V, 3) -> float32 (n, 3, V, V) in -1..1, as the processor gives them."""
    scaled = pictures.float() / 127.5 - 1
    return scaled[:, None].expand(-1, 3, -1, -1) if scaled.dim() == 3 else scaled.permute(0, 3, 1, 2)
