"""Twenty sealed predictions of runs with 30 to 100 times the compute of their proxies, and how they came out."""
