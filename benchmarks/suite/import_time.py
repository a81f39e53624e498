"""What importing costs, in a process of its own."""

import subprocess
import sys


class Import:
    params = (["numpy", "softfast"],)
    param_names = ("module",)

    def time_import(self, module):
        subprocess.run([sys.executable, "-P", "-c", f"import {module}"], check=True)
