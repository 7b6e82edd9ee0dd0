"""One-run privacy auditing: an attack on the real machinery, and what it proves about epsilon."""
