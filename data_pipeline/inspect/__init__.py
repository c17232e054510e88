"""What `foretrain data` shows of a corpus, and of the data of a run."""
