"""llama.cpp, from Python: an export is converted to GGUF by a program of this benchmark, and continues texts."""

from benchmarks.consumers.consumer import Consumer, Job, Measured, checked_texts
from benchmarks.consumers.environments import Environment
from benchmarks.consumers.ours import NUM_TOKENS, PROMPTS


class LlamaCpp(Consumer):
    """llama-cpp-python, which pip compiles: that needs a C++ compiler, and about ten minutes of a core."""

    name, way = "llama", "GGUF in fp32"
    environment = Environment(
        ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0"),
        # Without what is for images.
        variables={"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"},
    )
    shown_versions = ("llama-cpp-python", "gguf")

    def check(self, job: Job) -> Measured:
        asked = {
            "exported": str(job.model.exported),
            "gguf": str(job.folder / "model.gguf"),
            "prompts": PROMPTS,
            "num_tokens": NUM_TOKENS,
            "seq_len": job.ours.model.config.model.seq_len,
        }
        return checked_texts(job, job.run_inside("gguf_text.py", asked))
