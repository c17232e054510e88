"""The Python interface: what `import foretrain` gives, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import foretrain
from tests.cli import environment

LOOK = """
import signal, sys
before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
import foretrain
assert {signum: signal.getsignal(signum) for signum in before} == before
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "deepspeed", "numpy", "rich", "ray")))
"""


def test_importing_the_package_imports_no_library_and_changes_no_signal() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    assert set(foretrain.__all__) <= set(dir(foretrain))
    for name in foretrain.__all__:
        assert getattr(foretrain, name).__doc__, f"{name} has no docstring"


def test_a_users_own_modules_of_the_same_names_as_rooms_do_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("raise SystemExit('the wrong trainer')")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").write_text("raise SystemExit('the wrong configs')")
    code = "import foretrain; print(foretrain.load_config('runs/dry_run').model.num_layers > 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
