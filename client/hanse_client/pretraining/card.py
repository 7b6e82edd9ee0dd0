"""The model card of a pre-trained transformer: its data, their licence, privacy and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse_common.durable import write_durably
from hanse_common.wording import counted

if TYPE_CHECKING:
    from hanse_client.pretraining.run import Pretrained

_OBJECTIVES = {
    "causal": "what the next visit holds, from the visits before it",
    "masked": "what hidden visits held, from the others",
}


def write_card(path: Path, done: Pretrained) -> None:
    """Write a Hugging Face model card atomically."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        # The terms are free text of the data's owner; only "other" allows a name of one's own.
        license="other",
        license_name="terms-of-the-training-data",
        library_name="transformers",
        tags=["recommendation", "pre-training"],
        ignore_metadata_errors=False,
    )
    write_durably(path, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(done)}")))


def _text(done: Pretrained) -> str:
    left_out = f" {done.left_out:,} events of items without a text are left out."
    learnt = done.popularity_loss - done.loss
    return f"""# A transformer over shopping histories, pre-trained

{done.backbone} of {done.parameters:,} parameters, which reads visits as text vectors of \
`{done.encoder}`. It learnt to predict {_OBJECTIVES[done.objective]}. Made with Hanse.

## Use

```toml
[model]
checkpoint = "<this folder>"
encoder = "{done.encoder}"
trainable = "heads"  # or top:1, lora:4, adapters:8, all
```

## Data

{done.data}: {counted(done.customers, "customer")}, {counted(done.visits, "visit")}, \
{done.classes:,} classes at the level of a {done.level}.{left_out if done.left_out else ""}

## Privacy

**None.** It was trained on public data without clipping and without noise. The ε of a \
federation that starts from it covers the federation's customers, but not the people whose \
histories are in these data.

## Terms

{done.terms}. They hold for this checkpoint and for models made of it.

## Figures

Cross-entropy of contents on held-out customers: {done.loss:.3f} nats after {done.epochs} \
epochs, {done.popularity_loss:.3f} by popularity alone. \
{"It has learnt something." if learnt > 0.01 else "It has learnt next to nothing."} Only \
another shop's own metrics tell what it is worth there.
"""
