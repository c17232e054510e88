"""Whether other programs compute what foretrain does, from the folders that `foretrain export` writes."""
