"""The consumers by their names: a new one is a file with a class, and a line here."""

from benchmarks.consumers.consumer import Consumer
from benchmarks.consumers.llama_cpp import LlamaCpp
from benchmarks.consumers.trl import Trl
from benchmarks.consumers.vllm import Vllm

CONSUMERS: dict[str, Consumer] = {each.name: each for each in (Vllm(), Trl(), LlamaCpp())}
