"""A text encoder that is read in no time: MiniLM's tokenizer, and a dozen numbers a token."""

from __future__ import annotations

from pathlib import Path

import torch

from hanse_client.model.item_texts import PACKAGED, checkpoint_folder


def tiny_encoder(folder: Path) -> str:
    """Write the checkpoint; returns its folder as settings name it."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(PACKAGED))
    tokenizer.save_pretrained(folder)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    torch.manual_seed(3)
    BertModel(shape, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)
