"""The contestants that other libraries are."""
