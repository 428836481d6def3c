"""`python -m proserve_cli` is the `proserve` command of this interpreter."""

from proserve_cli.main import app

app(prog_name="proserve")
