"""`proserve engine ...`: real engines."""

from pathlib import Path
from typing import Annotated

import typer

from proserve_cli.failures import needs_extra, wrong_usage
