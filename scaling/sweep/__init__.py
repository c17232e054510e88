"""One config trained again and again: at several widths, depths and seeds, over values of some of its settings."""
