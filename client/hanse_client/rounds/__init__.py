"""A store's side of an exchange: what it checks, computes, masks and sends."""
