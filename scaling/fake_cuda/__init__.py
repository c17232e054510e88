"""One rank of any layout on GPUs that do not exist: what it synchronises, launches, sends and keeps in memory."""
