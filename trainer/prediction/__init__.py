"""What a run reads of its sealed prediction, and how it is compared with it. Pure."""
