"""The samples of a run: sources, mixture, order, packing, batches."""
