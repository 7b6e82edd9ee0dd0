"""One file of data, its customers dealt out to stores by lot: pooled, federated and private."""
