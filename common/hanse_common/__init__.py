"""What stores and coordinator agree on: configuration, schemas, privacy arithmetic, the model."""
