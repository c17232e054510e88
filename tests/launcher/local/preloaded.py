"""A module to preload that ends the fork server, or makes it wait, as FORETRAIN_TEST says."""

import os
import time
from pathlib import Path

if os.environ["FORETRAIN_TEST"] == "die":
    os._exit(3)
Path(os.environ["FORETRAIN_TEST"]).write_text("preloading")
time.sleep(1000)
