"""Model parts that tasks share: transformer backbones, adapters, item texts, the base model."""
