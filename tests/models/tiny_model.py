"""A tiny random Idefics3 checkpoint with a tokenizer of its own (real code path, no hub), pictures and requests."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from kernel_agent.types import ImagePart, KernelImage, Message, Request, Sampling, TextPart

TEMPLATE = (
    "{% if tools %}<|tools|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}<tool_call>"
    '{"name": {{ call["function"]["name"] | tojson }}, "arguments": {{ call["function"]["arguments"] | tojson }}}'
    "</tool_call>{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tiny(folder: Path, *, context: int = 1024, seed: int = 0) -> Path:
    """Write a checkpoint (about 1 MB) that AutoProcessor, AutoModelForImageTextToText and vLLM load."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        GenerationConfig,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    special = ["<pad>", "<bos>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    raw.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<end_of_utterance>",
        model_max_length=context,
    )  # fmt: skip
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    side, patch, scale = 32, 8, 2
    image_processor = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": side}, max_image_size={"longest_edge": side}
    )
    processor = Idefics3Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        image_seq_len=(side // patch) ** 2 // scale**2,
        chat_template=TEMPLATE,
    )
    eos, pad = ids["<end_of_utterance>"], ids["<pad>"]
    config = Idefics3Config(
        image_token_id=ids["<image>"],
        scale_factor=scale,
        tie_word_embeddings=False,
        pad_token_id=pad,
        vision_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": side, "patch_size": patch, "initializer_range": 0.2,
        },
        text_config={
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": len(tokenizer),
            "max_position_embeddings": context, "pad_token_id": pad, "bos_token_id": ids["<bos>"],
            "eos_token_id": eos, "tie_word_embeddings": False, "initializer_range": 0.2,
        },
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config).to(torch.float32).eval()
    printable = {tokenizer.convert_tokens_to_ids(chr(code)) for code in range(33, 127)}
    with torch.no_grad():  # greedy text is readable and runs to its limit: the others keep a logit of zero
        model.lm_head.weight[[i for i in range(len(tokenizer)) if i not in printable]] = 0.0
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad, bos_token_id=ids["<bos>"])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(index: int, text: str = "", size: tuple[int, int] = (160, 120)) -> KernelImage:
    """A noisy picture (so that its PNG has weight) with some text; the same for the same arguments."""
    noise = bytes((x * 73 + x * x % 251 + index * 41) % 256 for x in range(size[0] * size[1] * 3))
    image = Image.frombytes("RGB", size, noise)
    ImageDraw.Draw(image).text((10, 40), text or f"PIC{index}", fill=(255, 255, 0), font_size=40)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return KernelImage(index=index, name=f"image_{index}", data=data, mime="image/png", size=size, pixel_sha256="", view=data,
                       view_mime="image/png", view_size=size)  # fmt: skip


def ask(*parts: str | KernelImage, **sampling: object) -> Request:
    """A request of one user message."""
    content = tuple(TextPart(text=part) if isinstance(part, str) else ImagePart(image=part) for part in parts)
    return Request(
        messages=(Message(role="user", content=content),),
        sampling=Sampling(**{"max_tokens": 24, **sampling}),  # type: ignore[arg-type]
    )
