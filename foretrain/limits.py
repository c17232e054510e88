"""Limits of what is read from files and servers of others. Beyond one, the reader raises an error that names the file.

Each is far above what real files need, and low enough that a hostile file costs neither the memory of the machine nor
its disk.
"""

MIB = 1 << 20

CONFIG_BYTES = MIB
"""One YAML file."""
CONFIG_FILES = 1_000
"""YAML files that one config reads, each counted as often as it is extended."""
CONFIG_NODES = 100_000
"""Keys and values of one YAML file, where what an alias repeats counts again."""
CONFIG_DEPTH = 50
"""Nesting of one YAML file, and settings through which a reference leads."""

MANIFEST_BYTES = 128 * MIB
"""A manifest: half a million shards."""
TOKENIZER_BYTES = 256 * MIB
"""A tokenizer.json. The largest in use have 35 MB."""
VOCAB_SIZE = 1 << 24
"""Token ids, which index the rows of an embedding. The largest vocabularies in use have 262,144."""
CORPUS_TOKENS = 1 << 48
"""Tokens of a split: 280 trillion."""

SAFETENSORS_HEADER_BYTES = 16 * MIB
"""The header of a safetensors file: 150,000 tensors."""
SAFETENSORS_INDEX_BYTES = 16 * MIB
"""The list of the files of a model."""
SAFETENSORS_FILES = 10_000
"""Files of a model. The largest in use have 200."""
MODEL_LAYERS = 10_000
"""Blocks of a model that is imported. The largest in use have 200."""
MODEL_SIZE = 1 << 24
"""Every other size of a model that is imported: widths, heads, positions, vocabulary."""

ROLLBACKS_BYTES = 16 * MIB
"""The rollbacks of a run: a hundred thousand."""
PROMPTS_BYTES = 256 * MIB
"""Prompts that are continued by one command: a million of 256 characters."""

DOCUMENT_BYTES = 1 << 30
"""One document of `prepare`, decompressed: a text file, a line of JSON, or the members of a sample that are read."""
SAMPLE_MEMBERS = 10_000
"""Members of one sample of a tar file."""
TAR_HEADER_BYTES = MIB
"""One extended header, or long name, of a tar file."""
TAR_RECORDS = 10_000
"""Different records of the extended headers of a tar file that are in force at one member."""
UNPACKED_RATIO = 1_000
"""Decompressed bytes for each compressed byte, in files and members of more than UNPACKED_FREE_BYTES. gzip cannot have
more than 1,032; texts have up to a hundred, and zstd can have 30,000."""
UNPACKED_FREE_BYTES = 64 * MIB
"""Decompressed bytes of which the ratio does not count."""
MEGATRON_INDEX_BYTES = 1 << 32
"""The index of a Megatron data set, which is read at once: 200 million documents."""

TRACKER_BYTES = MIB
"""The file of what a tracker has of a run."""
